"""Learning generators of images by short-run inference, beside autoencoders (1912.01909).

A finished cell (`short_run_cells`) is a JSON file, written whole; while it trains, a checkpoint
makes a killed or paused run go on where it was. Seeds are paired: with the same seed every arm of
the same network starts with the same generator and sees the images in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import short_run_evaluation as measure
from lmcnb.experiments import short_run_hierarchy as hierarchy
from lmcnb.experiments.short_run_cells import ImageCell, cost, read, shape_of
from lmcnb.lab.files import read_json, remove_checkpoint, save_checkpoint, write_json
from lmcnb.lab.pool import map_cells, report
from lmcnb.lab.randomness import generator
from lmcnb.lab.training import fit
from lmcnb.methods.short_run import Objective
from lmcnb.methods.short_run_marginal import Bracket
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import (
    Streams,
    Trainer,
    doubled,
    spaced,
    to_unit,
)
from lmcnb.models.top_down import TopDown
from lmcnb.papers.short_run import by_name

LOOKS = 12  # points of a learning curve
WATCHED = 1000  # test images of a learning curve
JUDGED = 64  # images of a curve J(s)
SHOWN = 8  # pictures of each kind


def train(found: Sequence[ImageCell], workers: int, desc: str) -> list[dict[str, Any]]:
    """Train all cells that are not finished, on `workers` processes; results in the same order."""
    if any(cell.device.startswith("cuda") for cell in found):
        workers = 1  # they would count each other's time
    return map_cells(train_cell, found, workers=workers, work=[c.work for c in found], desc=desc)


def train_cell(cell: ImageCell) -> dict[str, Any]:
    """Train and evaluate one cell, or read its finished result."""
    if cell.result.exists():
        report(cell.work)
        return read_json(cell.result)
    device = torch.device(cell.device)
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # filling fresh memory would cost time in every step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    trainset, testset = read(cell.dataset, by_name(cell.images.train_images, cell.dataset))
    if len(trainset.images) < cell.training.batch:
        raise UsageError(
            f"images.batch={cell.training.batch}: {cell.dataset} has {len(trainset.images)} "
            "training images here, which do not fill one"
        )
    test = spaced(testset.images, by_name(cell.images.test_images, cell.dataset))

    def stream(what: str, place: torch.device | str = "cpu") -> torch.Generator:
        return generator(cell.seed, f"{cell.dataset}/{what}", place)

    streams = Streams(
        stream("start"),
        stream("order"),
        stream(f"{cell.arm}/noise", device),
        stream("search", device),
    )
    watched = to_unit(spaced(test, WATCHED)).to(device)
    fixed = to_unit(spaced(trainset.images, JUDGED)).to(device)
    grid = by_name(cell.images.grid, cell.dataset)
    wanted = {round(share * LOOKS) for share in cell.images.curve_shares}

    def look(trainer: Trainer) -> dict[str, Any]:
        seen = measure.reconstructions(trainer, watched, stream("watch", device))[0]
        point: dict[str, Any] = {"mse": measure.squared_error(seen, watched)["value"]}
        if cell.arm in cell.images.curves and len(trainer.curve) in wanted:
            own = measure.curve(
                trainer, fixed, grid, stream("curve", device), noisy=cell.training.noisy
            )
            point["objective"] = [judged(o) for o in own]
        return point

    trainer = Trainer(cell.training, trainset.images, streams, look, cell.training.epochs / LOOKS)
    per_update = cost(cell.training)
    fit(
        trainer,
        trainer.iterations,
        cell.checkpoint,
        deadline=cell.deadline,
        report=lambda n: report(n * per_update),
        check_every=20,
    )
    report(cell.work - trainer.done * per_update)
    result = {
        "dataset": cell.dataset,
        "arm": cell.arm,
        "seed": cell.seed,
        "updates": trainer.done,
        "diverged_at": trainer.diverged_at()[0],
        "seconds": trainer.seconds,
        "search_seconds": trainer.search_seconds,
        "parameters": sum(p.numel() for p in trainer.generator.parameters()),
        "step_size": trainer.step_size,
        "searches": trainer.searches,
        "curve": trainer.curve,
        "loss": measure.rounded(spaced(trainer.losses[: trainer.done], 300)),
        "gradients": gradients(cell, trainer),
    }
    if result["diverged_at"] is None:
        result |= evaluate(cell, trainer, to_unit(trainset.images), to_unit(test))
    state = {k: v.detach().cpu() for k, v in trainer.generator.state_dict().items()}
    save_checkpoint(cell.weights, state)
    write_json(cell.result, result)
    remove_checkpoint(cell.checkpoint)
    return result


def gradients(cell: ImageCell, trainer: Trainer) -> int:
    """Gradients of U by z in training, a chain and step each."""
    t = cell.training
    return trainer.done * t.batch * t.steps if t.method in ("SRI", "ABP") else 0


def compared(t: Training) -> bool:
    """Whether a test image also gets longer chains: persistent ones, and those beside them."""
    return t.method == "ABP" or (t.method == "SRI" and t.search == "none" and t.noisy)


def judged(o: Objective) -> dict[str, Any]:
    """A point of a curve J(s), as it is kept; without eigenvalues where there were none."""
    point = {"s": o.step_size, "value": o.value, "se": o.se}
    if o.negative == o.negative:
        point |= {"smallest": o.smallest, "largest": o.largest, "negative": o.negative}
    return point


def both_ends(s: float, found: Bracket) -> dict[str, Any]:
    """A point of the marginal bound's curve, as it is kept."""
    point: dict[str, Any] = {"s": s, "value": found.upper, "se": found.upper_se}
    point["lower"] = found.lower
    if not all(math.isfinite(v) for v in point.values()):
        point |= {"value": None, "se": None, "lower": None}
    return point


def evaluate(cell: ImageCell, trainer: Trainer, train: Tensor, test: Tensor) -> dict[str, Any]:
    """Everything that is measured once, at the end."""
    images, t, device = cell.images, cell.training, trainer.device
    chain = trainer.encoder is None

    def stream(what: str, place: torch.device | str = device) -> torch.Generator:
        return generator(cell.seed, f"{cell.dataset}/{what}", place)

    x = test.to(device)
    sampled, mean = measure.reconstructions(trainer, x, stream("test"))
    few = spaced(x, SHOWN)
    shown = measure.reconstructions(trainer, few, stream("shown"))[0]
    found: dict[str, Any] = {
        "mse": {
            "sampled": measure.squared_error(sampled, x),
            "mean": measure.squared_error(mean, x),
        },
        "latents": measure.latents(trainer, spaced(x, 100), stream("latents")),
        "pictures": {"test": hierarchy.as_levels(few), "reconstructed": hierarchy.as_levels(shown)},
    }
    if compared(t):
        longer, some = [], spaced(x, WATCHED)
        with torch.no_grad():
            for part in some.split(measure.AT_ONCE):
                z = measure.infer(trainer, part, stream("test"), images.persistent_test)[0]
                longer.append(trainer.generator(z))
        found["mse"]["longer"] = measure.squared_error(torch.cat(longer), some)
    made = trainer.generator.cpu()
    found["frechet"] = measure.synthesis(
        made, cell.dataset, t.dim, images.samples, images.classifiers, stream("samples", "cpu")
    )
    with torch.no_grad():
        z = torch.randn(SHOWN, t.dim, generator=stream("pictures", "cpu"))
        found["pictures"]["generated"] = hierarchy.as_levels(made(z))
    trainer.generator.to(device)
    if chain and t.method == "SRI":
        found |= _inpainting(cell, trainer, train, test)
    if cell.arm in images.curves:
        judged_on = spaced(x, JUDGED)
        grid = by_name(images.grid, cell.dataset)
        for name, noisy in (("noisy", True), ("noise_free", False)):
            own = measure.curve(trainer, judged_on, grid, stream("sweep"), noisy=noisy)
            found[f"sweep_{name}"] = [judged(o) for o in own]
        twice = doubled(grid)
        if t.noisy:
            ends = measure.marginal_curve(trainer, judged_on, twice, stream("marginal"))
            found["sweep_marginal"] = [both_ends(s, b) for s, b in ends]
        both = sorted({*grid, *twice})
        errors = measure.error_by_step_size(trainer, spaced(x, WATCHED), both, stream("by s"))
        found["error_by_step_size"] = dict(zip(map(str, both), errors, strict=True))
    if cell.dataset == "coloured_digits" and isinstance(made, TopDown) and len(t.latent) > 1:
        found["effects"] = hierarchy.effects(made, cell.dataset, stream("effects", "cpu"))
        found["pictures"]["layers"] = hierarchy.grids(made, stream("grids", "cpu"))
    return found


def _inpainting(cell: ImageCell, trainer: Trainer, train: Tensor, test: Tensor) -> dict[str, Any]:
    t = cell.training
    x = spaced(test, 300)
    stream = generator(cell.seed, f"{cell.dataset}/inpainting")
    found: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for name, mask in measure.masks(len(x), shape_of(cell.dataset), stream).items():
        z, noise = (
            torch.randn(*shape, generator=stream).to(trainer.device)
            for shape in ((len(x), t.dim), (t.steps, len(x), t.dim))
        )
        there, seen = x.to(trainer.device), mask.to(trainer.device)
        own = measure.inpaint(
            trainer.generator, there, seen, t.sigma, trainer.step_size, z, noise
        ).cpu()
        found[name] = {"SRI": measure.hidden_error(own, x, mask)}
        for fill, other in measure.fills(train, x, mask).items():
            found[name][fill] = measure.hidden_error(other, x, mask)
        at = torch.linspace(0, len(x) - 1, SHOWN).round().long()
        shown[name] = {
            "original": hierarchy.as_levels(x[at]),
            "mask": mask[at].to(torch.uint8).tolist(),
            "inpainted": hierarchy.as_levels(own[at]),
        }
    return {"inpainting": found, "inpainted": shown}
