"""Particle independent Metropolis-Hastings: acceptance, the invariant law, the coupling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import pimh
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased import unbiased_expectation

F64 = torch.float64
SHIFT, SCALE, LOG_P = 0.7, 0.6, -1.3  # w = p N(xi; SHIFT, SCALE^2) / N(xi; 0, 1): bounded


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_weight(points: Tensor) -> Tensor:
    u = (points[..., 0] - SHIFT) / SCALE
    return LOG_P - math.log(SCALE) - 0.5 * u.square() + 0.5 * points[..., 0].square()


def moments(state: pimh.State) -> Tensor:
    """The weighted mean and second moment of xi, `(..., 2)`."""
    x = torch.cat([state.points, state.points.square()], -1)
    return (pimh.weights(state).unsqueeze(-1) * x).sum(-2)


EXACT = torch.tensor([SHIFT, SHIFT**2 + SCALE**2], dtype=F64)


def errors(values: Tensor) -> Tensor:
    return (values.mean(0) - EXACT) / values.std(0) * math.sqrt(len(values))


def stationary(n: int, samples: int, stream: torch.Generator) -> pimh.State:
    """Exact draws of the invariant law Z prod q: one point from the posterior, the rest from q."""
    points = torch.randn(n, samples, 1, generator=stream, dtype=F64)
    points[:, 0] = SHIFT + SCALE * points[:, 0]
    return pimh.init(points, log_weight)


def test_the_state_holds_the_estimate_of_p() -> None:
    state = pimh.start((200_000, 3, 1), log_weight, generator(), F64)
    Z = state.log_normalizer.exp()
    assert float((Z - log_weight(state.points).exp().mean(-1)).abs().max()) < 1e-12
    assert abs(float((Z.mean() - math.exp(LOG_P)) / Z.std()) * math.sqrt(len(Z))) < 4
    assert float((pimh.weights(state).sum(-1) - 1).abs().max()) < 1e-12


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_invariant_law_stays(samples: int) -> None:
    stream = generator(samples)
    state = stationary(100_000, samples, stream)
    for _ in range(3):
        state, info = pimh.step(state, log_weight, stream)
        assert bool((errors(moments(state)).abs() < 4).all())
    assert info.n_weights == samples
    assert 0.05 < float(info.accepted.double().mean()) < 1


def test_acceptance_has_its_probability_given_the_state() -> None:
    """min(1, Z* / Z): 300 states, 2,000 proposals each, against the mean of the probabilities."""
    state = pimh.start((300, 2, 1), log_weight, generator(), F64)
    state = pimh.State(*(t.repeat_interleave(2000, 0) for t in state))
    _, info = pimh.step(state, log_weight, generator(1))
    other = pimh.start((600_000, 2, 1), log_weight, generator(2), F64)
    p = (other.log_normalizer - state.log_normalizer).clamp(max=0).exp().reshape(300, 2000)
    found = info.accepted.double().reshape(300, 2000).mean(1)
    se = ((p.mean(1) * (1 - p.mean(1)) + p.var(1)) / 2000).sqrt()
    z = (found - p.mean(1)) / se
    assert abs(float(z.mean()) * math.sqrt(300)) < 4
    assert float(z.square().mean()) < 1.5


def test_a_rejection_keeps_all_and_an_acceptance_replaces_all() -> None:
    state = pimh.start((1000, 3, 1), log_weight, generator(), F64)
    new, info = pimh.step(state, log_weight, generator(1))
    assert 0 < int(info.accepted.sum()) < 1000
    for before, after in zip(state, new, strict=True):
        same = (before == after).reshape(1000, -1)
        assert bool(same[~info.accepted].all())
        assert not bool(same[info.accepted].any())
    assert bool((pimh.init(new.points, log_weight).log_weights == new.log_weights).all())


def test_weights_of_zero_are_left_and_never_entered() -> None:
    def half(points: Tensor) -> Tensor:
        return torch.where(points[..., 0] > 0, 0.0, -math.inf)

    state = pimh.init(-torch.ones(4000, 1, 1, dtype=F64), half)
    state, info = pimh.step(state, half, generator())
    assert bool((info.accepted == (state.points[:, 0, 0] > 0)).all())
    assert 0.4 < float(info.accepted.double().mean()) < 0.6
    for _ in range(5):
        last = state
        state, _ = pimh.step(state, half, generator(1))
        assert not bool(((state.points < 0) & (last.points > 0)).any())


def test_either_chain_of_a_pair_moves_as_alone() -> None:
    """The same generator gives the same proposals: also for the second chain, bit by bit."""
    u, v = (pimh.start((500, 3, 1), log_weight, generator(s), F64) for s in (0, 1))
    none = torch.zeros(500, dtype=torch.bool)
    pair, info = pimh.coupled_step(Pair(u, v, none, none), log_weight, generator(2))
    for alone, together in ((u, pair.first), (v, pair.second)):
        moved, its = pimh.step(alone, log_weight, generator(2))
        assert all(bool((a == b).all()) for a, b in zip(moved, together, strict=True))
        if alone is u:
            assert bool((its.accepted == info.accepted).all())
    assert info.n_weights == 3


def test_pairs_meet_where_both_accept_and_stay_together() -> None:
    stream = generator()
    u, v = (pimh.start((2000, 2, 1), log_weight, stream, F64) for _ in range(2))
    none = torch.zeros(2000, dtype=torch.bool)
    pair = Pair(u, v, none, none)
    for _ in range(60):
        before = pair
        pair, info = pimh.coupled_step(pair, log_weight, stream)
        same = (pair.first.points == pair.second.points).flatten(1).all(1)
        assert bool((same == pair.met).all())
        assert bool((pair.met == pair.joined).all())
        assert not bool((before.met & ~pair.met).any())
        assert not bool((pair.met & ~before.met & ~info.accepted).any())
    assert bool(pair.met.all())


def test_the_meeting_probability() -> None:
    """min(1, Z* / max(Z, Z'))."""
    stream = generator()
    u, v = (pimh.start((200_000, 2, 1), log_weight, stream, F64) for _ in range(2))
    none = torch.zeros(200_000, dtype=torch.bool)
    pair, _ = pimh.coupled_step(Pair(u, v, none, none), log_weight, stream)
    new = pimh.start((200_000, 2, 1), log_weight, stream, F64)
    larger = torch.maximum(u.log_normalizer, v.log_normalizer)
    p = (new.log_normalizer - larger).clamp(max=0).exp()
    gap = pair.met.double() - p
    assert abs(float(gap.mean() / gap.std())) * math.sqrt(200_000) < 4


@pytest.mark.parametrize(("start", "lag"), [(1, 1), (2, 4)])
def test_the_driver_makes_it_unbiased(start: int, lag: int) -> None:
    stream, n = generator(lag), 100_000
    u, v = (pimh.start((n, 2, 1), log_weight, stream, F64) for _ in range(2))
    assert bool((errors(moments(u)).abs() > 20).all())  # importance sampling is biased
    found = unbiased_expectation(
        lambda state, rows: pimh.step(state, log_weight, stream)[0],
        lambda pair, rows: pimh.coupled_step(pair, log_weight, stream)[0],
        lambda state, rows: moments(state),
        u,
        v,
        lag=lag,
        start=start,
    )
    assert bool((errors(found.value).abs() < 4).all())
    assert int(found.meeting.joint_steps.min()) == 1


def test_points_keep_their_type_and_leading_dimensions_are_chains() -> None:
    state = pimh.start((2, 5, 3, 1), log_weight, generator(), torch.float32)
    state, info = pimh.step(state, log_weight, generator(1))
    assert state.points.dtype == torch.float32
    assert state.log_weights.dtype == state.log_normalizer.dtype == F64
    assert info.accepted.shape == state.log_normalizer.shape == (2, 5)


@pytest.mark.parametrize("shape", [(3,), (4, 0, 2)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="K of at least 1"):
        pimh.init(torch.zeros(shape), lambda p: p.sum(-1))
