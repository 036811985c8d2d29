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
        UserError: another process holds it, or the folder cannot be written.
    """
    release(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file, free = _wait(directory, os.O_RDWR | os.O_CREAT)
        if free:
            os.truncate(file, 0)
            os.write(file, str(os.getpid()).encode())
            _held[directory] = file
            return
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror})") from error
    holder = _holder(file)
    os.close(file)
    raise UserError(f"{directory}: already running, or open in a notebook (process {holder})")


def release(directory: Path) -> None:
    """Let go of a folder that this process holds, if it does."""
    if (file := _held.pop(directory, None)) is not None:
        _lock(file, take=False)
        os.close(file)


def locked_by(directory: Path) -> str | None:
    """The other process that holds a run's folder, or None."""
    if directory in _held:
        return None
    try:
        file, free = _wait(directory, os.O_RDONLY)
    except OSError:
        return None
    holder = None if free else _holder(file)
    os.close(file)
    return holder


def _wait(directory: Path, flags: int) -> tuple[int, bool]:
    """The open lock file and whether it is ours now, when it is free or the patience is gone."""
    until = time.monotonic() + PATIENCE
    while True:
        file = os.open(directory / NAME, flags, 0o644)
        free = _lock(file)
        if free or time.monotonic() > until:
            return file, free
        os.close(file)
        time.sleep(0.2)


def _lock(file: int, *, take: bool = True) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def _holder(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 100).decode().strip() or "unknown"
