"""The importance-weighted bound of Burda et al. (2016) on log p(x), example by example.

    log p(x) >= E log (1/k) sum_k p(x, z_k) / q(z_k | x),   z_k ~ q independently

It rises with k and is exact for the true posterior. Guaranteed: in expectation never above log
p(x). Not guaranteed: that it is close. A q that is too narrow has weights of large variance, and
the bound is then far below. Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lmcnb.errors import UsageError


def importance_weighted_bound(draw: Callable[[], Tensor], samples: int) -> Tensor:
    """log of the mean weight of `samples` draws, `(...)`, float64.

    Args:
        draw: gives fresh log weights log p(x, z) - log q(z | x), one sample an example, `(...)`.
        samples: k; 1 gives a one-sample ELBO.
    """
    if type(samples) is not int or samples < 1:
        raise UsageError(f"samples={samples!r}: an integer of at least 1 is needed")
    total = draw().double()
    for _ in range(samples - 1):
        total = torch.logaddexp(total, draw().double())
    return total - math.log(samples)
