"""Linear-Gaussian models at one observation, each with a Gaussian proposal: all answers are known.

    x = theta0 + W z + N(0, sigma^2 I),   z ~ N(0, I),   proposal z = m + s xi,  xi ~ N(0, I)

float64; log p in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcnb.methods import unbiased_vae as uv
from lmcnb.methods import unbiased_vae_theory as theory
from lmcnb.methods.unbiased_vae_kernels import RowLogWeight

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    """A linear-Gaussian model at one x, and a Gaussian proposal."""

    weight: Tensor
    """W, `(pixels, dim)`."""
    intercept: Tensor
    """theta0, `(pixels)`."""
    variance: float
    """sigma^2."""
    x: Tensor
    """`(pixels)`."""
    mean: Tensor
    """m of the proposal, `(dim)`."""
    std: Tensor
    """s of the proposal, `(dim)`."""

    def posterior(self) -> tuple[Tensor, Tensor]:
        """mu and Sigma."""
        return theory.posterior(self.weight, self.intercept, self.variance, self.x)

    def weights(self) -> theory.Weights:
        """The closed forms of the importance weights."""
        return theory.weights(*self.posterior(), self.mean, self.std)

    def exact(self) -> Tensor:
        """grad log p(x) with respect to theta0, then W row by row, `(pixels (1 + dim))`."""
        g = theory.gradients(self.weight, self.intercept, self.variance, self.x)
        return torch.cat([g.intercept, g.weight.flatten()])

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """The same of log p(x, z) at z = m + s xi, `(n, k, dim) -> (n, k, pixels (1 + dim))`."""
        z = self.mean + self.std * points
        left = (self.x - self.intercept - z @ self.weight.T) / self.variance
        return torch.cat([left, (left.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)], -1)

    def squares(self, points: Tensor, rows: Tensor) -> Tensor:
        """z and z^2, `(n, k, dim) -> (n, k, 2 dim)`."""
        z = self.mean + self.std * points
        return torch.cat([z, z.square()], -1)

    def moments(self) -> Tensor:
        """The posterior's expectations of `squares`."""
        mean, covariance = self.posterior()
        return torch.cat([mean, mean.square() + covariance.diagonal()])

    def log_weight(self, rows: int) -> RowLogWeight:
        """log w of `rows` equal rows, in the proposal's coordinates."""
        constant = 0.5 * len(self.x) * math.log(2 * math.pi * self.variance)

        def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
            left = self.x - self.intercept - z @ self.weight.T
            return -0.5 * left.square().sum(-1) / self.variance - constant

        shape = (rows, len(self.mean))
        return uv.gaussian_log_weight(
            log_likelihood, self.mean.expand(shape), self.std.expand(shape)
        )


def reference() -> Case:
    """Three pixels, two latents; the proposal off the posterior's mean, the weights bounded."""
    t = [[[1, 0.5], [0.3, -0.8], [-0.6, 0.4]], [0.2, -0.1, 0.3], [1, -0.5, 0.8]]
    W, intercept, x = (torch.tensor(v, dtype=F64) for v in t)
    m, s = (torch.tensor(v, dtype=F64) for v in ((-0.3, 0.9), (0.9, 0.9)))
    return Case(W, intercept, 0.5, x, m, s)


def toy(inflation: float = 1.6) -> Case:
    """Four correlated latents, eight pixels (our own instance).

    W_ij = 0.5 cos(1.3 (i + 1) (j + 1) + j), x_i = sin(2 i + 1), sigma^2 = 0.5. The proposal has
    `inflation` times the mean-field standard deviations, half a posterior sd off. With 1.6 the
    weights are bounded; with 1, the mean field itself, they have no second moment.
    """
    i, j = torch.arange(8, dtype=F64), torch.arange(4, dtype=F64)
    W = 0.5 * torch.cos(1.3 * torch.outer(i + 1, j + 1) + j)
    none, x = torch.zeros(8, dtype=F64), torch.sin(2 * i + 1)
    mean, covariance = theory.posterior(W, none, 0.5, x)
    s = inflation * torch.linalg.inv(covariance).diagonal().rsqrt()
    return Case(W, none, 0.5, x, mean + 0.5 * covariance.diagonal().sqrt(), s)
