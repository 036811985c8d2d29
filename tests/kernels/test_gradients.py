"""Scores and Hessian products: formulas against autograd, odd densities, refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import (
    check_log_density,
    differentiable_score,
    linearize,
    score,
    value_and_score,
)

DOUBLE = torch.float64


def plain(z: Tensor) -> Tensor:
    """Not quadratic, with coordinates that depend on each other, `(..., 3)` -> `(...)`."""
    return -0.25 * (z**4).sum(-1) + torch.sin(z[..., 0] * z[..., 1]) - z[..., 2] * z[..., 0]


class WithFormulas:
    """The same density with its own score and Hessian product; it counts their uses."""

    name = "formulas"

    def __init__(self) -> None:
        self.used = 0

    def __call__(self, z: Tensor) -> Tensor:
        return plain(z)

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self.used += 1
        x, y, last = z.unbind(-1)
        c, s = torch.cos(x * y), torch.sin(x * y)
        gradient = torch.stack([y * c - last, x * c, -x], -1) - z**3

        def product(v: Tensor) -> Tensor:
            a, b, d = v.unbind(-1)
            cross = c - x * y * s
            first = -y * y * s * a + cross * b - d
            return torch.stack([first, cross * a - x * x * s * b, -a], -1) - 3 * z**2 * v

        return gradient, product


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def differences(f: Callable[[Tensor], Tensor], z: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of `f` along each coordinate, stacked in the last dimension."""
    slopes = []
    for i in range(3):
        e = torch.zeros(3, dtype=DOUBLE)
        e[i] = step
        slopes.append((f(z + e) - f(z - e)) / (2 * step))
    return torch.stack(slopes, -1)


@pytest.mark.parametrize("density", [plain, WithFormulas()])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_values_scores_and_products_against_differences(
    density: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    z, v = points(*shape), points(*shape).flip(-1)
    value, gradient = value_and_score(density, z)
    torch.testing.assert_close(value, plain(z), rtol=0, atol=0)
    torch.testing.assert_close(gradient, differences(plain, z), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(score(density, z), gradient, rtol=1e-12, atol=1e-12)
    at, product = linearize(density, z)
    torch.testing.assert_close(at, gradient, rtol=1e-12, atol=1e-12)
    hessian = differences(lambda x: score(plain, x), z)
    expected = (hessian @ v[..., None])[..., 0]
    for _ in range(2):  # may be used more than once
        torch.testing.assert_close(product(v), expected, rtol=1e-8, atol=1e-8)
    for result in (value, gradient, score(density, z), at, product(v)):
        assert not result.requires_grad


def test_own_formulas_are_used_where_there_are_any() -> None:
    density, z = WithFormulas(), points(4)
    for use in (value_and_score, score, linearize):
        use(density, z)
    assert density.used == 3
    differentiable_score(density, z)
    assert density.used == 3  # the reference route is plain autograd


def test_the_differentiable_score_is_kept_in_the_graph() -> None:
    z, v = points(4).requires_grad_(True), points(4).flip(-1)
    gradient = differentiable_score(WithFormulas(), z)
    (again,) = torch.autograd.grad((gradient * v).sum(), z)
    torch.testing.assert_close(again, linearize(plain, z.detach())[1](v), rtol=1e-12, atol=1e-12)
    without_graph = differentiable_score(plain, points(4))
    torch.testing.assert_close(without_graph, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, contextlib.nullcontext])
def test_a_plain_function_is_differentiated_in_every_mode(mode: Any) -> None:
    with mode():
        z, v = points(4), points(4).flip(-1)
        gradient = value_and_score(plain, z)[1]
        at, product = linearize(plain, z)
        along = product(v)
    expected, own = WithFormulas().linearize(points(4))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(along, own(points(4).flip(-1)), rtol=1e-12, atol=1e-12)


def test_a_product_outlives_the_buffer_it_was_made_from() -> None:
    z, v = points(4), points(4).flip(-1)
    _, product = linearize(plain, z)
    expected = product(v)
    z.zero_()  # the engine writes the next iteration's state there
    torch.testing.assert_close(product(v), expected, rtol=0, atol=0)


def test_densities_without_curvature_have_a_zero_hessian() -> None:
    z, v = points(4), points(4).flip(-1)
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    at, product = linearize(lambda x: x @ slope, z)
    torch.testing.assert_close(at, slope.expand(4, 3), rtol=0, atol=0)
    assert torch.equal(product(v), torch.zeros(4, 3, dtype=DOUBLE))
    slope.requires_grad_(True)  # a parameter that the caller trains
    _, product = linearize(lambda x: x @ slope, z)
    assert torch.equal(product(v), torch.zeros(4, 3, dtype=DOUBLE))
    _, product = linearize(lambda x: -(x[..., 0] ** 2) + x[..., 1], z)  # curved along one only
    assert torch.equal(product(v), v * torch.tensor([-2.0, 0.0, 0.0], dtype=DOUBLE))


# ------------------------------------------------------------------------------------- refusals


class Half:
    """A finite density whose own score is not."""

    name = "half"

    def __call__(self, z: Tensor) -> Tensor:
        return -(z**2).sum(-1)

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return torch.full_like(z, torch.inf), lambda v: v


def nan_for_some(z: Tensor) -> Tensor:
    return torch.where(z[..., 0] > 0, z.sum(-1), torch.nan)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (3.0, "is not callable"),
        (lambda z: z @ torch.ones(5, dtype=DOUBLE), r"raised RuntimeError.*\(4, 3\)"),
        (lambda z: -(z**2).sum(-1).numpy(), "returned ndarray"),
        (lambda z: -(z**2), r"shape \(4, 3\) for input \(4, 3\).*shape \(4,\)"),
        (lambda z: -(z**2).sum(), r"shape \(\)"),
        (lambda z: -(z**2).sum(-1, keepdim=True), r"shape \(4, 1\)"),
        (nan_for_some, "'nan_for_some' returned NaN or infinity at [1-3] of 4 points"),
        (lambda z: z.sum(-1) / 0, "NaN or infinity at 4 of 4"),
        (Half(), "'half' has a score that is not finite"),
        (lambda z: -((z - z.mean(0)) ** 2).sum(-1), "mixes samples"),
        (lambda z: plain(z) - plain(z).logsumexp(0), "mixes samples"),
        (lambda z: z.sum(-1).cumsum(0).flip(0), "mixes samples"),
        (lambda z: plain(z).softmax(0), "mixes samples"),  # in its values only
        (lambda z: plain(z.detach()), "raised RuntimeError in the gradient"),
        (lambda z: torch.einsum("ni->n", z), r"raised RuntimeError on .*\(1, 4, 3\)"),
        (lambda z: z.sum(tuple(range(1, z.ndim))), r"shape \(1,\) for input \(1, 4, 3\)"),
    ],
)
def test_what_is_no_log_density_is_refused(density: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_log_density(density, points(4))


def test_what_is_one_passes() -> None:
    for density in (plain, WithFormulas(), lambda z: plain(z) - 1e6, lambda z: 0 * z.sum(-1)):
        check_log_density(density, points(4))
        check_log_density(density, points(4).float())
        with torch.inference_mode():
            check_log_density(density, points(4))
