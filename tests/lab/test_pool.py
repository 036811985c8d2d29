"""Work on several processes: order, errors, pauses, kills, the bar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lmcnb
from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.lab import pool
from lmcnb.lab.pool import map_cells

sys.path.append(str(Path(__file__).parent))
import pool_cells


@pytest.fixture(scope="module", autouse=True)
def light_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Workers find this instead of torch, which would take each of them seconds to import."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "torch.py").write_text(
        "threads = None\ndef set_num_threads(n):\n    global threads\n    threads = n\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))  # spawned processes inherit it; here torch is loaded
        yield str(folder)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_results_in_order_and_the_bar_reaches_its_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    bar, cells = tmp_path / "bar.json", [1, 5, 2, 4, 0, 3]
    monkeypatch.setenv("LMCNB_PROGRESS", str(bar))
    results = map_cells(pool_cells.square, cells, workers=workers, work=cells, desc="squares")
    assert [value for value, _ in results] == [1, 25, 4, 16, 0, 9]
    processes = {process for _, process in results}
    assert len(processes) == workers
    assert (os.getpid() in processes) == (workers == 1)
    state = json.loads(bar.read_text())
    assert (state["desc"], state["n"], state["total"]) == ("squares", 15, 15)


def test_largest_work_first() -> None:
    order: list[int] = []
    map_cells(order.append, [1, 5, 2, 4], workers=1, work=[1, 5, 2, 4], desc="")
    assert order == [5, 4, 2, 1]


def test_workers_have_one_thread_and_no_cells_need_none() -> None:
    assert map_cells(pool_cells.threads, [0, 1], workers=2, work=[1, 1], desc="") == [1, 1]
    assert map_cells(pool_cells.threads, [], workers=2, work=[], desc="") == []
    with pytest.raises(UsageError, match="workers=0"):
        map_cells(pool_cells.threads, [], workers=0, work=[], desc="")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through_with_its_own_type(workers: int) -> None:
    with pytest.raises(pool_cells.OddError, match="three is odd"):
        map_cells(pool_cells.fail, [1, 2, 3, 4], workers=workers, work=[1] * 4, desc="")
    assert pool.report(1) is None  # outside of a pool it does nothing


def test_a_pause_waits_for_what_runs_and_starts_nothing_new(tmp_path: Path) -> None:
    names = ["slow", "now", "later", "last"]
    cells = [(str(tmp_path), name) for name in names]
    with pytest.raises(Paused, match="time limit"):
        map_cells(pool_cells.pause, cells, workers=2, work=[4, 3, 2, 1], desc="")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"slow.started", "slow.finished", "now.started"}


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(UserError, match="numbers: a worker process died.*run again"):
        map_cells(pool_cells.die, [1, 3, 2], workers=2, work=[1, 1, 1], desc="numbers")


def test_workers_die_with_their_parent(tmp_path: Path, light_torch: str) -> None:
    root = Path(lmcnb.__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, pool_cells.__file__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([light_torch, str(root)])},
    )
    try:
        assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        children = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert parent.pid not in children
        assert all(alive(child) for child in children)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_until(lambda: not any(alive(child) for child in children), 10), children


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not fetched by its parent does not."""
    if Path("/proc/self/stat").exists():
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        command = ["ps", "-o", "stat=", "-p", str(process)]
        state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return state[:1] not in ("", "Z", "X")
