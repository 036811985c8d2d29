"""Energy-based models with a Gaussian reference density (2012.14936).

    p(x | c) = exp(f(x, c)) N(x; 0, s_ref^2 I) / Z(c)

f, the negative energy, is a network `f(x, c) -> (n)`; the condition c may be absent. The densities
here are not normalized: their log normalizer is log Z, in nats, constants of the reference
included. Guaranteed: where f has an `input_score` of its own, it is used and equals autograd's up
to rounding (tests). Not guaranteed: that Z is finite for f growing faster than the reference falls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lmcnb.errors import UsageError
from lmcnb.kernels import gradients
from lmcnb.kernels.gradients import Product
from lmcnb.models.encoders import affine
from lmcnb.models.gaussian import LOG_2_PI
from lmcnb.models.mlp import joined


class EnergyMLP(nn.Module):
    """f: a perceptron with SiLU between its layers, which is smooth, and one output."""

    def __init__(
        self, dim: int, widths: Sequence[int], stream: torch.Generator, condition: int = 0
    ) -> None:
        """Draw the weights from `stream`.

        Args:
            dim: of x.
            widths: of the hidden layers, at least one.
            stream: source of the weights.
            condition: numbers in a condition; 0: none.
        """
        super().__init__()
        if not widths or min(dim, *widths) < 1:
            raise UsageError(
                f"dim={dim}, widths={list(widths)}: at least one hidden layer, and positive sizes"
            )
        self.dim, self.condition = dim, condition
        sizes = [dim + condition, *widths]
        self.layers = nn.ModuleList(affine(a, b, stream) for a, b in itertools.pairwise(sizes))
        self.head = affine(sizes[-1], 1, stream)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """f `(...)` of points `(..., dim)` under conditions `(..., condition)`."""
        h = joined(x, c, self.condition)
        for layer in self.layers:
            h = silu(layer(h))
        return self.head(h).squeeze(-1)

    def input_score(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Gradient of f by x, `(..., dim)`."""
        return Sweep(self, x)(x, c)


class Sweep:
    """The gradient of an `EnergyMLP` by x, written out: a reverse sweep in memory of its own.

    Guaranteed: autograd's numbers up to rounding. The weights are those that the energy had when
    the sweep was made. Fresh memory in every step would cost as much as the sums.
    """

    def __init__(self, energy: EnergyMLP, x: Tensor) -> None:
        """For points shaped as x `(..., dim)`."""
        self.like, self.condition = x, energy.condition
        self.weights: list[Tensor] = [p.weight.detach() for p in energy.layers]  # type: ignore[operator, union-attr]
        self.biases: list[Tensor] = [p.bias.detach() for p in energy.layers]  # type: ignore[operator, union-attr]
        self.across = [w.mT.contiguous() for w in self.weights]
        n, sizes = x.numel() // x.shape[-1], [len(b) for b in self.biases]
        self.before, self.after, self.signal = ([x.new_empty(n, k) for k in sizes] for _ in "bas")
        self.head = energy.head.weight.detach().expand(n, -1)
        self.back = self.weights[0][:, : energy.dim].contiguous()

    def fits(self, x: Tensor) -> bool:
        """Whether x has the shape, type and device that the sweep was made for."""
        like = self.like
        return (x.shape, x.dtype, x.device) == (like.shape, like.dtype, like.device)

    @torch.no_grad()
    def __call__(self, x: Tensor, c: Tensor | None = None, shrink: float = 0.0) -> Tensor:
        """Gradient of f by x less shrink x, `(..., dim)`: a new tensor."""
        aten, last = torch.ops.aten, len(self.before) - 1
        h = joined(x, c, self.condition).reshape(len(self.head), -1)
        for k, (a, room) in enumerate(zip(self.before, self.after, strict=True)):
            torch.addmm(self.biases[k], h, self.across[k], out=a)
            if k < last:
                h = aten.silu.out(a, out=room)
        delta = self.head
        for k in range(last, -1, -1):
            aten.silu_backward.grad_input(delta, self.before[k], grad_input=self.signal[k])
            if k:
                delta = torch.mm(self.signal[k], self.weights[k], out=self.after[k - 1])
        flat = x.reshape(len(self.head), -1)
        return torch.addmm(flat, self.signal[0], self.back, beta=-shrink).view(x.shape)


class EnergyDensity:
    """log of exp(f(x, c)) N(x; 0, s_ref^2 I), for points x `(..., n, dim)`; autograd's score."""

    def __init__(self, energy: nn.Module, reference: float | None, c: Tensor | None = None) -> None:
        """The density that `energy` has now.

        Later updates of its weights are seen by the value, and by a score of autograd's; a score by
        hand may keep the weights that it saw first. Make a density anew for every revision.

        Args:
            energy: f.
            reference: s_ref; None: no reference, log p = f - log Z.
            c: conditions, a row a point; None: none.

        Raises:
            UsageError: a reference that is not positive.
        """
        if reference is not None and not 0 < reference < math.inf:
            raise UsageError(
                f"reference={reference!r}: the width of the reference density must be positive, "
                "or None for none"
            )
        self.energy, self.reference, self.c = energy, reference, c

    def __call__(self, x: Tensor) -> Tensor:
        """Nats, `(...)`, not normalized."""
        f = self._f(x)
        if self.reference is None:
            return f
        square = x.square().sum(-1) / self.reference**2
        return f - 0.5 * (square + x.shape[-1] * (LOG_2_PI + 2 * math.log(self.reference)))

    def _f(self, x: Tensor) -> Tensor:
        return self.energy(x) if self.c is None else self.energy(x, self.c)


class ByHand(EnergyDensity):
    """The same for an energy that knows its gradient by x."""

    _sweep: Sweep | None = None

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product, `(..., dim)`; the latter by autograd."""

        def product(v: Tensor) -> Tensor:
            return gradients.linearize(lambda x: self(x), z)[1](v)

        return self._score(z), product

    def _score(self, z: Tensor) -> Tensor:
        shrink = 0.0 if self.reference is None else 1 / self.reference**2
        if isinstance(self.energy, EnergyMLP):
            if self._sweep is None or not self._sweep.fits(z):
                self._sweep = Sweep(self.energy, z)
            return self._sweep(z, self.c, shrink)
        own: Any = self.energy
        score = own.input_score(z) if self.c is None else own.input_score(z, self.c)
        return torch.add(score, z, alpha=-shrink)


def density(energy: nn.Module, reference: float | None, c: Tensor | None = None) -> EnergyDensity:
    """The density of an energy, with its own score if it has one; arguments as `EnergyDensity`."""
    kind = ByHand if hasattr(energy, "input_score") else EnergyDensity
    return kind(energy, reference, c)
