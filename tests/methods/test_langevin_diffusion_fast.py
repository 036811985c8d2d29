"""The fast implementation against plain autograd in float64: every gradient of every method."""

from __future__ import annotations

import pytest
import torch

from lmcnb.experiments import langevin_diffusion_identities as same
from lmcnb.lab.data import load
from lmcnb.methods.langevin_diffusion import METHODS
from lmcnb.methods.langevin_diffusion_fast import Engine
from lmcnb.methods.langevin_diffusion_refresh import refresh_coefficients
from lmcnb.models.targets import make_target


@pytest.mark.parametrize("bridges", [0, 1, 2, 7, 35])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_plain_autograd(name, bridges):
    chains = 20 if bridges < 10 else 4
    assert same.gradient_error(name, bridges=bridges, chains=chains) < 1e-9


@pytest.mark.parametrize("chains,dim", [(1, 1), (1, 4), (3, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_at_the_smallest_sizes(name, chains, dim):
    assert same.gradient_error(name, chains=chains, dim=dim) < 1e-9


@pytest.mark.parametrize("target", ["seeds", "brownian", "lorenz", "breast_cancer", "mixture"])
@pytest.mark.parametrize("name", ["MCD", "LDVI", "LDVI_EM"])
def test_gradients_through_hand_written_scores(name, target):
    data = load(target) if target in ("seeds", "brownian", "lorenz") else None
    density = make_target(target, torch.float64, "cpu", data)
    assert same.gradient_error(name, density, dim=density.dim, bridges=2, chains=3) < 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_a_row_equals_the_same_run_alone(name):
    cases = [same.random_case(name, seed) for seed in range(3)]
    noise = torch.stack([n for _, n in cases])
    together = {k: torch.stack([p[k] for p, _ in cases]) for k in cases[0][0]}
    sizes = (3, 5)
    engine = Engine(METHODS[name], same.curved_density, *sizes, 3, 20, torch.float64)
    w = engine.forward(together, noise).clone()
    gradients = {k: torch.empty_like(v) for k, v in together.items()}
    engine.backward(gradients)
    for r in range(3):
        alone = Engine(METHODS[name], same.curved_density, *sizes, 1, 20, torch.float64)
        own = {k: v[r : r + 1] for k, v in together.items()}
        assert torch.allclose(alone.forward(own, noise[r : r + 1])[0], w[r], rtol=1e-12, atol=1e-12)
        single = {k: torch.empty_like(v) for k, v in own.items()}
        alone.backward(single)
        for k, gradient in single.items():
            assert torch.allclose(gradient[0], gradients[k][r], rtol=1e-10, atol=1e-12), k


@pytest.mark.parametrize("name", METHODS)
def test_a_row_that_is_not_finite_leaves_the_others_alone(name):
    cases = [same.random_case(name, seed) for seed in range(2)]
    noise = torch.stack([n for _, n in cases])
    p = {k: torch.stack([p[k] for p, _ in cases]) for k in cases[0][0]}
    engine = Engine(METHODS[name], same.curved_density, 3, 5, 2, 20, torch.float64)
    gradients = {k: torch.empty_like(v) for k, v in p.items()}
    w = engine.forward(p, noise)[0].clone()
    engine.backward(gradients)
    kept = {k: v[0].clone() for k, v in gradients.items()}
    broken = {k: torch.stack([v[0], torch.full_like(v[1], torch.nan)]) for k, v in p.items()}
    assert torch.equal(engine.forward(broken, noise)[0], w)
    engine.backward(gradients)
    for k, gradient in kept.items():
        assert torch.equal(gradients[k][0], gradient), k


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.move != "overdamped"])
def test_refresh_coefficients_have_their_slopes(name):
    x = torch.tensor([0.03, 0.4, 0.9], dtype=torch.float64)
    value, slope = refresh_coefficients(METHODS[name], x)
    h = 1e-6
    ahead, _ = refresh_coefficients(METHODS[name], x + h)
    behind, _ = refresh_coefficients(METHODS[name], x - h)
    for field, own in slope._asdict().items():
        if own is None:  # v_B = v_F: no such term
            assert field == "log_ratio" and getattr(value, field) is None
            continue
        known = (getattr(ahead, field) - getattr(behind, field)) / (2 * h)
        assert torch.allclose(own, known, rtol=1e-6, atol=1e-7), field
    assert all(v is None or v.shape == x.shape for v in value)


def test_float32_is_stable_at_the_initial_step_size():
    """With eps = 1e-5 the direct densities lose digits; the form without cancellation does not."""
    for name in METHODS:
        p, noise = same.random_case(name, dim=40, bridges=32, chains=8)
        p["step_size"] = torch.tensor([1e-5], dtype=torch.float64)
        wide = Engine(METHODS[name], same.curved_density, 40, 32, 1, 8, torch.float64)
        narrow = Engine(METHODS[name], same.curved_density, 40, 32, 1, 8, torch.float32)
        known = wide.forward({k: v[None] for k, v in p.items()}, noise[None])
        found = narrow.forward({k: v[None].float() for k, v in p.items()}, noise[None].float())
        assert torch.allclose(found.double(), known, rtol=2e-5, atol=2e-3), name
