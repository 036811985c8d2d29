"""The Langevin autoencoder's training step by hand: one backward pass a move, all rows at once.

The same numbers as `langevin_autoencoder.training_step` (a test holds them together in float64). A
proposal costs one decoder forward and one backward pass through the data; the energy's gradient is
in closed form. Parameter gradients are outer products of what those passes leave behind, formed
only for the states that enter the loss. Which state that is, the accept test decides on the
device: nothing waits for the host (a single row on a CPU takes the branch instead of copying both).

Everything has a leading row dimension: rows are independent runs with their own images, noise and
step size. Units: nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lmcnb.kernels import mala
from lmcnb.kernels.ula import propose
from lmcnb.methods.langevin_autoencoder import Langevin
from lmcnb.models.discretized_logistic import energy_and_gradient, scale_of
from lmcnb.models.perceptron import Perceptron, Signals, Trace

T = TypeVar("T")


class Point(NamedTuple):
    """A value of Phi on the current batch, and what passing through the decoder left behind."""

    state: mala.State  # position (rows, dim * d), log density (rows), score (rows, dim * d)
    trace: Trace
    signals: Signals
    by_scale: Tensor  # (rows), d V / d s


class Step(NamedTuple):
    """What one training step gives."""

    phi: Tensor  # (rows, dim * d), flat, after the last move
    gradients: dict[str, Tensor]  # of the loss, by parameter name
    loss: Tensor  # (rows), nats an image
    acceptance: Tensor  # (rows), mean of min(1, r) over the moves; 1 where nothing is tested


@dataclass(frozen=True)
class Engine:
    """Architecture and settings; parameters and data are given to `step`."""

    body: Perceptron
    decoder: Perceptron
    settings: Langevin
    levels: int = 256

    def step(
        self,
        p: Mapping[str, Tensor],
        x: Tensor,
        noise: Tensor,
        uniform: Tensor,
        step_size: Tensor,
    ) -> Step:
        """Move Phi and give the gradients of everything else.

        Args:
            p: `phi` (rows, dim * d), `b` (rows, 1, 1), `body.*` and `decoder.*`.
            x: images on the grid, `(rows, B, pixels)`.
            noise: standard normal, `(rows, moves, dim * d)`.
            uniform: on (0, 1), `(rows, moves)`.
            step_size: `(rows)`, on the gradient of the batch mean.
        """
        batch = x.shape[-2]
        body = self.body.factors(part(p, "body"))
        decoder = self.decoder.factors(part(p, "decoder"))
        scale = scale_of(p["b"])
        seen = self.body.trace(body, x)
        h = seen.output
        eta = (step_size / batch)[:, None]
        point = self._point(decoder, scale, x, h, p["phi"])
        visited, acceptance = [point] if self.settings.moves == 0 else [], []
        for t in range(self.settings.total):
            moved = propose(point.state.position, point.state.score, eta, noise[:, t])
            proposal = self._point(decoder, scale, x, h, moved)
            if self.settings.adjusted:
                log_r = mala.log_ratio(point.state, proposal.state, eta)
                acceptance.append(log_r.exp().clamp(max=1).nan_to_num(nan=0.0))
                point = choose(mala.accepts(log_r, uniform[:, t]), proposal, point)
            else:
                point = proposal
            if t < self.settings.moves:
                visited.append(point)
        loss, gradients = self._gradients(visited, p, body, seen, h, scale, batch)
        ones = torch.ones_like(step_size)
        mean = torch.stack(acceptance).mean(0).to(x.dtype) if acceptance else ones
        return Step(point.state.position, gradients, loss, mean)

    def _point(
        self, decoder: Mapping[str, Tensor], scale: Tensor, x: Tensor, h: Tensor, phi: Tensor
    ) -> Point:
        """Energy, score and tape at a flat Phi."""
        matrix = phi.unflatten(-1, (-1, h.shape[-1]))
        z = h @ matrix.mT
        trace = self.decoder.trace(decoder, z)
        pixel = energy_and_gradient(x, trace.output, scale, self.levels)
        signals = self.decoder.signals(decoder, trace, pixel.mean)
        assert signals.input is not None
        by_z = signals.input + z
        energy = pixel.energy.sum((-1, -2), dtype=torch.float64)
        energy = energy + 0.5 * z.square().sum((-1, -2), dtype=torch.float64)
        state = mala.State(phi, -energy, -(by_z.mT @ h).flatten(-2))
        return Point(
            state,
            trace._replace(output=z),  # the decoder's output is not needed again, z is
            signals._replace(input=by_z),
            pixel.scale.sum((-1, -2)),
        )

    def _gradients(
        self,
        visited: list[Point],
        p: Mapping[str, Tensor],
        body: Mapping[str, Tensor],
        seen: Trace,
        h: Tensor,
        scale: Tensor,
        batch: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradients, averaged over the visited points; one seen twice counts double."""
        distinct = list({id(v): v for v in visited}.values())
        weights = [sum(v is d for v in visited) / (len(visited) * batch) for d in distinct]
        loss = torch.zeros_like(scale[:, 0, 0], dtype=torch.float64)
        by_features, by_scale = torch.zeros_like(h), torch.zeros_like(scale[:, 0, 0])
        for weight, point in zip(weights, distinct, strict=True):
            loss = loss - weight * point.state.log_density
            by_scale = by_scale + weight * point.by_scale
            matrix = point.state.position.unflatten(-1, (-1, h.shape[-1]))
            assert point.signals.input is not None
            by_features = by_features + weight * (point.signals.input @ matrix)
        trace, signals = joined(distinct, weights)
        decoder = self.decoder.gradients(trace, signals)
        gradients = {f"decoder.{name}": g for name, g in decoder.items()}
        back = self.body.signals(body, seen, by_features, by_input=False)
        gradients |= {f"body.{name}": g for name, g in self.body.gradients(seen, back).items()}
        if self.settings.gradient:
            gradients["phi"] = -distinct[0].state.score / batch
        # s = softplus(b)^(-1/2), so d s / d b = -s^3 sigmoid(b) / 2
        gradients["b"] = by_scale[:, None, None] * (-0.5 * scale**3 * torch.sigmoid(p["b"]))
        return loss.to(h.dtype), gradients


def joined(points: list[Point], weights: list[float]) -> tuple[Trace, Signals]:
    """Several points as one batch, each one's signals times its weight."""

    def weighted(of: str) -> tuple[Tensor, ...]:
        layers = zip(*(getattr(point.signals, of) for point in points), strict=True)
        return tuple(
            torch.cat([w * s for w, s in zip(weights, layer, strict=True)], -2) for layer in layers
        )

    def together(of: str) -> tuple[Tensor, ...]:
        layers = zip(*(getattr(point.trace, of) for point in points), strict=True)
        return tuple(layer[0] if len(layer) == 1 else torch.cat(layer, -2) for layer in layers)

    trace = points[0].trace._replace(inputs=together("inputs"), normalized=together("normalized"))
    return trace, Signals(weighted("linear"), weighted("affine"), None)


def part(p: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters `prefix.*`, without the prefix."""
    return {k[len(prefix) + 1 :]: v for k, v in p.items() if k.startswith(prefix + ".")}


def choose(accepted: Tensor, new: T, old: T) -> T:
    """`new` in the rows that accepted, `old` in the others; nested tuples of tensors."""
    if accepted.device.type == "cpu" and accepted.numel() == 1:
        return new if bool(accepted) else old
    if isinstance(new, Tensor):
        return mala.select(accepted, new, old)  # type: ignore[arg-type, return-value]
    parts = [choose(accepted, a, b) for a, b in zip(new, old, strict=True)]  # type: ignore[call-overload]
    return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)  # type: ignore[return-value]
