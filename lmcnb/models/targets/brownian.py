"""Brownian motion with unknown scales, observed with a gap in the middle (inference gym).

    q, r ~ LogNormal(0, 2);  x_1 ~ N(0, q^2);  x_t ~ N(x_{t-1}, q^2), t <= 30
    y_t ~ N(x_t, r^2) where y_t is observed

Coordinates: (z_q, z_r, x_1 ... x_30), q = softplus(z_q), r = softplus(z_r); the Jacobian adds
log sigmoid(z_q) + log sigmoid(z_r). Guaranteed: fully normalised in (y, z).
"""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product

PRIOR_SD = 2.0  # of log q and log r


def observed_series(name: str, observations: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The series with 0 where nothing was observed, and a mask of ones; missing values are NaN."""
    try:
        series = np.asarray(observations, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"target {name!r}: observations must be numbers, NaN where missing"
        ) from error
    mask = ~np.isnan(series)
    if series.ndim != 1 or not mask.any() or np.isinf(series).any():
        raise UsageError(
            f"target {name!r}: observations must be one series of finite numbers or NaN"
        )
    return np.where(mask, series, 0.0), mask.astype(np.float64)


class Brownian:
    """Log p(y, z) for z = (z_q, z_r, x), `(..., dim)`, dim = 2 + number of time steps.

    Args:
        observations: one number per time step, NaN where missing.
        dtype: of the computation.
        device: of the computation.
    """

    name = "brownian"
    log_normalizer: float | None = None

    def __init__(
        self,
        observations: ArrayLike,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        series, mask = observed_series(self.name, observations)
        steps = len(series)
        difference = np.eye(steps) - np.eye(steps, k=1)  # x @ difference = increments
        to_pulls = np.concatenate([difference @ difference.T, np.diag(mask)], axis=1)

        def store(array: ArrayLike) -> Tensor:
            return torch.tensor(np.asarray(array), dtype=dtype, device=device)

        self.dim = steps + 2
        self.steps = steps
        self.observations, self.mask = store(series), store(mask)
        self._to_pulls = store(to_pulls)
        self._offset = store(np.r_[np.zeros(steps), -series])
        self._targets = store(np.stack([np.zeros(steps), series]))
        self._counts = store([steps + 1.0, mask.sum() + 1.0])  # the LogNormal adds one log each
        self._powers = store([steps, mask.sum()])
        self._constant = -0.5 * (steps + mask.sum() + 2) * log(2 * pi) - 2 * log(PRIOR_SD)

    def __call__(self, z: Tensor) -> Tensor:
        """Log p(q, r) + log Jacobian + log p(x | q) + log p(y | x, r); `(..., dim)` -> `(...)`."""
        scale, x = z[..., :2], z[..., 2:]
        scales = -logsigmoid(-scale)  # softplus, exact in float64
        log_scales = scales.log()
        steps = torch.cat([x[..., :1], x.diff(dim=-1)], -1)
        misfits = self.mask * (x - self.observations)
        squares = torch.stack([steps.square().sum(-1), misfits.square().sum(-1)], -1)
        prior = -log_scales - 0.5 * (log_scales / PRIOR_SD).square() + logsigmoid(scale)
        normal = -0.5 * squares / scales.square() - self._powers * log_scales
        return (prior + normal).sum(-1) + self._constant

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product, both scales at once.

        With u = log of a scale, S its sum of squares and n its count (of normals, plus one):
        f(u) = -n u - u^2 / 8 - S exp(-2 u) / 2, and with k = du/dz = sigmoid(z) / softplus(z) the
        score of z is f'(u) k + sigmoid(-z). The score of x is -exp(-2u) (dS/dx) / 2, summed over
        the two scales; `pulls` holds the two (dS/dx) / 2.
        """
        flat = z.reshape(-1, self.dim)
        scale, x = flat[:, :2], flat[:, 2:]
        pulls = torch.addmm(self._offset, x, self._to_pulls).view(-1, 2, self.steps)
        squares = torch.linalg.vecdot(pulls, x.unsqueeze(1) - self._targets)
        rest = torch.sigmoid(-scale)
        scales = -logsigmoid(-scale)
        u = scales.log()
        precision = scales.pow(-2)
        k = (1 - rest) / scales
        tension = squares * precision
        first = tension - self._counts - u * PRIOR_SD**-2
        score = torch.empty_like(flat)
        score[:, :2] = torch.addcmul(rest, first, k)
        score[:, 2:] = (pulls * -precision.unsqueeze(-1)).sum(1)

        def product(vector: Tensor) -> Tensor:
            v = vector.reshape(-1, self.dim)
            v_scale, v_x = v[:, :2], v[:, 2:]
            v_pulls = (v_x @ self._to_pulls).view(-1, 2, self.steps)
            k_v = k * v_scale
            bend = (tension * -2 - PRIOR_SD**-2) * k + first * (rest - k)
            curvature = bend * k - rest * (1 - rest)
            coupling = torch.linalg.vecdot(pulls, v_x.unsqueeze(1)) * (2 * precision * k)
            result = torch.empty_like(v)
            result[:, :2] = torch.addcmul(coupling, curvature, v_scale)
            bent = torch.addcmul(v_pulls, pulls, k_v.unsqueeze(-1), value=-2)
            result[:, 2:] = (bent * -precision.unsqueeze(-1)).sum(1)
            return result.view(vector.shape)

        return score.view(z.shape), product
