"""Diagonal Gaussian posteriors of a variational autoencoder and their bound. Units: nats."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_2_PI = math.log(2 * math.pi)


def split(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `softplus(l)^(-1/2)` from an encoder's `(..., 2 dim)` output."""
    mean, raw = output.chunk(2, -1)
    return mean, softplus(raw, threshold=40).rsqrt()


def kl_to_standard(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, I)), summed over the last dimension."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)


def log_standard(z: Tensor) -> Tensor:
    """log N(z; 0, I), summed over the last dimension."""
    return -0.5 * (z.square() + LOG_2_PI).sum(-1)


def log_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(z; mean, std^2), summed over the last dimension."""
    return (-0.5 * (((z - mean) / std).square() + LOG_2_PI) - torch.log(std)).sum(-1)


def elbo(
    log_likelihood: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor, noise: Tensor
) -> Tensor:
    """One-sample evidence lower bound `(...)` of every example, the KL in closed form.

    Args:
        log_likelihood: callable `(..., dim) -> (...)`, log p(x | z).
        mean: of q, `(..., dim)`.
        std: of q, broadcasts.
        noise: standard normal, `(..., dim)`.
    """
    return log_likelihood(mean + std * noise) - kl_to_standard(mean, std * torch.ones_like(mean))
