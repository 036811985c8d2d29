"""The benchmark's programs compute the same, and its report is one JSON line."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mcmc_teaching.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_mcmc_teaching", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_programs_compute_the_same(benchmark: ModuleType) -> None:
    assert benchmark.disagreement() < 1e-12


def test_programs_that_disagree_are_not_timed(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "disagreement", lambda: math.nan)
    with pytest.raises(benchmark.UserError, match="disagree"):
        benchmark.measure(1, 0.0)


def test_a_chain_that_differs_is_noticed(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = benchmark.revise
    monkeypatch.setattr(benchmark, "revise", lambda p, x, d, k, e: whole(p, x, 1.01 * d, k, e))
    assert benchmark.disagreement() > 1e-4


def test_quick_prints_one_json_line_with_ratios_and_targets(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    benchmark.main(["--quick", "--out", str(tmp_path / "result.json")])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert {"ratios", "targets", "meets_targets", "missed"} <= set(result)
    assert set(result["targets"]) <= set(result["ratios"])
    assert all(math.isfinite(r) and r > 0 for r in result["ratios"].values())
    assert result.items() <= json.loads((tmp_path / "result.json").read_text()).items()
