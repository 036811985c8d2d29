"""Grid truth, total variation, importance-weighted bounds, and Gaussian VI against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.grid import binned, histogram, on_grid, total_variation
from lmcnb.evaluation.importance_weighted import importance_weighted_bound
from lmcnb.methods.langevin_autoencoder_vi import density, fit_gaussians
from lmcnb.models.linear_gaussian import LinearGaussian


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem() -> tuple[LinearGaussian, Tensor]:
    noise = torch.tensor([[0.7, 0.6], [0.6, 0.8]], dtype=torch.float64)
    model = LinearGaussian(torch.eye(2, dtype=torch.float64), noise)
    return model, model.sample(3, generator(2)).clamp(-1.5, 1.5)


def test_the_grid_has_the_normalizer_and_the_moments() -> None:
    model, x = problem()
    grid = on_grid(lambda z: model.log_joint(x, z), 3, cells=160, limit=5.0)
    torch.testing.assert_close(grid.log_normalizer, model.log_marginal(x), rtol=0, atol=1e-4)
    axis = (torch.arange(160) + 0.5) * (10 / 160) - 5
    mean, _ = model.posterior(x)
    first = (grid.masses.sum(2) * axis).sum(1)
    second = (grid.masses.sum(1) * axis).sum(1)
    torch.testing.assert_close(torch.stack([first, second], 1), mean, rtol=0, atol=1e-3)


def test_exact_samples_have_little_total_variation_and_shifted_ones_much() -> None:
    model, x = problem()
    truth = binned(on_grid(lambda z: model.log_joint(x, z), 3).masses, 40)
    mean, covariance = model.posterior(x)
    noise = torch.randn(200_000, 3, 2, generator=generator(), dtype=torch.float64)
    z = mean + noise @ torch.linalg.cholesky(covariance).mT
    assert float(total_variation(histogram(z, 40, 4.0), truth).max()) < 0.02
    assert float(total_variation(histogram(z + 0.5, 40, 4.0), truth).min()) > 0.2
    outside = histogram(z + 100, 40, 4.0)
    torch.testing.assert_close(total_variation(outside, truth), torch.ones(3, dtype=torch.float64))


def test_bins_must_divide_the_cells() -> None:
    with pytest.raises(UsageError, match="bins=3"):
        binned(torch.zeros(1, 10, 10), 3)


def test_full_covariance_vi_finds_a_gaussian_posterior_and_diagonal_its_best() -> None:
    model, x = problem()
    mean, covariance = model.posterior(x)

    def log_joint(z: Tensor) -> Tensor:
        return model.log_joint(x, z)

    full = fit_gaussians(log_joint, 3, 2, generator(), full=True, restarts=2)
    torch.testing.assert_close(full.mean, mean, rtol=0, atol=0.05)
    found = full.scale @ full.scale.mT
    torch.testing.assert_close(found, covariance.expand(3, 2, 2), rtol=0, atol=0.04)
    torch.testing.assert_close(full.elbo, model.log_marginal(x), rtol=0, atol=0.03)
    diagonal = fit_gaussians(log_joint, 3, 2, generator(), full=False, restarts=2)
    precision = torch.linalg.inv(covariance).diagonal()
    variances = diagonal.scale.diagonal(dim1=1, dim2=2) ** 2
    torch.testing.assert_close(variances, (1 / precision).expand(3, 2), rtol=0.12, atol=0)
    assert not diagonal.scale.tril(-1).any()
    gap = 0.5 * (precision.log().sum() + covariance.logdet())  # KL of the best diagonal Gaussian
    shortfall = model.log_marginal(x) - diagonal.elbo
    torch.testing.assert_close(shortfall, gap.expand(3), rtol=0, atol=0.03)


def test_the_fitted_density_integrates_to_one() -> None:
    model, x = problem()
    fit = fit_gaussians(
        lambda z: model.log_joint(x, z), 3, 2, generator(), full=True, iterations=50, restarts=1
    )
    grid = on_grid(lambda z: density(fit, z), 3, limit=8.0)
    torch.testing.assert_close(
        grid.log_normalizer, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_impossible_fits_are_refused() -> None:
    with pytest.raises(UsageError, match="restarts=0"):
        fit_gaussians(lambda z: z.sum(-1), 1, 1, generator(), full=True, restarts=0)


def test_the_weighted_bound_against_known_weights() -> None:
    """Weights exp(s e - s^2/2) have mean one: the bound rises to 0, with the known error."""
    g, s, n = generator(), 0.5, 20_000

    def draw() -> Tensor:
        return s * torch.randn(n, generator=g, dtype=torch.float64) - s * s / 2

    bound = importance_weighted_bound(draw, 64)
    bias = -(math.exp(s * s) - 1) / (2 * 64)  # Jensen, to first order
    noise = 4 * float(bound.value.std()) / math.sqrt(n)
    assert abs(float(bound.value.mean()) - bias) < noise + 1e-4
    assert math.isclose(float(bound.se.mean()), float(bound.value.std()), rel_tol=0.05)


def test_constant_weights_have_no_error() -> None:
    bound = importance_weighted_bound(lambda: torch.full((3,), -700.0), 10)
    torch.testing.assert_close(bound.value, torch.full((3,), -700.0, dtype=torch.float64))
    assert float(bound.se.max()) < 1e-6


def test_one_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="samples=1"):
        importance_weighted_bound(lambda: torch.zeros(1), 1)
