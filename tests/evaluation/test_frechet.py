"""The Frechet distance against its closed forms."""

from __future__ import annotations

import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.evaluation.frechet import covariance, frechet_distance, frechet_gaussians

F64 = torch.float64


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_of_a_sample_to_itself_is_zero() -> None:
    x = sample(200, 7) @ sample(7, 7, seed=1)
    assert frechet_distance(x, x) < 1e-8


def test_one_dimension() -> None:
    """(difference of means)^2 + (difference of standard deviations)^2."""
    a, b = 2 + 3 * sample(500, 1), -1 + 0.5 * sample(400, 1, seed=1)
    known = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert abs(frechet_distance(a, b) - float(known)) < 1e-9


def test_commuting_covariances() -> None:
    mean = torch.tensor([1.0, 0.0, -2.0], dtype=F64)
    u, v = (torch.tensor(d, dtype=F64) for d in ([1.0, 4.0, 9.0], [4.0, 1.0, 0.25]))
    known = 5.0 + float((u.sqrt() - v.sqrt()).square().sum())
    found = frechet_gaussians(mean, u.diag(), torch.zeros(3, dtype=F64), v.diag())
    assert abs(found - known) < 1e-12


def test_samples_come_near_the_gaussians_own() -> None:
    root_a, root_b = sample(4, 4, seed=2), sample(4, 4, seed=3)
    mean = sample(4, seed=4)
    known = frechet_gaussians(mean, root_a @ root_a.T, torch.zeros(4, dtype=F64), root_b @ root_b.T)
    a, b = mean + sample(40_000, 4, seed=5) @ root_a.T, sample(40_000, 4, seed=6) @ root_b.T
    assert abs(frechet_distance(a, b) / known - 1) < 0.05


def test_symmetry_and_a_common_rotation() -> None:
    a, b = sample(100, 5) @ sample(5, 5, seed=1), 1 + sample(90, 5, seed=2)
    q = torch.linalg.qr(sample(5, 5, seed=3)).Q
    d = frechet_distance(a, b)
    assert d > 1
    assert abs(frechet_distance(b, a) - d) < 1e-9
    assert abs(frechet_distance(a @ q, b @ q) - d) < 1e-9


def test_a_feature_that_never_changes() -> None:
    a, b = sample(100, 3), sample(100, 3, seed=1)
    plain = frechet_distance(a, b)
    constant = torch.ones(100, 1, dtype=F64)
    both = frechet_distance(torch.cat([a, constant], 1), torch.cat([b, 3 * constant], 1))
    assert abs(both - plain - 4) < 1e-9


def test_covariance_is_unbiased() -> None:
    x = sample(9, 4)
    assert torch.allclose(covariance(x), torch.cov(x.T))


def test_bad_samples_are_refused() -> None:
    good = sample(10, 3)
    with pytest.raises(UsageError, match="b of shape"):
        frechet_distance(good, sample(1, 3))
    with pytest.raises(UsageError, match="dimensions 3 and 2"):
        frechet_distance(good, sample(10, 2))
    with pytest.raises(UsageError, match="a: values"):
        frechet_distance(good / 0, good)
