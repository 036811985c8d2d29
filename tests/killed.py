"""Run a piece of work in a process that is killed at chosen moments and started again.

Not a test: tests start scripts with `run_script`, and the scripts call `run_killed`. That forks, so
that torch is loaded once; the scripts are processes of their own, so that pytest is never forked.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import lmcnb


def run_script(script: Path, *arguments: object) -> str:
    """What `script` prints; it imports the same `lmcnb` as the test."""
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(lmcnb.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_killed(work: Callable[[Callable[[], None]], None], kills: int, seed: int) -> int:
    """Run `work(tick)` `kills` times, killed after a few ticks, then once to its end.

    Args:
        work: does everything anew at each call; calls `tick` as it goes.
        kills: how often it is killed (SIGKILL), each time after 2 to 4 ticks and a random wait.
        seed: of the moments.

    Returns:
        How often the work was in fact killed, rather than done before.
    """
    moments, killed = random.Random(seed), 0
    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _child(work, writer)
        os.close(writer)
        for _ in range(moments.randint(2, 4)):
            os.read(reader, 1)
        time.sleep(moments.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(reader)
    work(lambda: None)
    return killed


def _child(work: Callable[[Callable[[], None]], None], writer: int) -> None:
    try:
        work(lambda: os.write(writer, b".") and None)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
