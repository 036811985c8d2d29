"""The discretized logistic likelihood: masses, gradients, the grid, the prior of its scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcnb.errors import UsageError
from lmcnb.experiments import langevin_autoencoder_exact_models as exact
from lmcnb.models.discretized_logistic import energy_and_gradient, log_mass, to_grid


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_masses_sum_to_one_and_gradients_are_autograd_s(levels: int) -> None:
    total, gradient = exact.logistic_errors(levels)
    assert total < 1e-12
    assert gradient < 1e-10


def test_it_is_the_difference_of_sigmoids_where_that_does_not_underflow() -> None:
    x = to_grid(torch.arange(256)).double()
    mean, s = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    upper = torch.sigmoid((x + 1 / 255 - mean) / s)
    lower = torch.sigmoid((x - 1 / 255 - mean) / s)
    upper[-1], lower[0] = 1.0, 0.0
    torch.testing.assert_close(log_mass(x, mean, s), (upper - lower).log(), rtol=1e-10, atol=0)


@given(
    st.integers(0, 255),
    st.floats(-30, 30, allow_subnormal=False),
    st.floats(-7, 3),
)
def test_value_and_gradient_are_finite_everywhere(level: int, mean: float, log_s: float) -> None:
    """The official code clamps the mass: its gradient is zero far away, ours is not."""
    x = to_grid(torch.tensor([level]))
    got = energy_and_gradient(x, torch.tensor([mean]), torch.tensor(log_s).exp())
    for part in got:
        assert torch.isfinite(part).all()
    s = float(torch.tensor(log_s).exp())
    if abs(mean - float(x)) > 4 * s and abs(mean) > 1.1:  # far away, beyond the end bins
        toward = (mean > float(x)) == (float(got.mean) > 0)
        at_end = level in (0, 255) and (mean > 0) == (level == 255)
        assert at_end or (toward and float(got.mean.abs()) > 0.3 / s)


def test_float32_agrees_with_float64() -> None:
    g = torch.Generator().manual_seed(0)
    x = to_grid(torch.randint(0, 256, (1000,), generator=g))
    mean = torch.randn(1000, generator=g)
    s = torch.tensor(0.08)
    a = energy_and_gradient(x, mean, s)
    b = energy_and_gradient(x.double(), mean.double(), s.double())
    for part, known in zip(a, b, strict=True):
        torch.testing.assert_close(part.double(), known, rtol=2e-4, atol=2e-4)


def test_the_prior_of_the_scale() -> None:
    integral, start = exact.scale_errors()
    assert integral < 1e-10
    assert start < 1e-7


def test_the_grid() -> None:
    assert to_grid(torch.tensor([0, 255])).tolist() == [-1.0, 1.0]
    assert to_grid(torch.tensor([0, 8, 16]), 17).tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("pixels", "levels", "says"),
    [
        (torch.tensor([0, 17]), 17, "outside the grid of 17 levels, 0 to 16"),
        (torch.tensor([-1.0]), 256, "pixels from -1"),
        (torch.tensor([float("nan")]), 256, "nan"),
        (torch.tensor([0.5]), 256, "whole levels"),
        (torch.tensor([0]), 1, "levels=1"),
    ],
)
def test_images_outside_the_grid_are_refused(pixels: torch.Tensor, levels: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        to_grid(pixels, levels)
