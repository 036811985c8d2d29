"""The benchmark's literal step is the same computation, and its report is one JSON line."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from lmcnb.methods.langevin_autoencoder import Langevin

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "langevin_autoencoder.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_langevin_autoencoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("step_size", [1e-2, 3e-2])
def test_the_literal_step_is_ours(benchmark, step_size):
    small = replace(
        benchmark.TRAINING,
        width=24,
        latent=3,
        batch=20,
        learning_rate=1e-2,
        langevin=Langevin(step_size=step_size),
    )
    assert benchmark.disagreement(small, 40, steps=8) < 1e-8


def test_a_chain_that_does_not_move_is_no_comparison(benchmark):
    still = replace(
        benchmark.TRAINING, width=24, latent=3, batch=20, langevin=Langevin(step_size=1e4)
    )
    assert benchmark.disagreement(still, 40) == math.inf


def test_programs_that_disagree_are_not_timed(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "disagreement", lambda *a: 1e-3)
    with pytest.raises(benchmark.UserError, match="disagree"):
        benchmark.measure(1, 0.0)


def test_operations_by_hand(benchmark):
    """5.8 million weights; forward, backward and parameters are one product each."""
    h, d, p = 1024, 8, 784
    decoder, body = d * h + 2 * h * h + h * p, p * h + 2 * h * h
    by_hand = 2 * 100 * (10 * decoder + 2 * body + 2 * h * h)
    assert benchmark.operations(benchmark.TRAINING) == by_hand


@pytest.mark.slow
def test_quick_prints_one_json_line_with_ratios_and_targets(benchmark, capsys, tmp_path):
    benchmark.main(["--quick", "--out", str(tmp_path / "result.json")])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert {"ratios", "targets", "meets_targets", "missed", "native_bfloat16"} <= set(result)
    assert all(math.isfinite(r) and r > 0 for r in result["ratios"].values())
    assert ("bfloat16" in result["targets"]) == result["native_bfloat16"]
    assert result.items() <= json.loads((tmp_path / "result.json").read_text()).items()
