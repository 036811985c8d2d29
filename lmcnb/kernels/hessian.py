"""Value, score and Hessian of a log density, all three in the graph of the point.

A log density may offer `second_order(z) -> (value, score, Hessian)` by its own formulas; any other
is differentiated by autograd, forward over reverse, with one tangent for each dimension.
Guaranteed: both routes agree up to rounding (tests). Not guaranteed: anything about a density that
mixes its points, or that second derivatives mean something where it has kinks
(`kernels.smoothness`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from lmcnb.kernels.gradients import LogDensity


def second_order(
    log_density: LogDensity, z: Tensor, *, chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Value `(...)`, score `(..., dim)` and Hessian `(..., dim, dim)` at `z` `(..., dim)`.

    Args:
        log_density: callable `(..., dim) -> (...)`, its points independent of each other.
        z: the points.
        chunk: tangents taken at once by autograd; None: all, which costs `dim` times the memory.
    """
    own = getattr(log_density, "second_order", None)
    if own is not None:
        return own(z)

    def score(point: Tensor) -> Tensor:
        return grad(lambda v: log_density(v).sum())(point)

    def column(direction: Tensor) -> Tensor:
        return jvp(score, (z,), (direction.expand_as(z),))[1]

    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    columns = vmap(column, chunk_size=chunk)(eye)
    return log_density(z), score(z), columns.movedim(0, -1)
