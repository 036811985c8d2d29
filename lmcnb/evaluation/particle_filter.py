"""Normalizer of the Lorenz bridge by a bootstrap particle filter.

Particles move by the model's own noise, are weighted by each observation and resampled
(systematically). The product of the mean weights is unbiased for Z at any number of particles;
several independent filters average to one estimate with an honest standard error.
"""

from __future__ import annotations

from math import log, pi
from typing import Any

import torch
from torch import Tensor

from lmcnb.evaluation.estimators import Estimate, log_mean_exp
from lmcnb.models.targets.lorenz import NOISE_VARIANCE, STEP, Lorenz, lorenz_drift


def systematic_resample(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Ancestor of each of n particles, `(n,)`: index i about n w_i / sum(w) times."""
    n = log_weights.numel()
    kind: dict[str, Any] = {"dtype": log_weights.dtype, "device": log_weights.device}
    heights = torch.softmax(log_weights, 0).cumsum(0)
    offset = torch.rand((), generator=generator, **kind)
    marks = (torch.arange(n, **kind) + offset) / n
    return torch.searchsorted(heights, marks).clamp_(max=n - 1)


def move(state: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of the next state given `state` `(..., 3)`, by the model's own transition."""
    noise = torch.randn(state.shape, generator=generator, dtype=state.dtype, device=state.device)
    return state + STEP * lorenz_drift(state) + NOISE_VARIANCE**0.5 * noise


def filter_once(target: Lorenz, particles: int, generator: torch.Generator) -> Tensor:
    """Log of one unbiased estimate of Z, with `particles` particles, in the target's dtype."""
    kind: dict[str, Any] = {
        "dtype": target.observations.dtype,
        "device": target.observations.device,
    }
    state = torch.randn(particles, 3, generator=generator, **kind)
    total = torch.zeros((), **kind)
    for t in range(target.steps):
        if t > 0:
            state = move(state, generator)
        if target.mask[t]:
            misfit = state[:, 0] - target.observations[t]
            log_weights = -0.5 * misfit.square() - 0.5 * log(2 * pi)
            total = total + torch.logsumexp(log_weights, 0) - log(particles)
            state = state[systematic_resample(log_weights, generator)]
    return total


def lorenz_log_normalizer(
    target: Lorenz, *, particles: int, filters: int, generator: torch.Generator
) -> Estimate:
    """Log Z of the bridge from `filters` independent filters of `particles` particles each.

    Memory goes with `particles` alone, so a large budget is split over many filters.
    """
    logs = [filter_once(target, particles, generator) for _ in range(filters)]
    return log_mean_exp(torch.stack(logs))
