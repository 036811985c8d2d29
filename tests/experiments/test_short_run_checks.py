"""The notebook's checks go wrong when what they check does, and only then."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmcnb.experiments import short_run_checks as checks
from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.experiments import short_run_structure as structure

sys.path.append(str(Path(__file__).parent))
from entered import Entered, one_fails


class FakeRun(Entered):
    """What the checks need of a `lab.Run`."""

    def __init__(self) -> None:
        own = SimpleNamespace(exact=SimpleNamespace(draws=1000, updates=20))
        super().__init__(settings=own, seeds=[3])


def answer(value: Any) -> Callable[..., Any]:
    return lambda *a, **k: value


def missing(name: str) -> Callable[..., Any]:
    return lambda *a, **k: pytest.fail(f"{name} has no stand-in in right()")


def curves(error: float) -> Callable[..., quadrature.Curves]:
    """The known curves, one of them wrong."""

    def found(s: float, points: int) -> quadrature.Curves:
        log_det, noise_free, marginal = checks.QUADRATURE[s]
        wrong = error if s == 0.2 else 0.0
        return quadrature.Curves(log_det, noise_free, marginal - wrong, True)

    return found


def frozen(errors: float) -> Callable[..., tuple[float, float]]:
    """The known values, one of them that many standard errors too large."""

    def found(s: float, stream: torch.Generator, draws: int) -> tuple[float, float]:
        value, se = checks.FROZEN[s]
        own = 0.75 * se  # with the sheet's: 1.25 se
        return value + (errors * 1.25 * se if s == 0.15 else 0.0), own

    return found


def right() -> dict[str, Callable[..., Any]]:
    """Stand-ins of the functions that find no error at all."""
    return {
        "formulas": answer({"a": 0.0, "b": 0.0}),
        "estimator": lambda *a: {"noise_free/s=0.1": 0.0, "log_det": 0.0},
        "moments": answer({"mean": 0.0, "variance": 0.0}),
        "searches": answer({"noise_free": 0.0, "frozen": 0.0}),
        "own_law": answer({"outside": 0.0, "width": 0.0}),
        "likelihood_error": answer(0.0),
        "one_dimensional": curves(0.0),
        "frozen_1d": frozen(0.0),
        "unrolled_error": answer(0.0),
        "limit_errors": answer({"log_det": 0.0, "objective": 0.0, "prior": 0.0}),
        "masks": answer({"empty": 0.0, "full": 0.0}),
        "derivative_errors": answer({"derivatives/wide": 0.0}),
        "root_errors": answer({"root": 0.0}),
        "likelihood_limit": answer(0.0),
        "distances": answer({"distance": 0.1}),
        "bound_in_many_dimensions": answer({"step_size": 1.0, "excess": 0.1}),
        "gap": answer({"gap/frozen": 1.0, "gap/step_size": 0.5}),
        "learning": answer({"learning/s=0.2": 0.0}),
    }


Poison = Callable[[float], Callable[..., Any]]
CASES: list[tuple[str, float, str, Poison]] = [  # words of the check, allowed, function, poison
    ("divergences, log-determinant and minima", 1e-6, "formulas", lambda v: answer({"a": v})),
    (
        "of the chain against K sum log",
        1e-9,
        "estimator",
        lambda v: lambda *a: {"frozen/s=0.1": 0.0, "log_det": v},
    ),
    (
        "J + log p(x), noise-free and with its noise given",
        4.0,
        "estimator",
        lambda v: lambda *a: {"frozen/s=0.1": v, "log_det": 0.0},
    ),
    ("mean and variance of z_K", 4.2, "moments", lambda v: answer({"mean": 0.0, "variance": v})),
    ("gradient search", 1e-3, "searches", lambda v: answer({"noise_free": v, "frozen": 0.0})),
    ("closed form lies between", 4.0, "own_law", lambda v: answer({"outside": v, "width": 0.0})),
    ("they are close", 0.05, "own_law", lambda v: answer({"outside": 0.0, "width": v})),
    ("importance-sampled", 0.05, "likelihood_error", lambda v: answer(v)),
    ("by quadrature", 1e-3, "one_dimensional", curves),
    ("the same, J with the noise given", 4.0, "frozen_1d", frozen),
    ("unrolled Jacobian", 1e-8, "unrolled_error", lambda v: answer(v)),
    ("s to 0, and K = 0", 1e-4, "limit_errors", lambda v: answer({"objective": v, "prior": 0.0})),
    ("every pixel hidden", 4.0, "masks", lambda v: answer({"empty": 0.0, "full": v})),
    ("hand-written", 1e-9, "derivative_errors", lambda v: answer({"derivatives/wide": v})),
    ("roots of the learning map", 1.1e-5, "root_errors", lambda v: answer({"root": v})),
    ("against maximum likelihood", 0.002, "likelihood_limit", lambda v: answer(v)),
    ("fixed point of learning", 0.005, "learning", lambda v: answer({"learning/s=0.2": v})),
]
NAMES = [words for words, *_ in CASES]
HOME = {
    name: module
    for module in (exact, quadrature, structure)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
}


def rows_with(monkeypatch: pytest.MonkeyPatch, **changed: Callable[..., Any]) -> list[dict]:
    """The checks of stand-ins; a real function would be slow, so that one without fails."""
    for name, module in HOME.items():
        monkeypatch.setattr(module, name, missing(name))
    for name, function in (right() | changed).items():
        monkeypatch.setattr(HOME[name], name, function)
    return checks.exact_answers(FakeRun())


def failed(rows: list[dict[str, Any]]) -> list[str]:
    return [row["check"] for row in rows if not row["holds"]]


def test_every_check_is_broken_below() -> None:
    with pytest.MonkeyPatch.context() as patch:
        rows = rows_with(patch)
    assert failed(rows) == []
    broken = [*NAMES, "no pixel hidden"]
    for row in rows:
        assert sum(words in row["check"] for words in broken) == 1, row["check"]
    assert len(rows) == len(broken) == checks.CHECKS


@pytest.mark.parametrize(("words", "allowed", "function", "poison"), CASES, ids=NAMES)
def test_exactly_the_check_of_a_wrong_answer_fails(
    words: str, allowed: float, function: str, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (10 * allowed, -10 * allowed, 1.1 * allowed, math.nan):
        rows = rows_with(monkeypatch, **{function: poison(value)})
        one_fails(rows, words, allowed, value)
    assert failed(rows_with(monkeypatch, **{function: poison(0.9 * allowed)})) == []


def test_a_mask_that_hides_nothing_may_change_nothing_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_with(monkeypatch, masks=answer({"empty": 1e-15, "full": 0.0}))
    (found,) = failed(rows)
    assert "no pixel hidden" in found


def test_the_real_answers_pass_their_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the fewest draws; those that take seconds have tests of their own."""
    for name in ("searches", "own_law", "masks", "learning", "bound_in_many_dimensions"):
        monkeypatch.setattr(HOME[name], name, right()[name])
    run = FakeRun()
    rows = checks.exact_answers(run)
    assert failed(rows) == []
    stand_ins = ("gradient", "lies between", "they are close", "pixel hidden", "fixed point")
    for row in rows:
        assert (row["worst"] == 0) == any(words in row["check"] for words in stand_ins)
    entry = run.metrics["exact/gap/frozen", 3]
    assert (entry["value"], entry["unit"]) == (exact.gap()["gap/frozen"], "nats")
    assert run.metrics["exact/gap/step_size", 3]["unit"] == "1"
    assert run.metrics["exact/moments/mean/noisy", 3]["unit"] == "1"
    assert run.metrics["exact/likelihood", 3]["unit"] == "nats"


def test_the_learning_check_has_the_updates_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def learning(stream: torch.Generator, updates: int) -> dict[str, float]:
        seen.append(updates)
        return {"learning/s=0.2": 0.0}

    rows_with(monkeypatch, learning=learning)
    assert seen == [20]


def test_the_gap_and_the_ratio_of_step_sizes_are_those_of_the_sheet() -> None:
    found = exact.gap()
    assert found["gap/frozen"] == pytest.approx(1.219450 - 0.058275, abs=1e-5)
    assert found["gap/step_size"] == pytest.approx(0.1641 / 0.3313, abs=1e-3)
