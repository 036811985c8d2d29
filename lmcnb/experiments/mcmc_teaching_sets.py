"""Images for MCMC teaching, in [-1, 1]: digits, the sets of the released code, paired images."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import mcmc_teaching_tasks as tasks
from lmcnb.lab.data import load
from lmcnb.lab.paired_images import load_pairs

HELD_OUT = 10  # of paired images every tenth is a test image


class Split(NamedTuple):
    """Images of a split."""

    images: Tensor  # (n, pixels) in [-1, 1]
    labels: Tensor  # (n)
    shape: tuple[int, ...]  # (rows, columns) or (channels, rows, columns)


@cache
def read(dataset: str, split: str) -> Split:
    """A split, train or test; `mnist14` is MNIST in means of 2 x 2 pixels."""
    data = load("mnist" if dataset == "mnist14" else dataset, split)
    images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"]).long()
    top = 16 if dataset == "digits" else 255
    x = images.float() * (2 / top) - 1
    if dataset == "mnist14":
        x = torch.nn.functional.avg_pool2d(x, 2)
    return Split(x.flatten(1).clamp(-1, 1), labels, tuple(x.shape[1:]))


def pairs(folder: str, side: int) -> tuple[tasks.Arranged, tasks.Arranged]:
    """Paired images of a folder, the target given the input: train and test (every tenth)."""
    inputs, targets = load_pairs(folder, side)
    if len(inputs) < 2 * HELD_OUT:
        raise UsageError(f"{folder}: {len(inputs)} pairs; at least {2 * HELD_OUT} are needed")
    c, x = (t.flatten(1).float() / 127.5 - 1 for t in (inputs, targets))
    test = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    train, held = (
        tasks.Arranged(x[rows], c[rows], torch.ones_like(x[rows])) for rows in (~test, test)
    )
    return train, held
