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

from lmcnb.experiments import mcmc_teaching_checks as checks
from lmcnb.experiments import mcmc_teaching_exact as exact
from lmcnb.experiments import mcmc_teaching_exact_vae as vae
from lmcnb.experiments import mcmc_teaching_learning as learning
from lmcnb.methods import mcmc_teaching_theory as theory

sys.path.append(str(Path(__file__).parent))
from entered import Entered, one_fails

Row = dict[str, Any]
TOLERANCE = 0.05


class FakeRun(Entered):
    """What the checks need of a `lab.Run`."""

    def __init__(self, names: list[str] | None = None) -> None:
        own = SimpleNamespace(
            draws=1000, learning=60, learning_chains=100, learning_names=names, tolerance=TOLERANCE
        )
        super().__init__(settings=SimpleNamespace(exact=own), seeds=[3])


def answer(value: Any) -> Callable[..., Any]:
    return lambda *a, **k: value


def missing(name: str) -> Callable[..., Any]:
    return lambda *a, **k: pytest.fail(f"{name} has no stand-in in right()")


def learned(what: str, error: float) -> Callable[..., list[Row]]:
    """What learning arrives at: the closed forms but for one relative error."""

    def found(stream: Any, iterations: int, chains: int, names: tuple[str, ...]) -> list[Row]:
        rows = []
        for name in names:
            wrong = 1 + (error if name == "short-run" else 0.0)
            weight = 0.46 if name == "variational" else None
            row: Row = {"teacher": name, "weight": weight, "exact weight": 0.0}
            row |= {"exact variance": 0.24, "exact mean": 2.0, "variance": 0.24, "mean": 2.0}
            rows.append(row | {what: row[f"exact {what}"] * wrong})
        return rows

    return found


def right() -> dict[str, Callable[..., Any]]:
    """Stand-ins of the functions that find no error at all."""
    return {
        "revision": answer({"mean": 0.0, "variance": 0.0}),
        "inflation": answer(0.0),
        "shrinking": answer({"a": 0.0, "b": 0.0}),
        "partition_function": answer({"a": 0.0, "b": 0.0}),
        "likelihood_gradient": answer({"A": 0.0, "b": 0.0}),
        "contrastive_divergence": answer({"A": 0.0, "b": 0.0}),
        "principal_components": answer({"bound": 0.0, "other": 0.0}),
        "principal_gradient": answer(0.0),
        "loss_identity": answer(0.0),
        "chain_rule": answer({"a": 0.0, "b": 0.0}),
        "scores": answer(0.0),
        "plumbing": answer({"a": 0.0, "b": 0.0}),
        "grid": answer({"grid/kl": 0.0, "grid/tv": 0.0}),
        "fixed_points": answer({"a": 0.0, "b": 0.0}),
        "learning": learned("variance", 0.0),
        "theory_entries": answer({}),
    }


Poison = Callable[[float], Callable[..., Any]]


def second(*names: str) -> Poison:
    """The second of two numbers is wrong."""
    return lambda v: answer({names[0]: 0.0, names[1]: v})


CASES: list[tuple[str, float, str, Poison]] = [  # words of the check, allowed, function, poison
    ("revision of a Gaussian", 4.2, "revision", second("mean", "variance")),
    ("invariant variance", 1e-12, "inflation", answer),
    ("flat energy", 1e-5, "shrinking", second("a", "b")),
    ("partition function", 1e-6, "partition_function", second("a", "b")),
    ("gradient from exact samples", 4.2, "likelihood_gradient", second("A", "b")),
    ("KL(data, p) - KL(M q, p)", 1e-10, "contrastive_divergence", second("A", "b")),
    ("probabilistic PCA", 1e-10, "principal_components", second("bound", "other")),
    ("probabilistic PCA", 1e-10, "principal_gradient", answer),
    ("loss of the code", 1e-5, "loss_identity", answer),
    ("chain rule", 1e-10, "chain_rule", second("a", "b")),
    ("score by hand", 1e-10, "scores", answer),
    ("grid: KL", 1e-6, "grid", second("grid/kl", "grid/tv")),
    ("by their formulas", 1e-12, "fixed_points", second("a", "b")),
    ("trainer's own loop", TOLERANCE, "learning", lambda v: learned("variance", v)),
    ("trainer's own loop", TOLERANCE, "learning", lambda v: learned("mean", v)),
]
HOME = {
    name: module
    for module in (exact, vae, learning)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
} | {"grid": checks, "theory_entries": checks}

THEORY = checks.theory_entries


def answers_with(
    monkeypatch: pytest.MonkeyPatch, run: FakeRun | None = None, /, **changed: Callable[..., Any]
) -> tuple[list[Row], list[Row]]:
    """The checks of stand-ins; a real function would be slow, so that one without fails."""
    for name, module in HOME.items():
        monkeypatch.setattr(module, name, missing(name))
    for name, function in (right() | changed).items():
        monkeypatch.setattr(HOME[name], name, function)
    return checks.exact_answers(run or FakeRun())


def failed(rows: list[Row]) -> list[str]:
    return [row["check"] for row in rows if not row["holds"]]


def test_every_check_is_broken_below(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = answers_with(monkeypatch)
    assert failed(rows) == []
    broken = {words for words, *_ in CASES} | {"none elsewhere"}
    for row in rows:
        assert sum(words in row["check"] for words in broken) == 1, row["check"]
    assert len(rows) == len(broken) == checks.CHECKS
    assert {f for _, _, f, _ in CASES} | {"plumbing", "theory_entries"} == set(right())


@pytest.mark.parametrize(("words", "allowed", "function", "poison"), CASES)
def test_exactly_the_check_of_a_wrong_answer_fails(
    words: str, allowed: float, function: str, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (10 * allowed, -10 * allowed, 1.1 * allowed, math.nan, math.inf):
        rows, _ = answers_with(monkeypatch, **{function: poison(value)})
        one_fails(rows, words, allowed, value)
    assert failed(answers_with(monkeypatch, **{function: poison(0.9 * allowed)})[0]) == []


def test_a_gradient_where_there_should_be_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (1e-300, 1.0, math.nan):
        rows, _ = answers_with(monkeypatch, plumbing=answer({"a": value, "b": 0.0}))
        one_fails(rows, "none elsewhere", 0.0, value)


def test_what_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    rows, learned_rows = answers_with(
        monkeypatch,
        run,
        revision=answer({"mean": 0.5, "variance": -1.5}),
        partition_function=answer({"a": 1e-9, "b": 0.0}),
        principal_gradient=answer(3e-12),
        learning=learned("mean", 0.01),
    )
    found = {name: entry["value"] for (name, seed), entry in run.metrics.items() if seed == 3}
    assert found["exact/revision/mean"] == 0.5
    assert found["exact/revision/variance"] == -1.5
    assert found["exact/pca/gradient"] == 3e-12
    assert found["exact/learned/short-run/mean"] == pytest.approx(0.01)
    assert found["exact/learned/short-run/variance"] == 0
    assert found["learning/short-run/mean"] == pytest.approx(2.02)
    assert found["learning/short-run/variance"] == pytest.approx(0.24)
    weights = {name: value for name, value in found.items() if "weight" in name}
    assert weights == {"learning/variational/weight": 0.46}
    units = {name: entry["unit"] for (name, _), entry in run.metrics.items()}
    assert units["exact/partition/a"] == units["exact/grid/kl"] == "nats"
    assert units["exact/pca/bound"] == units["exact/chain_rule/a"] == "nats"
    assert units["exact/revision/mean"] == units["exact/inflation"] == "1"
    first = rows[0]
    assert (first["worst"], first["in"], first["allowed"]) == (1.5, "standard errors", 4.2)
    assert [r["teacher"] for r in learned_rows] == list(learning.LEARNED)


def test_which_teachers_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def asked(
        stream: Callable[[str], Any], iterations: int, chains: int, names: tuple[str, ...]
    ) -> list[Row]:
        own = [stream(name).initial_seed() for name in names]
        seen.append((iterations, chains, names, len(set(own))))
        return learned("variance", 0.0)(stream, iterations, chains, names)

    answers_with(monkeypatch, FakeRun(["short-run", "fast"]), learning=asked)
    answers_with(monkeypatch, learning=asked)
    assert seen == [
        (60, 100, ("short-run", "fast"), 2),
        (60, 100, tuple(learning.LEARNED), len(learning.LEARNED)),
    ]


def test_the_theory_is_entered_over_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    answers_with(monkeypatch, run, theory_entries=THEORY)
    found = {n: e["value"] for (n, _), e in run.metrics.items() if n.startswith("theory/")}
    assert len(found) == len(learning.LEARNED) * len(checks.STEPS) * 3
    for name, (teacher, ancestral) in learning.LEARNED.items():
        for steps in (1, 10, 40):
            known = theory.fixed_point(
                teacher, 2.0, 0.25, 0.2, steps, sigma=0.2, ancestral=ancestral
            )
            assert found[f"theory/{name}/K={steps}/precision"] == known.precision
            assert found[f"theory/{name}/K={steps}/mean"] == known.mean
            assert found[f"theory/{name}/K={steps}/weight"] == known.weight
    assert found["theory/fast/K=5/precision"] == 0 < found["theory/fast/K=5/weight"]


def test_the_real_answers_pass_their_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the fewest draws, without learning and theory, which have tests of their own."""
    for name in ("learning", "theory_entries"):
        monkeypatch.setattr(HOME[name], name, right()[name])
    run = FakeRun()
    rows, _ = checks.exact_answers(run)
    assert failed(rows) == []
    sampled = [row["worst"] for row in rows if row["in"] == checks.ERRORS]
    assert len(sampled) == 2 and min(sampled) > 0.1
    for name, value in exact.shrinking().items():
        assert run.metrics[f"exact/shrinking/{name}", 3]["value"] == value
    assert run.metrics["exact/grid/log_z", 3]["value"] == checks.grid()["grid/log_z"]


def test_learning_that_has_not_arrived_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loop, after a few iterations."""
    for name, function in right().items():
        if name != "learning":
            monkeypatch.setattr(HOME[name], name, function)
    rows, found = checks.exact_answers(FakeRun(["short-run"]))
    (name,) = failed(rows)
    assert "own loop" in name
    assert [r["teacher"] for r in found] == ["short-run"]
