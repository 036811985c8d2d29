"""Hamiltonian Monte Carlo with unit mass: momentum redrawn, several leapfrogs, Metropolis test.

Guaranteed: the kernel leaves exp(log_density) invariant at any step size; a trajectory whose
energy is not a number is rejected. Not guaranteed: that it mixes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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

    acceptance: Tensor  # (...), probability of acceptance
    accepted: Tensor  # (...), bool
    energy_error: Tensor  # (...), H after minus H before, in nats
    n_gradients: int  # per chain


def init(position: Tensor, log_density: LogDensity) -> State:
    """State of chains at `position` `(..., dim)`."""
    return State(position, *value_and_score(log_density, position))


def step(
    state: State,
    log_density: LogDensity,
    step_size: Tensor | float,
    n_leapfrog: int,
    generator: torch.Generator,
) -> tuple[State, Info]:
    """One transition; every leading dimension is an independent chain.

    rho ~ N(0, I);  n_leapfrog times:  h = rho + (eps/2) score(z), z <- z + eps h,
    rho <- h + (eps/2) score(z);  accept with probability min(1, exp(H_before - H_after)),
    H = -log_density(z) + |rho|^2 / 2. The score at the end of one leapfrog opens the next, so a
    step costs n_leapfrog gradients.

    Args:
        state: from `init` or the last `step`.
        log_density: callable `(..., dim) -> (...)`, the one the state was made with.
        step_size: eps, a number or a tensor that broadcasts against the position.
        n_leapfrog: number of leapfrogs.
        generator: source of all randomness, on the device of the position.

    Returns:
        The new state and diagnostics.
    """
    z = state.position
    kind: dict[str, Any] = {"dtype": z.dtype, "device": z.device}
    momentum = torch.randn(z.shape, generator=generator, **kind)
    position, value, score = state
    rho = momentum
    for _ in range(n_leapfrog):
        half = rho + 0.5 * step_size * score
        position = position + step_size * half
        value, score = value_and_score(log_density, position)
        rho = half + 0.5 * step_size * score
    kinetic = 0.5 * (rho.square() - momentum.square()).sum(-1)
    energy_error = kinetic - (value - state.log_density)
    acceptance = (-energy_error).exp().clamp(max=1.0).nan_to_num(nan=0.0)
    accepted = torch.rand(acceptance.shape, generator=generator, **kind) < acceptance
    moved = accepted.unsqueeze(-1)
    new = State(
        torch.where(moved, position, z),
        torch.where(accepted, value, state.log_density),
        torch.where(moved, score, state.score),
    )
    return new, Info(acceptance, accepted, energy_error, n_leapfrog)
