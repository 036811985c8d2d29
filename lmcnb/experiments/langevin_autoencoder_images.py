"""Image modelling with the Langevin autoencoder and its baselines (2209.07036: tables, figure 4).

A finished cell (`langevin_autoencoder_cells`) is a JSON file, written whole; while it trains, a
checkpoint makes a killed or paused run go on where it was. Seeds are paired: with the same seed
every arm starts with the same decoder and features and sees the images in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError, UserError
from lmcnb.experiments.langevin_autoencoder_cells import Cell, cost, read_images, spaced, steps_of
from lmcnb.kernels.gradients import linearize
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
from lmcnb.methods.langevin_autoencoder import amortized, gram
from lmcnb.methods.langevin_autoencoder_bounds import (
    importance_weighted,
    negative_elbo,
    posterior,
    refined,
)
from lmcnb.methods.langevin_autoencoder_fast import part
from lmcnb.methods.langevin_autoencoder_model import Model
from lmcnb.methods.langevin_autoencoder_training import Streams, Trainer
from lmcnb.models.discretized_logistic import scale_of, to_grid
from lmcnb.papers.langevin_autoencoder import by_name

BLOCKS = 300  # points kept of the acceptance and loss curves
MONITORED = 1000  # test images of a learning curve, evenly spaced
LOOKS = 50  # points of a learning curve


def train(found: Sequence[Cell], workers: int, desc: str) -> list[dict[str, Any]]:
    """Train all cells that are not finished, on `workers` processes; results in the same order."""
    workers = 1 if together(found) else workers
    return map_cells(train_cell, found, workers=workers, work=[c.work for c in found], desc=desc)


def together(found: Sequence[Cell]) -> bool:
    """Whether cells share a GPU: one at a time then, or they would count each other's time."""
    return any(cell.device.startswith("cuda") for cell in found)


def train_cell(cell: Cell) -> dict[str, Any]:
    """Train and evaluate one cell, or read its finished result."""
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    device = torch.device(cell.device)
    deterministic(device)
    limit = by_name(cell.images.train_images, cell.dataset)
    train_images, test_images = read_images(cell.dataset, limit)
    if len(train_images) < cell.training.batch:
        raise UsageError(
            f"images.batch={cell.training.batch}: {cell.dataset} has {len(train_images)} training "
            "images here, which do not fill one"
        )
    streams = [
        Streams(
            generator(seed, f"{cell.dataset}/start", device),
            generator(seed, f"{cell.dataset}/order"),
            generator(seed, f"{cell.dataset}/{cell.arm.removesuffix('-float32')}/noise", device),
        )
        for seed in cell.seeds
    ]
    watched = spaced(test_images, MONITORED).to(device)
    fixed = spaced(train_images, cell.training.batch).to(device)
    exact = Model(cell.training, train_images.shape[1])

    def monitor(trainer: Trainer) -> dict[str, Any]:
        return look(cell, trainer, exact, watched, fixed)

    every = max(1, steps_of(cell) // LOOKS)
    trainer = Trainer(cell.training, train_images, streams, monitor, every)
    per_step = cost(cell.training)
    fit(
        trainer,
        trainer.iterations,
        cell.checkpoint,
        deadline=cell.deadline,
        report=lambda n: report(n * per_step),
        check_every=50,
    )
    report(cell.work - trainer.done * per_step)
    result = {
        "dataset": cell.dataset,
        "arm": cell.arm,
        "seeds": evaluate(cell, trainer, exact, train_images, test_images),
        "iterations": trainer.done,
        "seconds": trainer.seconds,
        "parameters": sum(v[0].numel() for v in trainer.parameters.values()),
        "decoder_calls": decoder_calls(trainer),
    }
    parameters = {k: v.cpu().clone() for k, v in trainer.parameters.items()}
    save_checkpoint(cell.result.with_suffix(".pt"), parameters)
    write_json(cell.result, result)
    remove_checkpoint(cell.checkpoint)
    return result


def deterministic(device: torch.device) -> None:
    """Deterministic algorithms in this process, which may be a worker's."""
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # filling fresh memory would cost an eighth of a step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


def refine(found: Sequence[Cell], workers: int, desc: str) -> list[dict[str, Any]]:
    """The refined bound of every trained cell (`bounds.refined`); results in the same order."""
    workers = 1 if together(found) else workers
    return map_cells(refine_cell, found, workers=workers, work=[1.0] * len(found), desc=desc)


def refine_cell(cell: Cell) -> dict[str, Any]:
    """Fit posteriors to test images, image by image, and keep the bound; or read what was kept."""
    file = cell.result.with_name(f"{cell.name}-refined.json")
    if file.exists():
        report(1.0)
        return read_json(file)
    device = torch.device(cell.device)
    deterministic(device)
    _, test_images = read_images(cell.dataset, 1)
    seen = spaced(test_images, by_name(cell.images.refined_images, cell.dataset)).to(device)
    stored = load_checkpoint(cell.result.with_suffix(".pt"))
    if stored is None:
        raise UserError(f"{cell.name}: its parameters are not there; remove {cell.result.name}")
    p = {k: v.to(device) for k, v in stored.items()}
    model = Model(cell.training, seen.shape[1])
    fresh = [generator(s, f"{cell.dataset}/refined", device) for s in cell.seeds]
    bound = refined(model, p, seen, fresh, cell.images.importance_samples)
    pixels = seen.shape[1]
    finite = torch.isfinite(bound.value).all(-1)
    result = {
        "dataset": cell.dataset,
        "arm": cell.arm,
        "seeds": [
            {"seed": seed, "refined": moments(v / pixels, e / pixels) if ok else None}
            for seed, v, e, ok in zip(cell.seeds, bound.value, bound.se, finite, strict=True)
        ],
    }
    write_json(file, result)
    report(1.0)
    return result


def decoder_calls(trainer: Trainer) -> int:
    """Images passed through the decoder in training, over all rows."""
    t = trainer.training
    per_step = {"LAE": 1 + t.langevin.total, "Hoffman": 2 + t.refinements}.get(t.method, 1)
    return trainer.done * t.batch * per_step * trainer.rows


def look(
    cell: Cell, trainer: Trainer, model: Model, watched: Tensor, fixed: Tensor
) -> dict[str, Any]:
    """A point of the learning curve; every list has one entry a seed."""
    p, pixels = trainer.parameters, trainer.model.pixels
    fresh = [generator(seed, f"{cell.dataset}/monitor", trainer.device) for seed in cell.seeds]
    bound = negative_elbo(model, p, watched, fresh, cell.images.posterior_width)
    seen: dict[str, Any] = {
        "nelbo": rounded(bound.mean(-1) / pixels),
        "scale": rounded(scale_of(p["b"]).view(-1)),
    }
    if cell.training.method != "LAE":
        return seen
    x = to_grid(fixed, cell.training.levels).to(trainer.device)
    with torch.no_grad():
        h = model.body.forward(part(p, "body"), x.expand(trainer.rows, *x.shape))
        K = gram(h)
    eta = trainer.log_step.exp() / cell.training.batch
    seen |= {
        "smallest": rounded(K.smallest),
        "largest": rounded(K.largest),
        "rank": [int(r) for r in K.rank],
        "step_size": rounded(eta),
        "stability": rounded(eta.double() * largest_curvature(model, p, x, h)),
    }
    return seen


def largest_curvature(model: Model, p: dict[str, Tensor], x: Tensor, h: Tensor) -> Tensor:
    """The largest eigenvalue (in magnitude) of the Hessian of V in Phi, `(rows)`, power iteration.

    Langevin steps are stable where eta times this is below 2.
    """

    def log_joint(z: Tensor) -> Tensor:
        return model.log_likelihood(p, x, z) - 0.5 * z.square().sum(-1)

    _, product = linearize(amortized(log_joint, h), p["phi"])
    v = torch.ones_like(p["phi"])
    for _ in range(POWER_ITERATIONS):
        v = product(v / v.norm(dim=-1, keepdim=True))
    return v.norm(dim=-1).double()


POWER_ITERATIONS = 20


def evaluate(
    cell: Cell, trainer: Trainer, model: Model, train_images: Tensor, test_images: Tensor
) -> list[dict[str, Any]]:
    """What is kept of every seed: bounds on all test images, curves, and a few reconstructions."""
    images, p, pixels = cell.images, trainer.parameters, model.pixels
    lae = cell.training.method == "LAE"
    diverged = trainer.diverged_at()

    def streams(what: str) -> list[torch.Generator]:
        return [generator(s, f"{cell.dataset}/{what}", trainer.device) for s in cell.seeds]

    widths = images.posterior_widths if lae else [images.posterior_width]
    bounds = {}
    for w in {*widths, images.posterior_width}:
        draws = [negative_elbo(model, p, test_images, streams(f"elbo/{i}"), w) for i in (0, 1)]
        bounds[w] = (
            (draws[0] + draws[1]) / (2 * pixels),
            (draws[0] - draws[1]).abs() / (2 * pixels),
        )
    k, n = images.importance_samples, by_name(images.importance_images, cell.dataset)
    few, many = spaced(train_images, max(1, n // 4)), spaced(test_images, n)

    def weighted(seen: Tensor, what: str) -> dict[float, tuple[Tensor, Tensor]]:
        found = {w: importance_weighted(model, p, seen, streams(what), k, w) for w in widths}
        return {w: (b.value / pixels, b.se / pixels) for w, b in found.items()}

    on_train = weighted(few, "choose") if len(widths) > 1 else {}
    on_test = weighted(many, "weighted")
    found = []
    for r, seed in enumerate(cell.seeds):
        own = [b[r] for b in bounds[images.posterior_width]]
        best = min(on_train, key=lambda w: float(on_train[w][0][r].mean()), default=widths[0])
        lost = diverged[r] is not None or not bool(torch.isfinite(own[0]).all())
        found.append(
            {
                "seed": seed,
                "diverged_at": (diverged[r] or trainer.done) if lost else None,
                "nelbo": None if lost else moments(*own),
                "by_width": {str(w): moments(b[0][r], b[1][r]) for w, b in bounds.items()}
                if lae and not lost
                else {},
                "weighted": None if lost else moments(*(b[r] for b in on_test[best])),
                "weighted_by_width": {str(w): moments(b[0][r], b[1][r]) for w, b in on_test.items()}
                if lae and not lost
                else {},
                "weighted_width": best if lae else None,  # chosen on training images
                "scale": rounded(scale_of(p["b"]).view(-1))[r],
                "seconds": trainer.seconds / trainer.rows,
                "curve": [
                    {k: v[r] if isinstance(v, list) else v for k, v in point.items()}
                    for point in trainer.curve
                ],
                "acceptance": blocks(trainer.acceptance[: trainer.done, r]) if lae else None,
                "loss": blocks(trainer.losses[: trainer.done, r] / pixels),
                "pictures": None if lost else pictures(model, p, test_images, r),
            }
        )
    return found


@torch.no_grad()
def pictures(model: Model, p: dict[str, Tensor], test_images: Tensor, r: int) -> list[list[int]]:
    """The decoder's means of eight test images, at their latent means, as levels of the grid."""
    pixels = spaced(test_images, 8)
    own = {k: v[r : r + 1] for k, v in p.items()}
    x = to_grid(pixels, model.t.levels).to(own["b"].device)[None]
    mean = model.decoder.forward(part(own, "decoder"), posterior(model, own, x, 1.0)[0])[0]
    levels = ((mean.clamp(-1, 1) + 1) / 2 * (model.t.levels - 1)).round().to(torch.uint8).cpu()
    return [row.tolist() for row in levels]


def moments(values: Tensor, errors: Tensor) -> dict[str, Any]:
    """Mean over the images at hand; its error is that of the draws of z, the images are fixed."""
    return {
        "value": float(values.mean()),
        "se": float(errors.square().sum().sqrt()) / len(values),
        "n": len(values),
    }


def blocks(values: Tensor) -> dict[str, Any]:
    """Means of consecutive steps, at most BLOCKS of them, with the number of steps in each."""
    every = -(-len(values) // BLOCKS)
    parts = values.double().cpu().split(every)
    return {"every": every, "mean": rounded(torch.stack([b.mean() for b in parts]))}


def rounded(values: Tensor) -> list[float | None]:
    """Six significant digits; None where it is not a number."""
    return [
        float(f"{v:.6g}") if v == v and abs(v) != float("inf") else None for v in values.tolist()
    ]
