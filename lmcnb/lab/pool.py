"""Independent pieces of work on several processes, with one bar over all of them.

Each worker is its own process with one thread; it dies with its parent, so that a killed run
leaves nothing behind that could write beside its successor.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.lab.bars import Progress

_work_done: Any = None  # shared counter of this process, set in workers and in `map_cells`


def report(amount: float) -> None:
    """Tell the bar that `amount` of work is done; called from inside a piece of work."""
    if _work_done is not None:
        with _work_done.get_lock():
            _work_done.value += amount


def _start_worker(counter: Any) -> None:
    global _work_done
    _work_done = counter
    parent = multiprocessing.parent_process()
    if parent is not None:

        def die_with_parent() -> None:
            wait_for([parent.sentinel])
            os._exit(1)

        threading.Thread(target=die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def map_cells(
    function: Callable[[Any], Any],
    cells: Sequence[Any],
    *,
    workers: int,
    work: Sequence[float],
    desc: str,
) -> list[Any]:
    """`[function(cell) for cell in cells]` on `workers` processes, largest work first.

    Args:
        function: importable function of one picklable argument; calls `report` as it goes.
        cells: its arguments.
        workers: processes; 1 runs everything here.
        work: how much each cell will report in all.
        desc: name of the bar.

    Raises:
        Paused: some cell paused; no other was started, those that ran have been waited for.
        UserError: a worker died.
    """
    global _work_done
    if workers < 1:
        raise UsageError(f"workers={workers}: an integer of at least 1 is needed")
    context = multiprocessing.get_context("spawn")
    counter = context.Value("d", 0.0)
    order = sorted(range(len(cells)), key=lambda i: -work[i])
    results: list[Any] = [None] * len(cells)
    with Progress(sum(work), desc) as bar:
        if workers == 1 or len(cells) <= 1:
            _work_done = counter
            for i in order:
                results[i] = function(cells[i])
                bar.update(counter.value - bar.n)
            _work_done = None
            return results
        try:
            with ProcessPoolExecutor(workers, context, _start_worker, (counter,)) as pool:
                index: dict[Future[Any], int] = {}
                paused: Paused | None = None
                while index or (order and paused is None):
                    while order and len(index) < workers and paused is None:  # no more than can run
                        i = order.pop(0)
                        index[pool.submit(function, cells[i])] = i
                    done, _ = wait(index, timeout=0.5, return_when=FIRST_COMPLETED)
                    bar.update(counter.value - bar.n)
                    for future in done:
                        i = index.pop(future)
                        try:
                            results[i] = future.result()
                        except Paused as reason:
                            paused = reason
                        except BaseException:
                            pool.shutdown(wait=False)
                            raise
        except BrokenProcessPool as error:
            raise UserError(
                f"{desc}: a worker process died (out of memory, or killed); what was finished is "
                "kept, run again to go on"
            ) from error
    if paused is not None:
        raise paused
    return results
