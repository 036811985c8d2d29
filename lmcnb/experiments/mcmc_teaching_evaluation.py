"""What is measured of a model of images that was taught (2012.14936).

Samples are judged by the Frechet distance in the features of small classifiers trained here (FCD;
not the FID), against the training images, as the released code does; `floor` is that of the test
images, `ceiling` that of uniform noise. Images are clipped to [-1, 1] before they are judged. They
are made in batches of as many chains as in training, since the decoder's batch normalization, where
there is one, makes an image depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lmcnb.evaluation.classifier import Classifier
from lmcnb.evaluation.frechet import frechet_distance
from lmcnb.experiments import mcmc_teaching_tasks as tasks
from lmcnb.experiments.mcmc_teaching_cells import TeachingCell, borrowed, number, rounded
from lmcnb.experiments.mcmc_teaching_sets import read
from lmcnb.lab.randomness import generator
from lmcnb.methods.mcmc_teaching import call, revise
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.energy import density

SHOWN = 10  # pictures of each kind
PATHS, ALONG = 96, 17  # interpolations, and points of each
ANSWERS = 16  # samples whose mean restores an image
REFERENCE = 10_000  # at most so many training images are the reference


def evaluate(
    cell: TeachingCell, trainer: Trainer, test: tasks.Arranged, dataset: str, wanted: Sequence[int]
) -> dict[str, Any]:
    """Everything that is measured once, at the end.

    Args:
        cell: settings and random streams.
        trainer: the trained model.
        test: held-out images as the task sees them.
        dataset: of the classifiers.
        wanted: numbers of steps after which the same chains are looked at.
    """
    s, device = cell.settings, trainer.device
    found: dict[str, Any] = {}
    if test.hidden is None:
        with borrowed(trainer, cell.stream("samples", device)):
            made = samples(trainer, s.samples, test.c)
        found["frechet"] = {k: fcd(x, dataset, s.classifiers) for k, x in made.items()}
        found["frechet"] |= limits(dataset, s.samples, s.classifiers)
        found["n"] = s.samples
        found["classes"] = classes(made[last(made)], test.c, dataset)
        found["pictures"] = {k: shown(x) for k, x in made.items()}
    if test.hidden is None and test.c is None and trainer.energy is not None:
        found["by_steps"] = by_steps(cell, trainer, dataset, wanted)
    if trainer.encoder is not None and test.c is None:
        with borrowed(trainer, cell.stream("reconstructions", device)):
            back = reconstructions(trainer, test)
        found["mse"] = {k: squared_error(x, test.x) for k, x in back.items()}
        at = spaced(len(test.x))
        found["reconstructed"] = {k: shown(x[at]) for k, x in {"test": test.x, **back}.items()}
    if trainer.decoder is not None and test.c is None:
        with borrowed(trainer, cell.stream("interpolation", device)):
            found |= interpolation(trainer)
    if test.hidden is not None:
        with borrowed(trainer, cell.stream("completion", device)):
            found |= completion(trainer, test, whole=cell.group != "digits" or cell.data != "half")
    return found


def last(made: dict[str, Tensor]) -> str:
    """Which samples stand for the model: the revised ones, if there are."""
    return "revised" if "revised" in made else "initial"


@torch.no_grad()
def samples(trainer: Trainer, n: int, c: Tensor | None = None) -> dict[str, Tensor]:
    """`n` images on the CPU, clipped: of the start ("initial") and revised, if there are such.

    Conditions c are repeated until there are enough. A VAE's are its decoder's means.
    """
    if trainer.chains is not None:
        return {"revised": clipped(trainer.chains[:n])}
    size = trainer.teaching.chains
    whole = -(-n // size) * size
    given = None if c is None else c.repeat(-(-whole // len(c)), 1)[:whole].to(trainer.device)
    made: dict[str, list[Tensor]] = {}
    for k in range(0, whole, size):
        part = None if given is None else given[k : k + size]
        if trainer.energy is None:
            x = call(trainer.decoder, trainer.normal(size, trainer.latent), part)  # type: ignore[arg-type]
            made.setdefault("initial", []).append(clipped(x))
            continue
        _, x, _ = trainer.begin(size, part)  # type: ignore[assignment]
        made.setdefault("initial", []).append(clipped(x))
        made.setdefault("revised", []).append(clipped(trainer.revised(x, part)))
    return {name: torch.cat(parts)[:n] for name, parts in made.items()}


def clipped(x: Tensor) -> Tensor:
    """In [-1, 1], on the CPU; what is no number, or infinite, is NaN."""
    x = x.detach().cpu()
    return torch.where(x.isfinite(), x.clamp(-1, 1), torch.nan)


@cache
def reference(dataset: str) -> tuple[Tensor, Tensor]:
    """The first training images, and their labels."""
    train = read(dataset, "train")
    return train.images[:REFERENCE], train.labels[:REFERENCE]


@cache
def classifiers(dataset: str, count: int) -> list[Classifier]:
    """Classifiers of the training images, seeds 0, 1, ..."""
    train = read(dataset, "train")
    return [Classifier.fit(train.images, train.labels, seed=seed) for seed in range(count)]


def fcd(x: Tensor, dataset: str, count: int) -> list[float | None]:
    """Frechet distances from the training images, one a classifier; None if x is not finite."""
    if not bool(torch.isfinite(x).all()):
        return [None] * count
    against, _ = reference(dataset)
    found = [
        frechet_distance(k.features(x), k.features(against)) for k in classifiers(dataset, count)
    ]
    return [number(v) for v in found]


@cache
def limits(dataset: str, n: int, count: int) -> dict[str, Any]:
    """FCD of the test images (floor) and of uniform noise (ceiling), and classifiers' accuracy."""
    test = read(dataset, "test")
    shape = (n, test.images.shape[1])
    noise = 2 * torch.rand(shape, generator=generator(0, f"{dataset}/ceiling")) - 1
    return {
        "floor": fcd(test.images, dataset, count),
        "ceiling": fcd(noise, dataset, count),
        "accuracy": [k.accuracy(test.images, test.labels) for k in classifiers(dataset, count)],
    }


def by_steps(
    cell: TeachingCell, trainer: Trainer, dataset: str, wanted: Sequence[int]
) -> list[dict[str, Any]]:
    """FCD of the same chains, longer and longer; persistent ones go on from where they are.

    Of as many samples as the other distances, which depend on their number.
    """
    s, size, device = cell.settings, cell.teaching.chains, trainer.device
    with borrowed(trainer, cell.stream("by steps", device)):
        if trainer.chains is not None:
            parts = list(trainer.chains[: s.samples].split(size))
        else:
            with torch.no_grad():
                parts = [trainer.begin(size)[1] for _ in range(-(-s.samples // size))]  # type: ignore[misc]
        done, found = 0, []
        for steps in sorted({0, *wanted}):
            parts = [trainer.revised(x, steps=steps - done) for x in parts]
            done, x = steps, clipped(torch.cat(parts)[: s.samples])
            own = fcd(x, dataset, s.classifiers)
            found.append({"steps": steps, "frechet": own, "shown": shown(x)})
    return found


@torch.no_grad()
def reconstructions(trainer: Trainer, test: tasks.Arranged) -> dict[str, Tensor]:
    """Test images decoded from the mean of q, and revised by K steps where there is an energy.

    In batches as in training; the last is filled up with the first images.
    """
    assert trainer.encoder is not None and trainer.decoder is not None
    size, n = trainer.teaching.chains, len(test.x)
    rows = torch.arange(-(-n // size) * size) % n
    made: dict[str, list[Tensor]] = {}
    for some in rows.split(size):
        x = test.x[some].to(trainer.device)
        decoded = trainer.decoder(trainer.encoder(x)[0])
        made.setdefault("decoded", []).append(clipped(decoded))
        if trainer.energy is not None:
            made.setdefault("revised", []).append(clipped(trainer.revised(decoded)))
    return {name: torch.cat(parts)[:n] for name, parts in made.items()}


@torch.no_grad()
def interpolation(trainer: Trainer) -> dict[str, Any]:
    """Straight lines between two latents, decoded, and revised where there is an energy.

    The noise of the revision is the same all along a line: fresh noise would leave no path smooth.
    `jump`: the largest distance of neighbours over the distance of the ends, mean over lines (None
    where ends coincide); on a straight line of images it is 1 / (points - 1).
    """
    assert trainer.decoder is not None
    a, b = (trainer.normal(PATHS, 1, trainer.latent) for _ in range(2))
    t = torch.linspace(0, 1, ALONG, device=trainer.device).view(1, -1, 1)
    z, size = ((1 - t) * a + t * b).flatten(0, 1), trainer.teaching.chains
    rows = torch.arange(-(-len(z) // size) * size, device=z.device) % len(z)
    paths = {"decoded": torch.cat([trainer.decoder(z[k]) for k in rows.split(size)])[: len(z)]}
    if trainer.energy is not None:
        s, dim = trainer.teaching, paths["decoded"].shape[1]
        e = trainer.normal(s.steps, PATHS, 1, dim).expand(-1, -1, ALONG, -1).flatten(1, 2)
        target = density(trainer.energy, s.reference)
        given = e if s.noisy else None
        paths["revised"] = revise(target, paths["decoded"], s.step_size, s.steps, given)
    found: dict[str, Any] = {"jump": {"straight": 1 / (ALONG - 1)}, "paths": {}}
    for name, x in paths.items():
        path = clipped(x).view(PATHS, ALONG, -1)
        steps = (path[:, 1:] - path[:, :-1]).norm(dim=-1).amax(-1)
        ends = (path[:, -1] - path[:, 0]).norm(dim=-1)
        found["jump"][name] = number(float((steps / ends).mean()))
        found["paths"][name] = [shown(p) for p in path[:3]]
    return found


def classes(x: Tensor, c: Tensor | None, dataset: str) -> dict[str, Any]:
    """Shares of the classes that a classifier sees in images; with labels, how often it agrees."""
    if not bool(torch.isfinite(x).all()):
        return {"shares": [], "entropy": None}
    seen = classifiers(dataset, 1)[0].predict(x)
    shares = torch.bincount(seen, minlength=tasks.CLASSES).double() / len(seen)
    entropy = float(torch.special.entr(shares).sum())
    found: dict[str, Any] = {"shares": rounded(shares.tolist()), "entropy": entropy}
    if c is not None:
        asked = c.argmax(-1).repeat(-(-len(x) // len(c)))[: len(x)]
        found["accuracy"] = float((seen == asked).double().mean())
    return found


@torch.no_grad()
def completion(trainer: Trainer, test: tasks.Arranged, *, whole: bool = True) -> dict[str, Any]:
    """Hidden pixels restored by one sample, and by the mean of several: PSNR in dB.

    `whole`: whether x is the whole image; else its lower half, and c the upper.
    """
    assert test.c is not None and test.hidden is not None
    every: dict[str, list[Tensor]] = {}
    for _ in range(ANSWERS):
        for name, x in samples(trainer, len(test.x), test.c).items():
            every.setdefault(name, []).append(x)
    found: dict[str, Any] = {}
    for name, answers in every.items():
        for kind, x in (("one", answers[0]), ("mean", torch.stack(answers).mean(0))):
            found[f"{name}/{kind}"] = restored(x, test)
    name = "revised" if "revised" in every else "initial"
    return {"psnr": found, "completed": pictured(test, every[name][0], whole=whole)}


def restored(x: Tensor, test: tasks.Arranged) -> dict[str, Any]:
    """PSNR in dB of hidden pixels."""
    assert test.hidden is not None
    value, se = tasks.psnr(x, test.x, test.hidden)
    return {"value": number(value), "se": number(se), "n": len(x)}


def pictured(test: tasks.Arranged, answer: Tensor, *, whole: bool = True) -> dict[str, Any]:
    """Some test images, what is seen of them, and what they were completed to; see `completion`."""
    assert test.c is not None and test.hidden is not None
    at, pixels = spaced(len(test.x)), test.x.shape[1]
    x, c, hidden = test.x[at], test.c[at], test.hidden[at]
    if whole:
        kinds = [x, c[:, :pixels], torch.where(hidden > 0, answer[at], x)]
    else:
        kinds = [torch.cat([c, v], 1) for v in (x, 0 * x, answer[at])]
    return dict(zip(("test", "seen", "completed"), map(shown, kinds), strict=True))


def squared_error(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Mean over pixels and images, with its standard error over images."""
    own = (a - b).square().mean(-1).double()
    mean, se = float(own.mean()), float(own.std()) / len(own) ** 0.5
    return {"value": number(mean), "se": number(se), "n": len(own)}


def spaced(n: int) -> Tensor:
    """Evenly spaced rows, for pictures."""
    return torch.linspace(0, n - 1, min(n, SHOWN)).round().long()


def shown(x: Tensor) -> list[list[int]]:
    """The first images, 0 ... 255."""
    levels = (x[:ALONG].nan_to_num(0) * 127.5 + 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).tolist()
