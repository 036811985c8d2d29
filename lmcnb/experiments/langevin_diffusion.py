"""The experiments of Langevin diffusion VI (2208.07743): what is trained and what is kept.

A cell is one target, method and number of bridges; its rows are all seeds x learning rates. A
cell's result is a JSON file, written whole when the cell is done; while it trains, a checkpoint
beside it makes a killed or paused run go on where it was. Mean-field VI is the cell with K = 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.evaluation.estimators import effective_sample_size, elbo, log_mean_exp
from lmcnb.evaluation.laplace import laplace
from lmcnb.experiments.langevin_diffusion_cells import (
    MEAN_FIELD,
    Cell,
    grid_cells,
    mean_field_cells,
    picture_cell,
)
from lmcnb.lab.data import load
from lmcnb.lab.files import (
    load_checkpoint,
    read_json,
    remove_checkpoint,
    save_checkpoint,
    write_json,
)
from lmcnb.lab.pool import map_cells, report
from lmcnb.lab.randomness import generator
from lmcnb.lab.training import fit
from lmcnb.methods.langevin_diffusion import METHODS
from lmcnb.methods.langevin_diffusion_training import Trainer, log_weights
from lmcnb.models.targets import NEEDS_DATA, Target, make_target

__all__ = [
    "MEAN_FIELD",
    "Cell",
    "grid_cells",
    "mean_field_cells",
    "picture_cell",
    "target",
    "train",
    "train_cell",
]

CURVE = 200  # points kept of each training curve


def target(
    name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Target:
    """The target `name` with its data loaded."""
    return make_target(name, dtype, device, load(name) if name in NEEDS_DATA else None)


def train(cells: Sequence[Cell], workers: int, desc: str) -> list[dict[str, Any]]:
    """Train all cells that are not finished, on `workers` processes; results in the same order."""
    return map_cells(train_cell, cells, workers=workers, work=[c.work for c in cells], desc=desc)


def train_cell(cell: Cell) -> dict[str, Any]:
    """Train one cell, or read its finished result."""
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    started = time.perf_counter()
    device = torch.device(cell.device)
    density = target(cell.target, device=device)
    m = METHODS["ULA" if cell.method == MEAN_FIELD else cell.method]
    rows = [(lr, seed) for lr in cell.learning_rates for seed in cell.seeds]
    trainer = Trainer(
        m,
        density,
        density.dim,
        cell.bridges,
        cell.training,
        [lr for lr, _ in rows],
        [generator(seed, f"train/{cell.name}/{lr}", device) for lr, seed in rows],
        [start(cell, seed) for _, seed in rows],
    )
    per_step = cell.bridges + 3
    if cell.start != "laplace":  # that point is the mean-field optimum already
        fit(
            trainer,
            cell.training.iterations,
            cell.checkpoint,
            deadline=cell.deadline,
            report=lambda n: report(n * per_step),
        )
    report(cell.work - trainer.done * per_step)  # all rows diverged, or none needed training
    diverged = trainer.diverged_at()
    keep, scores = select(cell, trainer, rows, diverged)
    parameters = {k: v[keep] for k, v in trainer.parameters.items()}
    fresh = [generator(seed, f"evaluate/{cell.name}", device) for seed in cell.seeds]
    w = log_weights(m, density, parameters, fresh, cell.evaluation_chains, cell.bridges).cpu()
    result = {
        "cell": {
            k: getattr(cell, k)
            for k in ("label", "target", "method", "bridges", "seeds", "learning_rates")
        },
        "learning_rate": rows[keep[0]][0],
        "selection": scores,
        "seeds": [
            seed_result(cell, trainer, row, seed, w[i], diverged[row])
            for i, (row, seed) in enumerate(zip(keep, cell.seeds, strict=True))
        ],
        "seconds": time.perf_counter() - started,
        "score_evaluations": trainer.done * len(rows) * cell.training.chains * (cell.bridges + 1),
    }
    save_checkpoint(
        cell.result.with_suffix(".pt"), {k: v.cpu().clone() for k, v in parameters.items()}
    )
    write_json(cell.result, result)
    remove_checkpoint(cell.checkpoint)
    return result


def start(cell: Cell, seed: int) -> dict[str, float | Tensor]:
    """Initial values of one row: the trained mean field, or the Laplace point, or N(0, I)."""
    own: dict[str, float | Tensor] = {"damping": cell.damping, "step_size": cell.step_size}
    if cell.start == "laplace":
        point = laplace_point(cell.target)
        own |= {"mu": point.mode.float(), "log_sigma": point.sigma.log().float()}
    elif cell.start == "mean field":
        trained = load_checkpoint(cell.directory / "cells" / f"{cell.label}-{MEAN_FIELD}-0.pt")
        if trained is None:
            raise UserError(f"mean field of {cell.label}: train it first")
        row = cell.seeds.index(seed)  # a mean field that diverged: this row diverges at step 1
        own |= {"mu": trained["mu"][row], "log_sigma": trained["log_sigma"][row]}
    return own


def laplace_point(name: str) -> Any:
    """Laplace's approximation of target `name` in float64."""
    density = target(name, torch.float64)
    return laplace(density, torch.zeros(density.dim, dtype=torch.float64))


def select(
    cell: Cell, trainer: Trainer, rows: list[tuple[float, int]], diverged: list[int | None]
) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """Rows of the best learning rate: fewest diverged seeds, then highest mean ELBO of the others.

    The ELBO is estimated on chains that are not reported. One learning rate serves all seeds, and
    its diverged seeds stay in the result.
    """
    if len(cell.learning_rates) == 1:
        return list(range(len(rows))), {}
    m, density = trainer.engine.m, trainer.engine.log_density
    device, chains = trainer.device, cell.selection_chains
    gens = [generator(seed, f"select/{cell.name}/{lr}", device) for lr, seed in rows]
    w = log_weights(m, density, trainer.parameters, gens, chains, cell.bridges).mean(1)
    scores: dict[float, dict[str, Any]] = {}
    lost: dict[float, int] = {}  # seeds that diverged in training or on the fresh chains
    for lr in cell.learning_rates:
        own = [i for i, row in enumerate(rows) if row[0] == lr]
        alive = [float(w[i]) for i in own if diverged[i] is None and math.isfinite(w[i])]
        lost[lr] = len(own) - len(alive)
        scores[lr] = {
            "elbo": sum(alive) / len(alive) if alive else None,
            "diverged_at": [diverged[i] for i in own],
        }
    best = max(
        cell.learning_rates,
        key=lambda lr: (
            -lost[lr],
            -math.inf if scores[lr]["elbo"] is None else scores[lr]["elbo"],
        ),
    )
    return [i for i, row in enumerate(rows) if row[0] == best], {
        str(lr): score for lr, score in scores.items()
    }


def seed_result(
    cell: Cell, trainer: Trainer, row: int, seed: int, w: Tensor, diverged: int | None
) -> dict[str, Any]:
    """What is kept of one seed."""
    losses = trainer.losses[: trainer.done, row].double().cpu()
    block = max(1, len(losses) // CURVE)
    curve = losses[: len(losses) // block * block].view(-1, block).mean(1)
    final = trainer.row(row)
    finite = bool(torch.isfinite(w).all()) and diverged is None
    own = {
        "seed": seed,
        "diverged_at": diverged if diverged is not None else (None if finite else trainer.done),
        "elbo": elbo(w)._asdict() if finite else None,
        "log_z": log_mean_exp(w)._asdict() if finite else None,
        "effective_sample_size": effective_sample_size(w) if finite else None,
        "last_500_losses": -float(losses[-500:].mean()) if len(losses) and finite else None,
        "curve": {
            "every": block,
            "elbo": [round(-v, 4) if math.isfinite(v) else None for v in curve.tolist()],
        },
    }
    if cell.bridges:
        own |= {
            k: float(final[k]) if finite else None for k in ("step_size", "damping", "persistence")
        }
    return own
