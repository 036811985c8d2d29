"""What a training is given: data (anything that draws a batch), networks and random streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS


class Batch(NamedTuple):
    """Data and what they are conditioned on."""

    x: Tensor  # (n, dim)
    c: Tensor | None = None  # (n, condition)


class Networks(NamedTuple):
    """What is trained; None where the teacher has none."""

    energy: nn.Module | None  # f(x, c)
    encoder: nn.Module | None  # q(z | x, c)
    decoder: nn.Module | None  # g(z, c), with an attribute `latent`

    def needed_by(self, teacher: str) -> Networks:
        """Those that a teacher has.

        Raises:
            UsageError: one is lacking.
        """
        who = TEACHERS[teacher]
        needed = (who.start is not None, who.latent == "encoder", who.latent is not None)
        for name, net, need in zip(self._fields, self, needed, strict=True):
            if need and net is None:
                raise UsageError(f"networks.{name}: the teacher {teacher!r} needs one")
        return Networks(*(net if need else None for net, need in zip(self, needed, strict=True)))


class Streams(NamedTuple):
    """The random generators of a run, on its device."""

    data: torch.Generator
    noise: torch.Generator


Draw = Callable[[int, torch.Generator], Batch]


def from_images(images: Tensor, c: Tensor | None = None) -> Draw:
    """Draws of a data set `(n, pixels)` in [-1, 1] with conditions, independent, with replacement.

    Raises:
        UsageError: images out of range or of another shape, conditions of another number.
    """
    if images.dim() != 2 or not images.is_floating_point() or len(images) == 0:
        raise UsageError(
            f"images of shape {tuple(images.shape)}, {images.dtype}: (n, pixels) of floats with at "
            "least one image are needed"
        )
    low, high = (float(v) for v in images.aminmax())
    if not (low >= -1 and high <= 1):
        raise UsageError(
            f"images: values from {low:g} to {high:g}; [-1, 1] is needed (bytes: x / 127.5 - 1)"
        )
    if c is not None and (c.dim() != 2 or len(c) != len(images) or not bool(c.isfinite().all())):
        raise UsageError(
            f"c: conditions of shape {tuple(c.shape)} for {len(images)} images; a row of finite "
            f"numbers for every image, ({len(images)}, numbers), is needed"
        )

    def draw(n: int, stream: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (n,), generator=stream, device=stream.device)
        rows = rows.to(images.device)
        return Batch(images[rows], None if c is None else c[rows])

    return draw
