"""Densities in the plane: normalized, matched by their samples, the pinwheel by other routes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.plane_truth import cell_masses, divergence
from lmcnb.kernels.gradients import check_log_density
from lmcnb.models import plane
from lmcnb.models.plane import Checkerboard, EightGaussians, Pinwheel
from lmcnb.models.targets.toy import GaussianMixture

F64 = torch.float64
NAMES = tuple(plane.DENSITIES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square_z(x: Tensor, masses: Tensor, limit: float) -> float:
    """Pearson's statistic of the binned samples as a z-score, by its exact mean and variance."""
    n, bins = len(x), len(masses)
    index = ((x.double() + limit) * (bins / (2 * limit))).floor().long()
    inside = ((index >= 0) & (index < bins)).all(1)
    flat = torch.where(inside, index[:, 0] * bins + index[:, 1], bins**2)
    counts = torch.bincount(flat, minlength=bins**2 + 1).double()
    expected = n * torch.cat([masses.reshape(-1), 1 - masses.sum().reshape(1)])
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum().reshape(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    if expected[-1] < 5:  # too little for a chi square
        if counts[-1] > 30:
            return math.inf
        counts, expected = counts[:-1], expected[:-1]
    k = len(counts)
    statistic = ((counts - expected).square() / expected).sum()
    variance = 2 * (k - 1) + ((n / expected).sum() - k**2 - 2 * k + 2) / n
    return float((statistic - (k - 1)) / variance.sqrt())


@pytest.mark.parametrize(
    ("name", "cells", "limit", "tolerance"),
    [
        ("eight_gaussians", 401, 4.0, 1e-12),
        ("checkerboard", 400, 4.0, 1e-12),
        ("pinwheel", 192, 4.8, 5e-7),  # the poles on its folds cost some digits
    ],
)
def test_it_integrates_to_one(name: str, cells: int, limit: float, tolerance: float) -> None:
    p = plane.make(name)
    assert p.name == name
    assert abs(divergence(p, p, cells, limit).log_normalizer) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_the_samples_are_of_the_density(name: str) -> None:
    p = plane.make(name)
    x = p.sample(100_000, generator(1))
    assert x.shape == (100_000, 2)
    assert x.dtype == torch.float32
    masses = cell_masses(p)
    assert abs(chi_square_z(x, masses, 3.2)) < 4
    assert chi_square_z(1.02 * x, masses, 3.2) > 8  # the test sees two percent


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides(name: str) -> None:
    p = plane.make(name)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = p.sample(10, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, p.sample(10, generator(3)))
    assert not torch.equal(one, p.sample(10, generator(4)))


@pytest.mark.parametrize("name", NAMES)
def test_any_leading_dimensions_and_the_dtype_of_the_points(name: str) -> None:
    p = plane.make(name)
    x = p.sample(24, generator()).double()
    flat = p(x)
    assert flat.dtype == F64
    torch.testing.assert_close(p(x.view(2, 3, 4, 2)), flat.view(2, 3, 4), rtol=0, atol=1e-13)
    torch.testing.assert_close(p.log_density(x[5]), flat[5], rtol=0, atol=1e-13)
    single = p(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), flat, rtol=0, atol=2e-4)
    assert p(x[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_far_points_and_nan(name: str) -> None:
    p = plane.make(name)
    nan = math.nan
    value = p(torch.tensor([[1e3, -1e3], [nan, 0.0], [0.0, nan]], dtype=F64))
    assert float(value[0]) < -1e3
    assert value[1:].isnan().all()
    far = torch.tensor([[1e6, 0.0], [nan, 0.0], [math.inf, 0.0], [0.0, nan]])
    good = p.modes[:1].float()
    assert p.within(far) == 0
    assert abs(p.within(torch.cat([far, good])) - 0.2) < 1e-12


def test_eight_gaussians_by_their_formula() -> None:
    p = EightGaussians()
    x = torch.randn(50, 2, generator=generator(), dtype=F64) * 2
    total = torch.zeros(50, dtype=F64)
    for k in range(8):
        centre = torch.tensor([2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)])
        squares = (x - centre.double()).square().sum(1) / 0.2**2
        total += (-0.5 * squares).exp() / (8 * 2 * math.pi * 0.2**2)
    centres = torch.tensor([[2.0, 0.0], [2**0.5, 2**0.5], [0.0, 2.0]], dtype=F64)
    torch.testing.assert_close(p.centres[:3], centres, rtol=0, atol=1e-12)
    torch.testing.assert_close(p(x).exp(), total, rtol=1e-5, atol=1e-300)


def test_eight_gaussians_are_a_target_of_the_kernels() -> None:
    check_log_density(EightGaussians(), torch.randn(8, 2, generator=generator(), dtype=F64))
    check_log_density(EightGaussians(), torch.randn(8, 2, generator=generator()))


@pytest.mark.parametrize("k", [1.0, 3.0])
@pytest.mark.parametrize("p", [EightGaussians(), Pinwheel(arms=2)], ids=lambda p: p.name)
def test_the_share_within_k_standard_deviations(p: EightGaussians | Pinwheel, k: float) -> None:
    n, modes = 40_000, len(p.modes)
    x = p.sample(n, generator(2))
    known = 1 - math.exp(-0.5 * k**2)
    assert abs(p.within(x, k) - known) < 4 * math.sqrt(known * (1 - known) / n)
    shares = p.mode_shares(x, k)
    assert shares.shape == (modes,)
    each = known / modes
    assert float(((shares - each) / math.sqrt(each * (1 - each) / n)).abs().max()) < 4
    assert abs(float(shares.sum()) - p.within(x, k)) < 1e-12


def test_mode_shares_have_the_order_of_the_modes() -> None:
    for name in NAMES:
        p = plane.make(name)
        m = len(p.modes)
        x = torch.cat([p.modes[i : i + 1].expand(i + 1, 2) for i in range(m)])
        known = torch.arange(1, m + 1, dtype=F64) / (m * (m + 1) / 2)
        torch.testing.assert_close(p.mode_shares(x), known, rtol=0, atol=1e-12)


def test_within_counts_by_the_distance() -> None:
    p = EightGaussians()
    x = torch.tensor([[2.59, 0.0], [2.61, 0.0], [0.0, -1.41], [0.0, 0.0]], dtype=F64)
    assert p.within(x) == 0.5
    assert p.within(x, 3.1) == 0.75
    assert p.mode_shares(x).tolist() == [0.25, 0, 0, 0, 0, 0, 0.25, 0]


def test_the_checkerboard() -> None:
    p = Checkerboard()
    dark = torch.tensor([[0.5, 0.5], [-0.5, -0.5], [-2.0, -2.0], [1.999, -0.001], [0.0, -2.0]])
    light = torch.tensor([[0.5, -0.5], [-1.5, -0.5], [2.0, 0.0], [2.5, 0.5], [0.0, -2.001]])
    assert torch.equal(p(dark.double()), torch.full((5,), -math.log(8), dtype=F64))
    assert torch.equal(p(light), torch.full((5,), -math.inf))
    assert p.within(torch.cat([dark, light])) == 0.5
    uniform = torch.rand(40_000, 2, generator=generator(), dtype=F64) * 4 - 2
    assert abs(p.within(uniform) - 0.5) < 4 * 0.5 / 200
    x = p.sample(40_000, generator(1))
    assert p.within(x) == 1
    shares = p.cell_shares(x)
    assert shares.shape == (8,)
    assert float((shares - 1 / 8).abs().max()) < 4 * math.sqrt(7 / 64 / 40_000)


def test_no_sample_of_the_checkerboard_rounds_out_of_its_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The highest place of a cell: in float32 `corner + rand` would reach the next cell."""
    real = torch.randint

    def highest(high: int, *args: object, **options: object) -> Tensor:
        drawn = real(high, *args, **options)
        return torch.full_like(drawn, high - 1) if high > 8 else drawn

    monkeypatch.setattr(torch, "randint", highest)
    p = Checkerboard()
    assert p.within(p.sample(200, generator())) == 1


def test_a_pinwheel_without_winding_is_a_mixture_of_gaussians() -> None:
    p = Pinwheel(radial_sd=0.5, tangential_sd=0.2, rate=0.0, arms=3, scale=1.5)
    angles = torch.arange(3, dtype=F64) * (2 * math.pi / 3)
    cos, sin = angles.cos(), angles.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    spread = torch.tensor([0.5**2, 0.2**2], dtype=F64).diag()
    known = GaussianMixture(
        torch.ones(3), 1.5 * turn[:, :, 0], 1.5**2 * turn @ spread @ turn.mT, dtype=F64
    )
    x = torch.cat([torch.randn(200, 2, generator=generator(), dtype=F64), torch.zeros(1, 2)])
    torch.testing.assert_close(p(x), known(x), rtol=0, atol=1e-11)


def test_the_pinwheel_has_its_rotations_and_no_reflection() -> None:
    p = Pinwheel()
    x = p.sample(500, generator()).double()
    angle = 2 * math.pi / 5
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64
    )
    torch.testing.assert_close(p(x @ turn.T), p(x), rtol=0, atol=1e-9)
    mirrored = x * torch.tensor([1.0, -1.0])
    assert float((p(mirrored) - p(x)).abs().median()) > 1


def test_the_pinwheels_masses_by_a_grid_in_feature_space() -> None:
    """The bins' masses as those of their preimages: no root, no Jacobian, no random number."""
    p, side, bins, limit = Pinwheel(), 900, 16, 3.2
    nodes = (torch.arange(side, dtype=F64) + 0.5) * (12 / side) - 6
    weight = (-0.5 * nodes.square()).exp()
    weight /= weight.sum()
    grid = torch.cartesian_prod(1 + 0.3 * nodes, 0.1 * nodes)
    weights = torch.outer(weight, weight).reshape(-1)
    a, t = grid[:, 0], grid[:, 1]
    known = torch.zeros(bins**2 + 1, dtype=F64)
    for k in range(5):
        angle = 2 * math.pi * k / 5 + 0.25 * a.exp()
        place = 1.6 * torch.polar(torch.ones_like(angle), angle) * torch.complex(a, t)
        index = ((torch.view_as_real(place) + limit) * (bins / (2 * limit))).floor().long()
        inside = ((index >= 0) & (index < bins)).all(1)
        flat = torch.where(inside, index[:, 0] * bins + index[:, 1], bins**2)
        known += torch.bincount(flat, weights, minlength=bins**2 + 1) / 5
    coarse, fine = (cell_masses(p, bins, limit, per_side) for per_side in (5, 10))
    found = fine + (fine - coarse) / 3  # Richardson's extrapolation of the midpoint rule
    assert float((found.reshape(-1) - known[:-1]).abs().max()) < 4e-5  # masses up to 0.04
    assert float((found.reshape(-1) - known[:-1]).abs().sum()) < 6e-4
    assert abs(float(1 - found.sum() - known[-1])) < 1e-5


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_the_pinwheels_roots_by_brute_force(rate: float) -> None:
    """Sign changes on a dense grid of angles, at points with one, three and many roots an arm."""
    p = Pinwheel(rate=rate)
    polar = torch.tensor([[1e-9, 0.1], [0.2, 3.1], [1.3, -2.0], [2.1, 0.3], [3.2, 1.0], [4.3, -3]])
    rho, phi = polar.double().unbind(1)
    x = 1.6 * torch.stack([rho * phi.cos(), rho * phi.sin()], 1)
    alpha = torch.linspace(-math.pi, math.pi, 400_001, dtype=F64)
    counts = []
    for i in range(len(x)):
        total, roots = 0.0, 0
        a = rho[i] * alpha.cos()
        for k in range(5):
            h = alpha + rate * a.exp() - (phi[i] - 2 * math.pi * k / 5)
            turns = (h / (2 * math.pi)).floor()
            at = (turns[1:] != turns[:-1]).nonzero().squeeze(1)
            level = 2 * math.pi * torch.maximum(turns[at], turns[at + 1])
            part = (level - h[at]) / (h[at + 1] - h[at])
            angle = torch.lerp(alpha[at], alpha[at + 1], part)
            a_, t_ = rho[i] * angle.cos(), rho[i] * angle.sin()
            normal = (-0.5 * (((a_ - 1) / 0.3) ** 2 + (t_ / 0.1) ** 2)).exp()
            slope = (1 - rate * rho[i] * angle.sin() * a_.exp()).abs()
            total += float((normal / (2 * math.pi * 0.03) / slope).sum()) / 5 / 1.6**2
            roots += len(at)
        counts.append(roots)
        assert abs(float(p(x[i])) - math.log(total)) < 1e-6
    assert counts[0] == 5
    assert max(counts) > 30


def test_the_pinwheels_entropy() -> None:
    p = Pinwheel()
    log_p = p(p.sample(20_000, generator(5)).double())
    axis = (torch.arange(192, dtype=F64) + 0.5) * (9.6 / 192) - 4.8
    grid = p(torch.cartesian_prod(axis, axis))
    known = (grid.exp() * torch.where(grid.isfinite(), grid, 0)).sum() * (9.6 / 192) ** 2
    assert abs(float((log_p.mean() - known) / (log_p.std() / math.sqrt(20_000)))) < 4


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'spiral'.*eight_gaussians, checkerboard, pinwheel"):
        plane.make("spiral")
    with pytest.raises(UsageError, match="n=0"):
        Checkerboard().sample(0, generator())
    for p in map(plane.make, NAMES):
        with pytest.raises(UsageError, match=r"points of shape \(4, 3\)"):
            p(torch.zeros(4, 3))
        with pytest.raises(UsageError, match="int64"):
            p(torch.zeros(4, 2, dtype=torch.int64))
        with pytest.raises(UsageError, match="samples of shape"):
            p.within(torch.zeros(2))
        with pytest.raises(UsageError, match="samples of shape"):
            p.mode_shares(torch.zeros(0, 2))
    with pytest.raises(UsageError, match="sd=0"):
        EightGaussians(sd=0)
    with pytest.raises(UsageError, match="rate=-1"):
        Pinwheel(rate=-1)
    with pytest.raises(UsageError, match="arms=0"):
        Pinwheel(arms=0)
