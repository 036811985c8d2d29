"""What is trained for the short-run notebook: cells, their settings, their images.

A cell is one data set, arm and seed. Images are float in [-1, 1] or uint8, flattened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.lab.cells import Cell
from lmcnb.lab.data import load
from lmcnb.lab.randomness import generator
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import to_unit
from lmcnb.papers.short_run import Images, by_name, parse_arm

SIZES = {"digits": 1500, "coloured_digits": 1500, "svhn": 73257, "cifar10": 50000}
SHAPES = {"digits": (8, 8), "coloured_digits": (3, 8, 8), "mnist": (28, 28)}
SHAPES |= {"fashion_mnist": (28, 28)}


@dataclass(frozen=True)
class ImageCell(Cell):
    """One training and its evaluation."""

    dataset: str
    arm: str
    seed: int
    training: Training
    images: Images

    @property
    def updates(self) -> int:
        """Of the training, without reading the data."""
        limit = by_name(self.images.train_images, self.dataset)
        size = SIZES.get(self.dataset, 60000)
        size = min(size, limit) if limit else size
        return max(1, round(self.training.epochs * (size // self.training.batch)))

    @property
    def work(self) -> float:
        """Relative cost, for the bar."""
        return self.updates * cost(self.training)


def cost(t: Training) -> float:
    """Rough cost of an update, for the bar: 1 is a one-layer VAE's."""
    chain = 0.18 * t.steps * {"none": 1, "grid": 1.6, "gradient": 6, "marginal": 5}[t.search]
    depth = 0.2 + 0.8 * len(t.latent)
    return depth * (t.width / 128) ** 2 * (chain if t.method in ("SRI", "ABP") else 1)


def training_of(arm: str, dataset: str, images: Images) -> Training:
    """The training that an arm's name stands for."""
    said = parse_arm(arm)
    return Training(
        method=said.model,  # type: ignore[arg-type]
        latent=tuple(images.latent[str(said.layers)]),
        width=by_name(images.width, dataset),
        variant=said.variant,  # type: ignore[arg-type]
        network=by_name(images.network, dataset),
        sigma=images.sigma,
        epochs=by_name(images.epochs, dataset) * said.times,
        batch=images.batch,
        learning_rate=images.learning_rate,
        decay=tuple(images.decay),
        steps=said.steps or images.steps,
        step_size=said.step_size or by_name(images.step_size, dataset),
        noisy=said.noisy,
        search=said.search,  # type: ignore[arg-type]
        search_from=by_name(images.search_from, dataset),
        search_every=by_name(images.search_every, dataset),
        search_images=images.search_images,
        search_chains=images.search_chains,
        grid=tuple(by_name(images.grid, dataset)),
        search_start=by_name(images.grid, dataset)[0],
    )


def cells_of(run: Any) -> list[ImageCell]:
    """The cells of `run` (a `lab.Run`), in the order of its settings."""
    images: Images = run.settings.images
    found = []
    for dataset in images.datasets:
        for arm in by_name(images.arms, dataset):
            training = training_of(arm, dataset, images)
            for seed in run.seeds[: by_name(images.seeds, dataset)]:
                name = f"{dataset}-{arm}-{seed}"
                where = (name, run.directory, str(run.device), run.deadline)
                found.append(ImageCell(*where, dataset, arm, seed, training, images))
    return found


class Split(NamedTuple):
    """Images of a split with their labels."""

    images: Tensor  # (n, pixels)
    labels: Tensor  # (n)


def read(dataset: str, limit: int = 0) -> tuple[Split, Split]:
    """Training and test split; the first `limit` training images, 0: all."""
    train, test = (_split(dataset, split) for split in ("train", "test"))
    return (Split(*(t[:limit] for t in train)) if limit else train), test


def _split(dataset: str, split: str) -> Split:
    data = load(dataset.removeprefix("coloured_"), split)
    images = torch.from_numpy(data["images"]).flatten(1)
    labels = torch.from_numpy(data["labels"]).long()
    if dataset.endswith("digits"):
        images = images.float() / 8 - 1  # sixteen levels of ink
    if dataset == "coloured_digits":
        images = coloured(images, generator(0, f"colours/{split}"))[0]
    return Split(images, labels)


def coloured(ink: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Digits of a random ink on a random ground: images `(n, 3 * 64)`, grounds and inks `(n, 3)`.

    Colours are uniform in [-1, 1]^3; those of one image are at least 1 apart in some channel.
    """
    n, share = len(ink), (to_unit(ink) + 1) / 2
    ground = torch.rand(n, 3, generator=stream) * 2 - 1
    colour = torch.rand(n, 3, generator=stream) * 2 - 1
    for _ in range(100):
        close = (ground - colour).abs().amax(-1) < 1
        if not bool(close.any()):
            break
        colour[close] = torch.rand(int(close.sum()), 3, generator=stream) * 2 - 1
    mixed = ground[:, :, None] + (colour - ground)[:, :, None] * share[:, None]
    return mixed.flatten(1), ground, colour


def shape_of(dataset: str) -> tuple[int, ...]:
    """Of an image: rows and columns, with the channels before them where there are three."""
    return SHAPES.get(dataset, (3, 32, 32))
