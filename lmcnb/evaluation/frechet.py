"""The Frechet distance between two samples of features, each taken as a Gaussian.

    d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})

Guaranteed: the squared 2-Wasserstein distance of the two fitted Gaussians. Not guaranteed: anything
beyond two moments; it is biased upwards at finite samples. It is not the FID, whose features are
those of a particular trained network: only orderings with the same features and the same numbers of
samples compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcnb.errors import UsageError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """d^2 between samples `(n, dim)` and `(m, dim)`, in float64.

    Raises:
        UsageError: fewer than two samples, different dimensions, values that are not finite.
    """
    for name, x in (("a", a), ("b", b)):
        if x.dim() != 2 or len(x) < 2:
            raise UsageError(f"{name} of shape {tuple(x.shape)}: at least two samples (n, dim)")
        if not bool(torch.isfinite(x).all()):
            raise UsageError(f"{name}: values that are not finite")
    if a.shape[1] != b.shape[1]:
        raise UsageError(f"a and b: dimensions {a.shape[1]} and {b.shape[1]}, the same is needed")
    a, b = a.double(), b.double()
    return frechet_gaussians(a.mean(0), covariance(a), b.mean(0), covariance(b))


def frechet_gaussians(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """d^2 between Gaussians of means `(dim)` and covariances `(dim, dim)`."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    if not bool(torch.isfinite(distance)):
        raise UsageError("means or covariances: not finite, or so large that their distance is not")
    return max(0.0, float(distance))


def covariance(x: Tensor) -> Tensor:
    """Unbiased covariance `(dim, dim)` of samples `(n, dim)`."""
    centred = x - x.mean(0)
    return centred.mT @ centred / (len(x) - 1)
