"""The benchmark measures the same computation three times over, and reports it in one JSON line."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lmcnb.models.targets import LogisticRegression

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "langevin_diffusion.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_langevin_diffusion", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bridges", [1, 3, 40])
def test_the_port_and_the_readable_version_give_our_log_weights(benchmark, bridges):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator)
    target = LogisticRegression(x, (x[:, 0] > 0).double(), dtype=torch.float64)
    assert benchmark.disagreement(target, bridges, torch.float64) < 1e-12


def test_programs_that_disagree_are_not_timed(benchmark, monkeypatch):
    literal = benchmark.literal_log_weight
    monkeypatch.setattr(benchmark, "literal_log_weight", lambda *a: 1.001 * literal(*a))
    with pytest.raises(benchmark.UserError, match="disagree"):
        benchmark.measure(1, 0.0)


def test_quick_prints_one_json_line_with_ratios_and_targets(benchmark, capsys, tmp_path):
    benchmark.main(["--quick", "--out", str(tmp_path / "result.json")])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert {"ratios", "targets", "meets_targets", "missed"} <= set(result)
    assert result["threads"] == 1 and result["log_weight_difference"] < 1e-4
    assert all(math.isfinite(r) and r > 0 for r in result["ratios"].values())
    missed = []
    for name, rule in result["targets"].items():
        ((kind, bound),) = rule.items()
        value = result["ratios"][name]
        if value < bound if kind == "at_least" else value > bound:
            missed.append(name)
    assert result["missed"] == missed and result["meets_targets"] == (not missed)
    assert {"literal_port_K8", "literal_port_K64", "batch_15_K8", "K256_over_K64"} <= set(
        result["targets"]
    )
    assert {"floor_K8", "floor_K64", "floor_K256"} <= set(result["ratios"])
    assert len(lines) > len(result["ratios"])  # the table above it

    written = json.loads((tmp_path / "result.json").read_text())
    assert result.items() <= written.items()
    assert {"machine", "versions", "commit"} <= set(written)


def test_operations_are_counted_as_in_the_spec(benchmark):
    """At 90 GFLOP/s the spec sheet's floor is 0.10, 0.77 and 3.1 ms."""
    x = torch.randn(351, 34, generator=torch.Generator().manual_seed(0))
    target = LogisticRegression(x, x[:, 0] > 0)
    floor = [benchmark.operations(target, K) / 90e9 * 1e3 for K in (8, 64, 256)]
    assert floor == pytest.approx([0.10, 0.77, 3.1], rel=0.05)
