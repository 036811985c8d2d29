"""Learning a generator by short-run inference, and its baselines (1912.01909).

One iteration: a minibatch x; z_0 ~ N(0, I) afresh; z_K by the chain under the present generator;
one Adam step down the squared error |x - g(z_K)|^2, summed over pixels and averaged over the batch.
No gradient passes through the chain. Every few epochs the step size is chosen anew: the least J(s),
or the least bound of the chain's own divergence (`short_run_marginal`), on fixed training images
with fixed noise.

    SRI     as above                ABP    chains persist: z_0 is the image's last z_K
    VAE     encoder and generator   LVAE   the same with a ladder of encoders

Guaranteed: the fixed point solves E_q grad log p(x, z) = 0, a perturbed likelihood equation. Not
guaranteed: that it maximizes anything. q moves with the generator, and that is not differentiated;
without noise in the chain the weights grow to the edge of stability, and with too small s sqrt(K)
they die (`short_run_theory`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.methods.short_run import draw, short_run
from lmcnb.methods.short_run_baselines import negative_elbo
from lmcnb.methods.short_run_graph import CapturedChain
from lmcnb.methods.short_run_marginal import marginal_search
from lmcnb.methods.short_run_search import PastGuard, Search, gradient_search, grid_search
from lmcnb.methods.short_run_settings import Training, networks
from lmcnb.models.observed import log_joint


class Streams(NamedTuple):
    """The random generators of a run."""

    start: torch.Generator  # initial parameters: the generator's first, then the encoder's
    order: torch.Generator  # of the images
    noise: torch.Generator  # of the chains or of the autoencoders, on the device
    search: torch.Generator  # of the search for the step size


class Trainer:
    """A run; `step` is one iteration, `state_dict` all that a resume needs.

    Attributes:
        generator, encoder: the networks; `encoder` None without one.
        step_size: s at present.
        searches: (epoch, `Search`) of every choice of s.
        iterations, done: updates of the whole run, and so far.
        losses: of every update's minibatch, a pixel: the squared error, or of an autoencoder -ELBO;
            `(iterations)`.
        seconds: processor time of the updates and of the searches (on CUDA elapsed time).
        search_seconds: that of the searches alone.
        curve: what the monitor returned.
    """

    def __init__(
        self,
        training: Training,
        images: Tensor,
        streams: Streams,
        monitor: Callable[[Trainer], dict[str, Any]] | None = None,
        monitor_every: float = 5,
    ) -> None:
        """Build the networks and the order of the data.

        Args:
            training: method and settings.
            images: training images `(n, pixels)`, uint8, 0 ... 255 for -1 ... 1, or float.
            streams: random generators; the device of `streams.noise` is that of the run.
            monitor: called before the first update and every `monitor_every` epochs; what it
                returns is kept in `curve`, time it takes is not counted.
            monitor_every: epochs.
        """
        t = training
        if images.dim() != 2 or len(images) < t.batch:
            raise UsageError(
                f"images of shape {tuple(images.shape)}: (n, pixels) with n of at least "
                f"batch={t.batch} is needed"
            )
        self.training, self.streams, self.device = t, streams, streams.noise.device
        self.images = images.to(self.device)
        pixels = images.shape[1]
        generator, encoder = networks(t, pixels, streams.start)
        self.generator: nn.Module = generator.to(self.device)
        self.encoder = None if encoder is None else encoder.to(self.device)
        parameters = [*self.generator.parameters()]
        betas = (t.first_beta, 0.999)
        if self.encoder is not None:
            parameters += [*self.encoder.parameters()]
            betas = (0.9, 0.999)
        self.optimizer = torch.optim.Adam(parameters, lr=t.learning_rate, betas=betas)
        self.per_epoch = len(images) // t.batch
        self.iterations = max(1, round(t.epochs * self.per_epoch))
        self.losses = torch.zeros(self.iterations)
        self.step_size = t.step_size
        self.chains: Tensor | None = None
        if t.method == "ABP":
            self.chains = torch.randn(
                len(images), t.dim, generator=streams.noise, device=self.device
            )
        self.order = torch.zeros(self.per_epoch * t.batch, dtype=torch.int64)
        self.searches: list[dict[str, Any]] = []
        self.done, self.seconds, self.search_seconds = 0, 0.0, 0.0
        self.monitor, self.monitor_every = monitor, max(1, round(monitor_every * self.per_epoch))
        self.curve: list[dict[str, Any]] = []
        self._started: float | None = None
        self._graph: CapturedChain | None = None

    def step(self) -> None:
        """One update; refused beyond `iterations`."""
        if self.done >= self.iterations:
            raise UsageError(f"step: all {self.iterations} iterations are done")
        if self.done == 0 and not self.curve:
            self._look()
        if self._started is None:
            self._started = self._clock()
        if self.done % self.per_epoch == 0:
            order = torch.randperm(len(self.images), generator=self.streams.order)
            self.order.copy_(order[: len(self.order)])
        self._choose_step_size()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        t = self.training
        start = self.done % self.per_epoch * t.batch
        rows = self.order[start : start + t.batch].to(self.device)
        x = to_unit(self.images[rows])
        loss, error = self._autoencoder(x) if self.encoder is not None else self._chain(x, rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses[self.done] = error
        self.done += 1
        if self.done % self.monitor_every == 0 or self.done == self.iterations:
            self._look()

    def _chain(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sample z_K, detached, then the squared error of an image."""
        t = self.training
        z, noise = draw((len(x), t.dim), t.steps, self.streams.noise, x.dtype)
        if self.chains is not None:
            z = self.chains[rows]
        if self.device.type == "cuda":
            z = self._captured(x, z, noise)
        else:
            target = log_joint(self.generator, x, t.sigma)
            z = short_run(target, z, self.step_size, t.steps, noise if t.noisy else None)
        if self.chains is not None:
            self.chains[rows] = z
        loss = (x - self.generator(z)).square().sum(-1).mean()
        return loss, loss.detach() / x.shape[1]

    def _captured(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """The same chain as a CUDA graph, captured anew for every step size."""
        t, s = self.training, self.step_size
        if self._graph is None or self._graph.step_size != s:
            self._graph = CapturedChain(self.generator, t.sigma, s, x, z, noise, noisy=t.noisy)
        return self._graph(x, z, noise)

    def _autoencoder(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-ELBO of an image."""
        t = self.training
        assert self.encoder is not None
        noise = torch.randn(
            len(x), t.dim, generator=self.streams.noise, device=self.device, dtype=x.dtype
        )
        loss = negative_elbo(self.generator, self.encoder, x, noise, t.sigma).mean()
        return loss, loss.detach() / x.shape[1]

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        share, factor = self.done / self.iterations, 1.0
        for begin, value in self.training.decay:
            factor = value if share >= begin else factor
        return self.training.learning_rate * factor

    def _choose_step_size(self) -> None:
        t = self.training
        if t.search == "none":
            return
        first = round(t.search_from * self.per_epoch)
        every = max(1, round(t.search_every * self.per_epoch))
        if self.done < first or (self.done - first) % every:
            return
        self._stop_clock()
        started = self._clock()
        found = self.search()
        spent = self._clock() - started
        self.search_seconds += spent
        self.seconds += spent
        self._started = self._clock()
        if found.step_size is not None:
            self.step_size = float(found.step_size)  # type: ignore[arg-type]
        usable = [o for o in found.visited if o.value is not None]
        self.searches.append(
            {
                "epoch": self.done / self.per_epoch,
                "step_size": found.step_size,
                "visited": [
                    [o.step_size, o.value, None if math.isnan(o.negative) else o.negative]
                    for o in found.visited
                ],
                "usable": len(usable),
            }
        )

    def search(self) -> Search:
        """Choose s anew, on fixed images with fixed z_0 and noise; determinants in float64."""
        t = self.training
        x = to_unit(spaced(self.images, t.search_images))
        state = self.streams.search.get_state()
        if t.search == "marginal":
            shape = (t.search_chains, len(x), t.dim)
            z, noise = draw(shape, t.steps, self.streams.search, x.dtype)
            self.streams.search.set_state(state)
            with torch.no_grad():
                target = log_joint(self.generator, x, t.sigma)
                return marginal_search(target, z, doubled(t.grid), t.steps, noise)
        x = x.double()
        z, noise = draw((len(x), t.dim), t.steps, self.streams.search, torch.float64)
        self.streams.search.set_state(state)
        target = log_joint(in_float64(self.generator), x, t.sigma)
        given = noise if t.noisy else None
        if t.search == "grid":
            return grid_search(target, z, t.grid, t.steps, given)
        start = 0.8 * self.step_size if self.searches else t.search_start
        for _ in range(20):
            try:
                return gradient_search(
                    target,
                    z,
                    start,
                    t.steps,
                    given,
                    learning_rate=t.search_rate,
                    iterations=t.search_iterations,
                )
            except PastGuard:
                start *= 0.5
        return Search(None, [])

    def _look(self) -> None:
        self._stop_clock()
        if self.monitor is not None:
            epoch = self.done / self.per_epoch
            about = {"epoch": epoch, "seconds": self.seconds, "step_size": self.step_size}
            self.curve.append(about | self.monitor(self))

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def _stop_clock(self) -> None:
        if self._started is not None:
            self.seconds += self._clock() - self._started
            self._started = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, copied to the host."""
        self._stop_clock()
        return {
            "format": 1,
            "made_for": self._made_for(),
            "done": self.done,
            "seconds": self.seconds,
            "search_seconds": self.search_seconds,
            "step_size": self.step_size,
            "searches": list(self.searches),
            "curve": list(self.curve),
            "losses": self.losses.clone(),
            "order": self.order.clone(),
            "chains": None if self.chains is None else self.chains.cpu().clone(),
            "generator": _copied(self.generator.state_dict()),
            "encoder": None if self.encoder is None else _copied(self.encoder.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "streams": [g.get_state() for g in self.streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back a `state_dict` of a trainer built with the same arguments.

        Raises:
            UsageError: an unknown format, or another training; nothing is changed.
        """
        if state.get("format") != 1:
            raise UsageError(f"checkpoint: unknown format {state.get('format')!r}; start afresh")
        for name, value in self._made_for().items():
            theirs = state["made_for"].get(name)
            if theirs != value:
                raise UsageError(f"checkpoint: made for {name} = {theirs}, not {value}")
        self.generator.load_state_dict(state["generator"])
        if self.encoder is not None:
            self.encoder.load_state_dict(state["encoder"])
        if self.chains is not None:
            self.chains.copy_(state["chains"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.losses.copy_(state["losses"])
        self.order.copy_(state["order"])
        for own, saved in zip(self.streams, state["streams"], strict=True):
            own.set_state(saved)
        self.done, self.seconds = int(state["done"]), float(state["seconds"])
        self.search_seconds = float(state["search_seconds"])
        self.step_size = float(state["step_size"])
        self.searches, self.curve = list(state["searches"]), list(state["curve"])
        self._started = None

    def _made_for(self) -> dict[str, str]:
        own = {f.name: repr(getattr(self.training, f.name)) for f in fields(self.training)}
        return own | {"images": repr(tuple(self.images.shape))}

    def diverged_at(self) -> list[int | None]:
        """The first update (from 1) whose loss was not finite, or None; a list of one."""
        bad = (~torch.isfinite(self.losses[: self.done])).nonzero()
        return [int(bad[0]) + 1 if len(bad) else None]


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in state.items()}


def in_float64(generator: nn.Module) -> nn.Module:
    """A copy without gradients, in float64."""
    return copy.deepcopy(generator).requires_grad_(False).double()


def doubled(grid: Sequence[float]) -> list[float]:
    """The grid of the marginal bound, which needs no injective step and is least beyond J."""
    return [round(2 * s, 12) for s in grid]


def to_unit(images: Tensor) -> Tensor:
    """Pixels in [-1, 1], float32, from uint8 0 ... 255; floats stay."""
    return images if images.is_floating_point() else images.float() * (2 / 255) - 1


def spaced(images: Tensor, n: int) -> Tensor:
    """`n` evenly spaced images, or all."""
    if n >= len(images):
        return images
    return images[torch.linspace(0, len(images) - 1, n).round().long()]
