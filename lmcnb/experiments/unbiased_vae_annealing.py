"""Annealed importance sampling of test images under the trained VAEs, beside their bounds.

A cell is one model of `unbiased_vae_cells`; its values are kept image by image, so that two models
are compared by the mean of their differences. Models of one data set, D and seed are annealed with
the same random numbers, and a step size of their own. What is guaranteed of a value: `ais_images`.
AIS falls short of log p(x) by an amount that may differ between two models, so that their
difference can err either way; longer cells, with more temperatures, show by how much. A cell has no
checkpoint: a kill loses it, and a time limit is looked at before it starts.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import Paused
from lmcnb.evaluation.ais_images import Annealed, ais_images
from lmcnb.experiments.unbiased_vae_cells import VaeCell, flushed, images, spaced
from lmcnb.experiments.unbiased_vae_images import rounded, weights_of
from lmcnb.lab.cells import Cell
from lmcnb.lab.files import read_json, write_json
from lmcnb.lab.pool import map_cells, report
from lmcnb.lab.randomness import generator
from lmcnb.models.binary_vae import BinaryVAE, Parameters
from lmcnb.papers.unbiased_vae import Annealing

LONGER = 4  # times the temperatures


@dataclass(frozen=True)
class AisCell(Cell):
    """One trained model."""

    source: VaeCell
    seed: int
    settings: Annealing
    """Of this cell: images, chains, temperatures."""

    @property
    def work(self) -> float:
        """Relative cost, for the bar: temperatures, images, weights of the decoder."""
        m = self.source.model
        sizes = (m.latent, *m.hidden, m.pixels)
        weights = sum(a * b for a, b in pairwise(sizes))
        return float(self.settings.temperatures * self.settings.images * weights)


def cells_of(models: list[VaeCell]) -> list[AisCell]:
    """The models of `models` whose arm is in `training.annealing.arms`."""
    found = []
    for source in models:
        own = source.settings.annealing
        if own.images and source.arm in own.arms:
            for seed in source.seeds:
                name = f"ais-{source.dataset}-D{source.latent}-{source.arm}-{seed}"
                place = (name, source.directory, source.device, source.deadline)
                found.append(AisCell(*place, source, seed, own))
    return found


def longer_cells(found: list[AisCell]) -> list[AisCell]:
    """Of `cells_of`, the first seed, with fewer images and LONGER times the temperatures."""
    some = [c for c in found if c.settings.longer_images and c.seed == found[0].seed]
    return [
        replace(
            c,
            name=f"{c.name}-longer",
            settings=c.settings.model_copy(
                update={
                    "images": min(c.settings.longer_images, c.settings.images),
                    "temperatures": LONGER * c.settings.temperatures,
                }
            ),
        )
        for c in some
    ]


def anneal(found: list[AisCell], workers: int) -> list[dict[str, Any]]:
    """Anneal all cells that are not finished, on `workers` processes; results in the same order.

    Raises:
        Paused: the run's time is over; finished cells are kept.
    """
    if any(cell.device.startswith("cuda") for cell in found):
        workers = 1
    return map_cells(anneal_cell, found, workers=workers, work=[c.work for c in found], desc="AIS")


@flushed()
def anneal_cell(cell: AisCell) -> dict[str, Any]:
    """AIS of one trained model, or its finished result. Values in nats, an image each.

    `value` is by AIS, `bound` the importance-weighted bound of the same images; all None where the
    model has diverged.
    """
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    if cell.deadline is not None and time.time() > cell.deadline:
        raise Paused(f"{cell.name}: not started, the run's time is over")
    a, source = cell.settings, cell.source
    device = torch.device(cell.device)
    state = weights_of(source)
    at = source.seeds.index(cell.seed)
    own = {k: v[at : at + 1].to(device) for k, v in state["parameters"].items()}
    test = spaced(images(source.dataset, "test"), source.settings.test_images)
    places = places_of(cell, len(test))
    x = test[places]
    result = {
        "dataset": source.dataset,
        "latent": source.latent,
        "arm": source.arm,
        "title": source.title,
        "seed": cell.seed,
        "value": [None] * len(x),
        "bound": rounded(state["test"][at][places]),
        "acceptance": None,
    }
    if all(bool(torch.isfinite(v).all()) for v in own.values()):
        stream = generator(cell.seed, f"{source.dataset}/ais", device)
        each = cell.work / a.temperatures
        found = annealed(
            source.model, own, x.to(device), a, stream, report=lambda n: report(n * each)
        )
        result |= {"value": rounded(found.bound.value), "acceptance": round(found.acceptance, 4)}
    else:
        report(cell.work)
    write_json(cell.result, result)
    return result


def places_of(cell: AisCell, n: int) -> Tensor:
    """Which of `n` test images the cell anneals; those of a longer cell are among all of them."""
    every = spaced(torch.arange(n), cell.source.settings.annealing.images)
    return spaced(every, cell.settings.images)


def annealed(
    model: BinaryVAE,
    p: Parameters,
    x: Tensor,
    settings: Annealing,
    stream: torch.Generator,
    report: Any = None,
) -> Annealed:
    """AIS of log p(x) from the encoder's Gaussian, for the parameters of one run.

    Args:
        model: the architecture.
        p: parameters, with a first axis of one run.
        x: images `(n, pixels)` of 0 and 1.
        settings: chains, temperatures and leapfrogs.
        stream: source of all randomness, on the device of x.
        report: called with 1 after every temperature.
    """
    with torch.no_grad():
        mean, std = (v[0] for v in model.encode(p, x.float().unsqueeze(0)))
        projected = model.projected(p, x.float().unsqueeze(0))

    def log_joint(z: Tensor) -> Tensor:
        value = model.likelihood_of(p, projected, z.transpose(0, 1).unsqueeze(0))[0].T
        return value - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    return ais_images(
        log_joint,
        mean,
        std,
        chains=settings.chains,
        temperatures=settings.temperatures,
        n_leapfrog=settings.leapfrogs,
        generator=stream,
        report=report,
    )
