"""Laplace's approximation: the mode, the curvature there, and the normalizer they imply.

    log Z ~ log p~(m) + (dim/2) log 2 pi - (1/2) log det H,   H = -Hessian of log p~ at the mode m

Exact for a Gaussian; elsewhere it carries an error that this file cannot estimate. With several
modes it finds the one that the start leads to.
"""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.kernels.gradients import LogDensity, linearize, value_and_score


class Laplace(NamedTuple):
    """A Gaussian at the mode."""

    mode: Tensor  # (dim,)
    precision: Tensor  # (dim, dim), H
    log_density: Tensor  # at the mode
    log_normalizer: Tensor  # Laplace's log Z

    @property
    def sigma(self) -> Tensor:
        """H_ii^(-1/2), `(dim,)`: the best standard deviations of independent coordinates."""
        return self.precision.diagonal().rsqrt()

    @property
    def root(self) -> Tensor:
        """A matrix A `(dim, dim)`, upper triangular, with A A^T = H^(-1): z = m + A noise."""
        factor = torch.linalg.cholesky(self.precision)
        identity = torch.eye(len(self.mode), dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False).mT


def hessian(log_density: LogDensity, z: Tensor) -> Tensor:
    """Hessian `(dim, dim)` of the log density at one point `z` `(dim,)`."""
    dim = z.shape[-1]
    _, product = linearize(log_density, z.expand(dim, dim).contiguous())
    return product(torch.eye(dim, dtype=z.dtype, device=z.device))


def find_mode(log_density: LogDensity, start: Tensor, max_steps: int = 5000) -> Tensor:
    """A maximum of the log density reached from `start` `(dim,)`: L-BFGS, then Newton.

    Raises:
        UserError: no maximum was reached (unbounded or not smooth, or too few steps).
    """
    z = start.detach().clone()
    optimizer = torch.optim.LBFGS(
        [z],
        max_iter=max_steps,
        history_size=50,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, score = value_and_score(log_density, z[None])
        z.grad = -score[0]
        return -value[0]

    optimizer.step(closure)  # type: ignore[arg-type]
    z = z.detach()
    for _ in range(20):
        precision = -hessian(log_density, z)
        factor, failed = torch.linalg.cholesky_ex(precision)
        score = value_and_score(log_density, z[None])[1][0]
        if failed or not torch.isfinite(score).all():
            break
        step = torch.cholesky_solve(score[:, None], factor)[:, 0]
        z = z + step
        if float(score @ step) < 1e-12:  # twice the distance to the top of the parabola, in nats
            return z
    hint = "" if z.dtype == torch.float64 else "; try float64"
    raise UserError(f"no mode found: the log density has no smooth maximum near the start{hint}")


def laplace(log_density: LogDensity, start: Tensor, max_steps: int = 5000) -> Laplace:
    """Laplace's approximation at the mode reached from `start` `(dim,)`, best in float64."""
    mode = find_mode(log_density, start, max_steps)
    precision = -hessian(log_density, mode)
    height = value_and_score(log_density, mode[None])[0][0]
    volume = 0.5 * len(mode) * log(2 * pi) - 0.5 * torch.linalg.slogdet(precision).logabsdet
    return Laplace(mode, precision, height, height + volume)
