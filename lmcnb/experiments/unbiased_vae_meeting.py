"""Meeting times on trained, frozen VAEs, by both rules and many correlations (2010.01845, fig. 4).

Every test image has one pair of chains; joint steps are tau - L, from independent starts with the
lag L. beta is a grid, and `adapted`: moved over pilot runs to ESS = 0.3 K and then frozen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmcnb.experiments.unbiased_vae_cells import VaeCell, flushed, images, spaced
from lmcnb.experiments.unbiased_vae_images import weights_of
from lmcnb.kernels import disir
from lmcnb.lab.files import load_checkpoint, read_json, write_json
from lmcnb.lab.pool import map_cells, report
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased import couple
from lmcnb.methods.unbiased_vae import adapted
from lmcnb.methods.unbiased_vae_gradients import row_log_weight
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.papers import unbiased_vae as paper

PILOTS = 60  # runs of L iterations from which beta is adapted


@dataclass(frozen=True)
class MeetingCell:
    """One model, kernel, rule and correlation."""

    source: VaeCell
    seed: int
    kernel: str
    """C-ISIR or C-ISIR-DISIR."""
    rule: str
    beta: float | None
    """None: adapted, for every image of its own."""
    settings: paper.Meeting

    @property
    def name(self) -> str:
        """Of its file."""
        beta = "adapted" if self.beta is None else self.beta
        kernel = self.kernel if self.kernel == "C-ISIR" else f"{self.kernel}-{beta}"
        model = f"{self.source.dataset}-D{self.source.latent}"
        return f"meeting-{model}-{kernel}-{self.rule}-{self.seed}"

    @property
    def work(self) -> float:
        """Relative cost, for the bar."""
        return 1.0 if self.rule == "index" else 3.0


def cells_of(run: Any, models: list[VaeCell]) -> list[MeetingCell]:
    """All kernels, rules and correlations for the IWAE models, once they are trained.

    Of the run's seeds the first whose model has not diverged. C-ISIR has no correlation; both rules
    differ there by one step, and only strict is run.
    """
    settings: paper.Meeting = run.settings.meeting
    found = []
    for source in models:
        if source.dataset not in settings.datasets or source.arm != "IWAE":
            continue
        seed = next((s for s in run.seeds if finite(models, source, s)), None)
        if seed not in source.seeds:
            continue
        own = (source, seed)
        found.append(MeetingCell(*own, "C-ISIR", "strict", 0.0, settings))
        for rule in ("strict", "index"):
            found += [
                MeetingCell(*own, "C-ISIR-DISIR", rule, beta, settings)
                for beta in [*settings.betas, None]
            ]
    return found


def finite(models: list[VaeCell], like: VaeCell, seed: int) -> bool:
    """Whether the seed's model, of the same data set, dimension and arm, has not diverged."""
    kind = (like.dataset, like.latent, like.arm)
    for cell in models:
        if (cell.dataset, cell.latent, cell.arm) == kind and seed in cell.seeds:
            state = load_checkpoint(cell.weights)
            if state is None:
                return True  # not yet trained
            at = cell.seeds.index(seed)
            return all(bool(torch.isfinite(v[at]).all()) for v in state["parameters"].values())
    return False


def study(found: list[MeetingCell], workers: int) -> list[dict[str, Any]]:
    """Run all cells that are not finished."""
    if any(cell.source.device.startswith("cuda") for cell in found):
        workers = 1
    work = [c.work for c in found]
    return map_cells(study_cell, found, workers=workers, work=work, desc="meeting times")


@torch.no_grad()
@flushed()
def study_cell(cell: MeetingCell) -> dict[str, Any]:
    """Run one cell, or read its finished result."""
    path = cell.source.directory / "cells" / f"{cell.name}.json"
    if path.exists():
        report(cell.work)
        return read_json(path)
    device, model = torch.device(cell.source.device), cell.source.model
    state = weights_of(cell.source)
    at = cell.source.seeds.index(cell.seed)
    own = {k: v[at : at + 1].to(device) for k, v in state["parameters"].items()}
    x = spaced(images(cell.source.dataset, "test"), cell.settings.images).to(device).float()
    coupling = Coupling(
        samples=cell.source.training.coupling.samples,
        composite=cell.kernel != "C-ISIR",
        lag=cell.source.settings.lag,
        cap=cell.settings.cap,
        rule=cell.rule,  # type: ignore[arg-type]
    )
    stream = generator(cell.seed, cell.name, device)
    log_weight = row_log_weight(model, own, x.unsqueeze(0))[0]
    if cell.beta is None:
        beta = pilot(log_weight, len(x), model.latent, coupling, stream)
    else:
        beta = torch.full((len(x),), cell.beta, device=device)
    result = {
        "dataset": cell.source.dataset,
        "latent": cell.source.latent,
        "kernel": cell.kernel,
        "rule": cell.rule,
        "beta": cell.beta,
        "seed": cell.seed,
        "mean_beta": float(beta.mean()),
        "cap": cell.settings.cap,
        **times(log_weight, len(x), model.latent, coupling, beta, stream),
    }
    write_json(path, result)
    report(cell.work)
    return result


def times(
    log_weight: Any,
    rows: int,
    dim: int,
    coupling: Coupling,
    beta: float | Tensor,
    stream: torch.Generator,
) -> dict[str, Any]:
    """Joint steps of every row, and their summary."""
    kernel, coupled_kernel = kernels(log_weight, coupling, beta, stream)
    first, second = begin(log_weight, rows, dim, coupling, stream)
    shares: list[Tensor] = []

    def average(state: disir.State, own: Tensor) -> None:
        shares.append(disir.effective_samples(state).mean() / coupling.samples)

    meeting = couple(
        kernel,
        coupled_kernel,
        first,
        second,
        average,
        lambda ahead, behind, own: None,
        lag=coupling.lag,
        start=coupling.start,
        cap=coupling.cap,
    )
    steps = meeting.joint_steps.double().cpu()
    quantiles = torch.quantile(steps, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64))
    capped = meeting.capped.double().cpu()
    return {
        "effective": float(torch.stack(shares).mean()),
        "mean": float(steps.mean()),
        "se": float(steps.std()) / math.sqrt(rows),
        "median": float(quantiles[0]),
        "q90": float(quantiles[1]),
        "q99": float(quantiles[2]),
        "largest": float(steps.max()),
        "capped": float(capped.mean()),
        "n": rows,
        "counts": histogram(meeting.joint_steps.cpu(), meeting.capped.cpu()),
    }


def begin(
    log_weight: Any, rows: int, dim: int, coupling: Coupling, stream: torch.Generator
) -> tuple[disir.State, disir.State]:
    """Independent starts of both chains."""
    every = torch.arange(rows, device=stream.device)
    shape = (rows, coupling.samples, dim)
    first, second = (
        disir.start(shape, lambda p: log_weight(p, every), stream, torch.float32) for _ in range(2)
    )
    return first, second


def pilot(
    log_weight: Any, rows: int, dim: int, coupling: Coupling, stream: torch.Generator
) -> Tensor:
    """Every row's beta after pilot runs of one chain, moved between them; the last third's mean."""
    beta = torch.full((rows,), 0.9, device=stream.device)
    every = torch.arange(rows, device=stream.device)
    single = replace(coupling, composite=True)
    state = begin(log_weight, rows, dim, single, stream)[0]
    kept = []
    for i in range(PILOTS):
        kernel, _ = kernels(log_weight, single, beta, stream)
        share = torch.zeros(rows, dtype=torch.float64, device=stream.device)
        for _ in range(single.lag):
            state = kernel(state, every)
            share += disir.effective_samples(state) / (single.samples * single.lag)
        beta = adapted(beta, share)
        if 3 * i >= 2 * PILOTS:
            kept.append(beta)
    return torch.stack(kept).mean(0)


def histogram(steps: Tensor, capped: Tensor) -> dict[str, list[int]]:
    """Counts of joint steps of the rows that met: one by one to 30, then by powers of 2^(1/4)."""
    edges = list(range(1, 31))
    while edges[-1] < 4096:
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2**0.25)))
    at = torch.bucketize(steps[~capped], torch.tensor(edges), right=True)
    counts = torch.bincount(at, minlength=len(edges) + 1)[1:]
    return {"from": edges, "count": counts.tolist()}
