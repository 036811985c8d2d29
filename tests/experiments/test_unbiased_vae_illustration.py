"""The one-dimensional illustration: its densities, and what its chains do."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments import unbiased_vae_illustration as one
from lmcnb.experiments import unbiased_vae_ppca_figures as figures
from lmcnb.kernels.coupling import pick

LONG = {"long": 1200, "count": 60, "burn_in": 150}


@cache
def found() -> dict[str, Any]:
    return one.illustration(0, **LONG)


def grid() -> torch.Tensor:
    return torch.linspace(-6, 5, 110_001, dtype=torch.float64)


def test_densities_are_normalized_and_the_weight_is_their_ratio() -> None:
    z = grid()
    p, q = one.log_target(z).exp(), one.log_proposal(z).exp()
    for density in (p, q):
        assert float(torch.trapezoid(density, z)) == pytest.approx(1, abs=1e-8)
    assert float(torch.trapezoid(z * p, z)) == pytest.approx(-0.528 + 0.472, abs=1e-8)
    xi = (z + 1) / 0.7
    torch.testing.assert_close(one.log_weight(xi.unsqueeze(-1)), p.log() - q.log())


def test_the_largest_weight_is_the_notes() -> None:
    at, most = one.largest_weight()
    assert at == pytest.approx(1.227, abs=1e-3)
    assert most == pytest.approx(139.2, abs=0.05)


def test_masses_are_integrals_of_the_target() -> None:
    masses = one.masses(14)
    edges = np.linspace(-4, 3, 15)
    for low, high, mass in zip(edges[:-1], edges[1:], masses.tolist(), strict=True):
        z = torch.linspace(low, high, 4001, dtype=torch.float64)
        assert mass == pytest.approx(float(torch.trapezoid(one.log_target(z).exp(), z)), abs=1e-7)


def test_chains_move_at_the_notes_rates_and_have_the_right_law() -> None:
    r = found()
    truth = float(one.masses(7)[4:].sum())  # z > 0
    assert truth == pytest.approx(0.484, abs=1e-3)
    for name, share in (("ISIR", 0.16), ("ISIR-DISIR", 0.68), ("DISIR", 0.63)):
        assert r[name]["moves_right"] == pytest.approx(share, abs=0.012)
        assert 0 < r[name]["moves_right_se"] < 0.006
        assert abs(r[name]["right"] - truth) < 4 * r[name]["right_se"]
        assert r[name]["total_variation"] < 0.03
        assert r[name]["total_variation"] < r[name]["total_variation_shown"] < 0.3
    assert r["ISIR"]["moves_right"] < 0.3 * r["ISIR-DISIR"]["moves_right"]


def test_the_moves_of_isir_are_those_of_its_definition() -> None:
    """From stationary starts, one step written out: the share that leaves a point at z > 0."""
    g = torch.Generator().manual_seed(5)
    z = grid()
    n = 200_000
    uniform = torch.rand(n, generator=g, dtype=torch.float64)
    p = torch.where(z > 0, one.log_target(z).exp(), 0.0)
    start = z[torch.searchsorted(p.cumsum(0) / p.sum(), uniform)]
    fresh = -1 + 0.7 * torch.randn(n, 9, generator=g, dtype=torch.float64)
    points = torch.cat([start.unsqueeze(1), fresh], 1)
    w = (one.log_target(points) - one.log_proposal(points)).exp()
    uniform = torch.rand(n, generator=g, dtype=torch.float64)
    share = float((pick(w, uniform) != 0).double().mean())
    assert share == pytest.approx(found()["ISIR"]["moves_right"], abs=0.01)


def test_statistics_are_recomputed_from_the_chains() -> None:
    r = one.illustration(3, long=50, count=7, burn_in=5, shown=30, bins=20)
    for name in one.KERNELS:
        z, moved = one.chains(name, 55, count=7, seed=4)
        assert z.shape == (56, 7)
        changed = z[1:] != z[:-1]
        assert torch.equal(changed, moved)
        right = z[5:-1] > 0
        going = (right & changed[5:]).sum()
        assert r[name]["moves_right"] == pytest.approx(float(going / right.sum()))
        assert r[name]["right"] == pytest.approx(float(right.double().mean()))
        inside = np.histogram(z[6:].numpy(), bins=20, range=one.EDGES)[0] / z[6:].numel()
        np.testing.assert_allclose(r[name]["long_histogram"], inside, atol=1e-12)
        lost = abs(inside.sum() - one.masses(20).sum())
        apart = 0.5 * (np.abs(inside - one.masses(20).numpy()).sum() + lost)
        assert r[name]["total_variation"] == pytest.approx(float(apart))
        trace, _ = one.chains(name, 30, seed=3)
        np.testing.assert_array_equal(r[name]["trace"], trace[:, 0].numpy())


def test_what_lies_outside_the_histogram_counts_in_the_distance() -> None:
    r = one.illustration(0, shown=20, long=5, count=2, burn_in=0, bins=10)
    truth = one.masses(10)
    assert one._distance(truth, truth) == 0
    assert one._distance(0.75 * truth, truth) == pytest.approx(0.25, abs=1e-9)  # a quarter outside
    shown = torch.from_numpy(r["ISIR"]["histogram"])
    assert r["ISIR"]["total_variation_shown"] == one._distance(shown, truth)


def test_work_is_reported_and_an_unknown_kernel_refused() -> None:
    done: list[float] = []
    one.illustration(0, shown=10, long=5, count=2, burn_in=3, report=done.append)
    assert sum(done) == 3 * (10 + 2 * 8)
    with pytest.raises(UsageError, match="'SIR'"):
        one.chains("SIR", 3)


def test_figure_has_its_arrays() -> None:
    import matplotlib.pyplot as plt

    fig, arrays = figures.illustration(found())
    np.testing.assert_allclose(arrays["weight"], arrays["target"] / arrays["proposal"])
    assert arrays["ISIR/trace"].shape == (1001,)
    assert math.isclose(arrays["DISIR/histogram"].sum(), 1, abs_tol=1e-3)
    plt.close(fig)
