"""Training of the table's models: plain SGD, rows are independent runs of the same method.

Every row has its own parameters, images, order of data and noise; with the same start stream the
methods begin with the same features and decoder, so that seeds are paired. On CUDA the iteration,
noise and update included, is one captured graph; nothing in it waits for the host.

    loss = mean over the batch of the method's bound or energy, summed over pixels
           + (b + 2 softplus(-b)) / m,                      p <- p - lr grad p, but for Phi

(2209.07036, appendix B, and its code.) Images are drawn in a fresh order every epoch; the images
that do not fill a last batch wait for the next one. Not guaranteed: bit-equal results between
different numbers of rows, devices or thread counts.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.methods.langevin_autoencoder import too_few_features
from lmcnb.methods.langevin_autoencoder_model import Model, Training
from lmcnb.models.discretized_logistic import scale_penalty, to_grid

__all__ = ["Streams", "Trainer", "Training"]


class Streams(NamedTuple):
    """The random generators of one row."""

    start: torch.Generator  # initial parameters
    order: torch.Generator  # of the images, on the CPU
    noise: torch.Generator  # of the method, on the device


class Trainer:
    """State of a batch of runs; `step` is one iteration, `state_dict` all that a resume needs.

    Attributes:
        iterations: steps of the whole training; `done` of them are done.
        parameters: of all rows, by name, `(rows, ...)`.
        losses: `(iterations, rows)`, nats an image.
        acceptance: `(iterations, rows)`, of the Langevin autoencoder; 1 where nothing is tested.
        seconds: processor time (on CUDA elapsed time) of the steps, of all rows together.
        curve: what the monitor returned.
    """

    def __init__(
        self,
        training: Training,
        pixels: Tensor,
        streams: Sequence[Streams],
        monitor: Callable[[Trainer], dict[str, Any]] | None = None,
        monitor_every: int = 600,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build one run per entry of `streams`, on the device of their noise.

        Args:
            training: method and settings.
            pixels: the training images, `(m, pixels)`, levels `0 ... levels-1`, an integer type.
            streams: generators, one triple a row.
            monitor: called with the trainer every `monitor_every` steps and before the first; what
                it returns (numbers and lists) is kept in `curve`, time it takes is not counted.
            monitor_every: steps.
            dtype: of parameters.

        Raises:
            UsageError: images outside the grid, or fewer than a batch; no streams; monitor_every
                below 1.
        """
        if not streams:
            raise UsageError("streams: at least one row is needed")
        if not isinstance(pixels, Tensor) or pixels.dim() != 2:
            shape = getattr(pixels, "shape", type(pixels).__name__)
            raise UsageError(f"pixels: a tensor (images, pixels) is needed, found {shape}")
        if monitor_every < 1:
            raise UsageError(f"monitor_every={monitor_every}: an integer of at least 1 is needed")
        if len(pixels) < training.batch:
            raise UsageError(f"{len(pixels)} images do not fill a batch of {training.batch}")
        to_grid(pixels, training.levels)
        if training.method == "LAE" and training.langevin.moves and training.batch > training.width:
            warnings.warn(too_few_features(training.batch, training.width), stacklevel=2)
        self.training, self.streams, self.rows = training, list(streams), len(streams)
        self.device = streams[0].noise.device
        self.model = Model(training, pixels.shape[1], products=training.products)
        self.pixels = pixels.to(self.device)
        self.per_epoch = len(pixels) // training.batch
        self.iterations = max(1, round(training.epochs * self.per_epoch))
        starts = self.model.initial([s.start for s in streams])
        self.parameters = {k: v.to(self.device, dtype) for k, v in starts.items()}
        langevin = training.langevin
        if training.method == "LAE":
            shape = (self.rows, langevin.total, training.latent * training.width)
        else:
            steps = training.refinements if training.method == "Hoffman" else 0
            shape = (self.rows, 1 + steps, training.batch * training.latent)
        kind: dict[str, Any] = {"dtype": dtype, "device": self.device}
        self.noise, self.uniform = torch.zeros(shape, **kind), torch.zeros(shape[:2], **kind)
        self.log_step = torch.full((self.rows,), langevin.step_size, **kind).log()
        self.order = torch.zeros(
            self.rows, self.per_epoch * training.batch, dtype=torch.int64, device=self.device
        )
        self.losses = torch.zeros(self.iterations, self.rows, **kind)
        self.acceptance = torch.ones(self.iterations, self.rows, **kind)
        self.last_loss, self.last_acceptance = self.losses[0].clone(), self.acceptance[0].clone()
        self.count = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.offsets = torch.arange(training.batch, device=self.device)
        self.done = 0
        self.seconds = 0.0
        self.monitor, self.monitor_every = monitor, monitor_every
        self.curve: list[dict[str, Any]] = []
        self._started: float | None = None
        self._replay: Callable[[], None] | None = None
        self.made_for = {**repr_of(training), "images": len(pixels), "rows": self.rows}

    def step(self) -> None:
        """One iteration of every row; refused beyond `iterations`."""
        if self.done >= self.iterations:
            raise UsageError(f"step: all {self.iterations} iterations are done")
        if self.monitor is not None and self.done == 0 and not self.curve:
            self._look()
        if self._started is None:
            self._started = self._clock()
        if self.done % self.per_epoch == 0:
            self._shuffle()
        if self.device.type == "cuda":
            if self._replay is None:
                self._replay = self._capture()
            self._replay()
        else:
            self._iteration()
        self.losses[self.done], self.acceptance[self.done] = self.last_loss, self.last_acceptance
        self.done += 1
        last = self.done == self.iterations
        if self.monitor is not None and (self.done % self.monitor_every == 0 or last):
            self._look()

    def _look(self) -> None:
        self._stop_clock()
        assert self.monitor is not None
        seen = {"step": self.done, "seconds": round(self.seconds, 3), **self.monitor(self)}
        self.curve.append(seen)

    def _clock(self) -> float:
        """Processor time of this process, or elapsed time once the GPU has caught up."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def _stop_clock(self) -> None:
        if self._started is not None:
            self.seconds += self._clock() - self._started
            self._started = None

    def _shuffle(self) -> None:
        for row, streams in zip(self.order, self.streams, strict=True):
            new = torch.randperm(len(self.pixels), generator=streams.order)[: row.shape[0]]
            row.copy_(new)

    def _iteration(self) -> None:
        t, p = self.training, self.parameters
        for row, uniform, streams in zip(self.noise, self.uniform, self.streams, strict=True):
            row.normal_(generator=streams.noise)
            uniform.uniform_(generator=streams.noise)
        start = (self.count % self.per_epoch) * t.batch
        x = self.pixels[self.order.index_select(1, start + self.offsets)]
        x = x.to(self.noise.dtype) * (2 / (t.levels - 1)) - 1
        loss, gradients = self._lae(x) if t.method == "LAE" else self._baseline(x)
        gradients["b"] = gradients["b"] + (1 - 2 * torch.sigmoid(-p["b"])) / len(self.pixels)
        penalty = scale_penalty(p["b"]).view(-1) / len(self.pixels)
        for name, g in gradients.items():
            p[name].add_(g, alpha=-t.learning_rate)
        self.last_loss.copy_(loss + penalty)
        self.count += 1

    @torch.no_grad()
    def _lae(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        eta = self.log_step.exp()
        step = self.model.engine.step(self.parameters, x, self.noise, self.uniform, eta)
        self.parameters["phi"].copy_(step.phi)
        self.last_acceptance.copy_(step.acceptance)
        target = self.training.langevin.target_acceptance
        if target is not None:
            self.log_step += ADAPTATION * (step.acceptance - target)
        return step.loss, step.gradients

    def _baseline(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = {k: v.detach().requires_grad_() for k, v in self.parameters.items()}
        with torch.enable_grad():
            noise = self.noise.view(self.rows, -1, self.training.batch, self.training.latent)
            loss = self.model.loss(leaves, x, noise.transpose(0, 1))
            grads = torch.autograd.grad(loss.sum(), list(leaves.values()))
        return loss.detach(), dict(zip(leaves, grads, strict=True))

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
        for streams in self.streams:
            graph.register_generator_state(streams.noise)
        with torch.cuda.graph(graph, stream=stream):  # its own default may be on another device
            self._iteration()
        return graph.replay

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, copied to the host."""
        running = self._started is not None
        self._stop_clock()
        if running:
            self._started = self._clock()
        names = ("order", "losses", "acceptance", "count", "log_step")
        return {
            "format": 1,
            "made_for": self.made_for,
            "done": self.done,
            "seconds": self.seconds,
            "curve": list(self.curve),
            "parameters": {k: v.detach().cpu().clone() for k, v in self.parameters.items()},
            "tensors": {k: getattr(self, k).cpu().clone() for k in names},
            "generators": [[g.get_state() for g in row] for row in self.streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back a `state_dict` of a trainer built with the same arguments.

        Raises:
            UsageError: an unknown format, or another training; nothing is changed.
        """
        if state.get("format") != 1:
            raise UsageError(f"checkpoint: unknown format {state.get('format')!r}; start afresh")
        for name, value in self.made_for.items():
            theirs = state["made_for"].get(name)
            if theirs != value:
                raise UsageError(
                    f"checkpoint: made for {name} = {theirs!r}, not {value!r}; start afresh"
                )
        for name, value in state["parameters"].items():
            self.parameters[name].copy_(value)
        for name, value in state["tensors"].items():
            getattr(self, name).copy_(value)
        for row, saved in zip(self.streams, state["generators"], strict=True):
            for generator, value in zip(row, saved, strict=True):
                generator.set_state(value)
        self.done, self.seconds = int(state["done"]), float(state["seconds"])
        self.curve, self._started = list(state["curve"]), None

    def diverged_at(self) -> list[int | None]:
        """Per row, the first iteration (from 1) whose loss was not finite, or None."""
        bad = ~torch.isfinite(self.losses[: self.done])
        return [int(column.nonzero()[0]) + 1 if column.any() else None for column in bad.T.cpu()]


ADAPTATION = 0.02  # gain of the step size's logarithm per unit of missed acceptance


def repr_of(training: Training) -> dict[str, str]:
    """Every setting as text, to recognize a checkpoint by."""
    return {k: repr(getattr(training, k)) for k in training.__dataclass_fields__}
