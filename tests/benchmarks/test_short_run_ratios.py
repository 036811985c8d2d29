"""The benchmark's ratios of made-up times."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "short_run.py"
TIMES = {
    "chain": 2.0,
    "chain_plain": 7.0,
    "chain_layers": 4.0,
    "chain_layers_plain": 5.0,
    "chain_mnist": 10.0,
    "chain_mnist_plain": 12.0,
    "chain_100": 8.4,
    "eigenvalues": 5.0,
    "reverse": 11.0,
    "forward": 3.0,
}
RATIOS = {
    "chain": 3.5,
    "chain_layers": 1.25,
    "chain_mnist": 1.2,
    "linear_in_K": 1.05,
    "log_det": 2.2,
    "log_det_forward": 0.6,
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With programs that are never run."""
    spec = importlib.util.spec_from_file_location("benchmark_short_run_ratios", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "disagreement", lambda: 0.0)
    names = ("eigenvalues", "reverse", "forward")
    monkeypatch.setattr(module, "determinants", lambda *a: dict.fromkeys(names, print))
    return module


def timed(
    monkeypatch: pytest.MonkeyPatch, benchmark: ModuleType, **changed: float
) -> list[Mapping[str, Callable[[], object]]]:
    """Let programs take the known times; what was to be timed is kept in the list."""
    seen: list[Mapping[str, Callable[[], object]]] = []

    def least_times(
        programs: Mapping[str, Callable[[], object]], rounds: int, block: float
    ) -> dict[str, float]:
        seen.append(programs)
        return {name: (TIMES | changed)[name] for name in programs}

    monkeypatch.setattr(benchmark, "least_times", least_times)
    return seen


def test_ratios_are_of_the_other_program_to_ours_and_of_K(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, benchmark)
    found = benchmark.measure(1, 0.0)
    assert found["ratios"] == RATIOS
    assert found["missed"] == []
    assert found["meets_targets"]
    assert found["milliseconds"] == {name: 1000 * t for name, t in TIMES.items()}


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"chain_plain": 3.5, "chain_100": 8.4}, "chain"),
        ({"chain_100": 9.0}, "linear_in_K"),
        ({"reverse": 9.9}, "log_det"),
    ],
)
def test_a_missed_target_is_named(
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, float],
    missed: str,
) -> None:
    timed(monkeypatch, benchmark, **changed)
    found = benchmark.measure(1, 0.0)
    assert found["missed"] == [missed]
    assert not found["meets_targets"]


def test_every_chain_is_timed_beside_the_plain_loop_and_with_four_times_the_steps(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chains(name: str, steps: int = 25) -> tuple[str, str]:
        return f"ours {name} {steps}", f"theirs {name} {steps}"

    monkeypatch.setattr(benchmark, "chains", chains)
    seen = timed(monkeypatch, benchmark)
    benchmark.measure(1, 0.0)
    programs, determinants = seen
    for name in ("chain", "chain_layers", "chain_mnist"):
        assert programs[name] == f"ours {name} 25"
        assert programs[f"{name}_plain"] == f"theirs {name} 25"
    assert programs["chain_100"] == "ours chain 100"
    assert set(determinants) == {"eigenvalues", "reverse", "forward"}
