"""Particle independent Metropolis-Hastings (Andrieu, Doucet, Holenstein 2010), and its coupling.

The state is K independent draws xi_k of the proposal, in the coordinates where it is N(0, I); with
w(xi) = p(x, g(xi)) / q(g(xi) | x), Z = 1/K sum_k w(xi_k) estimates p(x). One step:

    xi*_k ~ N(0, I) for all k;    accept all of them with probability min(1, Z* / Z)

The coupled step (Middleton, Deligiannidis, Doucet and Jacob 2019) offers both chains the same
points and compares with the same uniform number: the chains meet at the first step at which both
accept, which has the probability min(1, Z* / max(Z, Z')). It is here beside `disir` to compare
with: 2010.01845 cites it only.

Guaranteed: the invariant law is proportional to Z prod_k N(xi_k; 0, I), under which
sum_k w~_k h(xi_k) has the posterior's expectation of h; chains that met stay together. K = 1 is
independent Metropolis-Hastings. Not guaranteed: speed. Without a bound on w (assumption A3) the
chain stays long where Z is large, and no step is local. A step costs K weights, for one chain or
for two.

Weights are float64; points have the type they come with. All leading dimensions are chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.coupling import Pair

LogWeight = Callable[[Tensor], Tensor]  # (..., K, dim) -> (..., K)


class State(NamedTuple):
    """Points and what the next step compares."""

    points: Tensor  # (..., K, dim)
    log_weights: Tensor  # (..., K), float64
    log_normalizer: Tensor  # (...), float64, log Z


class Info(NamedTuple):
    """Diagnostics of one step."""

    accepted: Tensor  # (...), bool (of the first chain)
    n_weights: int  # log weights evaluated per chain or pair


def init(points: Tensor, log_weight: LogWeight) -> State:
    """The state at points `(..., K, dim)`.

    Raises:
        UsageError: no point, or no dimension for them.
    """
    if points.dim() < 2 or points.shape[-2] < 1:
        raise UsageError(
            f"points of shape {tuple(points.shape)}: (..., K, dim) with K of at least 1 is needed"
        )
    log_weights = log_weight(points).double()
    return State(points, log_weights, log_weights.logsumexp(-1) - math.log(points.shape[-2]))


def start(
    shape: tuple[int, ...], log_weight: LogWeight, generator: torch.Generator, dtype: torch.dtype
) -> State:
    """K draws of the proposal; `shape` is `(..., K, dim)`."""
    kind: dict[str, Any] = {"generator": generator, "device": generator.device}
    return init(torch.randn(shape, dtype=dtype, **kind), log_weight)


def weights(state: State) -> Tensor:
    """Normalized weights w~, `(..., K)`, float64."""
    return torch.softmax(state.log_weights, -1)


def step(state: State, log_weight: LogWeight, generator: torch.Generator) -> tuple[State, Info]:
    """One transition of every chain.

    Args:
        state: from `init`, `start` or the last step.
        log_weight: log w, `(..., K, dim) -> (..., K)`, chain by chain.
        generator: source of all randomness, on the device of the points.

    Returns:
        The new state and diagnostics.
    """
    new, log_uniform = _offer(state, log_weight, generator)
    state, accepted = _decide(state, new, log_uniform)
    return state, Info(accepted, state.points.shape[-2])


def coupled_step(
    pair: Pair, log_weight: LogWeight, generator: torch.Generator
) -> tuple[Pair, Info]:
    """One joint transition; either chain alone moves as in `step`, whose arguments these are.

    The chains are joined, and have met, where both accept the common points.
    """
    new, log_uniform = _offer(pair.first, log_weight, generator)
    first, accepted = _decide(pair.first, new, log_uniform)
    second, also = _decide(pair.second, new, log_uniform)
    both = accepted & also
    return Pair(first, second, pair.joined | both, pair.met | both), Info(
        accepted, new.points.shape[-2]
    )


def _offer(state: State, log_weight: LogWeight, generator: torch.Generator) -> tuple[State, Tensor]:
    """Fresh points like those of `state`, and the logarithm of a uniform number."""
    new = start(tuple(state.points.shape), log_weight, generator, state.points.dtype)
    kind: dict[str, Any] = {"dtype": torch.float64, "device": new.points.device}
    return new, torch.rand(new.log_normalizer.shape, generator=generator, **kind).log()


def _decide(state: State, new: State, log_uniform: Tensor) -> tuple[State, Tensor]:
    accepted = log_uniform < new.log_normalizer - state.log_normalizer
    return State(
        torch.where(accepted[..., None, None], new.points, state.points),
        torch.where(accepted[..., None], new.log_weights, state.log_weights),
        torch.where(accepted, new.log_normalizer, state.log_normalizer),
    ), accepted
