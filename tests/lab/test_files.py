"""Whole files or none: kills, full disks, read-only folders, damaged checkpoints."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lmcnb.errors import UserError
from lmcnb.lab import files


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    files.write_json(path, {"a": np.float64(1.5), "b": np.arange(3), "c": torch.ones(2), "d": "é"})
    assert files.read_json(path) == {"a": 1.5, "b": [0, 1, 2], "c": [1.0, 1.0], "d": "é"}
    assert names(path.parent) == ["x.json"]


def test_nan_is_refused_before_the_old_file_is_touched(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", ["", '{"a": 1', "\x80\x81"])
def test_half_a_json_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "half.json"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(UserError, match="half.json.*not a whole"):
        files.read_json(path)
    with pytest.raises(UserError, match="absent.json"):
        files.read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = files.write_text(tmp_path / "x.txt", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            real = open

            def opened(*args, **kwargs):  # type: ignore[no-untyped-def]
                real(*args, **kwargs).close()
                full()

            patch.setattr("builtins.open", opened)
        else:
            patch.setattr(os, step, full)
        with pytest.raises(UserError, match="x.txt: no room"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_real_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    """The kernel itself cuts the write short, in the middle of the file."""
    path = files.write_bytes(tmp_path / "x.bin", b"old")
    code = (
        "import resource, sys\n"
        "from lmcnb.errors import UserError\n"
        "from lmcnb.lab import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    files.write_bytes(sys.argv[1], b'n' * 100000)\n"
        "except UserError as error:\n"
        "    sys.exit(7 if 'no room' in str(error) else 8)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_text(tmp_path / "x.txt", "old")

    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", denied)
        with pytest.raises(UserError, match="may not be written.*out_dir"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(path / "below" / "a-file.txt", "x")


def test_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    code = (
        "import sys\n"
        "from lmcnb.lab import files\n"
        "i = 0\n"
        "while True:\n"
        "    files.write_json(sys.argv[1], {'i': i, 'same': i, 'pad': 'p' * 300000, 'end': i})\n"
        "    i += 1\n"
    )
    for kill_after in (0.005, 0.013, 0.031, 0.057):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)])
        limit = time.time() + 20
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        while (path.stat().st_mtime_ns if path.exists() else 0) == stamp and time.time() < limit:
            time.sleep(0.002)
        time.sleep(kill_after)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        value = json.loads(path.read_text())
        assert value["i"] == value["end"]
    files.write_json(path, {"done": True})
    assert names(tmp_path) == ["x.json"]  # the leftovers of the killed writers are gone


def test_the_temporary_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    import socket

    mine = tmp_path / f".x.txt.{socket.gethostname()}-{os.getpid()}-abc.partial"
    dead = tmp_path / f".x.txt.{socket.gethostname()}-999999999-abc.partial"
    mine.write_text("writing")
    dead.write_text("half")
    files.write_text(tmp_path / "x.txt", "whole")
    assert mine.exists() and not dead.exists()


STATE = {
    "format": 1,
    "step": 3,
    "weights": torch.arange(5, dtype=torch.float64),
    "generator": torch.Generator().manual_seed(3).get_state(),
    "nested": [{"lr": 0.1, "names": ("a", "b")}, None, True],
}


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    assert files.load_checkpoint(tmp_path / "c.pt") is None
    path = files.save_checkpoint(tmp_path / "c.pt", STATE)
    back = files.load_checkpoint(path)
    assert torch.equal(back["weights"], STATE["weights"])
    assert torch.equal(back["generator"], STATE["generator"])
    assert back["nested"] == STATE["nested"]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    else:  # one flipped bit in the weights
        where = bytes(data).index(torch.arange(5, dtype=torch.float64).numpy().tobytes())
        data[where + 8] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_previous(tmp_path: Path, how: str) -> None:
    path = files.save_checkpoint(tmp_path / "c.pt", STATE | {"step": 1})
    files.save_checkpoint(path, STATE | {"step": 2})
    damage(path, how)
    with pytest.warns(UserWarning, match="c.pt: damaged checkpoint ignored"):
        assert files.load_checkpoint(path)["step"] == 1
    path.unlink()  # killed between the two renames
    assert files.load_checkpoint(path)["step"] == 1
    files.remove_checkpoint(path)
    assert names(tmp_path) == []


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"x": Evil()}, tmp_path / "c.pt")
    with pytest.warns(UserWarning, match="damaged checkpoint ignored"):
        assert files.load_checkpoint(tmp_path / "c.pt") is None
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.save_checkpoint(tmp_path / "c.pt", STATE)
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no room"):
            files.save_checkpoint(path, STATE | {"step": 4})
    assert files.load_checkpoint(path)["step"] == 3
