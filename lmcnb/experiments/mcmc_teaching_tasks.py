"""What an image is conditioned on: nothing, its class, its upper half, itself with a block hidden.

The paper's conditional version is described and not released; these three stand for its tasks.
Restored pixels are judged by the peak signal-to-noise ratio, 10 log10(4 / mean squared error) in
dB, since values span [-1, 1], over the pixels that were hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError

CLASSES = 10
LEAST = 1e-12  # squared error: without any, decibels would be infinite


class Arranged(NamedTuple):
    """Images as a task sees them."""

    x: Tensor  # (n, dim): what is modelled
    c: Tensor | None  # (n, condition)
    hidden: Tensor | None  # (n, dim), 1 where x is not seen in c; None: nothing is restored


def arrange(
    task: str,
    images: Tensor,
    labels: Tensor,
    shape: Sequence[int],
    stream: torch.Generator,
    *,
    whole: bool = False,
) -> Arranged:
    """The task's x, c and hidden pixels of images `(n, pixels)` in [-1, 1].

    Args:
        task: none, label, half or occluded.
        images: flattened, channel first.
        labels: classes 0 ... 9, `(n)`.
        shape: of an image, rows and columns, with the channels before them where there are three.
        stream: source of the blocks' places.
        whole: whether x is the whole image in the task half, too, and c the seen half with a mask.

    Raises:
        UsageError: no such task, images out of range, labels that are no classes.
    """
    low, high = (float(v) for v in images.aminmax())
    if not (low >= -1 and high <= 1):
        raise UsageError(f"images: values from {low:g} to {high:g}; [-1, 1] is needed")
    if task == "none":
        return Arranged(images, None, None)
    if task == "label":
        if labels.shape != images.shape[:1] or not 0 <= int(labels.min()) <= labels.max() < CLASSES:
            raise UsageError(f"labels: a class from 0 to {CLASSES - 1} for every image is needed")
        return Arranged(images, torch.nn.functional.one_hot(labels, CLASSES).to(images), None)
    if task not in ("half", "occluded"):
        raise UsageError(f"task={task!r}: none, label, half or occluded is needed")
    n, (rows, columns) = len(images), shape[-2:]
    if task == "half" and not whole:
        square = images.view(n, -1, rows, columns)
        top, bottom = (
            part.reshape(n, -1) for part in square.split([rows // 2, rows - rows // 2], 2)
        )
        return Arranged(bottom, top, torch.ones_like(bottom))
    if task == "half":
        seen = torch.ones(n, rows, columns)
        seen[:, rows // 2 :] = 0
    else:
        seen = blocks(n, rows, columns, stream)
    mask = seen.flatten(1)
    every = mask.repeat(1, images.shape[1] // (rows * columns))
    return Arranged(images, torch.cat([images * every, mask], 1), 1 - every)


def blocks(n: int, rows: int, columns: int, stream: torch.Generator) -> Tensor:
    """1 everywhere but in a block of half the sides at a random place, `(n, rows, columns)`."""
    seen = torch.ones(n, rows, columns)
    top = torch.randint(0, rows - rows // 2 + 1, (n,), generator=stream)
    left = torch.randint(0, columns - columns // 2 + 1, (n,), generator=stream)
    for i, (a, b) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        seen[i, a : a + rows // 2, b : b + columns // 2] = 0
    return seen


def psnr(restored: Tensor, x: Tensor, hidden: Tensor) -> tuple[float, float]:
    """PSNR in dB over hidden pixels of `(n, dim)`, and its standard error over images.

    By the delta method from the mean squared error of every image's hidden pixels, which
    counts as 1e-12 at least (126 dB).
    """
    own = ((restored - x).square() * hidden).sum(-1).double() / hidden.sum(-1)
    mean, se = float(own.mean()), float(own.std()) / math.sqrt(len(own))
    mean = max(mean, LEAST)
    return 10 * math.log10(4 / mean), 10 / math.log(10) * se / mean
