"""Maximal coupling: the meeting probability, both marginals, the whole joint law, and its edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmcnb.kernels.coupling import joint_probabilities, maximal_coupling, pick

F64 = torch.float64
DRAWS = 1_000_000
LAWS = {
    "near": ([0.1, 0.2, 0.3, 0.4], [0.15, 0.2, 0.25, 0.4]),
    "far": ([0.7, 0.2, 0.06, 0.04], [0.02, 0.08, 0.3, 0.6]),
    "zeros": ([0.0, 0.5, 0.0, 0.5], [0.3, 0.3, 0.4, 0.0]),
    "two": ([0.9, 0.1], [0.2, 0.8]),
}
WEIGHT = st.one_of(st.just(0.0), st.floats(1e-200, 1e3))
WEIGHTS = st.lists(WEIGHT, min_size=1, max_size=8).filter(lambda w: sum(w) > 0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_laws(name: str) -> tuple[Tensor, Tensor]:
    p, q = (torch.tensor(law, dtype=F64) for law in LAWS[name])
    return p, q


def standard_errors(frequency: Tensor, p: Tensor, n: int) -> float:
    """The largest distance; entries of probability zero or one must be exact."""
    spread = (p * (1 - p) / n).sqrt()
    sure = (p < 1e-12) | (p > 1 - 1e-12)
    assert torch.equal(frequency[sure], p[sure].round())
    return float(((frequency - p)[~sure] / spread[~sure]).abs().max()) if bool((~sure).any()) else 0


@pytest.mark.parametrize("name", LAWS)
def test_meeting_probability_marginals_and_joint_law(name: str) -> None:
    p, q = two_laws(name)
    n = len(p)
    i, j = maximal_coupling(p.expand(DRAWS, n), q.expand(DRAWS, n), generator())
    together = torch.minimum(p, q).sum()
    assert standard_errors((i == j).double().mean()[None], together[None], DRAWS) < 4
    assert standard_errors(torch.bincount(i, minlength=n) / DRAWS, p, DRAWS) < 4
    assert standard_errors(torch.bincount(j, minlength=n) / DRAWS, q, DRAWS) < 4
    table = torch.bincount(n * i + j, minlength=n * n).double() / DRAWS
    assert standard_errors(table, joint_probabilities(p, q).reshape(-1), DRAWS) < 4


def test_equal_laws_give_equal_indices() -> None:
    """Also where the smaller parts add up to less than one, and where rounding alone differs."""
    logits = 5 * torch.randn(200_000, 7, generator=generator(1), dtype=F64)
    p = logits.softmax(-1)
    assert bool((p.sum(-1) < 1).any())
    i, j = maximal_coupling(p, p.clone(), generator())
    assert torch.equal(i, j)
    # an exaggeration of rounding: u is often larger than the sum, and there is no rest to draw from
    short = torch.tensor([0.25, 0.25, 0.0], dtype=F64).expand(100_000, 3)
    i, j = maximal_coupling(short, short.clone(), generator())
    assert torch.equal(i, j)
    found = torch.bincount(i, minlength=3) / 100_000
    assert standard_errors(found.double(), torch.tensor([0.5, 0.5, 0.0], dtype=F64), 100_000) < 4
    # a rest of one side only, again by rounding
    more = torch.tensor([0.25, 0.25 + 1e-12, 0.0], dtype=F64).expand(100_000, 3)
    for laws in ((short, more), (more, short)):
        i, j = maximal_coupling(*laws, generator())
        assert torch.equal(i, j)
        assert int(i.max()) == 1


def test_laws_that_differ_by_rounding_stay_together() -> None:
    p = (5 * torch.randn(200_000, 7, generator=generator(1), dtype=F64)).softmax(-1)
    q = p.clone()
    q[:, 0] *= 1 + 2e-16
    i, j = maximal_coupling(p, q, generator())
    assert torch.equal(i, j)


def test_disjoint_laws_never_meet() -> None:
    p = torch.tensor([0.3, 0.0, 0.7, 0.0], dtype=F64).expand(DRAWS, 4)
    q = torch.tensor([0.0, 0.6, 0.0, 0.4], dtype=F64).expand(DRAWS, 4)
    i, j = maximal_coupling(p, q, generator())
    assert not bool((i == j).any())
    assert set(i.unique().tolist()) == {0, 2}
    assert set(j.unique().tolist()) == {1, 3}


def test_rows_have_their_own_laws() -> None:
    """Sure laws, row by row, with leading dimensions."""
    a = torch.randint(5, (40, 30), generator=generator(1))
    b = torch.randint(5, (40, 30), generator=generator(2))
    one_hot = torch.eye(5, dtype=F64)
    i, j = maximal_coupling(one_hot[a], one_hot[b], generator())
    assert torch.equal(i, a)
    assert torch.equal(j, b)


def test_the_generator_decides() -> None:
    p, q = (law.expand(1000, 4) for law in two_laws("far"))
    torch.manual_seed(0)
    once = maximal_coupling(p, q, generator(3))
    torch.manual_seed(1)
    again = maximal_coupling(p, q, generator(3))
    other = maximal_coupling(p, q, generator(4))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])


@given(WEIGHTS, WEIGHTS)
def test_joint_probabilities_have_both_laws_and_the_largest_diagonal(
    first: list[float], second: list[float]
) -> None:
    n = max(len(first), len(second))
    p, q = (torch.tensor(w + [0.0] * (n - len(w)), dtype=F64) for w in (first, second))
    p, q = p / p.sum(), q / q.sum()
    joint = joint_probabilities(p, q)
    assert bool((joint >= 0).all())
    torch.testing.assert_close(joint.sum(-1), p, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(joint.sum(-2), q, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(joint.diagonal(), torch.minimum(p, q), rtol=1e-9, atol=1e-14)


def test_joint_probabilities_of_equal_laws_are_diagonal() -> None:
    p = torch.rand(3, 2, 6, generator=generator(), dtype=F64).softmax(-1)
    assert torch.equal(joint_probabilities(p, p.clone()), torch.diag_embed(p))


# ---- one index


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_weight_zero_is_never_picked_and_inversion_is_monotone(w: list[float], u: float) -> None:
    weights = torch.tensor(w, dtype=F64)
    i = int(pick(weights, torch.tensor(u, dtype=F64)))
    assert w[i] > 0
    total = weights.sum()
    assert float(weights[:i].sum()) <= u * float(total) * (1 + 1e-12)
    assert float(weights[: i + 1].sum()) >= u * float(total) * (1 - 1e-12)


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, math.nextafter(0.5, 0), math.nextafter(1, 0)])
def test_ends_of_the_unit_interval(u: float) -> None:
    weights = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0], dtype=F64)
    assert int(pick(weights, torch.tensor(u, dtype=F64))) == (1 if u < 0.5 else 3)


def test_frequencies_follow_weights_of_any_sum() -> None:
    weights = torch.tensor([3.0, 0.0, 1.0, 6.0], dtype=F64)
    uniform = torch.rand(DRAWS, generator=generator(), dtype=F64)
    found = torch.bincount(pick(weights.expand(DRAWS, 4), uniform), minlength=4) / DRAWS
    assert standard_errors(found.double(), weights / 10, DRAWS) < 4


def test_weights_that_are_not_numbers_give_an_index() -> None:
    found = pick(torch.full((3, 4), math.nan, dtype=F64), torch.zeros(3, dtype=F64))
    assert bool(((found >= 0) & (found < 4)).all())
