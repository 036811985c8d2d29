"""Times of programs beside each other, for the benchmarks: ratios from one run, never wall clock.

The programs take turns in short blocks and the least time of each counts: processor time of the one
thread, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def least_times(
    programs: Mapping[str, Callable[[], object]], rounds: int, block: float
) -> dict[str, float]:
    """Seconds per call of every program: least over `rounds` alternating blocks of `block` s."""
    calls, best = {}, {}
    for name, program in programs.items():
        for _ in range(3):  # warm up; the last call sets the length of a block
            start = time.process_time()
            program()
        best[name] = time.process_time() - start
        calls[name] = max(1, round(block / best[name]))
    for _ in range(rounds):
        for name, program in programs.items():
            program()  # its data into the cache
            start = time.process_time()
            for _ in range(calls[name]):
                program()
            best[name] = min(best[name], (time.process_time() - start) / calls[name])
    return best


def matrix_product(size: int = 768, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A large matrix product, 2 x size^3 operations: this machine's rate."""
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    out = torch.empty(size, size, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)
