"""The linear-Gaussian latent variable model, everything about which is known in closed form.

    p(z) = N(0, I),   p(x | z) = N(W z, S),
    posterior N(m, C),  C = (I + W^T S^-1 W)^-1,  m = C W^T S^-1 x,     p(x) = N(0, W W^T + S)

Units: nats, constants included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcnb.models.gaussian import log_standard


@dataclass(frozen=True)
class LinearGaussian:
    """The model; tensors of its functions may have leading dimensions."""

    weight: Tensor
    """W, `(pixels, dim)`."""
    covariance: Tensor
    """S, `(pixels, pixels)`, symmetric and positive definite."""

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z), `(...)`, in the graph of z and of W and S."""
        return log_gaussian(x - z @ self.weight.mT, self.covariance) + log_standard(z)

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), `(...)`."""
        return log_gaussian(x, self.weight @ self.weight.mT + self.covariance)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means `(..., dim)` and the covariance `(dim, dim)`, the same for every x."""
        information = torch.linalg.solve(self.covariance, self.weight).mT  # W^T S^-1
        identity = torch.eye(self.weight.shape[-1], dtype=self.weight.dtype)
        covariance = torch.linalg.inv(identity + information @ self.weight)
        return x @ (covariance @ information).mT, covariance

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` observations `(n, pixels)`."""
        pixels, dim = self.weight.shape
        z, e = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (dim, pixels))
        noise = e @ torch.linalg.cholesky(self.covariance.double()).mT
        return (z @ self.weight.double().mT + noise).to(self.weight.dtype)


def log_gaussian(x: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; 0, covariance), `(...)`."""
    L = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(L, x.unsqueeze(-1), upper=False).squeeze(-1)
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + log_det + x.shape[-1] * math.log(2 * math.pi))
