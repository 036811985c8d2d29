"""Densities in the plane against each other and against samples, on a grid.

Guaranteed: sums over cell centres, which agree with the integrals to rounding where a density is
smooth on the scale of a cell and small at the edge of the square. Not guaranteed: anything about
mass outside the square. `divergence` leaves it out of both densities; `cell_masses` keeps account
of it, and `histogram_total_variation` counts it as one more bin.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation import grid
from lmcnb.kernels.gradients import LogDensity


class Divergence(NamedTuple):
    """Of two densities p and q, each normalized on the square."""

    kl: float  # KL(p || q), nats; infinite where q lacks a cell of p
    total_variation: float  # in [0, 1]
    log_normalizer: float  # of q as given, over the square, nats


def divergence(p: LogDensity, q: LogDensity, cells: int = 161, limit: float = 4.0) -> Divergence:
    """KL(p || q), total variation, and log Z of q, over [-limit, limit]^2.

    Args:
        p: log density `(..., 2)` -> `(...)`, up to a constant; float64 points on the CPU come in,
            so give `lambda x: energy(x.float())` of a network in single precision.
        q: likewise.
        cells: along each axis.
        limit: half the side of the square.

    Raises:
        UsageError: a density is NaN or +inf at a cell, or has no mass in the square.
    """
    _sizes(limit, cells=cells)
    log_p, _ = _log_masses(p, "p", cells, limit)
    log_q, log_normalizer = _log_masses(q, "q", cells, limit)
    masses_p, masses_q = log_p.exp(), log_q.exp()
    ratio = torch.where(masses_p > 0, log_p - log_q, 0.0)  # 0 log 0 = 0
    kl = float((masses_p * ratio).sum())
    return Divergence(kl, float(grid.total_variation(masses_p, masses_q)), log_normalizer)


def cell_masses(p: LogDensity, bins: int = 32, limit: float = 3.2, per_side: int = 6) -> Tensor:
    """Masses of the bins of [-limit, limit]^2, `(bins, bins)`, float64, by the midpoint rule.

    Not normalized to the square: what their sum lacks lies outside. With the defaults the masses of
    the eight Gaussians and of the pinwheel are within 1.2e-3 of the exact ones in total variation,
    with `per_side=12` within 3e-4.

    Args:
        p: normalized log density `(..., 2)` -> `(...)`.
        bins: along each axis.
        limit: half the side of the square.
        per_side: points along each axis of a bin.

    Raises:
        UsageError: more than 1.01 of mass: the density is not normalized, or the rule too coarse.
    """
    _sizes(limit, bins=bins, per_side=per_side)
    on_grid = grid.on_grid(p, 1, bins * per_side, limit)
    total = float(on_grid.log_normalizer.exp())
    if not 0 < total <= 1.01:
        raise UsageError(
            f"{_name(p, 'p')}: a mass of {total:.4g} in the square; give a normalized density and "
            "enough points a bin"
        )
    return grid.binned(on_grid.masses[0] * total, bins)


def histogram_total_variation(samples: Tensor, masses: Tensor, limit: float) -> float:
    """Total variation of the histogram of `samples` `(n, 2)` and `masses` `(bins, bins)`.

    Outside the square is one more bin, also for samples that are not finite. Biased upwards: exact
    samples have sum_b E|count_b / n - mass_b| / 2 > 0, which falls as 1 / sqrt(n).

    Args:
        samples: `(n, 2)`, n at least 1.
        masses: what `cell_masses` gives for the same `limit`.
        limit: half the side of the square.
    """
    if samples.dim() != 2 or samples.shape[1] != 2 or len(samples) == 0:
        raise UsageError(f"samples of shape {tuple(samples.shape)}: give (n, 2), n at least 1")
    if masses.dim() != 2 or masses.shape[0] != masses.shape[1] or not len(masses):
        raise UsageError(f"masses of shape {tuple(masses.shape)}: give (bins, bins)")
    _sizes(limit)
    x = samples.detach().double().cpu().nan_to_num(2 * limit).clamp(-2 * limit, 2 * limit)
    shares = grid.histogram(x[:, None], len(masses), limit)[0]
    return float(grid.total_variation(shares, masses.double().cpu()))


def _log_masses(density: LogDensity, role: str, cells: int, limit: float) -> tuple[Tensor, float]:
    """Log masses `(cells, cells)` and log normalizer, both exact where a mass underflows."""
    axis = grid.centres(cells, limit)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_p = torch.cat([density(part).double().cpu() for part in points.split(4000)])
    name = _name(density, role)
    if log_p.shape != (cells**2,):
        raise UsageError(f"{name}: it must map (..., 2) to (...)")
    if bool((log_p.isnan() | (log_p == math.inf)).any()):
        raise UsageError(f"{name}: NaN or +inf in the square of half side {limit}")
    log_z = torch.logsumexp(log_p, 0)
    if not bool(log_z.isfinite()):
        raise UsageError(f"{name}: no mass in the square of half side {limit}")
    log_normalizer = float(log_z) + 2 * math.log(2 * limit / cells)
    return (log_p - log_z).view(cells, cells), log_normalizer


def _name(density: LogDensity, role: str) -> str:
    return f"density {role} ({getattr(density, 'name', 'no name')})"


def _sizes(limit: float, **counts: int) -> None:
    if not 0 < limit < math.inf:
        raise UsageError(f"limit={limit}: a positive number is needed")
    for key, value in counts.items():
        if value < 1:
            raise UsageError(f"{key}={value}: at least 1")
