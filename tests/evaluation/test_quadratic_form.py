"""Moments of quadratic functions of normals: closed forms, Monte Carlo, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.estimators import elbo, log_mean_exp
from lmcnb.evaluation.quadratic_form import quadratic_moments

DOUBLE = torch.float64


@pytest.mark.parametrize("a", [-3.0, 0.4])
@pytest.mark.parametrize("b", [0.0, 1.3])
@pytest.mark.parametrize("c", [-2.0, 0.0, 0.3, 0.6, 1.0, 1.7])
def test_one_dimension_in_closed_form(a: float, b: float, c: float) -> None:
    """w = a + b x + c x^2 / 2, x ~ N(0, 1)."""
    found = quadratic_moments(lambda x: a + b * x[0] + c * x[0] ** 2 / 2, 1)

    def log_mgf(t: float) -> float:
        if t * c >= 1:
            return math.inf
        return t * a + (t * b) ** 2 / (2 * (1 - t * c)) - 0.5 * math.log(1 - t * c)

    expected = (a + c / 2, math.sqrt(b**2 + c**2 / 2), log_mgf(1), log_mgf(2))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_ratio_of_two_gaussians_integrates_to_one() -> None:
    """w = log N(z; m, s^2) - log N(z; 0, 1): E[exp w] = 1, E[w] = -KL."""
    m, s = 0.7, 0.6

    def w(x: Tensor) -> Tensor:
        return (-0.5 * ((x - m) / s) ** 2 - math.log(s) + 0.5 * x**2).sum()

    found = quadratic_moments(w, 3)
    kl = -0.5 + math.log(s) + (1 + m**2) / (2 * s**2)
    assert found.mean == pytest.approx(-3 * kl, rel=1e-12)
    assert found.log_mean_exp == pytest.approx(0.0, abs=1e-12)


def three(x: Tensor) -> Tensor:
    """A quadratic with mixed terms, `(..., 3)` -> `(...)`."""
    A = torch.tensor([[0.1, 0.05, -0.1], [0.05, -0.5, 0.2], [-0.1, 0.2, 0.0]], dtype=DOUBLE)
    b = torch.tensor([0.3, -0.2, 0.1], dtype=DOUBLE)
    return -1.2 + x @ b + 0.5 * ((x @ A) * x).sum(-1)


def test_several_dimensions_against_monte_carlo() -> None:
    exact = quadratic_moments(three, 3)
    n = 400_000
    w = three(torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))
    mean, mgf, mgf2 = elbo(w), log_mean_exp(w), log_mean_exp(2 * w)
    assert abs(mean.value - exact.mean) < 4 * mean.se
    centred = (w - exact.mean) ** 2
    assert abs(float(centred.mean()) - exact.sd**2) < 4 * float(centred.std()) / math.sqrt(n)
    assert abs(mgf.value - exact.log_mean_exp) < 4 * mgf.se
    assert abs(mgf2.value - exact.log_mean_exp_2w) < 4 * mgf2.se
    assert max(mean.se, mgf.se, mgf2.se) < 0.01  # sharp enough to notice a wrong term


def test_an_infinite_variance_is_said() -> None:
    heavy = quadratic_moments(lambda x: 0.3 * (x**2).sum(), 2)  # 2 A = 1.2 I
    assert math.isfinite(heavy.log_mean_exp)
    assert heavy.log_mean_exp_2w == math.inf
    assert quadratic_moments(lambda x: 0.5 * x[0] ** 2 - x[1] ** 2, 2).log_mean_exp == math.inf


@pytest.mark.parametrize(
    "w",
    [
        lambda x: torch.cos(x).sum(),
        lambda x: (x**3).sum(),
        lambda x: (x**2).sum() + 1e-3 * x[0] ** 4,
        lambda x: (x - 0.1).abs().sum(),
        lambda x: torch.logsumexp(x, 0),
    ],
)
def test_anything_else_is_refused(w: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UsageError, match="not a quadratic"):
        quadratic_moments(w, 3)


def test_a_constant_is_quadratic_too() -> None:
    found = quadratic_moments(lambda x: 2.5 + 0 * x.sum(), 2)
    assert found == pytest.approx((2.5, 0.0, 2.5, 5.0))
