"""Pieces of work for test_pool.py; the worker processes import them from here."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from lmcnb.errors import Paused
from lmcnb.lab.pool import map_cells, report


class OddError(ValueError):
    """An error that only this file knows."""


def square(x: int) -> tuple[int, int]:
    """x squared and the process that computed it; the large ones take longest."""
    time.sleep(0.02 * x)
    for _ in range(x):
        report(1)
    return x * x, os.getpid()


def threads(_: int) -> int:
    """The number of threads that the worker asked torch for (the torch of test_pool.py)."""
    import torch

    return torch.threads


def fail(x: int) -> int:
    """An error for 3."""
    if x == 3:
        raise OddError("three is odd")
    return x


def pause(cell: tuple[str, str]) -> str:
    """Write a file named after the cell; `now` pauses at once, the others take a while."""
    folder, name = cell
    Path(folder, f"{name}.started").touch()
    if name == "now":
        raise Paused("time limit reached; run again to go on")
    time.sleep(1.0)
    Path(folder, f"{name}.finished").touch()
    return name


def die(x: int) -> int:
    """3 is killed, as by a system without memory."""
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return x


def stay(folder: str) -> None:
    """Leave the process id, then work for longer than any test lasts."""
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(60)


if __name__ == "__main__":
    map_cells(stay, [sys.argv[1]] * 2, workers=2, work=[1, 1], desc="stay")
