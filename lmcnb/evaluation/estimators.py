"""Estimates from log weights: evidence lower bound, log normalizer, effective sample size.

For log weights w with E[exp w] = Z: the mean of w estimates the ELBO without bias;
log-mean-exp estimates log Z and is biased low at finite n (Jensen), by about Var(exp w) / (2 n Z^2)
where that variance is finite. Its standard error below is the delta method's and is itself an
estimate from the same weights: with heavy-tailed weights both are too small. Units: nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError


class Estimate(NamedTuple):
    """A number with its standard error and the number of independent draws behind it."""

    value: float
    se: float
    n: int


def elbo(w: Tensor) -> Estimate:
    """Mean of log weights `(n,)`, se = sd(w) / sqrt(n)."""
    w = _checked(w)
    return Estimate(float(w.mean()), float(w.std()) / math.sqrt(len(w)), len(w))


def log_mean_exp(w: Tensor) -> Estimate:
    """Log of the mean of exp(w), `(n,)`, with the delta-method standard error."""
    w = _checked(w)
    value = float(torch.logsumexp(w, 0)) - math.log(len(w))
    relative = torch.exp(w - value)  # mean 1
    return Estimate(value, float(relative.std()) / math.sqrt(len(w)), len(w))


def effective_sample_size(w: Tensor) -> float:
    """(sum exp w)^2 / sum exp(2 w), between 1 and n (Kong 1992)."""
    w = _checked(w)
    return float(torch.exp(2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0)))


def _checked(w: Tensor) -> Tensor:
    if w.dim() != 1 or len(w) < 2:
        raise UsageError(
            f"log weights of shape {tuple(w.shape)}: at least two in one dimension are needed"
        )
    return w.double()
