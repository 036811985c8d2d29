"""A run belongs to one process; the lock ends with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmcnb.errors import UserError
from lmcnb.lab import execute, lock, plan
from lmcnb.lab.run import Run

pytest.importorskip("fcntl")
HOLD = "import sys, pathlib, time; from lmcnb.lab import lock; lock.hold(pathlib.Path(sys.argv[1]))"
HOLD += "; print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process that holds the folder."""
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_the_first_one_s_number(tmp_path: Path, other) -> None:
    assert lock.locked_by(tmp_path) == str(other.pid)
    with pytest.raises(UserError, match=rf"already running.*process {other.pid}"):
        lock.hold(tmp_path)
    assert lock.locked_by(tmp_path) == str(other.pid)  # looking takes nothing away


def test_the_lock_dies_with_its_process(tmp_path: Path, other) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / lock.NAME).exists()
    assert lock.locked_by(tmp_path) is None
    lock.hold(tmp_path)


def test_one_process_may_start_again(tmp_path: Path) -> None:
    assert lock.locked_by(tmp_path) is None
    assert not (tmp_path / lock.NAME).exists()
    for _ in range(2):
        lock.hold(tmp_path)
        assert lock.locked_by(tmp_path) is None  # not another one


def test_what_cannot_be_locked_is_said_or_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    with pytest.raises(UserError, match="cannot be written"):
        lock.hold(file / "run")
    assert lock.locked_by(file / "run") is None
    assert lock.locked_by(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_second_command_is_refused_and_moves_nothing(toy: Path, other, monkeypatch) -> None:
    decided = plan.make("toy", device="cpu", out_dir=toy / "out")
    decided.directory.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(decided.directory)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        for force in (False, True):
            with pytest.raises(UserError, match=f"already running.*process {process.pid}"):
                execute.execute(decided, force=force)
        with pytest.raises(UserError, match=f"already running.*process {process.pid}"):
            Run(decided)
        execute._write_error(decided, 0.0, None)
        assert [p.name for p in decided.directory.iterdir()] == [lock.NAME]
        process.kill()
    Run(decided)


def test_a_finished_run_is_free_again(toy: Path) -> None:
    decided = plan.make("toy", device="cpu", out_dir=toy / "out")
    run = Run(decided)
    assert seen_from_outside(decided.directory) == str(os.getpid())
    run.finish()
    assert seen_from_outside(decided.directory) == "None"


def seen_from_outside(folder: Path) -> str:
    """`lock.locked_by` in another process."""
    code = "import sys, pathlib; from lmcnb.lab import lock; lock.PATIENCE = 0.1"
    code += "; print(lock.locked_by(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_lock_follows_the_place_and_not_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock.hold(folder)
    folder.rename(tmp_path / "run.old")
    lock.hold(folder)
    assert seen_from_outside(folder) == str(os.getpid())
    lock.release(folder)
    assert seen_from_outside(folder) == "None"
