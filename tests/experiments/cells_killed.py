"""Train two tiny cells in processes that are killed; started by test_langevin_diffusion.py.

Usage: python cells_killed.py DIRECTORY KILLS SEED
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lmcnb.experiments import langevin_diffusion as experiments
from lmcnb.lab.training import fit
from lmcnb.papers.langevin_diffusion import Settings

PRETRAIN = {"iterations": 60, "chains": 8, "learning_rate": 0.02, "decay": 0.5}
GRID = {
    "targets": ["mixture"],
    "methods": ["LDVI"],
    "bridges": [2],
    "chains": {"default": 4},
    "iterations": {"default": 60},
    "learning_rates": {"default": [1e-2, 1e-3]},
    "damping": {"default": 2.5},
}


def settings(grid: dict[str, Any], **changed: Any) -> Settings:
    """Settings of a run that takes a second."""
    table: dict[str, Any] = {
        "n_seeds": 2,
        "exact": {"chains": 1000, "score_iterations": 1},
        "pretrain": PRETRAIN,
        "tables": GRID | grid,
        "lorenz": {"particles": 0, "stall_iterations": 0},
        "evaluation": {"chains": 400, "selection_chains": 200},
    }
    return Settings.model_validate(table | changed)


def run(directory: Path, deadline: float | None = None, **grid: Any) -> SimpleNamespace:
    """What the experiments need of a `lab.Run`."""
    return SimpleNamespace(
        settings=settings(grid),
        seeds=[3, 4],
        directory=directory,
        device=torch.device("cpu"),
        deadline=deadline,
    )


def train(run: SimpleNamespace) -> list[dict[str, Any]]:
    """The mean fields, then the cells of the grid; results of all."""
    s = run.settings
    cells = experiments.mean_field_cells(s.tables.targets, s.pretrain, run)
    results = experiments.train(cells, 1, "mean field")
    return results + experiments.train(experiments.grid_cells(s.tables, run), 1, "cells")


def train_ticking(directory: Path, tick: Callable[[], None]) -> None:
    """Train, saving as often as possible and calling `tick` as it goes."""
    experiments.fit = functools.partial(fit, save_every=0.0, check_every=5)
    experiments.report = lambda amount: tick()
    train(run(directory))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from killed import run_killed

    torch.set_num_threads(1)
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(run_killed(lambda tick: train_ticking(folder, tick), kills, seed))
