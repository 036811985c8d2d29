"""Training binary VAEs with every gradient, and their test bound (2010.01845, table 1).

A finished cell (`unbiased_vae_cells`) is a JSON file, written whole, beside its weights and the
test bound of every image; while it trains, a checkpoint makes a killed or paused run go on where it
was. Seeds are paired: with the same seed every arm starts with the same networks and sees the
images in the same order, and all models are judged with the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.evaluation.importance_weighted import Bound
from lmcnb.experiments.unbiased_vae_cells import VaeCell, cost, flushed, images, spaced
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
from lmcnb.methods.unbiased_vae_settings import STATISTICS, Streams
from lmcnb.methods.unbiased_vae_training import Trainer
from lmcnb.models.binary_vae import BinaryVAE, Parameters

LOOKS = 24  # points of a learning curve
WATCHED, WATCH = 500, 100  # test images of a learning curve, and samples of their bound
AT_ONCE = 20_000  # latents drawn at once
IN_CACHE = 2_000  # of them decoded at once on a CPU
KEPT = 200  # points of a curve of a training statistic


def train(found: Sequence[VaeCell], workers: int, desc: str) -> list[dict[str, Any]]:
    """Train all cells that are not finished, on `workers` processes; results in the same order.

    `found` is as from `cells_of`: cells that others begin with come first.
    """
    if any(cell.device.startswith("cuda") for cell in found):
        workers = 1  # they would count each other's time
    results: list[dict[str, Any]] = []
    for some in ([c for c in found if not c.start], [c for c in found if c.start]):
        work = [c.work for c in some]
        results += map_cells(train_cell, some, workers=workers, work=work, desc=desc)
    return results


@flushed()
def train_cell(cell: VaeCell) -> dict[str, Any]:
    """Train and evaluate one cell, or read its finished result."""
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    device = torch.device(cell.device)
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # filling fresh memory would cost time in every step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    model = cell.model
    test = spaced(images(cell.dataset, "test"), cell.settings.test_images).to(device)

    def stream(seed: int, what: str, place: torch.device | str = "cpu") -> torch.Generator:
        return generator(seed, f"{cell.dataset}/{what}", place)

    streams = [
        Streams(
            stream(seed, "start"),
            stream(seed, "more/order" if cell.start else "order"),
            stream(seed, f"{cell.arm}/noise", device),
        )
        for seed in cell.seeds
    ]
    watched = spaced(test, WATCHED)

    def look(trainer: Trainer) -> dict[str, Any]:
        found = bound(model, trainer.parameters, watched, WATCH, generator(0, "watch", device))
        return {"test": rounded(found.value.mean(-1))}

    begin, squares = start_of(cell)
    t = cell.training
    trainer = Trainer(
        model,
        t,
        images(cell.dataset, "train"),
        streams,
        begin=begin,
        squares=squares,
        monitor=look,
        monitor_every=max(1, t.updates // LOOKS),
    )
    per_update = cost(cell)
    fit(
        trainer,
        t.updates,
        cell.checkpoint,
        deadline=cell.deadline,
        report=lambda n: report(n * per_update),
        check_every=10 if t.chains else 100,
    )
    result = {
        "dataset": cell.dataset,
        "latent": cell.latent,
        "arm": cell.arm,
        "title": cell.title,
        "seeds": list(cell.seeds),
        "updates": trainer.done,
        "diverged_at": trainer.diverged_at(),
        "seconds": trainer.seconds,
        "curve": trainer.curve,
        "bound": blocks(trainer.bounds[: trainer.done]),
    }
    if t.chains:
        chain = trainer.statistics[: trainer.done].double()
        result["chains"] = {
            name: {"curve": blocks(chain[..., i]), "mean": rounded(means(chain[..., i]))}
            for i, name in enumerate(STATISTICS)
        }
        cuts = trainer.cuts[: trainer.done].double()
        result["cut"] = rounded(means(cuts))
    found = bound(
        model,
        trainer.parameters,
        test,
        cell.settings.bound_samples,
        generator(0, "test", device),
        report=lambda share: report(share * cell.settings.bound_samples * 0.2),
    )
    result["test"] = {
        "value": rounded(found.value.mean(-1)),
        "se": rounded(found.value.std(-1) / math.sqrt(len(test))),
        "n": len(test),
        "samples": cell.settings.bound_samples,
    }
    save_checkpoint(
        cell.weights,
        {
            "parameters": {k: v.cpu() for k, v in trainer.parameters.items()},
            "squares": {k: v.cpu() for k, v in trainer.squares.items()},
            "test": found.value.float().cpu(),
        },
    )
    write_json(cell.result, result)
    remove_checkpoint(cell.checkpoint)
    return result


def weights_of(cell: VaeCell) -> dict[str, Any]:
    """The trained parameters, RMSProp's squares and the test bound of every image of a cell.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    state = load_checkpoint(cell.weights)
    if state is None:
        raise UserError(
            f"{cell.weights}: the trained model is missing or damaged; remove {cell.result.name} "
            "beside it and run again to train it anew"
        )
    return state


def start_of(cell: VaeCell) -> tuple[Parameters | None, Parameters | None]:
    """Parameters and squares to begin with, a run a seed; None from scratch."""
    if not cell.start:
        return None, None
    kept: dict[int, dict[str, Any]] = {}
    for earlier in cell.start:
        state = weights_of(earlier)
        for i, seed in enumerate(earlier.seeds):
            kept[seed] = {
                what: {k: v[i] for k, v in state[what].items()}
                for what in ("parameters", "squares")
            }
    names = kept[cell.seeds[0]]["parameters"]
    begin, squares = (
        {k: torch.stack([kept[seed][what][k] for seed in cell.seeds]) for k in names}
        for what in ("parameters", "squares")
    )
    return begin, squares


@torch.no_grad()
def bound(
    model: BinaryVAE,
    p: Parameters,
    x: Tensor,
    samples: int,
    stream: torch.Generator,
    report: Any = None,
) -> Bound:
    """The importance-weighted bound of every image `(runs, n)`, all runs with the same draws.

    Args:
        model: the architecture.
        p: parameters of all runs.
        x: images `(n, pixels)` of 0 and 1.
        samples: an image.
        stream: source of all randomness, on the device of x.
        report: called with the share done since its last call.
    """
    runs = len(p["decoder.b0"])
    values, errors = [], []
    for part in x.split(500):
        images = part.float().expand(runs, *part.shape)
        mean, std = (v.unsqueeze(2) for v in model.encode(p, images))
        projected = model.projected(p, images)
        volume = std.log().sum(-1)
        parts = []
        step = max(1, AT_ONCE // len(part))  # whatever the runs: they decide no draw
        for k in range(0, samples, step):
            shape = (len(part), min(step, samples - k), model.latent)
            noise = torch.randn(shape, generator=stream, device=x.device)
            z = mean + std * noise
            prior = 0.5 * (noise.square().sum(-1) - z.square().sum(-1))
            each = max(1, IN_CACHE // len(part)) if x.device.type == "cpu" else step
            log_p = torch.cat([model.likelihood_of(p, projected, s) for s in z.split(each, 2)], -1)
            parts.append((log_p + prior + volume).double())
        log_w = torch.cat(parts, -1)
        value = torch.logsumexp(log_w, -1) - math.log(samples)
        spread = (2 * (log_w - value.unsqueeze(-1))).exp().mean(-1) - 1
        values.append(value)
        errors.append((spread.clamp(min=0) / samples).sqrt())
        if report is not None:
            report(len(part) / len(x))
    return Bound(torch.cat(values, -1), torch.cat(errors, -1))


def means(values: Tensor) -> Tensor:
    """Mean over the updates of every run, of what is a number."""
    return values.nanmean(0)


def blocks(values: Tensor) -> dict[str, Any]:
    """Means of consecutive updates, at most KEPT of them: a list a run."""
    every = max(1, -(-len(values) // KEPT))
    parts = torch.stack([b.nanmean(0) for b in values.double().cpu().split(every)])
    return {"every": every, "mean": [rounded(column) for column in parts.T]}


def rounded(values: Tensor) -> list[float | None]:
    """Six significant digits; None where it is not a number."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
