"""ULA and MALA: the invariant density, the known bias, the log ratio, and bad energies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.experiments import langevin_autoencoder_exact as exact
from lmcnb.kernels import mala, ula


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quartic(z: Tensor) -> Tensor:
    """A density with no Gaussian shortcut, `(..., dim)` -> `(...)`."""
    return -0.25 * (z**4).sum(-1) + 0.5 * z.sum(-1)


def exact_draws(n: int) -> Tensor:
    """Draws `(n, 1)` from the one-dimensional quartic, by inversion on a fine grid."""
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    heights = quartic(grid[:, None]).exp().cumsum(0)
    uniform = torch.rand(n, generator=generator(7), dtype=torch.float64)
    return grid[torch.searchsorted(heights / heights[-1], uniform)][:, None]


def test_mala_leaves_exact_draws_exact() -> None:
    draws = exact_draws(200_000)
    state = mala.init(draws, quartic)
    new, info = mala.step(state, quartic, 0.5, generator())
    assert 0.5 < float(info.acceptance.mean()) < 0.9  # coarse enough that the test matters
    assert info.n_gradients == 1
    for f in (lambda z: z, torch.square, lambda z: z**3, lambda z: (z > 1.2).double()):
        change = (f(new.position) - f(draws))[:, 0]
        error = float(change.std()) / math.sqrt(len(change))
        assert abs(float(change.mean())) < 4 * error


def test_ula_does_not() -> None:
    """The same test must see what the missing accept test does."""
    draws = exact_draws(200_000)
    new, _ = ula.step(ula.init(draws, quartic), quartic, 0.5, generator())
    change = new.position.square() - draws.square()
    assert abs(float(change.mean())) > 10 * float(change.std()) / math.sqrt(len(change))


def test_the_state_caches_what_belongs_to_its_position() -> None:
    state = mala.init(exact_draws(500), quartic)
    for seed in range(3):
        state, info = mala.step(state, quartic, 0.8, generator(seed))
    fresh = mala.init(state.position, quartic)
    torch.testing.assert_close(state.log_density, fresh.log_density, rtol=0, atol=0)
    torch.testing.assert_close(state.score, fresh.score, rtol=0, atol=0)
    assert 0 < int(info.accepted.sum()) < 500


def test_ula_s_step_is_the_formula() -> None:
    z = exact_draws(4)
    new, _ = ula.step(ula.init(z, quartic), quartic, 0.1, generator(3))
    noise = torch.randn(z.shape, generator=generator(3), dtype=z.dtype)
    torch.testing.assert_close(new.position, z + 0.1 * (0.5 - z**3) + math.sqrt(0.2) * noise)


@pytest.mark.parametrize("seed", range(3))
def test_the_unadjusted_variance_has_its_formula(seed: int) -> None:
    """The sheet's 6.3: bias up to a third, every direction within four standard errors."""
    errors = exact.unadjusted_bias(generator(seed), 4000)
    assert max(float(bias) for bias in errors) > 0.3
    assert max(abs(z) for z in errors.values()) < 4


def test_the_compact_ratio_is_the_ratio_of_the_densities() -> None:
    direct, antisymmetric, limit = exact.ratio_errors(generator())
    assert direct < 1e-10
    assert antisymmetric < 1e-12
    assert limit < 1e-6


def test_a_small_chain_has_its_density() -> None:
    assert exact.detailed_balance(generator(), 6000) < 0.02


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_proposal_without_a_log_density_is_rejected(bad: float) -> None:
    def walled(z: Tensor) -> Tensor:
        inside = -0.5 * z.square().sum(-1)
        return torch.where(z[..., 0] > 0.3, torch.full_like(inside, bad), inside)

    state = mala.init(torch.zeros(1000, 1, dtype=torch.float64), walled)
    for seed in range(5):
        state, info = mala.step(state, walled, 0.2, generator(seed))
        assert torch.isfinite(info.acceptance).all()
    assert float(state.position.max()) <= 0.3
    assert float(state.position.min()) < -0.5


def test_large_log_densities_are_compared_in_float64() -> None:
    """At 1e6 nats the spacing of float32 is 0.06; differences of 1e-3 must survive."""
    far = torch.tensor(1e6, dtype=torch.float64)
    zero = torch.zeros(1, 1)
    old = mala.State(zero, far[None], zero)
    new = mala.State(zero, far[None] - 1e-3, zero)
    assert abs(float(mala.log_ratio(old, new, 0.1)) + 1e-3) < 1e-8


def test_step_sizes_broadcast_over_chains() -> None:
    z = exact_draws(6)
    eta = torch.tensor([0.1, 0.1, 0.1, 0.6, 0.6, 0.6], dtype=torch.float64)[:, None]
    new, info = mala.step(mala.init(z, quartic), quartic, eta, generator(1))
    for i in (0, 5):
        noise = torch.randn(z.shape, generator=generator(1), dtype=z.dtype)
        one = mala.init(z[i : i + 1], quartic)
        moved = ula.propose(one.position, one.score, float(eta[i]), noise[i : i + 1])
        log_r = mala.log_ratio(one, mala.init(moved, quartic), float(eta[i]))
        torch.testing.assert_close(info.log_ratio[i], log_r[0])
    assert new.position.shape == z.shape
