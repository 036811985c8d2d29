"""Discretized logistic likelihood of pixels, with one global scale (2209.07036, appendix B).

A pixel of level v in 0 ... L-1 is x = 2 v / (L - 1) - 1 and has the mass that a logistic density
with mean mu and scale s puts on its bin, the end bins reaching to infinity:

    p(x) = sigmoid((x + h - mu) / s) - sigmoid((x - h - mu) / s),   h = 1 / (L - 1).

With u and l the two standardized edges, log p = -softplus(-u) - softplus(l) + log(1 - e^{-(u - l)})
exactly; the first term is missing at the top level, the second at the bottom, the third at both. In
this form nothing underflows. Guaranteed: the L masses sum to one for any mean and scale; value and
gradient are finite. (The official code clamps the mass at 1.2e-7 and has no gradient there.)
Units: nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from lmcnb.errors import UsageError


class Gradient(NamedTuple):
    """Energy of pixels and its derivatives."""

    energy: Tensor  # (..., pixels), -log p in nats
    mean: Tensor  # (..., pixels), d energy / d mean
    scale: Tensor  # (..., pixels), d energy / d scale


def to_grid(pixels: Tensor, levels: int = 256) -> Tensor:
    """Levels `0 ... levels-1` as x in [-1, 1], float32.

    Raises:
        UsageError: `levels` below 2, or a pixel that is no level.
    """
    if type(levels) is not int or levels < 2:
        raise UsageError(f"levels={levels!r}: an integer of at least 2 is needed")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= levels - 1):
        raise UsageError(
            f"images: pixels from {low:g} to {high:g} are outside the grid of {levels} levels, "
            f"0 to {levels - 1}"
        )
    if pixels.is_floating_point() and not torch.equal(pixels, pixels.round()):
        raise UsageError(f"images: pixels must be whole levels 0 to {levels - 1}, not fractions")
    return pixels.float() * (2 / (levels - 1)) - 1


def log_mass(x: Tensor, mean: Tensor, scale: Tensor, levels: int = 256) -> Tensor:
    """log p of pixels, nats.

    Args:
        x: pixels on the grid in [-1, 1], `(..., pixels)`.
        mean: mu, broadcasts.
        scale: s > 0, broadcasts.
        levels: number of levels L.
    """
    half = 1 / (levels - 1)
    upper, lower = (x + half - mean) / scale, (x - half - mean) / scale
    below_top, above_bottom = x + half < 1, x - half > -1
    zero = upper.new_zeros(())
    width = torch.log(-torch.expm1(-2 * half / scale))
    return (
        torch.where(below_top, logsigmoid(upper), zero)
        + torch.where(above_bottom, logsigmoid(-lower), zero)
        + torch.where(below_top & above_bottom, width, zero)
    )


def energy_and_gradient(x: Tensor, mean: Tensor, scale: Tensor, levels: int = 256) -> Gradient:
    """-log p and its derivatives in closed form; arguments as for `log_mass`.

    d energy / d mean = (1 - sigmoid(u) - sigmoid(l)) / s, with sigmoid(u) = 1 at the top level and
    sigmoid(l) = 0 at the bottom.
    """
    half = 1 / (levels - 1)
    upper, lower = (x + half - mean) / scale, (x - half - mean) / scale
    below_top, above_bottom = (x + half < 1).to(x.dtype), (x - half > -1).to(x.dtype)
    above = torch.sigmoid(-upper) * below_top  # 1 - sigmoid(u): mass above the bin
    below = torch.sigmoid(lower) * above_bottom  # mass below the bin
    inside = below_top * above_bottom
    width = 2 * half / scale
    energy = -(
        logsigmoid(upper) * below_top
        + logsigmoid(-lower) * above_bottom
        + torch.log(-torch.expm1(-width)) * inside
    )
    by_scale = (above * upper - below * lower + inside * width / torch.expm1(width)) / scale
    return Gradient(energy, (above - below) / scale, by_scale)


def scale_of(b: Tensor) -> Tensor:
    """s = softplus(b)^(-1/2) of the learnt scalar b; 1.2011 at the start, b = 0."""
    return softplus(b, threshold=40).rsqrt()


def scale_penalty(b: Tensor) -> Tensor:
    """-log density of b under a standard logistic prior: b + 2 softplus(-b), nats."""
    return b + 2 * softplus(-b, threshold=40)
