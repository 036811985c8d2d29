"""Training of binary VAEs with unbiased and with biased gradients (2010.01845, section 5.2).

    theta   ELBO, IWAE: the bound's own gradient, sum_k w~_k grad log p(x, z_k), of K draws
            average:    the mean over L iterations of one chain; no coupling, biased
            C-ISIR, C-ISIR-DISIR: eq. 14, unbiased but for the cap
    phi     always the K-sample bound's doubly reparameterized gradient (DReG),
            sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi), of fresh draws; ELBO: its own
    update  RMSProp, v <- 0.9 v + 0.1 g^2, p <- p - lr g / sqrt(v + 1e-8)

Rows are independent runs of the same arm, with parameters, images' order and noise of their own;
chains take one run after the other. beta of the composite kernel is kept for every image, frozen
during a visit and moved after it (`unbiased_vae.adapted`). Not guaranteed: unbiasedness with a cap
or the index rule; both are recorded. No gradient is clipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.methods.unbiased_vae import Weighted, adapted, weighted_points
from lmcnb.methods.unbiased_vae_gradients import (
    bound_gradients,
    decoder_gradients,
    norm,
    rmsprop,
    row_log_weight,
)
from lmcnb.methods.unbiased_vae_settings import STATISTICS, Streams, Training
from lmcnb.models.binary_vae import BinaryVAE, Parameters


class Trainer:
    """State of the runs; `step` is one update of each, `state_dict` all that a resume needs.

    Attributes:
        parameters: of all runs, by name, `(runs, ...)`.
        updates, done: of the whole training, and so far.
        bounds: `(updates, runs)`, the K-sample bound of the batch, nats an image.
        statistics: `(updates, runs, len(STATISTICS))`; NaN where an arm has no chains.
        cuts: `(updates, runs)`, norm of the part of theta's gradient that is the last correction
            of rows at the cap, over the norm of the whole; NaN where it was not looked at.
        seconds: processor time (on CUDA elapsed time) of the updates.
        curve: what the monitor returned.
    """

    def __init__(
        self,
        model: BinaryVAE,
        training: Training,
        images: Tensor,
        streams: Sequence[Streams],
        *,
        begin: Parameters | None = None,
        squares: Parameters | None = None,
        monitor: Callable[[Trainer], dict[str, Any]] | None = None,
        monitor_every: int = 1000,
        look_at_cut: int = 50,
    ) -> None:
        """One run an entry of `streams`, on the device of their noise.

        Args:
            model: the architecture.
            training: method and settings.
            images: of 0 and 1, uint8, `(n, pixels)`.
            streams: random generators.
            begin: parameters to start from, `(runs, ...)`, in the place of fresh ones.
            squares: state of RMSProp to start from.
            monitor: called before the first update and every `monitor_every` updates; time it
                takes is not counted.
            monitor_every: updates.
            look_at_cut: updates between looks at what the cap cut off.
        """
        if images.dim() != 2 or images.shape[1] != model.pixels or len(images) < training.batch:
            raise UsageError(
                f"images of shape {tuple(images.shape)}: (n, {model.pixels}) with n of at least "
                f"batch={training.batch} is needed"
            )
        if not streams:
            raise UsageError("streams: at least one run is needed")
        if images.dtype != torch.uint8 or int(images.max()) > 1:
            raise UsageError("images: uint8 values 0 and 1 are needed; binarize them first")
        self.model, self.training, self.streams = model, training, list(streams)
        self.runs, self.device = len(streams), streams[0].noise.device
        self.images = images.to(self.device)
        fresh = model.initial([s.start for s in streams]) if begin is None else begin
        self.parameters = {k: v.to(self.device).clone() for k, v in fresh.items()}
        self.squares = {
            k: torch.zeros_like(v) if squares is None else squares[k].to(self.device).clone()
            for k, v in self.parameters.items()
        }
        self.updates, self.done, self.seconds = training.updates, 0, 0.0
        self.per_epoch = len(images) // training.batch
        size = (self.runs, self.per_epoch * training.batch)
        self.order = torch.zeros(size, dtype=torch.int64, device=self.device)
        self.beta = torch.full((self.runs, len(images)), training.beta, device=self.device)
        self.bounds = torch.full((self.updates, self.runs), torch.nan, device=self.device)
        shape = (self.updates, self.runs, len(STATISTICS))
        self.statistics = torch.full(shape, torch.nan, device=self.device)
        self.cuts = torch.full_like(self.bounds, torch.nan)
        self.monitor, self.monitor_every = monitor, max(1, monitor_every)
        self.look_at_cut = max(1, look_at_cut)
        self.curve: list[dict[str, Any]] = []
        self._started: float | None = None
        self.program: Any = None  # the iteration's pieces as CUDA graphs, made when first used

    def step(self) -> None:
        """One update; refused beyond `updates`."""
        if self.done >= self.updates:
            raise UsageError(f"step: all {self.updates} updates are done")
        if self.done == 0 and not self.curve:
            self._look()
        if self._started is None:
            self._started = self._clock()
        if self.done % self.per_epoch == 0:
            for row, s in zip(self.order, self.streams, strict=True):
                row.copy_(torch.randperm(len(self.images), generator=s.order)[: len(row)])
        begin = self.done % self.per_epoch * self.training.batch
        rows = self.order[:, begin : begin + self.training.batch]
        if self.device.type == "cuda":
            from lmcnb.methods.unbiased_vae_graph import Program

            self.program = self.program or Program(self)
            self.program.update(rows)
        else:
            self._update(rows)
        self.done += 1
        if self.done % self.monitor_every == 0 or self.done == self.updates:
            self._look()

    def _update(self, rows: Tensor) -> None:
        """The update as it is written in the paper; `rows` `(runs, batch)` are the images."""
        x = self.images[rows].float()
        noise = self.noise(x.shape[:2])
        elbo = self.training.method == "ELBO"
        bound, gradients = bound_gradients(self.model, self.parameters, x, noise, elbo=elbo)
        self.bounds[self.done] = bound
        if self.training.chains:
            for run in range(self.runs):
                if not bool(torch.isfinite(bound[run])):
                    continue  # it has diverged, and the bound's gradients keep it so
                own = {k: v[run : run + 1] for k, v in self.parameters.items()}
                points, z = self._chains(own, x[run : run + 1], run, rows[run])
                found = decoder_gradients(self.model, own, x[run : run + 1], points, z)
                self.keep(run, rows[run], points, found, own, x[run : run + 1], z)
                for name, g in found.items():
                    gradients[name][run] = g[0]
        rmsprop(self.parameters, gradients, self.squares, self.training.learning_rate)

    def noise(self, lead: Sequence[int]) -> Tensor:
        """Standard normals `(runs, batch, K, latent)` of the bound."""
        shape = (*lead[1:], self.training.samples, self.model.latent)
        return torch.stack(
            [torch.randn(shape, generator=s.noise, device=self.device) for s in self.streams]
        )

    @torch.no_grad()
    def _chains(
        self, own: Parameters, x: Tensor, run: int, rows: Tensor
    ) -> tuple[Weighted, Tensor]:
        """The signed points of one run's batch, and the same as latents."""
        log_weight, mean, std = row_log_weight(self.model, own, x)
        c = self.training.coupling
        points = weighted_points(
            log_weight, len(rows), self.model.latent, c, self.beta[run, rows],
            self.streams[run].noise,
        )  # fmt: skip
        at = points.rows
        return points, mean[at].unsqueeze(1) + std[at].unsqueeze(1) * points.points

    def keep(
        self,
        run: int,
        rows: Tensor,
        points: Weighted,
        found: Mapping[str, Tensor],
        own: Parameters,
        x: Tensor,
        z: Tensor,
    ) -> None:
        """Statistics of the chains, beta for the next visit, and now and then what was cut."""
        K, m = points.weights.shape[-1], points.meeting
        steps = m.joint_steps.float()
        beta, share = self.beta[run, rows], points.effective.float() / K
        coupled = [steps.mean(), steps.max(), m.capped.float().mean()]
        if self.training.coupling.cap == 0:
            coupled = [torch.full_like(v, torch.nan) for v in coupled]
        decodes = torch.full_like(coupled[0], points.n_weights / len(rows))
        own_statistics = [*coupled, share.mean(), beta.mean(), decodes]
        self.statistics[self.done, run] = torch.stack(own_statistics)
        if self.training.coupling.composite:
            self.beta[run, rows] = adapted(beta, share)
        if self.training.coupling.cap and self.done % self.look_at_cut == 0:
            kept = points._replace(weights=points.weights * points.last.unsqueeze(1))
            last = decoder_gradients(self.model, own, x, kept, z)
            self.cuts[self.done, run] = norm(last) / norm(found)

    def _look(self) -> None:
        if self._started is not None:
            self.seconds += self._clock() - self._started
            self._started = None
        if self.monitor is not None:
            seen = {"update": self.done, "seconds": round(self.seconds, 3), **self.monitor(self)}
            self.curve.append(seen)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the runs, copied to the host."""
        if self._started is not None:
            now = self._clock()
            self.seconds, self._started = self.seconds + now - self._started, now
        names = ("order", "beta", "bounds", "statistics", "cuts")
        return {
            "format": 1,
            "made_for": self._made_for(),
            "done": self.done,
            "seconds": self.seconds,
            "curve": list(self.curve),
            "parameters": {k: v.cpu().clone() for k, v in self.parameters.items()},
            "squares": {k: v.cpu().clone() for k, v in self.squares.items()},
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
        for name, value in self._made_for().items():
            if state["made_for"].get(name) != value:
                theirs = state["made_for"].get(name)
                raise UsageError(f"checkpoint: made for {name} = {theirs}, not {value}")
        for mine, theirs in ((self.parameters, "parameters"), (self.squares, "squares")):
            for name, value in state[theirs].items():
                mine[name].copy_(value)
        for name, value in state["tensors"].items():
            getattr(self, name).copy_(value)
        for row, saved in zip(self.streams, state["generators"], strict=True):
            for generator, value in zip(row, saved, strict=True):
                generator.set_state(value)
        self.done, self.seconds = int(state["done"]), float(state["seconds"])
        self.curve, self._started = list(state["curve"]), None

    def _made_for(self) -> dict[str, str]:
        own = {"model": repr(self.model), "training": repr(self.training)}
        return own | {"images": str(len(self.images)), "runs": str(self.runs)}

    def diverged_at(self) -> list[int | None]:
        """Per run, the first update (from 1) whose bound was not finite, or None."""
        bad = ~torch.isfinite(self.bounds[: self.done]).cpu()
        return [int(column.nonzero()[0]) + 1 if column.any() else None for column in bad.T]
