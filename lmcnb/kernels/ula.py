"""The unadjusted Langevin algorithm: an Euler-Maruyama step of the overdamped diffusion, no test.

Guaranteed: the transition is exactly N(z + eta score(z), 2 eta I). Not guaranteed: that it leaves
exp(log_density) invariant. On a Gaussian with precision rho along an axis the stationary variance
is (1/rho) / (1 - eta rho / 2) for eta rho < 2, and there is none beyond; `kernels.mala` adds the
Metropolis test that removes this bias.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity, value_and_score


class State(NamedTuple):
    """Where the chains are, with what the next step needs."""

    position: Tensor  # (..., dim)
    log_density: Tensor  # (...)
    score: Tensor  # (..., dim), gradient of the log density


class Info(NamedTuple):
    """Diagnostics of one step."""

    n_gradients: int  # per chain


def init(position: Tensor, log_density: LogDensity) -> State:
    """State of chains at `position` `(..., dim)`."""
    return State(position, *value_and_score(log_density, position))


def propose(position: Tensor, score: Tensor, step_size: Tensor | float, noise: Tensor) -> Tensor:
    """z' = z + eta score(z) + sqrt(2 eta) noise, all `(..., dim)`; eta broadcasts."""
    root = (
        math.sqrt(2 * step_size) if isinstance(step_size, float | int) else step_size.mul(2).sqrt()
    )
    return position + step_size * score + root * noise


def step(
    state: State, log_density: LogDensity, step_size: Tensor | float, generator: torch.Generator
) -> tuple[State, Info]:
    """One transition; every leading dimension is an independent chain.

    Args:
        state: from `init` or the last `step`.
        log_density: callable `(..., dim) -> (...)`, the one the state was made with.
        step_size: eta, a number or a tensor that broadcasts against the position.
        generator: source of the noise, on the device of the position.

    Returns:
        The new state and diagnostics.
    """
    z = state.position
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    return init(propose(z, state.score, step_size, noise), log_density), Info(1)
