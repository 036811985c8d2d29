"""HMC: the invariant density, the integrator, the Metropolis test, and bad energies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.kernels import hmc
from lmcnb.kernels.leapfrog import leapfrog
from lmcnb.models.targets import make_target


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


@pytest.mark.parametrize(("step_size", "n_leapfrog"), [(0.9, 1), (0.9, 4)])
def test_exact_draws_stay_exact(step_size: float, n_leapfrog: int) -> None:
    draws = exact_draws(200_000)
    state = hmc.init(draws, quartic)
    new, info = hmc.step(state, quartic, step_size, n_leapfrog, generator())
    assert 0.5 < float(info.acceptance.mean()) < 0.95  # coarse enough that the test matters
    for f in (lambda z: z, torch.square, lambda z: z**3, lambda z: (z > 1.2).double()):
        change = (f(new.position) - f(draws))[:, 0]
        error = float(change.std()) / math.sqrt(len(change))
        assert abs(float(change.mean())) < 4 * error


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_energy_ratio_is_one_where_volume_is_preserved(seed: int) -> None:
    """E[exp(H_before - H_after)] = 1; at a step this small the ratio has a variance."""
    state = hmc.init(exact_draws(200_000), quartic)
    _, info = hmc.step(state, quartic, 0.3, 2, generator(seed))
    ratio = (-info.energy_error).exp()
    assert float(ratio.std()) > 0.01
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(ratio))


def test_acceptance_is_the_stated_probability() -> None:
    state = hmc.init(exact_draws(100_000), quartic)
    _, info = hmc.step(state, quartic, 0.9, 3, generator())
    torch.testing.assert_close(info.acceptance, (-info.energy_error).exp().clamp(max=1))
    gap = info.accepted.double() - info.acceptance
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(gap))


def test_a_trajectory_is_so_many_leapfrogs() -> None:
    z = torch.randn(4, 3, 5, generator=generator(1), dtype=torch.float64)
    state = hmc.init(z, quartic)
    momentum = torch.randn(z.shape, generator=generator(), dtype=z.dtype)
    energy = -state.log_density + 0.5 * momentum.square().sum(-1)
    position, rho = z, momentum
    for _ in range(3):
        position, rho = leapfrog(position, rho, 0.05, lambda x: -(x**3) + 0.5)
    new, info = hmc.step(state, quartic, 0.05, 3, generator())
    torch.testing.assert_close(
        info.energy_error, -quartic(position) + 0.5 * rho.square().sum(-1) - energy
    )
    assert info.accepted.any() and info.acceptance.shape == (4, 3)
    moved = info.accepted
    torch.testing.assert_close(new.position[moved], position[moved])
    assert torch.equal(new.position[~moved], z[~moved])
    assert info.n_gradients == 3
    fresh = hmc.init(new.position, quartic)
    torch.testing.assert_close(new.log_density, fresh.log_density)
    torch.testing.assert_close(new.score, fresh.score)


def test_energy_error_is_of_second_order() -> None:
    z = torch.randn(200, 5, generator=generator(1), dtype=torch.float64)
    state = hmc.init(z, quartic)
    errors = []
    for n in (16, 32, 64):  # the same length of time, the same momentum
        _, info = hmc.step(state, quartic, 0.8 / n, n, generator())
        errors.append(float(info.energy_error.abs().mean()))
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert slopes == pytest.approx([2.0, 2.0], abs=0.1)


def test_rejected_chains_keep_their_state() -> None:
    z = torch.randn(500, 2, generator=generator(1), dtype=torch.float64)
    state = hmc.init(z, quartic)
    new, info = hmc.step(state, quartic, 1.2, 3, generator())
    stay = ~info.accepted
    assert stay.any() and info.accepted.any()
    for before, after in zip(state, new, strict=True):
        assert torch.equal(before[stay], after[stay])


def test_a_broken_energy_is_rejected() -> None:
    def wall(z: Tensor) -> Tensor:  # NaN beyond 1, as a careless target would have it
        return (1 - z).log().sum(-1)

    z = torch.full((200, 1), 0.5, dtype=torch.float64)
    state = hmc.init(z, wall)
    new, info = hmc.step(state, wall, 1.0, 1, generator())
    assert info.energy_error.isnan().any()
    assert not info.accepted[info.energy_error.isnan()].any()
    assert new.log_density.isfinite().all() and new.position.isfinite().all()


def test_analytic_scores_and_autograd_walk_the_same_path() -> None:
    target = make_target("mixture", torch.float64)
    z = torch.randn(6, 2, generator=generator(1), dtype=torch.float64)
    fast, _ = hmc.step(hmc.init(z, target), target, 0.3, 5, generator())
    plain = target.__call__
    slow, _ = hmc.step(hmc.init(z, plain), plain, 0.3, 5, generator())
    torch.testing.assert_close(fast.position, slow.position)
