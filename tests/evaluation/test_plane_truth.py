"""Divergences on a grid, exact bin masses and the histogram's total variation: known answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.plane_truth import cell_masses, divergence, histogram_total_variation
from lmcnb.models.plane import Checkerboard, EightGaussians
from lmcnb.models.targets.toy import Gaussian

F64 = torch.float64


def gaussian(mean: tuple[float, float], sd: tuple[float, float], rho: float = 0.0) -> Gaussian:
    cross = rho * sd[0] * sd[1]
    covariance = torch.tensor([[sd[0] ** 2, cross], [cross, sd[1] ** 2]], dtype=F64)
    return Gaussian(torch.tensor(mean, dtype=F64), covariance, dtype=F64)


def normal_masses(mean: float, sd: float, bins: int, limit: float) -> Tensor:
    edges = torch.linspace(-limit, limit, bins + 1, dtype=F64)
    return torch.special.ndtr((edges - mean) / sd).diff()


def expected_total_variation(masses: Tensor, n: int) -> float:
    """sum_b E|count_b - n p_b| / (2 n), the bin outside included, by de Moivre's formula."""
    p = torch.cat([masses.reshape(-1), 1 - masses.sum().reshape(1)]).clamp(1e-300, 1)
    k = (n * p).floor() + 1
    log_choose = (
        torch.lgamma(torch.tensor(n + 1.0, dtype=F64)) - torch.lgamma(k + 1)
    ) - torch.lgamma(n - k + 1)
    term = log_choose + k.log() + k * p.log() + (n - k + 1) * torch.log1p(-p)
    return float(term.exp().sum()) / n


def test_eight_gaussians_with_themselves() -> None:
    p = EightGaussians()
    found = divergence(p, p, cells=401)
    assert found.kl == 0
    assert found.total_variation == 0
    assert abs(found.log_normalizer) < 1e-6


def test_a_constant_goes_into_the_normalizer_alone() -> None:
    p, q = gaussian((0.2, 0.0), (0.6, 0.5)), gaussian((0.0, 0.1), (0.5, 0.6))
    one = divergence(p, q)
    other = divergence(lambda x: p(x) - 500, lambda x: q(x) + 800)
    assert abs(one.log_normalizer) < 1e-9
    assert abs(other.log_normalizer - 800) < 1e-9
    assert abs(other.kl - one.kl) < 1e-10
    assert abs(other.total_variation - one.total_variation) < 1e-10


def test_kl_of_two_gaussians() -> None:
    p, q = gaussian((0.3, -0.2), (0.5, 0.4), 0.6), gaussian((-0.1, 0.1), (0.6, 0.5), -0.3)
    away = q.mean - p.mean
    precision = torch.linalg.inv(q.covariance)
    known = 0.5 * float(
        (precision @ p.covariance).trace() + away @ precision @ away - 2
        + q.covariance.logdet() - p.covariance.logdet()
    )  # fmt: skip
    assert abs(divergence(p, q).kl - known) < 1e-9
    assert abs(divergence(q, p).kl - known) > 0.1


def test_total_variation_of_two_gaussians() -> None:
    """2 Phi(d / 2) - 1, d their distance in standard deviations."""
    p, q = gaussian((-0.3, 0.0), (0.5, 0.5)), gaussian((0.3, 0.0), (0.5, 0.5))
    known = math.erf(1.2 / 2 / math.sqrt(2))
    assert abs(divergence(p, q, cells=160).total_variation - known) < 2e-4
    assert abs(divergence(p, q, cells=800).total_variation - known) < 1e-5


def test_kl_is_right_where_masses_of_q_underflow() -> None:
    p, q = gaussian((0.0, 0.0), (0.4, 0.4)), gaussian((0.0, 0.0), (0.04, 0.04))
    known = 100 - 1 - math.log(100)
    assert abs(divergence(p, q, cells=401).kl - known) < 1e-6


def test_no_mass_counts_nothing_in_p_and_infinitely_in_q() -> None:
    board = Checkerboard()

    def uniform(x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    found = divergence(board, uniform, cells=160)
    assert abs(found.kl - math.log(8)) < 1e-12
    assert abs(found.total_variation - 7 / 8) < 1e-12
    assert abs(found.log_normalizer - math.log(64)) < 1e-12
    assert divergence(uniform, board, cells=160).kl == math.inf


def test_cell_masses_of_a_gaussian_reach_beyond_the_square() -> None:
    p = gaussian((1.5, -0.6), (0.9, 0.5))
    masses = cell_masses(p, bins=16, limit=2.4, per_side=40)
    known = torch.outer(normal_masses(1.5, 0.9, 16, 2.4), normal_masses(-0.6, 0.5, 16, 2.4))
    assert masses.shape == (16, 16)
    torch.testing.assert_close(masses, known, rtol=0, atol=1e-6)
    assert 0.1 < 1 - float(masses.sum()) < 0.2
    assert abs(float(masses.sum() - known.sum())) < 1e-5


def test_cell_masses_of_the_densities() -> None:
    board = cell_masses(Checkerboard())
    assert abs(float(board.sum()) - 1) < 1e-12
    assert abs(float(board[6:11, 6:11].sum()) - 1 / 8) < 1e-12  # [-2, -1)^2 is dark
    assert float(board[11:16, 6:11].sum()) < 1e-12  # [-1, 0) x [-2, -1) is not
    assert abs(float(cell_masses(EightGaussians()).sum()) - 1) < 1e-8


def test_total_variation_of_samples_has_the_known_floor() -> None:
    """The mean over repeated samples is that of binomial counts, and falls as 1 / sqrt(n)."""
    masses = torch.outer(normal_masses(0.8, 0.9, 8, 2.0), normal_masses(-0.5, 0.6, 8, 2.0))
    noise = torch.randn(200, 1600, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    samples = torch.tensor([0.8, -0.5]) + noise * torch.tensor([0.9, 0.6])
    floors = []
    for n in (100, 400, 1600):
        found = torch.tensor([histogram_total_variation(x[:n], masses, 2.0) for x in samples])
        floors.append(expected_total_variation(masses, n))
        z = (found.mean() - floors[-1]) / (found.std() / math.sqrt(len(samples)))
        assert abs(float(z)) < 4
    assert floors[0] > 1.8 * floors[1] > 1.8 * 1.8 * floors[2]


def test_total_variation_by_hand() -> None:
    masses = torch.tensor([[0.5, 0.25], [0.0, 0.25]], dtype=F64)
    x = torch.tensor([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    assert histogram_total_variation(x, masses, 1.0) == 0.25
    assert histogram_total_variation(x.flip(1), masses, 1.0) == 0.5
    outside = torch.tensor([[3.0, 0.0], [math.nan, 0.0], [0.0, -math.inf], [0.0, 1e30]])
    assert histogram_total_variation(outside, masses, 1.0) == 1
    assert histogram_total_variation(torch.cat([x, outside]), masses, 1.0) == 0.5
    assert histogram_total_variation(x + 9, 0 * masses, 1.0) == 0  # all outside, as it must be


def test_what_cannot_be_is_refused() -> None:
    p, masses = EightGaussians(), torch.full((2, 2), 0.25, dtype=F64)
    with pytest.raises(UsageError, match=r"density q \(no name\): NaN"):
        divergence(p, lambda x: x[..., 0] * math.nan)
    with pytest.raises(UsageError, match="no mass"):
        divergence(lambda x: p(x) - math.inf, p)
    with pytest.raises(UsageError, match="must map"):
        divergence(p, lambda x: x)
    with pytest.raises(UsageError, match="cells=0"):
        divergence(p, p, cells=0)
    with pytest.raises(UsageError, match="limit=-1"):
        divergence(p, p, limit=-1.0)
    with pytest.raises(UsageError, match=r"checkerboard.*a mass of 5\.12"):
        cell_masses(Checkerboard(), bins=1, per_side=1)
    with pytest.raises(UsageError, match="a mass of 2.718"):
        cell_masses(lambda x: p(x) + 1)
    with pytest.raises(UsageError, match="samples of shape"):
        histogram_total_variation(torch.zeros(3, 1), masses, 1.0)
    with pytest.raises(UsageError, match="samples of shape"):
        histogram_total_variation(torch.zeros(0, 2), masses, 1.0)
    with pytest.raises(UsageError, match="masses of shape"):
        histogram_total_variation(torch.zeros(3, 2), masses[:1], 1.0)
