"""Estimates from log weights: known values, standard errors against replicates, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.estimators import Estimate, effective_sample_size, elbo, log_mean_exp

ALL = (elbo, log_mean_exp, effective_sample_size)


def normal(n: int, sd: float, seed: int = 0) -> Tensor:
    """Log weights N(-sd^2/2, sd^2): ELBO -sd^2/2, log Z = 0."""
    draws = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sd * draws - sd**2 / 2


def test_by_hand() -> None:
    w = torch.log(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert elbo(w) == pytest.approx((math.log(12) / 3, float(w.std()) / math.sqrt(3), 3))
    sd = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2)
    assert log_mean_exp(w) == pytest.approx((math.log(3), sd / 3 / math.sqrt(3), 3))
    assert effective_sample_size(w) == pytest.approx(9**2 / (1 + 4 + 36))


def test_equal_weights() -> None:
    w = torch.full((40,), -3.5)
    for estimate in (elbo(w), log_mean_exp(w)):
        assert estimate == pytest.approx(Estimate(-3.5, 0.0, 40), abs=1e-12)
    assert effective_sample_size(w) == pytest.approx(40)


@pytest.mark.parametrize("shift", [1e3, -1e3])
def test_a_constant_passes_through_without_overflow(shift: float) -> None:
    w = normal(500, 1.0)
    for estimator in (elbo, log_mean_exp):
        plain, moved = estimator(w), estimator(w + shift)
        assert moved.value == pytest.approx(plain.value + shift, abs=1e-9)
        assert moved.se == pytest.approx(plain.se, rel=1e-9)
    assert effective_sample_size(w + shift) == pytest.approx(effective_sample_size(w), rel=1e-9)


def test_one_weight_may_carry_everything_or_nothing() -> None:
    w = torch.zeros(10)
    w[3] = 700.0
    assert log_mean_exp(w).value == pytest.approx(700 - math.log(10))
    assert effective_sample_size(w) == pytest.approx(1.0)
    w[3] = -math.inf  # a chain of weight zero counts
    assert log_mean_exp(w).value == pytest.approx(math.log(0.9))
    assert effective_sample_size(w) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("estimator", "truth"), [(elbo, -0.32), (log_mean_exp, 0.0)], ids=["elbo", "log_mean_exp"]
)
def test_values_and_standard_errors_against_replicates(
    estimator: Callable[[Tensor], Estimate], truth: float
) -> None:
    estimates = [estimator(normal(1000, 0.8, seed)) for seed in range(400)]
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    claimed = torch.tensor([e.se for e in estimates], dtype=torch.float64)
    spread = float(values.std())
    bias = -math.expm1(0.64) / 2000 if estimator is log_mean_exp else 0.0  # Jensen
    assert float(values.mean()) == pytest.approx(truth + bias, abs=4 * spread / 20)
    assert float(claimed.mean()) == pytest.approx(spread, rel=4 / math.sqrt(2 * 400))


def test_the_effective_sample_size_of_lognormal_weights() -> None:
    share = effective_sample_size(normal(200_000, 0.8)) / 200_000
    assert share == pytest.approx(math.exp(-0.64), rel=0.02)


def test_single_precision_is_summed_in_double() -> None:
    w = normal(100_000, 0.01) - 5000
    rounded = w.float()
    assert elbo(rounded).value == pytest.approx(float(rounded.double().mean()), abs=1e-9)
    assert log_mean_exp(rounded).value == pytest.approx(log_mean_exp(w).value, abs=1e-5)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4)])
def test_other_shapes_are_refused(
    estimator: Callable[[Tensor], object], shape: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match="log weights of shape"):
        estimator(torch.zeros(shape))
