"""A linear autoencoder, whose best is probabilistic principal component analysis.

    g(z) = W z + b,   q(z | x) = N(R x + r, diag(std^2)),   p(x) = N(b, W W^T + s^2 I)

With orthogonal columns of W the exact posterior N(M^-1 W^T (x - b), s^2 M^-1), M = W^T W + s^2 I,
is of q's form, and the evidence lower bound equals log p(x). The maximum likelihood W is
U (Lambda - s^2 I)^(1/2) of the leading eigenvectors; directions of variance below s^2 are dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearDecoder(nn.Module):
    """g, with parameters W `(dim, latent)` and b `(dim)`."""

    def __init__(self, W: Tensor, b: Tensor) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(W.clone()), nn.Parameter(b.clone())

    @property
    def latent(self) -> int:
        """Dimension of z."""
        return self.W.shape[1]

    def forward(self, z: Tensor) -> Tensor:
        """`(..., dim)` of `(..., latent)`."""
        return z @ self.W.mT + self.b


class LinearPosterior(nn.Module):
    """q, with parameters R `(latent, dim)`, r `(latent)` and the log of std `(latent)`."""

    def __init__(self, R: Tensor, r: Tensor, std: Tensor) -> None:
        super().__init__()
        self.R, self.r = nn.Parameter(R.clone()), nn.Parameter(r.clone())
        self.log_std = nn.Parameter(std.log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(..., latent)`."""
        mean = x @ self.R.mT + self.r
        return mean, self.log_std.exp().expand_as(mean)


def exact_posterior(decoder: LinearDecoder, sigma: float) -> LinearPosterior:
    """The posterior of a decoder whose columns are orthogonal, with noise of width `sigma`."""
    with torch.no_grad():
        M = (decoder.W.square().sum(0) + sigma**2).unsqueeze(-1)
        R = decoder.W.mT / M
        return LinearPosterior(R, -R @ decoder.b, (sigma / M.sqrt()).squeeze(-1))


def principal(covariance: Tensor, mean: Tensor, latent: int, sigma: float) -> LinearDecoder:
    """The maximum likelihood decoder of data with this covariance `(dim, dim)` and mean `(dim)`."""
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values - sigma**2).clamp(min=0).sqrt()
    return LinearDecoder((vectors * scale).flip(-1)[:, :latent], mean)
