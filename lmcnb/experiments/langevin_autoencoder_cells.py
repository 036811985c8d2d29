"""What is trained for the Langevin autoencoder's tables: cells, their settings, their images.

A cell is one data set, arm and seed (on a GPU all seeds of an arm, as rows of one program).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcnb.lab.data import load
from lmcnb.methods.langevin_autoencoder import Langevin
from lmcnb.methods.langevin_autoencoder_model import Training
from lmcnb.papers.langevin_autoencoder import Images, by_name


@dataclass(frozen=True)
class Cell:
    """One program: a data set, an arm, some seeds."""

    dataset: str
    arm: str
    seeds: tuple[int, ...]
    training: Training
    images: Images
    directory: Path
    device: str
    deadline: float | None

    @property
    def name(self) -> str:
        """Used in file names: `mnist-LAE-0`."""
        return f"{self.dataset}-{self.arm}-{'_'.join(map(str, self.seeds))}"

    @property
    def result(self) -> Path:
        """Where the finished cell lies."""
        return self.directory / "cells" / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the unfinished cell lies."""
        return self.directory / "checkpoints" / f"{self.name}.pt"

    @property
    def work(self) -> float:
        """Relative cost, for the bar."""
        return steps_of(self) * cost(self.training)


def steps_of(cell: Cell) -> int:
    """Training steps of a cell, without reading its data."""
    known = {"digits": 1500, "svhn": 73257, "cifar10": 50000, "celeba32": 162770}
    size = known.get(cell.dataset, 60000)
    limit = by_name(cell.images.train_images, cell.dataset)
    size = min(size, limit) if limit else size
    return max(1, round(cell.training.epochs * (size // cell.training.batch)))


def cost(t: Training) -> float:
    """Rough cost of a step, for the bar: 1 is the VAE's at full width with bfloat16 products."""
    if t.method == "LAE":
        steps = 0.9 + 0.5 * t.langevin.total
    else:
        steps = 1.2 + 0.35 * t.refinements if t.method == "Hoffman" else 1.0
    return steps * (t.width / 1024) ** 2 * (1 if t.products == "bfloat16" else 2.5)


def training_of(arm: str, dataset: str, images: Images, levels: int) -> Training:
    """The training that an arm's name stands for."""
    base = Training(
        method="LAE" if arm.startswith("LAE") else "VAE",
        epochs=by_name(images.epochs, dataset),
        batch=images.batch,
        learning_rate=images.learning_rate,
        width=images.width,
        latent=by_name(images.latent, dataset),
        levels=levels,
        refinement_step=images.refinement_step,
        langevin=Langevin(step_size=images.step_size, extra_step=images.extra_step),
        products=images.products,
    )
    name, *options = arm.split("-")
    for option in options:
        if option == "float32":
            base = replace(base, products="float32")
        elif option == "long":
            base = replace(base, epochs=base.epochs * images.long)
        elif option == "flow":
            base = replace(base, method="VAE-flow")
        elif name == "Hoffman":
            base = replace(base, method="Hoffman", refinements=int(option))
        else:
            named: dict[str, dict[str, Any]] = {
                "frozen": {"moves": 0},
                "gradient": {"moves": 0, "gradient": True},
                "unadjusted": {"adjusted": False},
                "healthy": {"target_acceptance": images.healthy_acceptance},
            }
            changes = named[option] if option in named else {"moves": int(option)}
            base = replace(base, langevin=replace(base.langevin, **changes))
    return base


def cells_of(run: Any) -> list[Cell]:
    """The cells of `run` (a `lab.Run`), in the order of its settings."""
    images: Images = run.settings.images
    batched = run.device.type == "cuda"
    found = []
    for dataset in images.datasets:
        levels = 17 if dataset == "digits" else 256
        for arm in images.arms:
            training = training_of(arm, dataset, images, levels)
            seeds = tuple(run.seeds[: by_name(images.seeds, arm)])
            where = (images, run.directory, str(run.device), run.deadline)
            groups = [seeds] if batched else [(s,) for s in seeds]
            found += [Cell(dataset, arm, group, training, *where) for group in groups]
    return found


def read_images(dataset: str, limit: int = 0) -> tuple[Tensor, Tensor]:
    """Training and test images, `(n, pixels)` uint8; the first `limit` training images, 0: all."""
    train_images, test_images = (
        torch.from_numpy(load(dataset, split)["images"]).flatten(1) for split in ("train", "test")
    )
    return (train_images[:limit] if limit else train_images), test_images


def spaced(pixels: Tensor, n: int) -> Tensor:
    """`n` evenly spaced images: the first ones of MNIST's test set are easier than the rest."""
    if n >= len(pixels):
        return pixels
    return pixels[torch.linspace(0, len(pixels) - 1, n).round().long()]
