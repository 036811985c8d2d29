"""Densities in the plane on a grid: the ground truth that samples are held to.

Masses on a fine grid of cell centres over [-limit, limit]^2, summed to coarse bins for comparison
with samples. Not guaranteed: anything outside the square; `log_normalizer` misses the mass there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity


class Grid(NamedTuple):
    """Masses of n densities, each normalized on the square."""

    masses: Tensor  # (n, cells, cells), indexed by the first and second coordinate
    log_normalizer: Tensor  # (n), of the unnormalized density over the square, nats
    limit: float


def centres(cells: int, limit: float) -> Tensor:
    """Centres of the cells along an axis, `(cells)`, float64."""
    return (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * limit / cells) - limit


def on_grid(log_joint: LogDensity, n: int, cells: int = 200, limit: float = 4.0) -> Grid:
    """The n densities of `log_joint`, a callable `(..., n, 2) -> (..., n)`."""
    axis = centres(cells, limit)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_p = torch.cat([log_joint(p[:, None].expand(-1, n, 2)) for p in points.split(4000)])
    log_z = torch.logsumexp(log_p, 0)
    masses = (log_p - log_z).exp().T.reshape(n, cells, cells)
    return Grid(masses, log_z + 2 * math.log(2 * limit / cells), limit)


def binned(masses: Tensor, bins: int) -> Tensor:
    """Masses `(..., cells, cells)` summed to `(..., bins, bins)`."""
    cells = masses.shape[-1]
    if cells % bins:
        raise UsageError(f"bins={bins}: must divide the {cells} cells")
    k = cells // bins
    return masses.unflatten(-1, (bins, k)).unflatten(-3, (bins, k)).sum((-1, -3))


def histogram(samples: Tensor, bins: int, limit: float) -> Tensor:
    """Share of samples `(m, n, 2)` in each bin, `(n, bins, bins)`; those outside count nowhere."""
    index = ((samples + limit) * (bins / (2 * limit))).floor().long()
    inside = ((index >= 0) & (index < bins)).all(-1)
    flat = index[..., 0] * bins + index[..., 1]
    shares = [
        torch.bincount(flat[:, i][inside[:, i]], minlength=bins * bins) / len(samples)
        for i in range(samples.shape[1])
    ]
    return torch.stack(shares).view(-1, bins, bins).double()


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of masses `(..., bins, bins)`, in [0, 1]; what either lacks counts."""
    lacking = (p.sum((-1, -2)) - q.sum((-1, -2))).abs()
    return 0.5 * ((p - q).abs().sum((-1, -2)) + lacking)
