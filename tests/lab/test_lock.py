"""A run belongs to one process; the lock ends with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmcnb.errors import UserError
from lmcnb.lab import lock

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
    with pytest.raises(UserError, match=rf"already running \(process {other.pid}\)"):
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


def test_the_lock_follows_the_place_and_not_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock.hold(folder)
    folder.rename(tmp_path / "run.old")
    lock.hold(folder)
    code = "import sys, pathlib; from lmcnb.lab import lock"
    code += "; print(lock.locked_by(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)

    assert done.stdout.strip() == str(os.getpid())
    lock.release(folder)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "None"
