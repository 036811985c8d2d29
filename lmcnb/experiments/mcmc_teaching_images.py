"""Teaching energy-based models of images: digits by perceptrons, other sets by the code's networks.

Guaranteed: with the same seed every arm of a task starts with the same networks and sees the same
images. A finished cell is a JSON file, written whole; a killed or paused one goes on from its
checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from lmcnb.experiments import mcmc_teaching_evaluation as measure
from lmcnb.experiments import mcmc_teaching_tasks as tasks
from lmcnb.experiments.mcmc_teaching_cells import (
    TeachingCell,
    borrowed,
    cell,
    cost,
    deterministic,
    finished,
    keep,
    rounded,
    train,
)
from lmcnb.experiments.mcmc_teaching_sets import pairs, read
from lmcnb.lab.files import write_json
from lmcnb.lab.pool import map_cells, report
from lmcnb.methods.mcmc_teaching_data import Networks, Streams, from_images
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models import coop_networks
from lmcnb.models.energy import EnergyMLP
from lmcnb.models.mlp import Decoder, Posterior
from lmcnb.papers.mcmc_teaching_arms import REGRESSION
from lmcnb.papers.unbiased_vae import by_name

WATCHED = 500  # samples of a learning curve
PAIRS = "cifar10"  # the networks of paired images, 32 x 32 in colour


def digits_of(run: Any) -> list[TeachingCell]:
    """The cells of digits, in the order of the settings."""
    d = run.settings.digits
    return [
        cell(run, "digits", task, arm, seed, d)
        for task in d.tasks
        for arm in by_name(d.arms, task)
        for seed in run.seeds[: 1 if arm in d.once else None]
    ]


def images_of(run: Any) -> list[TeachingCell]:
    """The cells of the other sets."""
    s = run.settings.images
    return [
        cell(run, "images", dataset, arm, seed, s.models[dataset])
        for dataset in s.datasets
        for arm in s.models[dataset].arms
        for seed in run.seeds
    ]


def study(found: Sequence[TeachingCell], workers: int, desc: str) -> list[dict[str, Any]]:
    """Train and evaluate all cells that are not finished; results in the same order."""
    if any(c.device.startswith("cuda") for c in found):
        workers = 1  # they would count each other's time
    work = [c.work for c in found]
    return map_cells(train_cell, found, workers=workers, work=work, desc=desc)


def train_cell(cell: TeachingCell) -> dict[str, Any]:
    """Train and evaluate one cell, or read its finished result."""
    if (old := finished(cell)) is not None:
        return old
    deterministic(cell.device)
    own, test = arranged(cell)
    if cell.arm == REGRESSION:
        return regression(cell, own, test)
    dataset = "digits" if cell.group == "digits" else cell.data

    def look(trainer: Trainer) -> dict[str, Any]:
        point = {}
        with borrowed(trainer, cell.stream("look", trainer.device)):
            if test.hidden is None:
                made = measure.samples(trainer, WATCHED, test.c)
                point = {f"fcd/{k}": measure.fcd(x, dataset, 1)[0] for k, x in made.items()}
            if trainer.encoder is not None and test.c is None:
                some = test._replace(x=test.x[:WATCHED])
                decoded = measure.reconstructions(trainer, some)["decoded"]
                point["mse"] = float((decoded - some.x).square().mean())
        return {k: None if v is None else rounded([v])[0] for k, v in point.items()}

    trainer = Trainer(
        cell.teaching,
        networks(cell, own),
        on_device(cell, own),
        cell.streams(),
        look,
        max(1, cell.teaching.iterations // cell.settings.looks),
    )
    result = train(cell, trainer)
    if result["diverged_at"] is None:
        K = cell.teaching.steps
        wanted = [K, 2 * K, 10 * K, cell.settings.longest]
        result |= measure.evaluate(cell, trainer, test, dataset, wanted)
    return keep(cell, trainer, result)


def on_device(cell: TeachingCell, own: tasks.Arranged) -> Any:
    """Draws of the training images, kept on the cell's device."""
    device = torch.device(cell.device)
    return from_images(own.x.to(device), None if own.c is None else own.c.to(device))


def arranged(cell: TeachingCell) -> tuple[tasks.Arranged, tasks.Arranged]:
    """Training and test images as the cell's task sees them."""
    if cell.data == "pairs":
        return pairs(cell.settings.folder, coop_networks.ARCHITECTURES[PAIRS].image[1])
    digits = cell.group == "digits"
    dataset = "digits" if digits else cell.data
    found = []
    for split in ("train", "test"):
        images, labels, shape = read(dataset, split)
        if split == "train" and cell.settings.train_images:
            images, labels = (v[: cell.settings.train_images] for v in (images, labels))
        stream = cell.stream(f"{split}/blocks")
        found.append(tasks.arrange(cell.task, images, labels, shape, stream, whole=not digits))
    return found[0], found[1]


def networks(cell: TeachingCell, own: tasks.Arranged) -> Networks:
    """Perceptrons with two hidden layers for digits, else the code's; drawn from the seed alone."""
    latent, dim = cell.settings.latent, own.x.shape[1]
    condition = 0 if own.c is None else own.c.shape[1]
    if cell.group == "digits":
        width = [cell.settings.width] * 2
        return Networks(
            EnergyMLP(dim, width, cell.stream("energy"), condition),
            Posterior(dim, width, latent, cell.stream("encoder"), condition=condition),
            Decoder(latent, width, dim, cell.stream("decoder"), condition=condition, bounded=True),
        )
    name = PAIRS if cell.data == "pairs" else cell.data
    name = "mnist" if name == "fashion_mnist" else name
    side = coop_networks.ARCHITECTURES[name].image[1]
    of = None
    if condition:
        of = (condition,) if condition < side * side else (condition // side**2, side, side)
    made = coop_networks.networks(
        name, latent, cell.stream("networks"), of, conv_std=cell.settings.conv_std
    )
    if cell.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        for net in made:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Networks(*made)


def price(cell: TeachingCell, iterations: int = 3) -> dict[str, Any]:
    """What an iteration costs here, and so an epoch and the whole training; seconds of the clock.

    Measured on networks of its own, after one iteration that is not counted, if there is another.
    """
    own, _ = arranged(cell)
    device = torch.device(cell.device)
    streams = Streams(cell.stream("price", device), cell.stream("price", device))
    trainer = Trainer(cell.teaching, networks(cell, own), on_device(cell, own), streams)
    iterations = min(iterations, cell.teaching.iterations)
    if iterations < cell.teaching.iterations:
        trainer.step()
    started = time.perf_counter()
    for _ in range(iterations):
        trainer.step()
    float(trainer.gaps.sum())  # waits for a GPU
    each = (time.perf_counter() - started) / iterations
    per_epoch = len(own.x) / cell.teaching.batch
    return {
        "cell": cell.title,
        "seconds an iteration": each,
        "iterations an epoch": per_epoch,
        "minutes an epoch": each * per_epoch / 60,
        "epochs": cell.teaching.iterations / per_epoch,
        "hours in all": each * cell.teaching.iterations / 3600,
    }


def regression(cell: TeachingCell, own: tasks.Arranged, test: tasks.Arranged) -> dict[str, Any]:
    """The baseline of completion: a perceptron from the condition to the hidden pixels.

    scikit-learn's, of the same width, with early stopping on a tenth of the training images.
    """
    assert own.c is not None and test.c is not None
    network = MLPRegressor(hidden_layer_sizes=[cell.settings.width] * 2, random_state=cell.seed,
                           max_iter=300, early_stopping=True)  # fmt: skip
    network.fit(own.c.double().numpy(), own.x.double().numpy())
    answer: Tensor = torch.from_numpy(network.predict(test.c.double().numpy())).float()
    answer = answer.clamp(-1, 1)
    result = {
        "group": cell.group,
        "data": cell.data,
        "task": cell.task,
        "arm": cell.arm,
        "teacher": REGRESSION,
        "title": cell.title,
        "seed": cell.seed,
        "iterations": network.n_iter_,
        "diverged_at": None,
        "psnr": {"initial/mean": measure.restored(answer, test)},
        "completed": measure.pictured(test, answer, whole=cell.data != "half"),
    }
    report(cell.teaching.iterations * cost(cell.teaching))
    write_json(cell.result, result)
    return result
