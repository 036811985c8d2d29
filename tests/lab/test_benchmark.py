"""Benchmarks: a missed target is said everywhere; the file is written where it belongs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lmcnb.errors import UsageError
from lmcnb.lab import benchmark

TARGETS = {"fast": ("at_least", 2.0), "even": ("at_most", 1.1)}


def result(fast: float = 2.0, even: float = 1.1) -> benchmark.Result:
    ratios = {"fast": fast, "even": even, "free": 0.12345}
    return benchmark.judged("toy", ratios, TARGETS, {"ours": 0.0015})


@pytest.mark.parametrize(
    ("fast", "even", "missed"),
    [
        (2.0, 1.1, []),
        (1.999, 1.1, ["fast"]),
        (2.0, 1.101, ["even"]),
        (math.nan, math.nan, ["fast", "even"]),
    ],
)
def test_targets(fast: float, even: float, missed: list[str]) -> None:
    found = result(fast, even)
    assert found["missed"] == missed and found["meets_targets"] is (not missed)
    assert found["targets"] == {"fast": {"at_least": 2.0}, "even": {"at_most": 1.1}}
    assert found["ratios"]["free"] == 0.123 and found["milliseconds"] == {"ours": 1.5}
    text = benchmark.table(["toy", "on paper"], "call", found).splitlines()
    assert text[:2] == ["toy", "on paper"]
    marks = {line.split()[0]: line.split()[-1] for line in text[2:5]}
    assert marks == {k: "missed" if k in missed else "met" for k in TARGETS} | {"free": "0.12"}
    assert "  at least 2 " in text[2] and "  at most 1.1 " in text[3]
    assert text[5] == "milliseconds per call" and text[6].split() == ["ours", "1.500"]


def test_a_quick_run_writes_no_file_and_a_full_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark.checkout, "root", lambda: tmp_path)
    ran = []

    def of(kind: str) -> benchmark.Result:
        ran.append(kind)
        return result()

    def run(*arguments: str) -> list[str]:
        parts = (lambda: of("full"), lambda: of("quick"), lambda r: "the table")
        benchmark.main("about", *parts, list(arguments))
        return capsys.readouterr().out.splitlines()

    table, line = run("--quick")
    assert table == "the table" and json.loads(line) == result()
    assert ran == ["quick"] and list(tmp_path.iterdir()) == []
    run()
    written = json.loads((tmp_path / "results" / "benchmarks" / "toy.json").read_text())
    assert result().items() <= written.items()
    assert {"machine", "versions", "commit"} <= set(written)
    run("--quick", "--out", str(tmp_path / "own.json"))
    assert (tmp_path / "own.json").exists() and ran == ["quick", "full", "quick"]


def test_a_user_s_error_is_one_line() -> None:
    def fails() -> None:
        raise UsageError("rounds=0: at least one")

    with pytest.raises(SystemExit, match="^error: rounds=0: at least one$"):
        benchmark.script(fails)
