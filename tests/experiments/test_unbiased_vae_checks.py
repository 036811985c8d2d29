"""The notebook's checks go wrong when what they check does, and only then."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmcnb.experiments import unbiased_vae_checks as checks
from lmcnb.experiments import unbiased_vae_exact as exact
from lmcnb.experiments.unbiased_vae_exact import Estimate

sys.path.append(str(Path(__file__).parent))
from entered import Entered, one_fails

INSIDE = "C-ISIR-DISIR, beta adapted inside the run"


class FakeRun(Entered):
    """What the checks need of a `lab.Run`."""

    def __init__(self, replicates: int = 100_000) -> None:
        own = SimpleNamespace(exact=SimpleNamespace(replicates=replicates))
        super().__init__(settings=own, seeds=[3])


def estimate(worst: float, steps: float | None = 1.5) -> Estimate:
    """Largest |z| and mean joint steps as told; the components' sd are 1 and 3."""
    sd = torch.tensor([1.0, 3.0], dtype=torch.float64)
    error = torch.tensor([0.5, -worst], dtype=torch.float64) * sd / 100
    counts = torch.zeros(0, dtype=torch.int64)
    if steps is not None:
        last = 2 * int(steps)
        late = round(1e4 * (steps - 1) / (last - 1))
        counts = torch.zeros(last + 1, dtype=torch.int64)
        counts[1], counts[last] = 10_000 - late, late
    return Estimate(error, sd, 10_000, counts, 0.0, 40.0)


def answer(value: Any) -> Callable[..., Any]:
    return lambda *a, **k: value


def unbiased(worst: float = 1.0, steps: float = 1.5) -> dict[str, Estimate]:
    return {name: estimate(1.0, 1.5) for name in ("C-ISIR-DISIR", "PIMH")} | {
        "C-ISIR": estimate(worst, steps)
    }


def biased(worst: float = 30.0) -> dict[str, Estimate]:
    return {"IWAE": estimate(worst, None)} | {name: estimate(20.0) for name in exact.BIASED}


def right() -> dict[tuple[Any, str], Any]:
    """Stand-ins that find no error at all."""
    return {
        (checks.finite, "errors"): answer({"a": 0.0, "b": 0.0}),
        (checks.finite, "found"): answer({"ISIR/eigenvalue": 0.3}),
        (checks.finite, "driver"): answer({"ISIR": 0.0, "ISIR/cap/rejects": 99.0}),
        (checks.exact, "formulas"): answer({"a": 0.0}),
        (checks.exact, "estimators"): answer(unbiased()),
        (checks.exact, "controls"): answer(biased()),
        (checks.exact, "adaptation_inside"): answer(estimate(9.0)),
        (checks.illustration, "largest_weight"): answer((1.227, 139.2)),
        (checks, "annealed"): answer(0.0),
    }


def answers(
    monkeypatch: pytest.MonkeyPatch, run: FakeRun, changed: dict[tuple[Any, str], Any] | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    for (module, name), function in (right() | (changed or {})).items():
        monkeypatch.setattr(module, name, function)
    return checks.exact_answers(run)


def failed(rows: list[dict[str, Any]]) -> list[str]:
    return [row["check"] for row in rows if not row["holds"]]


Poison = Callable[[float], Any]
BOUND = checks.theory.most_joint_steps(checks.reference().weights().bound, 4, composite=False)
CASES: list[tuple[str, float, tuple[Any, str], Poison]] = [
    ("four states", 1e-10, (checks.finite, "errors"), lambda v: answer({"a": 0.0, "b": v})),
    ("estimator's own code", 4.0, (checks.finite, "driver"), lambda v: answer({"ISIR": v})),
    ("closed forms", 0.5001, (checks.exact, "formulas"), lambda v: answer({"a": v})),
    (
        "against the exact one",
        4.0,
        (checks.exact, "estimators"),
        lambda v: answer(unbiased(worst=v)),
    ),
    (
        "largest weight",
        1e-3,
        (checks.illustration, "largest_weight"),
        lambda v: answer((1.227, 139.2 * (1 + v))),
    ),
    (
        "and where",
        1e-3,
        (checks.illustration, "largest_weight"),
        lambda v: answer((1.227 * (1 + v), 139.2)),
    ),
    ("annealed", 0.05, (checks, "annealed"), answer),
]


def test_stand_ins_pass_and_every_check_is_broken_below(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, table = answers(monkeypatch, FakeRun())
    assert failed(rows) == [] and all(row["right"] for row in table)
    words = {words for words, *_ in CASES} | {"proposition 4"}
    for row in rows:
        assert any(w in row["check"] for w in words), row["check"]
    assert len(rows) == 7
    assert sorted(row["estimator"] for row in table) == sorted([*unbiased(), *biased(), INSIDE])


@pytest.mark.parametrize(("words", "allowed", "where", "poison"), CASES, ids=[c[0] for c in CASES])
def test_exactly_the_check_of_a_wrong_answer_fails(
    words: str,
    allowed: float,
    where: tuple[Any, str],
    poison: Poison,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in (1.1 * allowed, -1.1 * allowed, math.nan):
        rows, _ = answers(monkeypatch, FakeRun(), {where: poison(value)})
        one_fails(rows, words, allowed, value)
    assert failed(answers(monkeypatch, FakeRun(), {where: poison(0.9 * allowed)})[0]) == []


def test_too_many_joint_steps_fail_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for factor, names in ((0.95, []), (1.05, ["proposition 4"])):
        more = {(checks.exact, "estimators"): answer(unbiased(steps=factor * BOUND))}
        rows, _ = answers(monkeypatch, FakeRun(), more)
        assert [any(n in f for n in names) for f in failed(rows)] == [True] * len(names)


def test_a_control_that_passes_and_an_estimator_that_fails_are_both_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = {
        "IWAE": {(checks.exact, "controls"): answer(biased(worst=3.9))},
        INSIDE: {(checks.exact, "adaptation_inside"): answer(estimate(3.9))},
        "C-ISIR": {(checks.exact, "estimators"): answer(unbiased(worst=4.1))},
    }
    for name, changed in cases.items():
        _, table = answers(monkeypatch, FakeRun(), changed)
        assert [row["estimator"] for row in table if not row["right"]] == [name]
        (row,) = [row for row in table if row["estimator"] == name]
        assert row["test"] == ("rejects" if name == "C-ISIR" else "passes")
        assert row["unbiased"] == ("yes" if name == "C-ISIR" else "no")


def test_few_replicates_have_only_the_clear_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def controls(stream: torch.Generator, replicates: int, which: Any) -> dict[str, Estimate]:
        seen.append((replicates, which))
        return biased()

    for n in (99_999, 100_000):
        answers(monkeypatch, FakeRun(n), {(checks.exact, "controls"): controls})
    assert seen == [(99_999, exact.SHORT), (100_000, exact.BIASED)]
    assert set(exact.SHORT) < set(exact.BIASED)


def test_beta_follows_the_chain_by_the_paper_s_gain_in_the_control(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    inside = (checks.exact, "adaptation_inside")
    answers(monkeypatch, FakeRun(), {inside: lambda s, n, gain: seen.append(gain) or estimate(9.0)})
    assert seen == [0.1]


def test_metrics_stand_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    answers(monkeypatch, run)
    value = {name: entry["value"] for (name, _), entry in run.metrics.items()}
    assert {seed for _, seed in run.metrics} == {3}
    assert value["exact/unbiased/C-ISIR"] == pytest.approx(1.0)
    assert value["exact/biased/IWAE"] == pytest.approx(30.0)
    assert value["exact/biased/" + INSIDE] == pytest.approx(9.0)
    assert value["exact/sd/C-ISIR"] == pytest.approx(math.sqrt(5))
    assert value["exact/joint_steps/C-ISIR"] == pytest.approx(1.5)
    assert value["exact/bound/C-ISIR"] == pytest.approx(1.5 / BOUND)
    assert value["exact/driver/ISIR"] == 0.0 and "exact/driver/ISIR/cap/rejects" not in value
    rms = math.sqrt((0.005**2 + 0.9**2) / 2)
    assert value["exact/rms_bias/IWAE"] == pytest.approx(rms)
    assert value["exact/rms_bias_ratio/IWAE:uncoupled"] == pytest.approx(1.5, rel=1e-4)
    limit = checks.theory.contraction(float((checks.finite.PI / checks.finite.Q).max()), 3)
    assert value["exact/rate_over_bound"] == pytest.approx(0.3 / limit)
    assert value["exact/most_joint_steps/K=64"] < value["exact/most_joint_steps/K=2"]
    assert run.metrics["exact/ais", 3]["unit"] == "nats"
    assert run.metrics["exact/unbiased/PIMH", 3]["unit"] == "1"


def test_annealing_recovers_log_p_and_a_wrong_answer_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.annealed(torch.Generator().manual_seed(5)) < 0.05

    def poor(*a: Any, **k: Any) -> Any:
        return SimpleNamespace(bound=SimpleNamespace(value=torch.full((3,), -1e3)))

    monkeypatch.setattr(checks, "ais_images", poor)
    assert checks.annealed(torch.Generator().manual_seed(5)) > 900
