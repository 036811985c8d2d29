"""The PPCA studies of a run, cut into cells: one estimator of one study each, for every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lmcnb.experiments.unbiased_vae_ppca import choose_beta, estimate
from lmcnb.experiments.unbiased_vae_ppca_problem import COST, Study, about, problem
from lmcnb.lab.cells import Cell
from lmcnb.lab.files import read_json, write_json
from lmcnb.lab.pool import map_cells, report
from lmcnb.papers import unbiased_vae as paper
from lmcnb.papers.unbiased_vae import by_name


@dataclass(frozen=True)
class PpcaCell(Cell):
    """One estimator, or IWAE with another K."""

    study: str
    estimator: str
    samples: int | None
    """K of IWAE in the study of its bias; None: the study's."""
    seed: int
    settings: Study

    @property
    def work(self) -> float:
        """Relative cost, for the bar: as `estimate` reports it."""
        K = self.samples or self.settings.samples
        rows = self.settings.replicates * self.settings.points
        return rows * COST[self.estimator.partition(" ")[0]] * K / self.settings.samples


def study_of(name: str, ppca: paper.Ppca) -> Study:
    """The settings of a study."""
    common: dict[str, Any] = {
        "replicates": by_name(ppca.replicates, name),
        "sizes": tuple(by_name(ppca.sizes, name)),
        "grid": tuple(by_name(ppca.betas, name)),
        "scale": by_name(ppca.scale, name),
    }
    if name == "reduced":
        return Study(**common)
    common |= {"dim": 100, "pixels": 784, "samples": 100, "points": ppca.images}
    return Study(data="static_mnist", proposal="fitted", **common)


def cells_of(run: Any) -> list[PpcaCell]:
    """The cells of `run` (a `lab.Run`), in the order of its settings."""
    ppca: paper.Ppca = run.settings.ppca
    found = []
    for name in ppca.studies:
        study = study_of(name, ppca)
        for seed in run.seeds[: by_name(ppca.seeds, name)]:
            for estimator, samples in (
                *((e, None) for e in study.named()),
                *(("IWAE", k) for k in study.sizes),
            ):
                K = "" if samples is None else f"-K{samples}"
                title = f"ppca-{name}-{estimator.replace(' ', '-')}{K}-{seed}"
                place = (title, run.directory, str(run.device), run.deadline)
                found.append(PpcaCell(*place, name, estimator, samples, seed, study))
    return found


def study_all(found: list[PpcaCell], workers: int) -> list[dict[str, Any]]:
    """Run all cells that are not finished."""
    if any(cell.device.startswith("cuda") for cell in found):
        workers = 1
    work = [c.work for c in found]
    return map_cells(study_cell, found, workers=workers, work=work, desc="PPCA gradients")


def study_cell(cell: PpcaCell) -> dict[str, Any]:
    """Run one cell, or read its finished result."""
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    torch.use_deterministic_algorithms(True, warn_only=cell.device.startswith("cuda"))
    p = problem(cell.settings, cell.seed, cell.device)
    beta, effective = choose_beta(p, cell.settings, cell.seed)
    own = estimate(p, cell.settings, cell.estimator, beta, cell.seed, samples=cell.samples)
    for quantity in ("intercept", "weight"):
        own[quantity]["errors"] = [float(f"{e:.6g}") for e in own[quantity]["errors"]]
    about_it = about(p) | {"beta": beta, "pilot_effective": effective}
    size = cell.samples is not None
    result = own | {"study": cell.study, "seed": cell.seed, "size": size, "about": about_it}
    write_json(cell.result, result)
    return result


def together(results: list[dict[str, Any]], study: str, seed: int) -> dict[str, Any]:
    """One seed's cells of a study as `unbiased_vae_ppca.run` has them, for figures."""
    own = [r for r in results if (r["study"], r["seed"]) == (study, seed)]
    return {
        "about": own[0]["about"],
        "estimators": {r["estimator"]: r for r in own if not r["size"]},
        "bias": [r for r in own if r["size"]],
    }
