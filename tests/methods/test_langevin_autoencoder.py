"""Amortized Langevin dynamics against its exact answers (the sheet's section 6), and bad input."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import langevin_autoencoder_exact as exact
from lmcnb.experiments import langevin_autoencoder_exact_models as models
from lmcnb.experiments.langevin_autoencoder_toys import quadratic, run_chains
from lmcnb.kernels import mala
from lmcnb.methods import langevin_autoencoder as lae


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("width", [1, 3, 4, 5, 16])
def test_the_stationary_law_of_four_points(width: int, seed: int) -> None:
    """E Z = H M and Cov(z_i, z_j) = H_ij S, for features below, at and above the points."""
    found = exact.stationary(4, width, generator(seed), chains=40_000)
    assert found.mean < 4.5
    assert found.covariance < 4.5


def test_without_the_accept_test_the_law_moves() -> None:
    assert exact.stationary(4, 9, generator(), adjusted=False).covariance > 20


def test_chains_from_anywhere_reach_the_law() -> None:
    """From far away, by mixing: 64 chains against the closed form, below and at the points."""
    means = torch.randn(3, 2, generator=generator(5), dtype=torch.float64)
    covariance = torch.tensor([[0.4, 0.2], [0.2, 0.5]], dtype=torch.float64)
    for d in (2, 3, 8):
        size = max(d, 3)
        G = 3 * torch.linalg.qr(features(size, size, d)).Q[:3, :d]  # K = 9 I for d >= 3
        phi = 3 * torch.randn(64, 2 * d, generator=generator(), dtype=torch.float64)
        ran = run_chains(
            quadratic(means, covariance), G, phi, 6000, 0.01, generator(1), drop=1000, thin=5
        )
        law, cov = lae.gaussian_law(G, means, covariance)
        own = ran.z.mean(0)
        z = (own.mean(0) - law) / (own.std(0) + 1e-9) * 8
        assert float(z.abs().max()) < 4.5
        ratio = ran.z.flatten(0, 1).var(0) / covariance.diagonal()
        known = torch.stack([cov[i, i].diagonal() for i in range(3)]) / covariance.diagonal()
        torch.testing.assert_close(ratio, known, rtol=0, atol=0.1)
        H = lae.hat_matrix(G)
        outside = (torch.eye(3, dtype=torch.float64) - H) @ ran.z  # never left
        assert float(outside.abs().max()) < 1e-10


def test_the_hat_matrix() -> None:
    for n, d in ((4, 2), (4, 4), (4, 9)):
        H = lae.hat_matrix(features(n, d))
        torch.testing.assert_close(H @ H, H)
        assert math.isclose(float(H.trace()), min(n, d), rel_tol=1e-9)
    doubled = features(3, 5)[[0, 1, 1]]  # rank 2
    assert math.isclose(float(lae.hat_matrix(doubled).trace()), 2, rel_tol=1e-9)
    for small, rank in ((1e-7, 2), (1e-4, 3)):  # H counts directions as the Gram matrix does
        U, _, V = torch.linalg.svd(features(3, 5), full_matrices=False)
        G = U @ torch.tensor([1.0, 0.5, small], dtype=torch.float64).diag() @ V
        assert round(float(lae.hat_matrix(G).trace()), 6) == int(lae.gram(G).rank) == rank


def test_one_hot_features_give_independent_chains() -> None:
    assert exact.one_hot_error(generator()) < 1e-12


def test_the_null_space_is_not_felt_and_walks_freely() -> None:
    felt, walk = exact.null_space(generator())
    assert felt < 1e-10
    assert abs(walk) < 4


def test_fisher_s_identity() -> None:
    relative, z = exact.fisher_identity(generator(), 6000)
    assert relative < 0.02
    assert z < 4


def test_hoffman_is_the_vae_without_steps_and_trains_the_decoder_on_the_last() -> None:
    same, last = models.hoffman_errors(generator())
    assert same == 0
    assert last < 1e-14


def test_the_unadjusted_variance_is_infinite_beyond_stability() -> None:
    one = torch.ones(1)
    assert float(lae.unadjusted_variance(one, one, 1.0)) == 2.0
    assert math.isinf(float(lae.unadjusted_variance(one, one, 2.0)))


def test_a_density_of_nan_keeps_phi() -> None:
    """A proposal whose energy is no number is rejected, and the chain goes on."""

    def log_joint(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0.5, math.nan, -0.5 * z.square().sum(-1))

    G = features(2, 3)
    phi = torch.zeros(50, 3, dtype=torch.float64)
    ran = run_chains(log_joint, G, phi, 200, 0.05, generator())
    assert torch.isfinite(ran.z).all()
    assert float(ran.z[..., 0].max()) <= 0.5
    assert 0.1 < float(ran.acceptance.mean()) < 0.99


# ------------------------------------------------------------------------------- bad input


def test_a_batch_larger_than_the_features_is_warned_of_with_the_fix() -> None:
    with pytest.warns(UserWarning, match=r"batch = 5 points exceeds width = 3.*at most 3.*least 5"):
        lae.check_features(features(5, 3), 1e-6)


def test_rank_deficient_features_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"features of 3 points have rank 2"):
        K = lae.check_features(features(3, 6)[[0, 1, 1]], 1e-6)
    assert int(K.rank) == 2


def test_a_step_past_the_stability_bound_is_warned_of_with_the_eigenvalue() -> None:
    G = features(3, 6)
    top = float(torch.linalg.eigvalsh(G @ G.mT)[-1])
    with pytest.warns(UserWarning, match=rf"largest eigenvalue {top:.4g}.*use at most"):
        lae.check_features(G, 3 / top)


def test_good_features_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        K = lae.check_features(features(3, 6), 1e-3)
    assert int(K.rank) == 3


@pytest.mark.parametrize("bad", [torch.full((2, 3), math.nan), torch.zeros(3)])
def test_features_that_are_no_numbers_are_refused(bad: Tensor) -> None:
    with pytest.raises(UsageError, match="finite numbers"):
        lae.check_features(bad, 1e-3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"moves": -1}, "moves=-1"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": math.nan}, "step_size=nan"),
        ({"step_size": 1e300}, r"step_size=1e\+300: at most 1e30"),
        ({"target_acceptance": 1.0}, "target_acceptance=1.0"),
        ({"target_acceptance": 0.5, "adjusted": False}, "needs moves with the accept test"),
        ({"gradient": True}, "needs moves=0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lae.Langevin(**settings)


@pytest.mark.parametrize(
    ("shape", "changed", "says"),
    [
        ((3, 6), {"step_size": -1.0}, "step_size=-1.0"),
        ((3, 6), {"step_size": math.nan}, "step_size=nan"),
        ((3, 6), {"curvature": 0.0}, "curvature=0.0"),
        ((0, 6), {}, r"features of shape \(0, 6\)"),
    ],
)
def test_impossible_checks_are_refused(shape: Any, changed: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lae.check_features(features(*shape), **{"step_size": 1e-3, **changed})


def test_a_uniform_of_zero_accepts_what_is_as_rare_and_no_more() -> None:
    for kind, digits in ((torch.float32, 24), (torch.float64, 53)):
        zero = torch.zeros(3, dtype=kind)
        log_r = torch.tensor([-2000.0, -1.0, math.nan], dtype=torch.float64)
        assert mala.accepts(log_r, zero).tolist() == [False, True, False]
        edge = torch.tensor([-digits * math.log(2)], dtype=torch.float64)
        assert mala.accepts(edge + 1e-3, zero[:1]).tolist() == [True]
        assert mala.accepts(edge - 1e-3, zero[:1]).tolist() == [False]


@pytest.mark.parametrize("wrong", [lambda z: -z.square().sum() / 2, lambda z: -z.square() / 2])
def test_a_log_joint_that_mixes_points_is_refused(wrong: Any) -> None:
    target = lae.amortized(wrong, features(3, 6))
    with pytest.raises(UsageError, match=r"log_joint: for latents \(64, 3, 2\) it gave"):
        mala.init(torch.zeros(64, 12, dtype=torch.float64), target)
