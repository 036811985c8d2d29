"""One process a run: a lock that the operating system lets go when its holder dies.

The file `lock` in the run's folder names the process; it may stay behind, the lock does not. On a
system without `fcntl` (Windows), and on a file system without locks, nothing is locked.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from lmcnb.errors import UserError

NAME = "lock"
PATIENCE = 5.0
"""Seconds to wait for a holder: the notebook of a killed command notices a second later."""
_held: dict[Path, int] = {}  # of this process: a notebook may start its run again


def hold(directory: Path) -> None:
    """Lock a run's folder for this process, until `release` or its end.

    Raises:
        UserError: another process holds it.
    """
    release(directory)
    directory.mkdir(parents=True, exist_ok=True)
    file, free = _wait(directory)
    if not free:
        holder = _holder(file)
        os.close(file)
        raise UserError(f"{directory}: already running (process {holder})")
    os.truncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    _held[directory] = file


def release(directory: Path) -> None:
    """Let go of a folder that this process holds, if it does."""
    if (file := _held.pop(directory, None)) is not None:
        os.close(file)


def locked_by(directory: Path) -> str | None:
    """The other process that holds a run's folder, or None."""
    if directory in _held or not (directory / NAME).exists():
        return None
    file, free = _wait(directory)
    holder = None if free else _holder(file)
    os.close(file)
    return holder


def _wait(directory: Path) -> tuple[int, bool]:
    """`_try` until the lock is free or the patience is gone."""
    until = time.monotonic() + PATIENCE
    while True:
        file, free = _try(directory)
        if free or time.monotonic() > until:
            return file, free
        os.close(file)
        time.sleep(0.2)


def _try(directory: Path) -> tuple[int, bool]:
    file = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return file, False
    except (ImportError, OSError):
        pass
    return file, True


def _holder(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 100).decode().strip() or "unknown"
