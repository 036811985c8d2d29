"""The training loop: progress, checkpoints, divergence, and a clean pause at a time limit.

Guaranteed: a loop killed at any moment and started again ends in the same state as the
undisturbed one, to the last bit on the same machine, provided the trainer's `state_dict` holds all
that decides its future (tests kill it). When to save is decided by the clock and has no influence
on the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lmcnb.errors import Paused
from lmcnb.lab.files import load_checkpoint, save_checkpoint


class Trainable(Protocol):
    """What `fit` drives."""

    done: int

    def step(self) -> None:
        """One iteration; advances `done`."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides the rest of the run."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back a `state_dict`."""

    def diverged_at(self) -> list[int | None]:
        """Per independent run, the first iteration with a loss that is not finite, or None."""


def fit(
    trainer: Trainable,
    iterations: int,
    checkpoint: Path | None = None,
    *,
    deadline: float | None = None,
    save_every: float = 30.0,
    report: Callable[[int], None] | None = None,
    check_every: int = 200,
) -> None:
    """Run `trainer` to `iterations`, resuming from `checkpoint` if it exists.

    Stops early when every run has diverged; `trainer.diverged_at()` says where.

    Args:
        trainer: what to drive.
        iterations: the goal for `trainer.done`.
        checkpoint: file to resume from and to save to; None saves nothing.
        deadline: Unix time at which to save and stop.
        save_every: seconds between checkpoints.
        report: called with the number of iterations done since its last call.
        check_every: iterations between looks at the clock and at divergence.

    Raises:
        Paused: the deadline passed; the state is saved if there is a `checkpoint`.
    """
    if checkpoint is not None and (state := load_checkpoint(checkpoint)) is not None:
        trainer.load_state_dict(state)
        if report:
            report(trainer.done)
    saved = time.monotonic()
    while trainer.done < iterations:
        chunk = min(check_every - trainer.done % check_every, iterations - trainer.done)
        for _ in range(chunk):
            trainer.step()
        if report:
            report(chunk)
        if all(step is not None for step in trainer.diverged_at()):
            break
        late = deadline is not None and time.time() > deadline
        if checkpoint is not None and (late or time.monotonic() - saved > save_every):
            save_checkpoint(checkpoint, trainer.state_dict())
            saved = time.monotonic()
        if late and trainer.done < iterations:
            then = "run again to go on" if checkpoint else "nothing is saved without a checkpoint"
            raise Paused(f"time limit reached at iteration {trainer.done} of {iterations}; {then}")
