"""Convection Lorenz bridge: a chaotic path of 30 states, 20 noisy observations (inference gym).

    s_1 ~ N(0, I_3);  s_{t+1} ~ N(s_t + h f(s_t), h 0.1^2 I_3), h = 0.02, s = (x, y, z)
    f(x, y, z) = (10 (y - x), x (28 - z) - y, x y - (8/3) z)
    observed: x_t + N(0, 1), where not missing

Coordinates: time-major, (x_t, y_t, z_t) consecutive. Guaranteed: fully normalised.
Not guaranteed: that a sampler finds its way; the curvature spans 0.08 to 26,308 at the mode.
"""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmcnb.kernels.gradients import Product
from lmcnb.models.targets.brownian import observed_series

STEP = 0.02
NOISE_VARIANCE = STEP * 0.1**2


def lorenz_drift(state: Tensor) -> Tensor:
    """f(x, y, z) of the Lorenz system, `(..., 3)`."""
    x, y, z = state.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - (8 / 3) * z], -1)


def _linear_maps(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix `(3 T, columns)` and the precisions that write the density as a sum of squares.

    Residual = state @ columns (+ a product of two linear forms for the y and z equations).
    Columns: y and z residuals | x residuals, first state, observations | left | right factors.
    """
    steps = len(mask)
    identity = np.eye(3 * steps).reshape(3 * steps, steps, 3)
    x, y, z = identity[:, :, 0], identity[:, :, 1], identity[:, :, 2]  # (3 T, T)
    now, then = slice(None, -1), slice(1, None)
    x_residual = x[:, then] - x[:, now] - STEP * 10 * (y[:, now] - x[:, now])
    y_residual = y[:, then] - y[:, now] - STEP * (28 * x[:, now] - y[:, now])
    z_residual = z[:, then] - z[:, now] + STEP * (8 / 3) * z[:, now]
    observed = x[:, mask > 0]
    left = np.concatenate([STEP * x[:, now], -STEP * x[:, now]], axis=1)
    right = np.concatenate([z[:, now], y[:, now]], axis=1)
    columns = [y_residual, z_residual, x_residual, identity[:, 0], observed, left, right]
    precisions = np.r_[np.full(3 * (steps - 1), 1 / NOISE_VARIANCE), np.ones(3 + observed.shape[1])]
    return np.concatenate(columns, axis=1), precisions


class Lorenz:
    """Log p(observations, states) for states flattened to `(..., dim)`, dim = 3 x time steps.

    Args:
        observations: one number per time step, NaN where missing.
        dtype: of the computation.
        device: of the computation.
    """

    name = "lorenz"
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
        matrix, precisions = _linear_maps(mask)

        def store(array: ArrayLike) -> Tensor:
            return torch.tensor(np.asarray(array), dtype=dtype, device=device)

        self.dim = 3 * steps
        self.steps = steps
        self.observations, self.mask = store(series), store(mask)
        self._curved = 2 * (steps - 1)  # residuals that hold a product
        self._residuals = len(precisions)
        self._matrix, self._transposed = store(matrix), store(matrix.T.copy())
        offset = np.zeros(matrix.shape[1])
        offset[self._residuals - int(mask.sum()) : self._residuals] = -series[mask > 0]
        self._offset = store(offset)
        self._minus_precision = store(-precisions)
        normals = self.dim + mask.sum()
        self._constant = -0.5 * normals * log(2 * pi) - 0.5 * 3 * (steps - 1) * log(NOISE_VARIANCE)

    def __call__(self, z: Tensor) -> Tensor:
        """Log p(s_1) + sum_t log p(s_{t+1} | s_t) + log p(y | x); `(..., dim)` -> `(...)`."""
        state = z.unflatten(-1, (self.steps, 3))
        now, then = state[..., :-1, :], state[..., 1:, :]
        noise = then - now - STEP * lorenz_drift(now)
        misfit = self.mask * (state[..., 0] - self.observations)
        squares = (
            state[..., 0, :].square().sum(-1)
            + noise.square().sum((-2, -1)) / NOISE_VARIANCE
            + misfit.square().sum(-1)
        )
        return self._constant - 0.5 * squares

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product of -|R|^2_P / 2, R = s A + left * right, all linear in s."""
        curved, residuals = self._curved, self._residuals
        middle = residuals + curved
        forms = torch.addmm(self._offset, z.reshape(-1, self.dim), self._matrix)
        left, right = forms[:, residuals:middle], forms[:, middle:]
        forms[:, :curved].addcmul_(left, right)
        force = forms[:, :residuals] * self._minus_precision
        bent = force[:, :curved]
        score = torch.cat([force, bent * right, bent * left], 1) @ self._transposed

        def product(vector: Tensor) -> Tensor:
            change = vector.reshape(-1, self.dim) @ self._matrix
            v_left, v_right = change[:, residuals:middle], change[:, middle:]
            change[:, :curved].addcmul_(v_left, right).addcmul_(left, v_right)
            v_force = change[:, :residuals] * self._minus_precision
            v_bent = v_force[:, :curved]
            by_left = torch.addcmul(v_bent * right, bent, v_right)
            by_right = torch.addcmul(v_bent * left, bent, v_left)
            result = torch.cat([v_force, by_left, by_right], 1) @ self._transposed
            return result.view(vector.shape)

        return score.view(z.shape), product
