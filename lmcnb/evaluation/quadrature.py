"""Normalizers by quadrature: any density in the plane, and Brownian motion with x integrated out.

The trapezoid rule converges faster than any power of the spacing for a smooth density that has
vanished at the border, so two grids that agree settle the digits. The border is the caller's care.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity
from lmcnb.models.targets.brownian import PRIOR_SD, Brownian


def plane_log_normalizer(
    log_density: LogDensity,
    lower: tuple[float, float],
    upper: tuple[float, float],
    points: int = 400,
    device: torch.device | str = "cpu",
) -> float:
    """Log of the integral of exp(log_density) over a rectangle, `points` nodes a side, float64."""
    axes = [
        torch.linspace(low, high, points, dtype=torch.float64, device=device)
        for low, high in zip(lower, upper, strict=True)
    ]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    ends = torch.ones(points, dtype=torch.float64, device=device)
    ends[0] = ends[-1] = 0.5
    weights = (ends[:, None] * ends).log()
    cell = sum(log(float(axis[1] - axis[0])) for axis in axes)
    values = log_density(nodes.view(-1, 2)).view(points, points)
    return float(torch.logsumexp((values + weights).flatten(), 0)) + cell


def brownian_marginal(target: Brownian, log_scales: Tensor) -> Tensor:
    """Log p(log q, log r, y), the path integrated out exactly by a Kalman filter.

    Args:
        target: holds the observations.
        log_scales: (log q, log r), `(..., 2)`.

    Returns:
        `(...)`, in nats.
    """
    q2, r2 = (2 * log_scales).exp().unbind(-1)
    mean, variance = torch.zeros_like(q2), torch.zeros_like(q2)  # x_0 = 0
    prior = -0.5 * (log_scales / PRIOR_SD).square() - log(PRIOR_SD) - 0.5 * log(2 * pi)
    total = prior.sum(-1)
    observed = zip(target.observations.tolist(), target.mask.tolist(), strict=True)
    for observation, seen in observed:
        variance = variance + q2
        if seen:
            spread = variance + r2
            surprise = observation - mean
            total = total - 0.5 * (surprise.square() / spread + (2 * pi * spread).log())
            gain = variance / spread
            mean = mean + gain * surprise
            variance = variance * (r2 / spread)
    return total


def brownian_log_normalizer(
    target: Brownian, lower: float = -14.0, upper: float = 8.0, points: int = 400
) -> float:
    """Log Z of Brownian motion: a 2-D grid over (log q, log r) in [lower, upper]^2.

    The standard deviations of both logs are 2 a priori, so [-8, 4], which others use, leaves out
    1.7e-5 nats; [-14, 8] leaves out less than 1e-11.
    """

    def marginal(log_scales: Tensor) -> Tensor:
        return brownian_marginal(target, log_scales)

    device = target.observations.device
    return plane_log_normalizer(marginal, (lower, lower), (upper, upper), points, device)
