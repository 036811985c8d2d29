"""Gaussian variational inference, point by point: what figures 3 and 5 compare ALD with.

    max over m, L of E_q[log p(x, z)] + H[q],   q = N(m, L L^T),   L diagonal or lower triangular

by Adam on reparameterized samples, several starts, of which the best bound is kept. The paper gives
no optimizer; 600 steps of Adam at 0.02 with 64 samples are the choice here. Not guaranteed: the
global optimum. Units: nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity
from lmcnb.models.gaussian import LOG_2_PI


class Fit(NamedTuple):
    """A Gaussian for every point."""

    mean: Tensor  # (n, dim)
    scale: Tensor  # (n, dim, dim), lower triangular
    elbo: Tensor  # (n), on fresh samples


def fit_gaussians(
    log_joint: LogDensity,
    n: int,
    dim: int,
    generator: torch.Generator,
    *,
    full: bool,
    iterations: int = 600,
    samples: int = 64,
    restarts: int = 3,
    learning_rate: float = 0.02,
) -> Fit:
    """Fit q for each of n points.

    Args:
        log_joint: callable `(..., n, dim) -> (..., n)`, constants included.
        n: points.
        dim: of a latent.
        generator: of the starts (means from the prior) and the samples.
        full: full covariance, else diagonal.
        iterations: Adam steps.
        samples: a step; the bounds that choose and report take 64 times as many, fresh ones.
        restarts: starts.
        learning_rate: of Adam.
    """
    for name, value in (("iterations", iterations), ("samples", samples), ("restarts", restarts)):
        if type(value) is not int or value < 1:
            raise UsageError(f"{name}={value!r}: an integer of at least 1 is needed")
    kind: dict[str, Any] = {"dtype": torch.float64}
    mean = torch.randn(restarts, n, dim, generator=generator, **kind).requires_grad_()
    log_diagonal = torch.full((restarts, n, dim), -1.0, **kind).requires_grad_()
    below = torch.zeros(restarts, n, dim, dim, **kind).requires_grad_()
    parameters = [mean, log_diagonal, *([below] if full else [])]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def scale() -> Tensor:
        return torch.diag_embed(log_diagonal.exp()) + below.tril(-1)

    def bound(m: int) -> Tensor:
        noise = torch.randn(m, restarts, n, dim, generator=generator, **kind)
        z = mean + torch.einsum("rnij,mrnj->mrni", scale(), noise)
        entropy = log_diagonal.sum(-1) + 0.5 * dim * (1 + LOG_2_PI)
        return log_joint(z).mean(0) + entropy

    for _ in range(iterations):
        optimizer.zero_grad()
        (-bound(samples).sum()).backward()
        optimizer.step()
    with torch.no_grad():
        best = bound(64 * samples).argmax(0)
        own = torch.arange(n)
        final = bound(64 * samples)
        return Fit(mean[best, own].clone(), scale()[best, own], final[best, own])


def density(fit: Fit, z: Tensor) -> Tensor:
    """log q(z) `(..., n)` of latents `(..., n, dim)`."""
    centred = (z - fit.mean).unsqueeze(-1)
    white = torch.linalg.solve_triangular(fit.scale, centred, upper=False).squeeze(-1)
    log_det = fit.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square() + LOG_2_PI).sum(-1) - log_det
