"""A cell: one independent piece of a run, its result and checkpoint in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """What every cell knows; a paper's own adds what it trains."""

    name: str
    """Used in file names: `digits-SRI-0`."""
    directory: Path
    """Of the run."""
    device: str
    deadline: float | None
    """Unix time at which to pause."""

    @property
    def result(self) -> Path:
        """Where the finished cell lies."""
        return self.directory / "cells" / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the unfinished cell lies."""
        return self.directory / "checkpoints" / f"{self.name}.pt"

    @property
    def weights(self) -> Path:
        """Where its trained parameters are kept."""
        return self.result.with_suffix(".pt")
