"""The squared maximum mean discrepancy of two samples, without bias (Gretton et al. 2012).

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(x, y) = exp(-|x - y|^2 / (2 h^2))

Guaranteed: the estimate is the U-statistic (no sample is compared with itself), hence unbiased and
negative about as often as positive where the distributions agree. Its standard error holds both
orders of Hoeffding's decomposition: the first alone would be 0 where the distributions agree, and
its plug-in estimate alone too large there by sqrt(2). Not guaranteed: an unbiased standard error
(where the distributions agree it is up to a third too large) and normality (there the estimate is
a weighted sum of centred chi squares, skewed to the right, so value / se > 2 is no test at a known
level). It takes all draws as independent: within correlated chains it is too small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.estimators import Estimate

CHUNK = 1 << 20  # kernel values at a time, 8 MB each of a few arrays


def squared_mmd(x: Tensor, y: Tensor, bandwidth: float) -> Estimate:
    """Unbiased MMD^2 of samples `(n, dim)` and `(m, dim)`, computed in float64.

    With the U-statistic's projections g_i = mean_{j != i} k(x_i, x_j) - mean_j k(x_i, y_j), their
    likes for y, and V the variance of the doubly centred kernel,

        plug-in = 4 var(g) / n + 4 var(g') / m
        second  = 2 V_xx / n^2 + 2 V_yy / m^2 + 4 V_xy / (n m)
        se^2    = second + max(0, plug-in - 2 second):

    on average the noise of the projections adds 2 second to the first order's plug-in estimate.

    Args:
        x: `(n, dim)`, independent draws, n at least 2.
        y: `(m, dim)`, independent of them, m at least 2.
        bandwidth: h, in the units of the samples.

    Returns:
        The estimate, its standard error, and min(n, m).

    Raises:
        UsageError: fewer than two samples, different dimensions, values that are not finite, a
            bandwidth that is not positive.
    """
    for name, a in (("x", x), ("y", y)):
        if a.dim() != 2 or len(a) < 2:
            raise UsageError(f"{name} of shape {tuple(a.shape)}: at least two samples (n, dim)")
        if not bool(torch.isfinite(a).all()):
            raise UsageError(f"{name}: values that are not finite")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"x and y: dimensions {x.shape[1]} and {y.shape[1]}, the same is needed")
    if not 0 < bandwidth < math.inf:
        raise UsageError(f"bandwidth={bandwidth}: a positive number is needed")
    x, y = x.detach().double(), y.detach().double().to(x.device)
    centre = x.mean(0)  # the products below lose no digits to a common offset
    x, y = (x - centre) / bandwidth, (y - centre) / bandwidth
    n, m = len(x), len(y)
    xx, yy, xy = _sums(x, x, same=True), _sums(y, y, same=True), _sums(x, y)
    value = xx.mean + yy.mean - 2 * xy.mean
    first = 4 * (xx.rows - xy.rows).var() / n + 4 * (yy.rows - xy.columns).var() / m
    second = 2 * xx.variance / n**2 + 2 * yy.variance / m**2 + 4 * xy.variance / (n * m)
    variance = second + max(0.0, float(first) - 2 * second)
    return Estimate(value, math.sqrt(variance), min(n, m))


class _Sums(NamedTuple):
    rows: Tensor  # mean of the kernel over the other sample, `(n)`
    columns: Tensor  # `(m)`
    mean: float
    variance: float  # of the kernel less its row and column means


def _sums(x: Tensor, y: Tensor, same: bool = False) -> _Sums:
    """Means of the kernel matrix of `x` and `y`, bandwidth 1; without its diagonal if `same`."""
    n, m = len(x), len(y)
    rows, columns = x.new_zeros(n), x.new_zeros(m)
    squares = 0.0
    size = max(1, CHUNK // m)
    for start in range(0, n, size):
        part = x[start : start + size]
        k = part.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * part @ y.mT
        k = k.clamp_(min=0).mul_(-0.5).exp_()
        if same:
            k.diagonal(start).zero_()
        rows[start : start + size] = k.sum(1)
        columns += k.sum(0)
        squares += float(k.square_().sum())
    rows, columns = rows / (m - same), columns / (n - same)
    mean = float(rows.mean())
    spread = float(rows.square().mean() + columns.square().mean()) - mean**2
    return _Sums(rows, columns, mean, max(0.0, squares / (n * (m - same)) - spread))
