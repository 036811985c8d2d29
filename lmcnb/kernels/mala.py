"""The Metropolis-adjusted Langevin algorithm: a Langevin proposal and an accept test.

    z' ~ N(z + eta score(z), 2 eta I),     accept with probability min(1, r),
    log r = log p(z') - log p(z) - <z' - z, s + s'> / 2 + (eta / 4) (|s|^2 - |s'|^2)

with s, s' the scores at z and z'. The last two terms are log q(z | z') - log q(z' | z), multiplied
out so that no large numbers cancel. The test is made in log space (log u < log r) and its sums in
float64, because a log density of 1e5 nats has a float32 spacing of 0.008.

Guaranteed: the kernel leaves exp(log_density) invariant at any step size, whatever vector field is
given as the score; a proposal whose log density is not a number is rejected. Not guaranteed: that
it moves. Where eta times the largest curvature is far above 2, every proposal is rejected.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity, value_and_score
from lmcnb.kernels.ula import propose


class State(NamedTuple):
    """Where the chains are, with what the next step needs."""

    position: Tensor  # (..., dim)
    log_density: Tensor  # (...)
    score: Tensor  # (..., dim), gradient of the log density


class Info(NamedTuple):
    """Diagnostics of one step."""

    log_ratio: Tensor  # (...), log r in nats, float64
    acceptance: Tensor  # (...), min(1, r)
    accepted: Tensor  # (...), bool
    n_gradients: int  # per chain


def init(position: Tensor, log_density: LogDensity) -> State:
    """State of chains at `position` `(..., dim)`."""
    return State(position, *value_and_score(log_density, position))


def log_ratio(old: State, new: State, step_size: Tensor | float) -> Tensor:
    """log r `(...)` of a move from `old` to `new`, float64; NaN where it cannot be computed.

    Args:
        old: where the chain is.
        new: what is proposed.
        step_size: eta, a number or a tensor `(...)`, or `(..., 1)` as for the position.
    """
    z, s, z_new, s_new = (t.double() for t in (old.position, old.score, new.position, new.score))
    if isinstance(step_size, Tensor) and step_size.dim() == z.dim():
        step_size = step_size.squeeze(-1)
    drift = ((z_new - z) * (s + s_new)).sum(-1) / 2
    norms = (s.square() - s_new.square()).sum(-1)
    return new.log_density.double() - old.log_density.double() - drift + step_size / 4 * norms


def accepts(log_r: Tensor, uniform: Tensor) -> Tensor:
    """Whether `log u < log r`, elementwise, bool; False for a NaN.

    Generators give 0 now and then, whose logarithm would accept anything: it counts as their grid's
    first point above.
    """
    return uniform.clamp(min=torch.finfo(uniform.dtype).eps / 2).log() < log_r


def select(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where the chain accepted, else `old`; `accepted` `(...)` is padded on the right."""
    shape = accepted.shape + (1,) * (new.dim() - accepted.dim())
    return torch.where(accepted.view(shape), new, old)


def step(
    state: State, log_density: LogDensity, step_size: Tensor | float, generator: torch.Generator
) -> tuple[State, Info]:
    """One transition; every leading dimension is an independent chain.

    The proposal's score is kept when it is accepted, so that a step costs one gradient.

    Args:
        state: from `init` or the last `step`.
        log_density: callable `(..., dim) -> (...)`, the one the state was made with.
        step_size: eta, a number or a tensor that broadcasts against the position.
        generator: source of all randomness, on the device of the position.

    Returns:
        The new state and diagnostics.
    """
    z = state.position
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    proposal = init(propose(z, state.score, step_size, noise), log_density)
    log_r = log_ratio(state, proposal, step_size)
    uniform = torch.rand(log_r.shape, generator=generator, dtype=z.dtype, device=z.device)
    accepted = accepts(log_r, uniform)
    new = State(*(select(accepted, a, b) for a, b in zip(proposal, state, strict=True)))
    acceptance = log_r.exp().clamp(max=1.0).nan_to_num(nan=0.0)
    return new, Info(log_r, acceptance, accepted, 1)
