"""Cells of Langevin diffusion VI: one program each, with its seeds and learning rates as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmcnb.methods.langevin_diffusion_training import Training
from lmcnb.papers.langevin_diffusion import Grid, Pretrain, by_cell

MEAN_FIELD = "MF"


@dataclass(frozen=True)
class Cell:
    """One program: a target, a method, a number of bridges, all seeds and learning rates."""

    label: str
    target: str
    method: str
    bridges: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    training: Training
    damping: float
    step_size: float
    start: Literal["mean field", "laplace", "standard"]
    evaluation_chains: int
    selection_chains: int
    directory: Path
    device: str
    deadline: float | None

    @property
    def name(self) -> str:
        """Used in file names and for the random streams: `sonar-LDVI-8`."""
        return f"{self.label}-{self.method}-{self.bridges}"

    @property
    def result(self) -> Path:
        """Where the finished cell lies."""
        return self.directory / "cells" / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the unfinished cell lies."""
        return self.directory / "checkpoints" / f"{self.name}.pt"

    @property
    def work(self) -> float:
        """Relative cost, for the bar."""
        return self.training.iterations * (self.bridges + 3)


def label_of(name: str, pretrain: Pretrain) -> str:
    """Name of a target in records: Lorenz from the published start is another experiment."""
    return "lorenz_published" if name == "lorenz" and name not in pretrain.laplace else name


def grid_cells(grid: Grid, run: Any) -> list[Cell]:
    """The cells of a grid for `run` (a `lab.Run`)."""
    return [
        Cell(
            label=label_of(t, run.settings.pretrain),
            target=t,
            method=m,
            bridges=K,
            seeds=tuple(run.seeds),
            learning_rates=tuple(by_cell(grid.learning_rates, t, m, K)),
            training=Training(
                by_cell(grid.iterations, t, m, K), by_cell(grid.chains, t, m, K), grid.decay
            ),
            damping=by_cell(grid.damping, t, m, K),
            step_size=by_cell(grid.step_size, t, m, K),
            start="mean field",
            evaluation_chains=run.settings.evaluation.chains,
            selection_chains=run.settings.evaluation.selection_chains,
            directory=run.directory,
            device=str(run.device),
            deadline=run.deadline,
        )
        for t in grid.targets
        for m in grid.methods
        for K in grid.bridges
    ]


def mean_field_cells(targets: Sequence[str], pretrain: Pretrain, run: Any) -> list[Cell]:
    """Plain variational inference on each target: the start of every other cell."""
    return [
        Cell(
            label=label_of(t, pretrain),
            target=t,
            method=MEAN_FIELD,
            bridges=0,
            seeds=tuple(run.seeds),
            learning_rates=(pretrain.learning_rate,),
            training=Training(pretrain.iterations, pretrain.chains, pretrain.decay),
            damping=10.0,
            step_size=1e-5,
            start="laplace" if t in pretrain.laplace else "standard",
            evaluation_chains=run.settings.evaluation.chains,
            selection_chains=run.settings.evaluation.selection_chains,
            directory=run.directory,
            device=str(run.device),
            deadline=run.deadline,
        )
        for t in targets
    ]


def picture_cell(run: Any) -> Cell:
    """A small LDVI chain on the mixture in the plane, to look at."""
    return Cell(
        label="picture",
        target="mixture",
        method="LDVI",
        bridges=12,
        seeds=(run.seeds[0],),
        learning_rates=(1e-2,),
        training=Training(iterations=1_500, chains=32, decay=0.5),
        damping=2.5,
        step_size=1e-5,
        start="standard",
        evaluation_chains=1_000,
        selection_chains=1_000,
        directory=run.directory,
        device=str(run.device),
        deadline=run.deadline,
    )
