"""Runs that are killed, paused or stopped go on, and end as the undisturbed run, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmcnb.lab import checkout, execute, plan, records

# 40 steps of 0.05 s: long enough to be killed in the middle.
WALK = {"loop.steps": 40, "loop.wait": 0.05}


def environment(toy: Path) -> dict[str, str]:
    paths = [str(checkout.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "LMCNB_ROOT": str(toy),
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def undisturbed(shared_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs after plain papermill ran the notebook, with its own parameters."""
    out = tmp_path_factory.mktemp("papermill")
    command = [sys.executable, "-m", "papermill", str(shared_toy / "notebooks" / "toy.ipynb")]
    command += [str(out / "executed.ipynb"), "-k", "python3", "-p", "device", "cpu"]
    command += ["-p", "out_dir", str(out)]
    command += ["-y", "overrides: {loop.steps: 40, loop.wait: 0.05}"]
    result = subprocess.run(command, env=environment(shared_toy), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out


def decide(toy: Path, out: Path, **parameters: Any) -> plan.Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCNB_ROOT", str(toy))
        return plan.make("toy", device="cpu", out_dir=out, **parameters)


def test_plain_papermill_leaves_the_same_run(shared_toy: Path, undisturbed: Path) -> None:
    decided = decide(shared_toy, undisturbed, overrides=WALK)
    record = records.read(decided.directory / "record.json")
    assert record["id"] == decided.id and record["status"] == "ok"
    assert record["overrides"] == WALK and record["counters"] == {"steps": 40}


def test_killed_paused_and_continued_is_the_undisturbed_run_bit_for_bit(
    shared_toy: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCNB_ROOT", str(shared_toy))
    decided = decide(shared_toy, tmp_path, overrides=json.dumps(WALK))
    command = [sys.executable, "-m", "lmcnb.cli", "run", "toy", "--device", "cpu"]
    command += ["--out-dir", str(tmp_path), "--set", "loop.steps=40", "--set", "loop.wait=0.05"]
    child = subprocess.Popen(
        command, env=environment(shared_toy), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    checkpoint = decided.directory / "walk.pt.previous"
    limit = time.time() + 60
    while not checkpoint.exists() and child.poll() is None and time.time() < limit:
        time.sleep(0.01)
    time.sleep(0.3)
    kernel = int((decided.directory / "pid").read_text())
    os.kill(kernel, signal.SIGKILL)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (decided.directory / "record.json").exists()

    paused = execute.execute(decided, max_seconds=0.001)
    assert paused.status == "paused"
    standing = records.read(decided.directory / "record.json")
    assert (standing["status"], standing["metrics"]) == ("paused", {})

    ended = execute.execute(decided)
    assert (ended.status, ended.skipped) == ("ok", False)
    ours = records.read(decided.directory / "record.json")
    theirs = records.read(decide(shared_toy, undisturbed, overrides=WALK).directory / "record.json")
    assert ours["metrics"] == theirs["metrics"] and ours["id"] == theirs["id"]
    assert len(ours["sessions"]) == 3 and len(theirs["sessions"]) == 1
    assert ours["sessions"][0]["seconds"] is None  # it was killed
    names = {p.name for p in decided.directory.iterdir()}
    assert "toy.ipynb" in names and execute.UNFINISHED not in names

    again = execute.execute(decided)
    assert again.skipped and again.changed == ()


@pytest.mark.slow
def test_a_stopped_command_leaves_no_kernel(shared_toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmcnb.cli", "run", "toy", "--device", "cpu"]
    command += ["--out-dir", str(tmp_path), "--set", "loop.steps=4000", "--set", "loop.wait=0.05"]
    child = subprocess.Popen(
        command,
        env=environment(shared_toy),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.time() + 60
    while not list(tmp_path.glob("toy/*/walk.pt")) and time.time() < limit:
        time.sleep(0.02)
    (pid,) = tmp_path.glob("toy/*/pid")
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert "Stopped" in err and "Traceback" not in err
    with contextlib.suppress(ProcessLookupError):
        for _ in range(100):
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.05)
        pytest.fail("the kernel still runs")
