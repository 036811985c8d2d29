"""The unbiased MMD against its closed form for Gaussians, and its standard error."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation import mmd
from lmcnb.evaluation.mmd import squared_mmd

F64 = torch.float64


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def plain(x: Tensor, y: Tensor, h: float) -> float:
    """The definition, pair by pair."""
    n, m = len(x), len(y)

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * h**2))

    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def kernel_of_gaussians(
    mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor, h: float
) -> float:
    """E k(x, y), x ~ N(mean_a, cov_a) and y ~ N(mean_b, cov_b) independent."""
    width = cov_a + cov_b + h**2 * torch.eye(len(mean_a), dtype=F64)
    away = mean_a - mean_b
    squares = away @ torch.linalg.solve(width, away)
    return float((-0.5 * squares).exp() * h ** len(mean_a) / width.det().sqrt())


def replicates(count: int, n: int, m: int, shift: float, h: float) -> tuple[Tensor, Tensor]:
    """Values and squared standard errors between N(0, I) and N(shift, I) in the plane."""
    x, y = sample(count, n, 2, seed=1), shift + sample(count, m, 2, seed=2)
    found = [squared_mmd(a, b, h) for a, b in zip(x, y, strict=True)]
    return torch.tensor([f.value for f in found]), torch.tensor([f.se**2 for f in found])


def test_it_is_the_definition() -> None:
    x, y = sample(9, 3), 0.5 + sample(7, 3, seed=1)
    found = squared_mmd(x, y, 0.8)
    assert abs(found.value - plain(x, y, 0.8)) < 1e-13
    assert found.n == 7


def test_gaussians_without_bias() -> None:
    """Within 4 standard errors of the closed form; the biased statistic would be 60 away."""
    h, count, n, m = 0.7, 400, 30, 50
    mean_a, mean_b = torch.tensor([0.3, -0.2], dtype=F64), torch.zeros(2, dtype=F64)
    root_a = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=F64)
    root_b = torch.tensor([[0.8, 0.0], [-0.3, 1.1]], dtype=F64)
    a, b = (mean_a, root_a @ root_a.T), (mean_b, root_b @ root_b.T)
    known = (
        kernel_of_gaussians(*a, *a, h)
        + kernel_of_gaussians(*b, *b, h)
        - 2 * kernel_of_gaussians(*a, *b, h)
    )
    x = mean_a + sample(count, n, 2, seed=3) @ root_a.T
    y = mean_b + sample(count, m, 2, seed=4) @ root_b.T
    values = torch.tensor(
        [squared_mmd(u, v, h).value for u, v in zip(x, y, strict=True)], dtype=F64
    )
    assert known > 0.02
    assert abs(float((values.mean() - known) / (values.std() / math.sqrt(count)))) < 4


def test_equal_distributions_give_zero_on_average_and_negative_values() -> None:
    values, _ = replicates(400, 30, 30, 0.0, 0.5)
    assert abs(float(values.mean() / (values.std() / math.sqrt(400)))) < 4
    assert 0.4 < float((values < 0).double().mean()) < 0.7


def test_a_sample_and_itself() -> None:
    """The cross term has the n equal pairs, the others not: -2 (1 - mean k) / n."""
    x = sample(20, 2)
    mean = (plain(x, x + 1e3, 1.0) + plain(x + 1e3, x, 1.0)) / 4  # that of the pairs i != j
    assert abs(squared_mmd(x, x, 1.0).value + 2 * (1 - mean) / 20) < 1e-12


def test_the_order_of_the_samples_and_their_roles_do_not_matter() -> None:
    x, y = sample(40, 2), 0.3 + sample(30, 2, seed=1)
    one = squared_mmd(x, y, 0.5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    for other in (squared_mmd(x[order], y.flip(0), 0.5), squared_mmd(y, x, 0.5)):
        assert abs(other.value - one.value) < 1e-14
        assert abs(other.se - one.se) < 1e-14


def test_a_common_shift_and_the_unit_do_not_matter() -> None:
    x, y = sample(40, 2), 0.3 + sample(30, 2, seed=1)
    one = squared_mmd(x, y, 0.5)
    assert abs(squared_mmd(x + 1e6, y + 1e6, 0.5).value - one.value) < 1e-8
    assert abs(squared_mmd(1e3 * x, 1e3 * y, 500.0).value - one.value) < 1e-13


@pytest.mark.parametrize("size", [1, 70, 400])
def test_chunks_do_not_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample(50, 2), 0.3 + sample(33, 2, seed=1)
    one = squared_mmd(x, y, 0.5)
    monkeypatch.setattr(mmd, "CHUNK", size)
    other = squared_mmd(x, y, 0.5)
    assert abs(other.value - one.value) < 1e-14
    assert abs(other.se - one.se) < 1e-14


def test_single_precision_samples_are_summed_in_double() -> None:
    x, y = sample(300, 2).float(), sample(300, 2, seed=1).float()
    assert squared_mmd(x, y, 0.5) == squared_mmd(x.double(), y.double(), 0.5)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_standard_error_is_the_formula(shift: float) -> None:
    h, n, m = 0.6, 12, 9
    x, y = sample(n, 2), shift + sample(m, 2, seed=6)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b).square().sum(2) / (2 * h**2)).exp()

    def without_diagonal(k: Tensor) -> Tensor:
        return k[~torch.eye(len(k), dtype=torch.bool)].view(len(k), len(k) - 1)

    def centred(k: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return k.square().mean() - rows.square().mean() - columns.square().mean() + k.mean() ** 2

    xx, yy, xy = without_diagonal(kernel(x, x)), without_diagonal(kernel(y, y)), kernel(x, y)
    second = 2 * centred(xx, xx.mean(1), xx.mean(1)) / n**2
    second += 2 * centred(yy, yy.mean(1), yy.mean(1)) / m**2
    second += 4 * centred(xy, xy.mean(1), xy.mean(0)) / (n * m)
    plug_in = 4 * (xx.mean(1) - xy.mean(1)).var() / n + 4 * (yy.mean(1) - xy.mean(0)).var() / m
    known = second if shift == 0 else plug_in - second
    assert (plug_in < 2 * second) == (shift == 0)
    assert abs(squared_mmd(x, y, h).se ** 2 - float(known)) < 1e-14


@pytest.mark.parametrize(
    ("n", "m", "shift", "h", "least", "most"),
    [
        (60, 60, 1.0, 0.5, 0.8, 1.25),  # far apart: right
        (80, 30, 1.0, 0.5, 0.8, 1.25),
        (60, 60, 0.0, 0.5, 0.95, 1.9),  # equal: somewhat too large (the plug-in alone 2.1)
        (60, 60, 0.0, 0.1, 0.85, 1.6),
        (80, 30, 0.0, 0.5, 0.95, 1.9),
    ],
)
def test_the_standard_error(
    n: int, m: int, shift: float, h: float, least: float, most: float
) -> None:
    """Its mean square over that of the values."""
    values, squares = replicates(600, n, m, shift, h)
    ratio = float(squares.mean() / values.var())
    assert least < ratio < most


def test_what_cannot_be_is_refused() -> None:
    good = sample(10, 3)
    with pytest.raises(UsageError, match="y of shape"):
        squared_mmd(good, sample(1, 3), 1.0)
    with pytest.raises(UsageError, match="x of shape"):
        squared_mmd(good[0], good, 1.0)
    with pytest.raises(UsageError, match="dimensions 3 and 2"):
        squared_mmd(good, sample(10, 2), 1.0)
    with pytest.raises(UsageError, match="y: values"):
        squared_mmd(good, good / 0, 1.0)
    for bandwidth in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="bandwidth"):
            squared_mmd(good, good, bandwidth)
