"""The importance-weighted bound of Burda et al. (2016) on log p(x), example by example.

    log p(x) >= E log (1/k) sum_k p(x, z_k) / q(z_k | x),   z_k ~ q independently

It rises with k and is exact for the true posterior. Guaranteed: in expectation never above
log p(x). Not guaranteed: that it is close. A q that is too narrow has weights of large variance;
the bound is then far below, and the standard error, estimated from the same weights, too small.
Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError


class Bound(NamedTuple):
    """The bound of every example, and the standard error of its one evaluation."""

    value: Tensor  # (...), float64
    se: Tensor  # (...), by the delta method


def importance_weighted_bound(draw: Callable[[], Tensor], samples: int) -> Bound:
    """log of the mean weight of `samples` draws.

    Args:
        draw: gives fresh log weights log p(x, z) - log q(z | x), one sample an example, `(...)`.
        samples: k, at least 2.
    """
    if type(samples) is not int or samples < 2:
        raise UsageError(f"samples={samples!r}: an integer of at least 2 is needed")
    total = draw().double()
    squares = 2 * total
    for _ in range(samples - 1):
        w = draw().double()
        total, squares = torch.logaddexp(total, w), torch.logaddexp(squares, 2 * w)
    spread = ((squares - 2 * total).exp() - 1 / samples).clamp(min=0)
    return Bound(total - math.log(samples), spread.sqrt())
