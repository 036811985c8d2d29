"""An update of the binary VAE on a CUDA device, its pieces captured as graphs.

The bound with its gradients is one graph (for ELBO and IWAE with the update). The chains are two:
the solo iterations, and a block of joint ones, replayed until all rows have met or reached the
cap. Rows that met stay in the batch, masked: their place costs nothing that others do not cost.

Guaranteed by construction: the same operations as `Trainer._update`, with the same law; a row's
random numbers are others, since rows are not taken out. Between graphs the host looks once a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased import Meeting
from lmcnb.methods.unbiased_vae import Weighted
from lmcnb.methods.unbiased_vae_gradients import bound_gradients, decoder_gradients, rmsprop
from lmcnb.methods.unbiased_vae_kernels import kernels

if TYPE_CHECKING:
    from lmcnb.methods.unbiased_vae_training import Trainer

BLOCK = 4  # joint iterations a replay


class Program:
    """The captured pieces, and the buffers that they read and write."""

    def __init__(self, trainer: Trainer) -> None:
        """Capture; the trainer's state is as before.

        Raises:
            UsageError: chains of several runs at once, or a window that does not begin at 1.
        """
        self.trainer, t = trainer, trainer.training
        self.rows = torch.zeros(trainer.runs, t.batch, dtype=torch.int64, device=trainer.device)
        before = trainer.state_dict()
        streams = [s.noise for s in trainer.streams]
        self.bound: Tensor
        self.gradients: dict[str, Tensor]
        self.replay_bound = captured(self._bound, streams, trainer.device)
        if t.chains:
            if trainer.runs > 1 or t.coupling.start != 1:
                raise UsageError(
                    f"runs={trainer.runs}, start={t.coupling.start}: on CUDA chains take one run, "
                    "with start = 1"
                )
            n, K, D = t.batch, t.coupling.samples, trainer.model.latent
            self.every = torch.arange(n, device=trainer.device)
            self.arms = self._arms(torch.full((n,), t.beta, device=trainer.device))
            self.kernel, self.coupled_kernel = kernels(
                self._log_weight, t.coupling, self.arms, streams[0]
            )
            self.mean, self.std = torch.zeros(2, n, D, device=trainer.device)
            width = trainer.model.hidden[-1] + 1
            self.projected = torch.zeros(1, n, width, device=trainer.device)
            self.pair = empty_pair(n, K, D, trainer.device)
            self.window: list[disir.State]
            self.block: list[Pair]
            self.replay_solo = captured(self._solo, streams, trainer.device)
            self.replay_joint = captured(self._joint, streams, trainer.device)
        trainer.load_state_dict(before)

    def update(self, rows: Tensor) -> None:
        """One update for the images `rows` `(runs, batch)`."""
        trainer, t = self.trainer, self.trainer.training
        self.rows.copy_(rows)
        self.replay_bound()
        trainer.bounds[trainer.done] = self.bound
        if not t.chains:
            return
        overwrite(self.arms, self._arms(trainer.beta[0, rows[0]]))
        points = self._points()
        at = points.rows
        z = self.mean[at].unsqueeze(1) + self.std[at].unsqueeze(1) * points.points
        x = trainer.images[self.rows].float()
        found = decoder_gradients(trainer.model, trainer.parameters, x, points, z)
        trainer.keep(0, rows[0], points, found, trainer.parameters, x, z)
        gradients = self.gradients | found
        rmsprop(trainer.parameters, gradients, trainer.squares, t.learning_rate)

    def _arms(self, beta: Tensor) -> disir.Arms:
        """The arms of every row's correlation."""
        like = torch.zeros(1, device=beta.device)
        return disir.Arms.of(beta, self.trainer.training.coupling.samples, like)

    def _points(self) -> Weighted:
        """The signed points of the batch: replay until all rows have met, or to the cap."""
        c = self.trainer.training.coupling
        n, K = len(self.every), c.samples
        self.replay_solo()
        owners = [self.every] * c.lag
        points = [s.points.clone() for s in self.window]
        weights = [disir.weights(s) / c.lag for s in self.window]
        effective = torch.stack([disir.effective_samples(s) for s in self.window]).mean(0)
        numbers = [torch.full_like(self.every, -1)] * c.lag
        steps = torch.zeros_like(self.every)
        apart, calls = torch.ones_like(self.every, dtype=torch.bool), 0
        while c.cap is None or calls < c.cap:
            self.replay_joint()
            for pair in self.block:
                if c.cap is not None and calls >= c.cap:
                    break
                steps += apart
                apart = apart & ~pair.met
                calls += 1
                own = apart.nonzero().squeeze(-1)
                if len(own) == 0:
                    break
                for state, sign in ((pair.first, 1), (pair.second, -1)):
                    owners.append(own)
                    points.append(state.points[own])
                    weights.append(sign * disir.weights(state)[own] / c.lag)
                    numbers.append(torch.full_like(own, calls))
            if len(own) == 0:
                break
        meeting = Meeting(steps, apart, calls, calls * n)
        rows = torch.cat(owners)
        last = (torch.cat(numbers) == calls) & apart[rows]
        per_step = (3 if c.composite else 1) * (K - 1)
        spent = 2 * n * K + c.lag * n * (K - 1) * (2 if c.composite else 1)
        spent += -(-calls // BLOCK) * BLOCK * n * per_step
        return Weighted(
            rows, torch.cat(points), torch.cat(weights), meeting, last, effective, spent
        )

    def _bound(self) -> None:
        trainer, t = self.trainer, self.trainer.training
        x = trainer.images[self.rows].float()
        noise = trainer.noise(x.shape[:2])
        self.bound, self.gradients = bound_gradients(
            trainer.model, trainer.parameters, x, noise, elbo=t.method == "ELBO"
        )
        if not t.chains:
            rmsprop(trainer.parameters, self.gradients, trainer.squares, t.learning_rate)

    def _log_weight(self, points: Tensor, rows: Tensor) -> Tensor:
        """As `unbiased_vae.gaussian_log_weight`, of all rows, without its look at std."""
        z = self.mean.unsqueeze(1) + self.std.unsqueeze(1) * points
        trainer = self.trainer
        own = trainer.model.likelihood_of(trainer.parameters, self.projected, z.unsqueeze(0))[0]
        own = own + self.std.log().sum(-1, keepdim=True)
        return own - 0.5 * (z.square().sum(-1) - points.square().sum(-1))

    @torch.no_grad()
    def _solo(self) -> None:
        trainer, t = self.trainer, self.trainer.training
        x = trainer.images[self.rows].float()
        mean, std = trainer.model.encode(trainer.parameters, x)
        self.mean.copy_(mean[0])
        self.std.copy_(std[0])
        self.projected.copy_(trainer.model.projected(trainer.parameters, x))
        noise, shape = trainer.streams[0].noise, self.pair.first.points.shape
        first, second = (
            disir.start(
                tuple(shape), lambda p: self._log_weight(p, self.every), noise, torch.float32
            )
            for _ in range(2)
        )
        self.window = []
        for _ in range(t.coupling.lag):
            first = self.kernel(first, self.every)
            self.window.append(first)
        apart = torch.zeros_like(self.pair.met)
        overwrite(self.pair, Pair(first, second, apart, apart))

    @torch.no_grad()
    def _joint(self) -> None:
        # a pair may hold the flags that it came from, and the buffers are overwritten below
        pair, self.block = self.pair._replace(joined=self.pair.joined.clone()), []
        for _ in range(BLOCK):
            pair = self.coupled_kernel(pair, self.every)
            self.block.append(pair)
        overwrite(self.pair, pair)


def captured(
    function: Callable[[], None], generators: Sequence[torch.Generator], device: torch.device
) -> Callable[[], None]:
    """The function as a CUDA graph: warmed up on a side stream, captured, to be replayed.

    On the CPU the function itself, so that the program can be held to the plain update.
    """
    if device.type != "cuda":
        return function
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for g in generators:
        graph.register_generator_state(g)
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


def empty_pair(n: int, K: int, dim: int, device: torch.device) -> Pair:
    """Buffers of a pair."""

    def state() -> disir.State:
        kind: dict[str, Any] = {"device": device}
        return disir.State(
            torch.zeros(n, K, dim, **kind),
            torch.zeros(n, dtype=torch.int64, **kind),
            torch.zeros(n, K, dtype=torch.float64, **kind),
        )

    flags = torch.zeros(2, n, dtype=torch.bool, device=device)
    return Pair(state(), state(), flags[0], flags[1])


def overwrite(buffers: Any, values: Any) -> None:
    """Copy every tensor of a nested NamedTuple into its buffer."""
    if isinstance(buffers, Tensor):
        buffers.copy_(values)
        return
    for own, value in zip(buffers, values, strict=True):
        overwrite(own, value)
