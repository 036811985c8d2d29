"""Teaching energy-based models of densities in the plane, whose truth is known (2012.14936, 5.1).

Samples are judged by the unbiased squared MMD (bandwidth 0.3), the total variation of a 32 x 32
histogram on [-3.2, 3.2]^2 and the modes that hold 2 percent; the learned density by KL(data, EBM)
and total variation on a grid over [-4, 4]^2. Guaranteed: data and samples of an evaluation are
fresh draws. A histogram of few samples has a total variation above zero of exact samples, too: see
`floor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.mmd import squared_mmd
from lmcnb.evaluation.plane_truth import (
    Divergence,
    cell_masses,
    divergence,
    histogram_total_variation,
)
from lmcnb.experiments.mcmc_teaching_cells import (
    TeachingCell,
    borrowed,
    cell,
    deterministic,
    finished,
    keep,
    number,
    rounded,
    train,
)
from lmcnb.lab.pool import map_cells
from lmcnb.methods.mcmc_teaching import call
from lmcnb.methods.mcmc_teaching_data import Batch, Networks
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models import plane
from lmcnb.models.energy import EnergyMLP, density
from lmcnb.models.mlp import Decoder, Posterior
from lmcnb.papers.unbiased_vae import by_name

BANDWIDTH, BINS, LIMIT = 0.3, 32, 3.2
CELLS, WIDE = 161, 4.0
WATCHED = 1000  # samples of a learning curve
WALKERS = 2000  # chains that are run for longer and longer
SHOWN = 1000  # samples of a picture
MODE = 0.02  # share of the samples that makes a mode covered
PICTURE = 64  # cells of a picture of the density


def cells_of(run: Any) -> list[TeachingCell]:
    """The cells of `run`, in the order of its settings."""
    p = run.settings.plane
    return [
        cell(run, "plane", name, arm, seed, p)
        for name in p.densities
        for arm in by_name(p.arms, name)
        for seed in run.seeds
    ]


def study(found: Sequence[TeachingCell], workers: int) -> list[dict[str, Any]]:
    """Train and evaluate all cells that are not finished; results in the same order."""
    if any(c.device.startswith("cuda") for c in found):
        workers = 1  # they would count each other's time
    work = [c.work for c in found]
    return map_cells(train_cell, found, workers=workers, work=work, desc="plane")


def train_cell(cell: TeachingCell) -> dict[str, Any]:
    """Train and evaluate one cell, or read its finished result."""
    if (old := finished(cell)) is not None:
        return old
    deterministic(cell.device)
    truth, settings = plane.make(cell.data), cell.settings

    def draw(n: int, stream: torch.Generator) -> Batch:
        return Batch(truth.sample(n, stream))

    watched = truth.sample(WATCHED, cell.stream("watched"))

    def look(trainer: Trainer) -> dict[str, Any]:
        with borrowed(trainer, cell.stream("look", trainer.device)):
            made = samples(trainer, WATCHED)
        point = {"gap": gap(trainer, watched, made["revised"])}
        for name, x in made.items():
            if x is not None:
                point[f"mmd/{name}"] = mmd(x, watched)
        if made["initial"] is not None and trainer.energy is not None:
            point["mmd/chase"] = mmd(made["initial"], made["revised"])
        if trainer.energy is not None:
            d = learned(trainer, truth)
            point["kl"] = float("inf") if d is None else d.kl
        return {k: rounded([v])[0] for k, v in point.items()}

    trainer = Trainer(
        cell.teaching,
        networks(cell),
        draw,
        cell.streams(),
        look,
        max(1, cell.teaching.iterations // settings.looks),
    )
    result = train(cell, trainer)
    if result["diverged_at"] is None:
        result |= evaluate(cell, trainer, truth)
    return keep(cell, trainer, result)


def networks(cell: TeachingCell) -> Networks:
    """Perceptrons with two hidden layers, drawn from the seed alone."""
    width, latent = [cell.settings.width] * 2, cell.settings.latent
    return Networks(
        EnergyMLP(2, width, cell.stream("energy")),
        Posterior(2, width, latent, cell.stream("encoder")),
        Decoder(latent, width, 2, cell.stream("decoder")),
    )


@torch.no_grad()
def samples(trainer: Trainer, n: int) -> dict[str, Any]:
    """`n` samples: of the start, and revised; None where there are none.

    Persistent chains are taken as they are, and stand for both. A VAE's samples are draws of its
    law ("revised") and its decoder's means ("initial").
    """
    t = trainer.teaching
    if trainer.chains is not None:
        return {"initial": None, "revised": trainer.chains[:n].clone()}
    if trainer.energy is None:
        means = call(trainer.decoder, trainer.normal(n, trainer.latent), None)  # type: ignore[arg-type]
        return {"initial": means, "revised": means + t.sigma * trainer.normal(*means.shape)}
    _, start, _ = trainer.begin(n)
    assert start is not None
    return {"initial": start, "revised": trainer.revised(start)}


@torch.no_grad()
def gap(trainer: Trainer, data: Tensor, made: Tensor) -> float:
    """mean f(x) - mean f(x~); 0 without an energy."""
    if trainer.energy is None:
        return 0.0
    f = trainer.energy
    return float(f(data.to(trainer.device)).mean() - f(made).mean())


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD; infinite where a sample is no number."""
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return float("inf")
    return squared_mmd(x.cpu(), y.cpu(), BANDWIDTH).value


def learned(trainer: Trainer, truth: plane.PlaneDensity) -> Divergence | None:
    """KL(data, EBM), their total variation, and log Z; None where the energy is no number."""
    assert trainer.energy is not None
    own = density(trainer.energy, trainer.teaching.reference)
    try:
        return divergence(truth, lambda x: own(x.float().to(trainer.device)), CELLS, WIDE)
    except UsageError:
        return None


@cache
def masses(name: str) -> Tensor:
    """Exact masses of the bins of a density."""
    return cell_masses(plane.make(name), BINS, LIMIT, per_side=12)


def judged(x: Tensor, data: Tensor, truth: plane.PlaneDensity) -> dict[str, Any]:
    """What is measured of a sample `(n, 2)` against fresh data `(m, 2)`."""
    x = x.cpu()
    if not bool(torch.isfinite(x).all()):
        return {"mmd": None, "mmd_se": None, "tv": None, "within": None, "modes": None}
    own, shares = squared_mmd(x, data, BANDWIDTH), truth.mode_shares(x)
    return {
        "mmd": own.value,
        "mmd_se": own.se,
        "tv": histogram_total_variation(x, masses(truth.name), LIMIT),
        "within": float(truth.within(x)),
        "modes": int((shares > MODE).sum()),
        "shares": rounded(shares.tolist()),
    }


def evaluate(cell: TeachingCell, trainer: Trainer, truth: plane.PlaneDensity) -> dict[str, Any]:
    """Everything that is measured once, at the end."""
    n, K = cell.settings.samples, cell.teaching.steps
    data = truth.sample(n, cell.stream("test"))
    with borrowed(trainer, cell.stream("samples", trainer.device)):
        made = samples(trainer, n)
    found: dict[str, Any] = {
        name: judged(x, data, truth) for name, x in made.items() if x is not None
    }
    found["n"] = n
    found["floor"] = judged(truth.sample(n, cell.stream("floor")), data, truth)
    found["shown"] = points(made["revised"])
    if made["initial"] is not None:
        found["shown_initial"] = points(made["initial"])
    if trainer.energy is None:
        return found
    d = learned(trainer, truth)
    parts = ("kl", "total_variation", "log_normalizer")
    found["density"] = {k: None if d is None else number(getattr(d, k)) for k in parts}
    found["picture"] = picture(trainer)
    # the same starts, revised for longer and longer; persistent chains go on from where they are
    x = (made["revised"] if made["initial"] is None else made["initial"])[:WALKERS]
    data = data[:WALKERS]
    wanted = sorted({0, 1, 2, 5, K, 2 * K, 5 * K, 10 * K, cell.settings.longest})
    done, found["by_steps"] = 0, []
    for steps in wanted:
        if steps > done:
            with borrowed(trainer, cell.stream(f"longer/{steps}", trainer.device)):
                x = trainer.revised(x, steps=steps - done)
            done = steps
        point = judged(x, data, truth) | {"steps": steps}
        if steps in (0, 1, 2, 5, K, wanted[-1]):
            point["shown"] = points(x)
        found["by_steps"].append(point)
    return found


@torch.no_grad()
def picture(trainer: Trainer) -> list[float | None]:
    """Log density of the energy at PICTURE x PICTURE cells over [-3.2, 3.2]^2, less its maximum."""
    assert trainer.energy is not None
    axis = (torch.arange(PICTURE) + 0.5) * (2 * LIMIT / PICTURE) - LIMIT
    at = torch.cartesian_prod(axis, axis).to(trainer.device)
    values = density(trainer.energy, trainer.teaching.reference)(at).double()
    return rounded((values - values.max()).tolist())


def points(x: Tensor) -> list[list[float | None]]:
    """The first samples, for a picture."""
    return [rounded(row) for row in x[:SHOWN].tolist()]
