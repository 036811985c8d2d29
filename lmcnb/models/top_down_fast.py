"""The derivatives of a `TopDown` generator by hand: no graph, fewer calls.

`trace` is the forward sweep with the values between, `pull_back` the product of a vector with the
Jacobian's transpose, `hessian` the second derivatives of a loss of the image. Guaranteed: all three
can be differentiated again in forward mode (not in reverse mode: they work in place), and equal
autograd's up to rounding (a test, in float64). Weights are taken as they stand when the object is
made; a later update of the network in place is seen only if no other type was asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmcnb.models.top_down import TopDown, deviation

_back_tanh: Any = torch.ops.aten.tanh_backward


class Layer(NamedTuple):
    """What the reverse sweep needs of one layer, `(n, width)` but for the latents."""

    z: Tensor  # noise of the layer, (n, d_l)
    head: Tensor | None  # from the layer above: (mean, raw), or the ladder's pre-activation
    std: Tensor | None  # of a stochastic layer
    slope: Tensor | None  # of std by `raw`, or of the ladder's gelu
    p: Tensor  # P u
    slope_p: Tensor  # of gelu there
    q: Tensor  # D a
    slope_q: Tensor


class Trace(NamedTuple):
    """A forward sweep."""

    layers: tuple[Layer, ...]
    output: Tensor  # g(z), (n, pixels)


class Signals(NamedTuple):
    """Derivatives of a loss by a layer's noise, latent, a_l and h_l."""

    z: Tensor
    u: Tensor
    a: Tensor
    h: Tensor


class Affine(NamedTuple):
    """A linear map's weight `(outputs, inputs)` and bias."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        return torch.addmm(self.bias, x, self.weight.t())


class Sweeps:
    """Forward, reverse and second-order sweeps of a network, for noise `(n, dim)`."""

    def __init__(self, network: TopDown, dtype: torch.dtype | None = None) -> None:
        """Of `network`, its weights in `dtype` (None: as they are)."""

        def affine(m: nn.Module) -> Affine:
            assert isinstance(m, nn.Linear)
            return Affine(m.weight.detach().to(dtype), m.bias.detach().to(dtype))

        self.latent, self.variant, self.dim = network.latent, network.variant, network.dim
        self.project = [affine(m) for m in network.project]
        self.deterministic = [affine(m) for m in network.deterministic]
        self.head = [affine(m) for m in network.head]
        self.mix = [affine(m) for m in network.mix]
        self.out = affine(network.out)

    def trace(self, z: Tensor) -> Trace:
        """g(z), keeping what the other sweeps need."""
        layers: list[Layer] = []
        h: Tensor | None = None
        parts = (z,) if len(self.latent) == 1 else z.split(self.latent, -1)
        for i, own in enumerate(parts):
            u, head, std, slope = own, None, None, None
            if h is not None:
                head = self.head[i - 1](h)
                if self.variant == "ladder":
                    head = self.mix[i - 1](torch.cat([head, own], -1))
                    u, slope = activate(head)
                else:
                    mean, raw = head.chunk(2, -1)
                    std, slope, _ = deviation(raw, self.variant)
                    u = torch.addcmul(mean, std, own)
            p = self.project[i](u)
            a, slope_p = activate(p)
            q = self.deterministic[i](a)
            b, slope_q = activate(q)
            h = a.add_(b) if h is None else a.add_(b).add_(h)
            layers.append(Layer(own, head, std, slope, p, slope_p, q, slope_q))
        assert h is not None
        return Trace(tuple(layers), tanh(self.out(h)))

    def pull_back(self, t: Trace, delta: Tensor) -> Tensor:
        """Product of the Jacobian's transpose with `delta` `(n, pixels)`: `(n, dim)`."""
        found = [s.z for s in self._signals(t, delta)]
        return found[0] if len(found) == 1 else torch.cat(found[::-1], -1)

    def _signals(self, t: Trace, delta: Tensor) -> Iterator[Signals]:
        """The reverse sweep, from the bottom layer up."""
        h = _back_tanh(delta, t.output) @ self.out.weight
        for i in reversed(range(len(t.layers))):
            own = t.layers[i]
            a = torch.addmm(h, h * own.slope_q, self.deterministic[i].weight)
            u = (a * own.slope_p) @ self.project[i].weight
            if own.head is None:
                yield Signals(u, u, a, h)
                return
            above = self.head[i - 1].weight
            assert own.slope is not None
            if self.variant == "ladder":
                mixed = (u * own.slope) @ self.mix[i - 1].weight
                by_mean, by_z = mixed.chunk(2, -1)
                yield Signals(by_z, u, a, h)
            else:
                assert own.std is not None
                by_mean = torch.cat([u, u * own.z * own.slope], -1)
                yield Signals(u * own.std, u, a, h)
            h = torch.addmm(h, by_mean, above)

    def hessian(self, t: Trace, delta: Tensor, weight: Tensor) -> Tensor:
        """Second derivatives `(n, dim, dim)` of a loss of the image, a sum over its pixels.

        A sum over the nodes of the network that are not linear, of J^T diag(signal * node'') J,
        with J the Jacobian of a node's input, which is swept forward.

        Args:
            t: from `trace`.
            delta: first derivatives of the loss by the image, `(n, pixels)`.
            weight: its second derivatives, `(n, pixels)`.
        """
        signals = list(self._signals(t, delta))[::-1]
        eye = torch.eye(self.dim, dtype=delta.dtype, device=delta.device)
        total: Tensor | float = 0.0
        T: Tensor | None = None  # the Jacobian of h_l, transposed: (n, dim, width)
        for i, (own, s, e) in enumerate(
            zip(t.layers, signals, eye.split(self.latent, -1), strict=True)
        ):
            U: Tensor = e
            if own.head is not None:
                assert T is not None
                if self.variant == "ladder":
                    by_mean, by_z = self.mix[i - 1].weight.chunk(2, -1)
                    V = T @ (by_mean @ self.head[i - 1].weight).mT + e @ by_z.mT
                    assert own.slope is not None
                    total = total + _gram(V, s.u * curvature(own.head))
                    U = V * own.slope.unsqueeze(-2)
                else:
                    M, R = (T @ self.head[i - 1].weight.mT).chunk(2, -1)
                    std, slope, curve = deviation(own.head.chunk(2, -1)[1], self.variant)
                    cross = (R * (s.u * slope).unsqueeze(-2)) @ e.mT
                    total = total + _gram(R, s.u * own.z * curve) + cross + cross.mT
                    U = M + R * (own.z * slope).unsqueeze(-2) + e * std.unsqueeze(-2)
            A = U @ self.project[i].weight.mT
            total = total + _gram(A, s.a * curvature(own.p))
            A = A * own.slope_p.unsqueeze(-2)
            Q = A @ self.deterministic[i].weight.mT
            total = total + _gram(Q, s.h * curvature(own.q))
            A = A + Q * own.slope_q.unsqueeze(-2)
            T = A if T is None else T + A
        assert T is not None
        y = t.output
        slope = 1 - y.square()
        curve = weight * slope.square() - 2 * delta * y * slope
        return total + _gram(T @ self.out.weight.mT, curve)


def slices(latent: tuple[int, ...]) -> list[slice]:
    """Where each layer's noise lies in z."""
    ends = list(itertools.accumulate(latent))
    return [slice(end - size, end) for end, size in zip(ends, latent, strict=True)]


def tanh(o: Tensor) -> Tensor:
    """tanh by the logistic function, whose kernel is several times faster in float32."""
    return torch.sigmoid(o + o).mul_(2).sub_(1)


def activate(p: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(p) = p Phi(p) and its derivative Phi(p) + p phi(p), which share Phi."""
    cdf = torch.special.ndtr(p)
    value = p * cdf
    return value, cdf.add_((p * p).mul_(-0.5).exp_().mul_(p), alpha=1 / math.sqrt(2 * math.pi))


def curvature(p: Tensor) -> Tensor:
    """Second derivative of gelu."""
    return torch.exp(-0.5 * p.square()) * (2 - p.square()) / math.sqrt(2 * math.pi)


def _gram(T: Tensor, weight: Tensor) -> Tensor:
    """T diag(weight) T^T."""
    return (T * weight.unsqueeze(-2)) @ T.mT
