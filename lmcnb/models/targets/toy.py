"""Small targets whose normalizer is known: Gaussian, Gaussian mixture, banana, tilted ring.

Guaranteed: `log_normalizer` is log of the integral of exp(log density), in closed form except for
the ring, whose constant is a converged quadrature (a test recomputes it).
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product


class GaussianMixture:
    """exp(log_normalizer) times a mixture of Gaussians, `(..., dim)` -> `(...)`.

    Args:
        weights: `(components,)`, positive; they are divided by their sum.
        means: `(components, dim)`.
        covariances: `(components, dim, dim)`, positive definite.
        log_normalizer: log Z.
        name: what records and messages call the target.
        dtype: of the computation.
        device: of the computation.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        *,
        log_normalizer: float = 0.0,
        name: str = "mixture",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        weights, means, covariances = (a.double().cpu() for a in (weights, means, covariances))
        if means.ndim != 2 or weights.shape != means.shape[:1] or (weights <= 0).any():
            raise UsageError(f"target {name!r}: give positive weights (c,) and means (c, dim)")
        if covariances.shape != (*means.shape, means.shape[1]):
            raise UsageError(
                f"target {name!r}: covariances must be (c, dim, dim) = "
                f"{(*means.shape, means.shape[1])}, got {tuple(covariances.shape)}"
            )
        roots, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any() or not torch.allclose(covariances, covariances.mT):
            raise UsageError(f"target {name!r}: a covariance is not symmetric positive definite")
        self.name = name
        self.log_normalizer: float | None = float(log_normalizer)
        self.components, self.dim = means.shape
        log_det = 2 * roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        heights = (weights / weights.sum()).log() - 0.5 * log_det - 0.5 * self.dim * log(2 * pi)
        precisions = torch.cholesky_inverse(roots)
        columns = precisions.permute(1, 0, 2).reshape(self.dim, -1)  # z @ columns = all P_c z
        offset = (precisions @ means.unsqueeze(-1)).reshape(-1)
        self.means = means.to(device, dtype)
        self._heights = (heights + float(log_normalizer)).to(device, dtype)
        self._minus_columns = -columns.to(device, dtype)
        self._offset = offset.to(device, dtype)

    def _parts(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Log of each weighted component `(n, c)` and the score of each `(n, c, dim)`."""
        scores = torch.addmm(self._offset, flat, self._minus_columns)
        scores = scores.unflatten(-1, (self.components, self.dim))
        away = flat.unsqueeze(-2) - self.means
        return self._heights + 0.5 * torch.linalg.vecdot(scores, away), scores

    def __call__(self, z: Tensor) -> Tensor:
        """Log Z + log sum_c weight_c N(z; mean_c, covariance_c)."""
        return torch.logsumexp(self._parts(z.reshape(-1, self.dim))[0], -1).view(z.shape[:-1])

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score sum_c r_c g_c; Hessian sum_c r_c (g_c g_c^T - P_c) - score score^T."""
        logs, scores = self._parts(z.reshape(-1, self.dim))
        shares = torch.softmax(logs, -1).unsqueeze(-1)
        score = (shares * scores).sum(-2)

        def product(vector: Tensor) -> Tensor:
            v = vector.reshape(-1, self.dim)
            pulled = (v @ self._minus_columns).unflatten(-1, (self.components, self.dim))
            along = (scores * v.unsqueeze(-2)).sum(-1, keepdim=True)
            spread = (shares * (pulled + scores * along)).sum(-2)
            return (spread - score * (score * v).sum(-1, keepdim=True)).view(vector.shape)

        return score.view(z.shape), product


class Gaussian:
    """exp(log_normalizer) N(mean, covariance), `(..., dim)` -> `(...)`.

    Args:
        mean: `(dim,)`.
        covariance: `(dim, dim)`, positive definite.
        log_normalizer: log Z.
        name: what records and messages call the target.
        dtype: of the computation.
        device: of the computation.
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        *,
        log_normalizer: float = 0.0,
        name: str = "gaussian",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        mean, covariance = mean.double().cpu(), covariance.double().cpu()
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UsageError(f"target {name!r}: give a mean (dim,) and a covariance (dim, dim)")
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not torch.allclose(covariance, covariance.mT):
            raise UsageError(f"target {name!r}: the covariance is not symmetric positive definite")
        precision = torch.cholesky_inverse(root)
        self.name = name
        self.dim = len(mean)
        self.log_normalizer: float | None = float(log_normalizer)
        self.mean, self.covariance = mean.to(device, dtype), covariance.to(device, dtype)
        self._minus_precision = -precision.to(device, dtype)
        self._offset = (precision @ mean).to(device, dtype)
        log_det = 2 * float(root.diagonal().log().sum())
        self._constant = float(log_normalizer) - 0.5 * (log_det + self.dim * log(2 * pi))

    def __call__(self, z: Tensor) -> Tensor:
        """Log Z + log N(z; mean, covariance)."""
        away = z - self.mean
        return 0.5 * (away * (away @ self._minus_precision)).sum(-1) + self._constant

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score P (mean - z) and v -> -P v, P the inverse covariance."""
        score = torch.addmm(self._offset, z.reshape(-1, self.dim), self._minus_precision)

        def product(vector: Tensor) -> Tensor:
            return vector @ self._minus_precision

        return score.view(z.shape), product


class Banana:
    """x0 ~ N(0, 10^2), x1 ~ N(0.03 (x0^2 - 100), 1), so log Z = 0; `(..., 2)` -> `(...)`."""

    name = "banana"
    dim = 2
    log_normalizer: float | None = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Log N(x0; 0, 100) + log N(x1; 0.03 (x0^2 - 100), 1)."""
        x0, x1 = z.unbind(-1)
        rest = x1 - 0.03 * (x0.square() - 100)
        return -0.5 * (x0.square() / 100 + rest.square()) - log(2 * pi * 10)

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score (-x0 / 100 + 0.06 x0 e, -e), e = x1 - 0.03 (x0^2 - 100), and its Jacobian."""
        x0, x1 = z.unbind(-1)
        rest = x1 - 0.03 * (x0.square() - 100)
        score = torch.stack([x0 * (0.06 * rest - 0.01), -rest], -1)

        def product(vector: Tensor) -> Tensor:
            v0, v1 = vector.unbind(-1)
            slope = 0.06 * x0
            corner = 0.06 * rest - 0.01 - slope.square()
            return torch.stack([corner * v0 + slope * v1, slope * v0 - v1], -1)

        return score, product


class Ring:
    """A tilted ring, log density -(|z|^2 - 4)^2 / (2 * 1.2^2) + 0.5 x0; `(..., 2)` -> `(...)`."""

    name = "ring"
    dim = 2
    log_normalizer: float | None = 2.482778000689  # by quadrature, see the tests
    radius_squared = 4.0
    width = 1.2
    tilt = 0.5

    def __call__(self, z: Tensor) -> Tensor:
        """-(|z|^2 - radius^2)^2 / (2 width^2) + tilt x0."""
        excess = z.square().sum(-1) - self.radius_squared
        return -0.5 * (excess / self.width).square() + self.tilt * z[..., 0]

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score -2 e z / width^2 + (tilt, 0), e = |z|^2 - radius^2, and its Jacobian."""
        stiffness = -2 / self.width**2
        excess = stiffness * (z.square().sum(-1, keepdim=True) - self.radius_squared)
        score = excess * z
        score[..., 0] += self.tilt

        def product(vector: Tensor) -> Tensor:
            along = (z * vector).sum(-1, keepdim=True)
            return excess * vector + 2 * stiffness * along * z

        return score, product
