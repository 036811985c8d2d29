"""Training of Langevin diffusion VI: many runs as rows of one program, Adam on one flat vector.

Every row is an independent run (its own seed, learning rate, parameters, network and random
generator); rows share the method, the target and the number of bridges. A row equals the same run
alone up to rounding, and a row that diverges leaves the others alone.

    theta <- project(theta - lr_t mhat / (sqrt(vhat) + 1e-8)),   Adam (0.9, 0.999),
    lr_t = lr, then linearly to 0 over the last `decay` share of the iterations.

The paper has no decay (`decay=0`) and projects as `langevin_diffusion.BOUNDS`. On CUDA the whole
iteration, noise and update included, is one captured graph; nothing waits for the host.
Not guaranteed: bit-equal results between different numbers of rows, devices or thread counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity, check_log_density
from lmcnb.methods.langevin_diffusion import BOUNDS, Method, initial_values, shapes
from lmcnb.methods.langevin_diffusion_fast import Engine


@dataclass(frozen=True)
class Training:
    """How one batch of runs is trained."""

    iterations: int
    """Adam steps."""
    chains: int = 5
    """Chains per run and iteration (the paper's N)."""
    decay: float = 0.0
    """Share of the iterations, at the end, over which the learning rate falls linearly to 0."""

    def __post_init__(self) -> None:
        for name, value, low in (("iterations", self.iterations, 1), ("chains", self.chains, 1)):
            if type(value) is not int or value < low:
                raise UsageError(f"{name}={value!r}: an integer of at least {low} is needed")
        if not 0 <= self.decay <= 1:
            raise UsageError(f"decay={self.decay!r}: a share between 0 and 1 is needed")


class Trainer:
    """State of a batch of runs; `step` is one iteration, `state_dict` all that a resume needs."""

    def __init__(
        self,
        m: Method,
        log_density: LogDensity,
        dim: int,
        bridges: int,
        training: Training,
        learning_rates: Sequence[float],
        generators: Sequence[torch.Generator],
        initial: Sequence[Mapping[str, float | Tensor]] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build runs `r = 0..rows-1` with `learning_rates[r]`, `generators[r]`, `initial[r]`.

        Args:
            m: the method.
            log_density: any callable `(..., dim) -> (...)`, nats.
            dim: dimension of the target.
            bridges: K, number of bridging densities; 0 gives plain variational inference.
            training: iterations, chains, decay.
            learning_rates: one per row.
            generators: one per row; all on the device to train on.
            initial: per row, replacements of `langevin_diffusion.INITIAL` (e.g. a trained `mu`).
            dtype: of parameters and chains.

        Raises:
            UsageError: impossible sizes, or a target that fails `check_log_density`.
        """
        for name, value, low in (("bridges", bridges, 0), ("dim", dim, 1)):
            if type(value) is not int or value < low:
                raise UsageError(f"{name}={value!r}: an integer of at least {low} is needed")
        rows = len(generators)
        if rows < 1 or len(learning_rates) != rows:
            raise UsageError(
                f"{len(learning_rates)} learning rates for {rows} generators: one each is needed"
            )
        if not all(math.isfinite(lr) and lr > 0 for lr in learning_rates):
            raise UsageError(
                f"learning_rates={list(learning_rates)!r}: positive numbers are needed"
            )
        self.training, self.generators, self.rows = training, list(generators), rows
        self.made_for = {
            "method": m.name,
            "bridges": bridges,
            "dim": dim,
            "chains": training.chains,
            "iterations": training.iterations,
            "decay": training.decay,
            "learning_rates": [float(rate) for rate in learning_rates],
            "dtype": str(dtype),
        }
        self.device = generators[0].device
        starts = [
            dict(initial_values(m, dim, bridges, generators[r], **(initial[r] if initial else {})))
            for r in range(rows)
        ]
        finite = [s for s in starts if torch.isfinite(s["mu"] + s["log_sigma"]).all()]
        if finite:  # else every row starts where an earlier one diverged, and diverges as well
            mu, sigma = finite[0]["mu"].to(dtype), finite[0]["log_sigma"].to(dtype).exp()
            offsets = torch.linspace(-1, 1, 2 * dim, dtype=dtype, device=self.device)
            check_log_density(log_density, mu + offsets.view(2, dim) * sigma)
        self.names = shapes(m, dim, bridges)
        size = rows * sum(math.prod(shape) for shape in self.names.values())
        self.flat, self.gradient, self.first, self.second = torch.zeros(
            4, size, dtype=dtype, device=self.device
        )
        self.parameters, self.gradients = self._views(self.flat), self._views(self.gradient)
        rate = torch.tensor(learning_rates, dtype=dtype, device=self.device)
        self.rate = torch.empty_like(self.flat)
        for name, view in self._views(self.rate).items():
            view.copy_(rate.view(-1, *[1] * len(self.names[name])).expand_as(view))
            self.parameters[name].copy_(torch.stack([s[name] for s in starts]))
        self.engine = Engine(
            m, log_density, dim, bridges, rows, training.chains, dtype, self.device
        )
        self.noise = torch.empty(
            rows, bridges + 2, training.chains, dim, dtype=dtype, device=self.device
        )
        self.move = torch.empty_like(self.flat)
        self.done = 0
        self.count = torch.zeros(1, dtype=torch.int64, device=self.device)  # the same on the device
        self.adam_steps = torch.zeros((), dtype=torch.float32, device=self.device)
        self.losses = torch.zeros(training.iterations, rows, dtype=dtype, device=self.device)
        self.schedule = rate_factors(training).to(self.flat)
        self._replay: Callable[[], None] | None = None

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat vector as `(rows, *shape)` tensors, one contiguous block per parameter."""
        sizes = [self.rows * math.prod(shape) for shape in self.names.values()]
        blocks = torch.split(flat, sizes)
        return {
            k: b.view(self.rows, *v) for (k, v), b in zip(self.names.items(), blocks, strict=True)
        }

    def step(self) -> None:
        """One iteration of every row; refused beyond `training.iterations`."""
        if self.done >= self.training.iterations:
            raise UsageError(f"step: all {self.training.iterations} iterations are done")
        if self.device.type == "cuda":
            if self._replay is None:
                self._replay = self._capture()
            self._replay()
        else:
            self._iteration()
        self.done += 1

    @torch.inference_mode()
    def _iteration(self) -> None:
        for row, generator in zip(self.noise, self.generators, strict=True):
            row.normal_(generator=generator)
        loss = self.engine.forward(self.parameters, self.noise).mean(1)
        self.losses.index_add_(0, self.count, loss[None], alpha=-1)
        self.engine.backward(self.gradients)
        self._adam(self.schedule.index_select(0, self.count)[0])
        for name, (low, high) in BOUNDS.items():
            self.parameters[name].clamp_(low, high)
        self.count += 1

    def _adam(self, factor: Tensor) -> None:
        """torch's fused Adam moves a vector of zeros, so that every row can have its own rate."""
        self.move.zero_()
        adam(
            [self.move],
            [self.gradient],
            [self.first],
            [self.second],
            [],
            [self.adam_steps],
            lr=factor,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
        )
        self.flat.addcmul_(self.move, self.rate)

    def _capture(self) -> Callable[[], None]:
        """The iteration as one CUDA graph: warmed up on a side stream, state put back, captured."""
        before = self.state_dict()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._iteration()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self.load_state_dict(before)
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._iteration()
        return graph.replay

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, copied to the host."""
        tensors = {k: getattr(self, k) for k in ("flat", "first", "second", "count", "losses")}
        return {
            "format": 2,
            "made_for": self.made_for,
            "done": self.done,
            "tensors": {k: v.detach().cpu().clone() for k, v in tensors.items()},
            "generators": [g.get_state() for g in self.generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back a `state_dict` of a trainer built with the same arguments.

        Raises:
            UsageError: an unknown format, or another method, size or training; nothing is changed.
        """
        if state.get("format") != 2:
            raise UsageError(f"checkpoint: unknown format {state.get('format')!r}; start afresh")
        for name, value in self.made_for.items():
            theirs = state["made_for"].get(name)
            if theirs != value:
                raise UsageError(
                    f"checkpoint: made for {name} = {theirs!r}, not {value!r}; start afresh"
                )
        for name, value in state["tensors"].items():
            getattr(self, name).copy_(value)
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.done = int(state["done"])
        self.adam_steps.fill_(self.done)

    def diverged_at(self) -> list[int | None]:
        """Per row, the first iteration (from 1) whose loss was not finite, or None."""
        bad = ~torch.isfinite(self.losses[: self.done])
        return [int(column.nonzero()[0]) + 1 if column.any() else None for column in bad.T.cpu()]

    def row(self, r: int) -> dict[str, Tensor]:
        """Parameters of run `r`, copied."""
        return {name: value[r].clone() for name, value in self.parameters.items()}


def rate_factors(training: Training) -> Tensor:
    """lr_t / lr for every iteration t."""
    T = training.iterations
    left = torch.arange(T, 0, -1, dtype=torch.float64)
    if training.decay == 0:
        return torch.ones_like(left)
    return (left / (training.decay * T)).clamp(max=1)


@torch.inference_mode()
def log_weights(
    m: Method,
    log_density: LogDensity,
    parameters: Mapping[str, Tensor],
    generators: Sequence[torch.Generator],
    chains: int,
    bridges: int,
    chunk: int = 500,
) -> Tensor:
    """Fresh log weights `(rows, chains)` of trained rows, float64, nats, by chunks of chains."""
    for name, value in (("chains", chains), ("chunk", chunk)):
        if type(value) is not int or value < 1:
            raise UsageError(f"{name}={value!r}: an integer of at least 1 is needed")
    mu = parameters["mu"]
    rows, dim = mu.shape
    for name, shape in shapes(m, dim, bridges).items():
        if name not in parameters or parameters[name].shape != (rows, *shape):
            found = tuple(parameters[name].shape) if name in parameters else "none"
            raise UsageError(
                f"parameters[{name!r}]: {m.name} with {bridges} bridges needs the shape "
                f"{(rows, *shape)}, found {found}"
            )
    chunk = min(chunk, chains)
    engine = Engine(m, log_density, dim, bridges, rows, chunk, mu.dtype, mu.device)
    noise = torch.empty(rows, bridges + 2, chunk, dim, dtype=mu.dtype, device=mu.device)
    parts = []
    for _ in range(-(-chains // chunk)):
        for row, generator in zip(noise, generators, strict=True):
            row.normal_(generator=generator)
        parts.append(engine.forward(parameters, noise).double())
    return torch.cat(parts, 1)[:, :chains]
