"""Coupled chains against the exact gradient: what is unbiased passes, what is biased does not.

One rule for all: the largest error over components, in standard errors, below 4 or not.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.experiments import unbiased_vae_exact as exact
from lmcnb.experiments.unbiased_vae_exact_models import reference, toy
from lmcnb.methods import unbiased_vae_theory as theory

FEW, MANY = 80_000, 200_000  # controls must fail, estimators must pass, with as many replicates


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def estimators() -> dict[str, exact.Estimate]:
    return exact.estimators(generator(), MANY)


@pytest.fixture(scope="module")
def controls() -> dict[str, exact.Estimate]:
    return exact.controls(generator(1), FEW)


def test_the_estimators_are_unbiased(estimators: dict[str, exact.Estimate]) -> None:
    assert set(estimators) == {"C-ISIR", "C-ISIR-DISIR", "PIMH"}
    for name, e in estimators.items():
        assert len(e.z) == 9  # theta0 and W
        assert e.replicates == MANY
        assert e.worst < 4, (name, e.z)
        assert e.capped == 0


@pytest.mark.parametrize("name", exact.BIASED)
def test_the_same_rule_rejects_what_is_biased(
    name: str, controls: dict[str, exact.Estimate]
) -> None:
    assert controls[name].worst > 4


def test_the_rule_rejects_importance_sampling_by_far(controls: dict[str, exact.Estimate]) -> None:
    """With the bias of the sheet: (.103, .158, -.156) at K = 4."""
    e = controls["IWAE"]
    assert e.worst > 10
    known = torch.tensor([0.103, 0.158, -0.156], dtype=exact.F64)
    assert bool(((e.error[:3] - known).abs() < 4 * e.se[:3] + 5e-4).all())


@pytest.mark.parametrize(
    ("name", "sd", "steps", "one"),
    [
        ("C-ISIR", (0.385, 0.337, 0.271), 3.04, 0.0),
        ("C-ISIR-DISIR", (0.312, 0.275, 0.216), 1.97, 0.516),
    ],
)
def test_spread_and_meetings_are_the_sheets(
    name: str,
    sd: tuple[float, ...],
    steps: float,
    one: float,
    estimators: dict[str, exact.Estimate],
) -> None:
    """The sheet's come from 500,000 replicates; they are printed with three digits."""
    e = estimators[name]
    assert bool(((e.sd[:3] - torch.tensor(sd, dtype=exact.F64)).abs() < 0.003).all()), e.sd
    assert abs(e.joint_steps - steps) < 0.02
    assert abs(e.one - one) < 0.006


def test_dependent_proposals_have_the_smaller_spread(estimators: dict[str, exact.Estimate]) -> None:
    assert bool((estimators["C-ISIR-DISIR"].sd < 0.9 * estimators["C-ISIR"].sd).all())


def test_mean_joint_steps_are_below_their_bound(estimators: dict[str, exact.Estimate]) -> None:
    bound = reference().weights().bound
    for name, c in exact.UNBIASED.items():
        most = theory.most_joint_steps(bound, c.samples, c.composite)
        assert 1 + (not c.composite) < estimators[name].joint_steps < most
    # one iteration more, and no other difference in law: the selected points' meeting
    late = estimators["C-ISIR"].steps
    assert int(late[:2].sum()) == 0


def test_costs_follow_from_the_joint_steps(estimators: dict[str, exact.Estimate]) -> None:
    """2 K at the start, then K - 1 weights a single step, twice that where beta > 0 for a pair."""
    e, lag, K = estimators["C-ISIR-DISIR"], 10, exact.SAMPLES
    assert e.n_weights == pytest.approx(2 * K + lag * 2 * (K - 1) + e.joint_steps * 3 * (K - 1))
    e = estimators["C-ISIR"]
    assert e.n_weights == pytest.approx(2 * K + lag * (K - 1) + e.joint_steps * (K - 1))
    e = estimators["PIMH"]
    assert e.n_weights == pytest.approx(2 * K + lag * K + e.joint_steps * K)


def test_windows_have_one_mean(estimators: dict[str, exact.Estimate]) -> None:
    found = exact.windows(generator(2), MANY // 2, [(1, 1), (5, 3)])
    found[1, 10] = estimators["C-ISIR-DISIR"]
    assert set(found) == set(exact.WINDOWS)
    for a in found.values():
        assert a.worst < 4, a.z
        for b in found.values():
            if a is not b:
                apart = (a.error - b.error) / (a.se.square() + b.se.square()).sqrt()
                assert float(apart.abs().max()) < 4
    assert float(found[1, 1].sd[0]) > 3 * float(found[1, 10].sd[0])  # other laws


def test_beta_adapted_inside_the_run_is_rejected() -> None:
    """The clean comparison: the same code with gain 0 passes."""
    still, moved = (exact.adaptation_inside(generator(3), 60_000, gain) for gain in (0.0, 0.1))
    assert still.worst < 4 < moved.worst
    for e in (still, moved):  # every iteration was seen, single and joint
        assert e.n_weights == pytest.approx(2 * 4 + 10 * 2 * 3 + e.joint_steps * 3 * 3)


@pytest.mark.slow
def test_beta_adapted_inside_the_run_with_the_papers_gain() -> None:
    million = 1_000_000
    assert exact.adaptation_inside(generator(4), million, 0.0).worst < 4
    assert exact.adaptation_inside(generator(4), million, 0.01).worst > 10
    assert exact.adaptation_inside(generator(4), million, 0.1).worst > 10


@pytest.mark.slow
def test_the_estimators_are_unbiased_with_a_million_replicates() -> None:
    for name, e in exact.estimators(generator(5), 1_000_000).items():
        assert e.worst < 4, (name, e.z)


def pooled(steps: Tensor, first: int, last: int) -> tuple[float, float]:
    """The hazard of the joint steps `first` to `last`, and its standard error."""
    tail = steps.double().flip(0).cumsum(0).flip(0)
    left, here = float(tail[first : last + 1].sum()), float(steps[first : last + 1].sum())
    p = here / left
    return p, math.sqrt(p * (1 - p) / left)


def late_fall(steps: Tensor) -> float:
    """By how many standard errors the hazard is lower from joint step 10 on than at 7 to 9."""
    (early, a), (late, b) = pooled(steps, 7, 9), pooled(steps, 10, len(steps))
    return (early - late) / math.hypot(a, b)


def test_the_meeting_time_has_a_geometric_tail_if_the_weights_are_bounded() -> None:
    steps = exact.meetings(generator(6), 100_000, 1.6)
    p, se = exact.hazards(steps)
    least = theory.least_meeting_probability(toy().weights().bound, exact.SAMPLES)
    assert bool((p[:12] > least).all())
    assert p[0] - p[5] > 4 * se[5]  # the first steps are from points of small weight
    assert abs(late_fall(steps)) < 4


def test_the_hazard_falls_if_they_are_not() -> None:
    """The same comparison, and less data, for the mean-field proposal."""
    steps = exact.meetings(generator(7), 40_000, 1.0)
    assert late_fall(steps) > 4
    assert len(steps) > 60


def test_hazards_of_a_known_law() -> None:
    p, se = exact.hazards(torch.tensor([0, 50, 25, 25]))
    assert p.tolist() == [0.5, 0.5, 1.0]
    assert se[0] == pytest.approx(0.05)
    assert se[1] == pytest.approx(math.sqrt(0.25 / 50))


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, standard deviation, counts and cost, over chunks of unequal sizes."""
    stream, parts = generator(), []

    def draw(n: int) -> tuple[Tensor, exact.Meeting, float]:
        value = torch.randn(n, 2, generator=stream, dtype=exact.F64) * 3 + 5
        met = torch.randint(1, 4 + len(parts), (n,), generator=stream)
        parts.append((value, met))
        return value, exact.Meeting(met, met == 3, 0, 0), 2.0 * n

    monkeypatch.setattr(exact, "CHUNK", 40)
    e = exact.collect(torch.tensor([4.0, 6.0], dtype=exact.F64), 100, draw)
    value, met = (torch.cat(p) for p in zip(*parts, strict=True))
    assert [len(v) for v, _ in parts] == [40, 40, 20]
    assert torch.allclose(e.error, value.mean(0) - torch.tensor([4.0, 6.0], dtype=exact.F64))
    assert torch.allclose(e.sd, value.std(0))
    assert torch.equal(e.steps, torch.bincount(met))
    assert e.joint_steps == pytest.approx(float(met.double().mean()))
    assert e.one == pytest.approx(float((met == 1).double().mean()))
    assert e.capped == pytest.approx(float((met == 3).double().mean()))
    assert e.n_weights == pytest.approx(2.0)


def test_the_summary_of_the_notebook() -> None:
    found = exact.summary(generator(8), 6_000)
    passed = {name for name, row in found.items() if row["worst"] < 4}
    assert {"C-ISIR", "C-ISIR-DISIR", "PIMH"} <= passed
    assert found["IWAE"]["worst"] > 10
    assert found["C-ISIR-DISIR, no coupling"]["joint steps"] == 0
    assert "joint steps" not in found["IWAE"]
    assert len(found) == 7
