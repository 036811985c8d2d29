"""Exact moments of a quadratic function of standard normals.

With w(x) = w0 + b.x + x.A x / 2 and x ~ N(0, I):

    E[w] = w0 + tr(A) / 2,     Var[w] = |b|^2 + tr(A A) / 2,
    log E[exp w] = w0 + b.(I - A)^-1 b / 2 - log det(I - A) / 2     if I - A is positive definite,

infinite otherwise. For a Gaussian target and a linear score network the log weight of every method
of 2208.07743 is such a function of its noise: the ELBO, its spread and log Z are known to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError


class Moments(NamedTuple):
    """Exact moments of w; infinite where the expectation diverges."""

    mean: float
    sd: float
    log_mean_exp: float
    log_mean_exp_2w: float


def quadratic_moments(w: Callable[[Tensor], Tensor], size: int) -> Moments:
    """Moments of `w`, a quadratic function `(size,) -> ()` of float64 standard normals.

    Raises:
        UsageError: `w` is not quadratic (checked at two points).
    """
    zero = torch.zeros(size, dtype=torch.float64)
    w0 = float(w(zero).detach())
    b = torch.autograd.functional.jacobian(w, zero)
    A = torch.autograd.functional.hessian(w, zero)
    for scale in (1.0, -2.0):
        x = scale * torch.linspace(-1, 1.5, size, dtype=torch.float64)
        quadratic = w0 + float(b @ x + 0.5 * x @ A @ x)
        if abs(float(w(x).detach()) - quadratic) > 1e-7 * (1 + abs(quadratic)):
            raise UsageError(
                "w is not a quadratic function of its noise: its moments are not known exactly"
            )
    mean = w0 + 0.5 * float(A.trace())
    sd = math.sqrt(float(b @ b) + 0.5 * float((A @ A).trace()))
    return Moments(mean, sd, _log_mgf(w0, b, A), _log_mgf(2 * w0, 2 * b, 2 * A))


def _log_mgf(w0: float, b: Tensor, A: Tensor) -> float:
    precision = torch.eye(len(b), dtype=b.dtype) - A
    if float(torch.linalg.eigvalsh(precision).min()) <= 0:
        return math.inf
    return (
        w0
        + 0.5 * float(b @ torch.linalg.solve(precision, b))
        - 0.5 * float(torch.logdet(precision))
    )
