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

    @torch.no_grad()
    def input_score(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Gradient of f by x, `(..., dim)`: the reverse sweep by hand, nothing kept."""
        h, before = joined(x, c, self.condition), []
        for layer in self.layers:
            before.append(layer(h))
            h = silu(before[-1]) if len(before) < len(self.layers) else h
        delta = self.head.weight[0].expand_as(before[-1])
        for a, layer in zip(reversed(before), reversed(self.layers), strict=True):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            delta = torch.ops.aten.silu_backward(delta, a) @ weight
        return delta[..., : self.dim]


class EnergyDensity:
    """log of exp(f(x, c)) N(x; 0, s_ref^2 I), for points x `(..., n, dim)`; autograd's score."""

    def __init__(self, energy: nn.Module, reference: float | None, c: Tensor | None = None) -> None:
        """The density that `energy` has now: later updates of its weights are seen.

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

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product, `(..., dim)`; the latter by autograd."""
        own: Any = self.energy
        score = own.input_score(z) if self.c is None else own.input_score(z, self.c)
        if self.reference is not None:
            score = torch.add(score, z, alpha=-1 / self.reference**2)

        def product(v: Tensor) -> Tensor:
            return gradients.linearize(lambda x: self(x), z)[1](v)

        return score, product


def density(energy: nn.Module, reference: float | None, c: Tensor | None = None) -> EnergyDensity:
    """The density of an energy, with its own score if it has one; arguments as `EnergyDensity`."""
    kind = ByHand if hasattr(energy, "input_score") else EnergyDensity
    return kind(energy, reference, c)
