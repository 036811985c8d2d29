"""The benchmark's programs do the same, and its report is one JSON line."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "unbiased_vae.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_unbiased_vae", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(benchmark):
    return benchmark.Study(benchmark.frozen(60))


def test_with_and_without_compaction_chains_meet_alike(benchmark, study):
    assert benchmark.disagreement(study) < 4


def test_chains_that_meet_later_are_noticed(benchmark, study, monkeypatch):
    whole = benchmark.couple

    def late(*args, compact, **kwargs):
        meeting = whole(*args, compact=compact, **kwargs)
        return meeting if compact else meeting._replace(joint_steps=meeting.joint_steps + 2)

    monkeypatch.setattr(benchmark, "couple", late)
    assert benchmark.disagreement(study) > 4


def test_programs_that_disagree_are_not_timed(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "disagreement", lambda study: math.nan)
    with pytest.raises(benchmark.UserError, match="disagree"):
        benchmark.measure(1, 0.0, 5)


def test_a_row_alone_is_run_on_its_own_image(study, benchmark):
    """Otherwise the batch would be compared with one image ten times."""
    c = benchmark.replace(benchmark.STUDY, cap=1)
    seen = []
    plain = study.log_weight

    def watched(points, rows):
        seen.append(rows.tolist())
        return plain(points, rows)

    study.log_weight = watched
    try:
        study.run(c, torch.tensor([7]))
    finally:
        study.log_weight = plain
    assert seen and all(rows == [7] for rows in seen if rows)


def test_quick_prints_one_json_line_with_ratios_and_targets(benchmark, capsys, tmp_path):
    benchmark.main(["--quick", "--out", str(tmp_path / "result.json")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["targets"]) <= set(result["ratios"])
    assert all(math.isfinite(r) and r > 0 for r in result["ratios"].values())
    missed = []
    for name, rule in result["targets"].items():
        ((kind, bound),) = rule.items()
        value = result["ratios"][name]
        if value < bound if kind == "at_least" else value > bound:
            missed.append(name)
    assert result["missed"] == missed and result["meets_targets"] == (not missed)
    written = json.loads((tmp_path / "result.json").read_text())
    assert result.items() <= written.items()
    assert {"machine", "versions", "commit"} <= set(written)
