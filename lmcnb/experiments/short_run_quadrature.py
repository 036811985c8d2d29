"""Short-run inference of a curved posterior in one dimension, by quadrature (float64, nats)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.kernels.gradients import score
from lmcnb.methods.short_run import draw, log_density_gap, transport
from lmcnb.models.observed import LogJoint

F64 = torch.float64
X, SIGMA_1D, STEPS_1D = (0.5, 0.3), 0.3, 10


def curved(z: Tensor) -> Tensor:
    """g(z) = (tanh z, sin(z) / 2) of z `(..., 1)`."""
    return torch.cat([torch.tanh(z), 0.5 * torch.sin(z)], -1)


def posterior(images: int = 1) -> LogJoint:
    """log p(x, z) of the one image, `images` times."""
    return LogJoint(curved, torch.tensor([X] * images, dtype=F64), SIGMA_1D)


class Curves(NamedTuple):
    """Divergences of the one-dimensional case at one step size, nats."""

    log_det: float  # of the noise-free chain, mean
    noise_free: float
    marginal: float
    injective: bool


def one_dimensional(step_size: float, points: int = 3601) -> Curves:
    """KL of the noise-free chain, and of the noisy chain's own law, on a grid over [-9, 9]."""
    target = posterior()
    grid = torch.linspace(-9, 9, points, dtype=F64)
    h = float(grid[1] - grid[0])
    with torch.no_grad():
        log_p = target(grid[:, None])
    log_z = float(torch.logsumexp(log_p, 0)) + math.log(h)
    t = transport(target, grid[:, None], step_size, STEPS_1D)
    prior = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    log_det = float((prior * t.log_det).sum() * h)
    gap = log_density_gap(t, grid[:, None])
    noise_free = float((prior * gap).sum() * h) + log_z
    eta = 0.5 * step_size**2
    centre = (grid[:, None] + eta * score(target, grid[:, None])).squeeze(-1)
    kernel = torch.exp(-0.5 * ((grid[:, None] - centre) / step_size) ** 2)
    kernel = kernel * (h / (step_size * math.sqrt(2 * math.pi)))
    q = prior
    for _ in range(STEPS_1D):
        q = kernel @ q
    inside = q > 1e-300
    marginal = float((q[inside] * (q[inside].log() - log_p[inside])).sum() * h) + log_z
    return Curves(log_det, noise_free, marginal, float(t.smallest) > 0)


def frozen_1d(step_size: float, stream: torch.Generator, draws: int) -> tuple[float, float]:
    """J + log p(x) of the noisy chain in the one-dimensional case, and its standard error."""
    target = posterior()
    grid = torch.linspace(-9, 9, 3601, dtype=F64)
    with torch.no_grad():
        log_z = float(torch.logsumexp(target(grid[:, None]), 0)) + math.log(
            float(grid[1] - grid[0])
        )
    z, noise = draw((draws, 1), STEPS_1D, stream, F64)
    t = transport(target, z, step_size, STEPS_1D, noise)
    gap = log_density_gap(t, z) + log_z
    return float(gap.mean()), float(gap.std()) / math.sqrt(draws)
