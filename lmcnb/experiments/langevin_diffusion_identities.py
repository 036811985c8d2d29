"""Identities that hold to rounding: between methods, of the leapfrog, of the fast implementation.

Used by the tests and by the notebook; all in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmcnb.experiments.langevin_diffusion_exact import LOG_Z
from lmcnb.kernels.gradients import differentiable_score, score
from lmcnb.kernels.leapfrog import leapfrog
from lmcnb.methods.langevin_diffusion import (
    METHODS,
    initial_values,
    log_normal,
    log_weight,
    network_of,
    temperatures,
)
from lmcnb.methods.langevin_diffusion_fast import Engine
from lmcnb.models import score_network


def curved_density(z: Tensor) -> Tensor:
    """An unnormalized density without symmetry: quartic, skewed, coupled; any dimension."""
    coupled = 0.5 * (z[..., :-1] * z[..., 1:]).sum(-1)
    return (-0.25 * z**4 + torch.sin(z) - 0.5 * z**2).sum(-1) + coupled


def random_case(
    name: str, seed: int = 0, dim: int = 3, bridges: int = 5, chains: int = 20
) -> tuple[dict[str, Tensor], Tensor]:
    """Random parameters, network included, and noise, float64."""
    g = torch.Generator().manual_seed(seed)
    p = {k: v.double() for k, v in initial_values(METHODS[name], dim, bridges, g)}
    for k, v in p.items():
        p[k] = v + 0.1 * torch.rand(v.shape, generator=g, dtype=torch.float64)
    p["step_size"] = 0.05 + 0.1 * torch.rand(1, generator=g, dtype=torch.float64)
    p["damping"] = 1 + torch.rand(1, generator=g, dtype=torch.float64)
    p["persistence"] = 0.3 + 0.4 * torch.rand(1, generator=g, dtype=torch.float64)
    return p, torch.randn(bridges + 2, chains, dim, generator=g, dtype=torch.float64)


def identities(seed: int = 0) -> dict[str, float]:
    """Largest relative difference of log weights that must be equal, path by path (float64).

    Keys: UHA(eta = 0, eps) is ULA(eps^2 / 2); MCD with factor 0 is ULA; LDVI with factor 0 is a-lp;
    e-lp is UHA at eta = exp(-gamma eps); a-lp minus UHA on the same path is -sum (a/4)(|rho'|^2 -
    |rho|^2); the cancellation-free step terms are the direct densities; K = 0 is plain VI; a
    momentum refresh alone contributes nothing.
    """
    p, noise = random_case("LDVI", seed)
    base = {k: v for k, v in p.items() if not k.startswith("net.")}
    eps, a = p["step_size"], p["damping"] * p["step_size"]

    def w(name: str, **changes: Tensor) -> Tensor:
        return log_weight(METHODS[name], curved_density, base | changes, noise).detach()

    def off(left: Tensor, right: Tensor) -> float:
        return float(((left - right).abs() / (1 + right.abs())).max())

    def silent(name: str) -> Tensor:
        own, _ = random_case(name, seed)
        zero = {k: v for k, v in own.items() if k.startswith("net.")}
        zero["net.factor"] = torch.zeros(1, dtype=torch.float64)
        network = network_of(zero)
        return log_weight(METHODS[name], curved_density, base, noise, network).detach()

    nothing = torch.zeros(1, dtype=torch.float64)
    start = base["mu"] + base["log_sigma"].exp() * noise[0]
    vi = curved_density(start) - log_normal(start, base["mu"], (2 * base["log_sigma"]).exp())
    no_bridges = base | {"knots": torch.ones(1, dtype=torch.float64)}
    return {
        "uha_at_eta0_is_ula": off(w("UHA", persistence=nothing), w("ULA", step_size=eps**2 / 2)),
        "mcd_without_score_is_ula": off(silent("MCD"), w("ULA")),
        "ldvi_without_score_is_a-lp": off(silent("LDVI"), w("a-lp")),
        "e-lp_is_uha": off(w("e-lp"), w("UHA", persistence=torch.exp(-a))),
        "a-lp_minus_uha": _euler_against_exact(base, noise),
        "step_terms": step_terms(seed),
        "no_bridges_is_vi": off(
            log_weight(METHODS["LDVI"], curved_density, no_bridges, noise[:2]).detach(), vi
        ),
        "refresh_alone": _refresh_alone(seed),
    }


def _euler_against_exact(p: dict[str, Tensor], noise: Tensor) -> float:
    """On one path, log m_B/m_F of the Euler refresh minus that of the exact one, against a/4."""
    a = p["damping"] * p["step_size"]
    rho = noise[1]
    u = (1 - a) * rho + torch.sqrt(2 * a) * noise[2]
    euler = log_normal(rho, (1 - a) * u, 2 * a) - log_normal(u, (1 - a) * rho, 2 * a)
    eta = 1 - a  # any reversible refresh gives the same ratio, that of N(0, I)
    exact = log_normal(rho, eta * u, 1 - eta**2) - log_normal(u, eta * rho, 1 - eta**2)
    difference = -(a / 4) * ((u**2).sum(-1) - (rho**2).sum(-1))
    return float((euler - exact - difference).abs().max())


def step_terms(seed: int = 0) -> float:
    """Log ratio of one transition without cancellation, against the two densities directly."""
    g = torch.Generator().manual_seed(seed)
    xi, rho, s, g0, g1 = torch.randn(5, 50, 3, generator=g, dtype=torch.float64)
    worst = 0.0
    for eps in (0.001, 0.1, 0.4):
        z = torch.zeros_like(xi)
        new = z + eps * g0 + math.sqrt(2 * eps) * xi
        direct = log_normal(z, new + eps * g1 + eps * s, 2 * eps) - log_normal(
            new, z + eps * g0, 2 * eps
        )
        G = g0 + g1 + s
        short = -math.sqrt(eps / 2) * (xi * G).sum(-1) - eps / 4 * (G**2).sum(-1)
        worst = max(worst, float(((direct - short) / (1 + direct.abs())).abs().max()))
        a = 2.5 * eps
        u = (1 - a) * rho + math.sqrt(2 * a) * xi
        direct = log_normal(rho, (1 - a) * u + 2 * a * s, 2 * a) - log_normal(
            u, (1 - a) * rho, 2 * a
        )
        left = rho - (1 - a) * u
        energies = (u**2).sum(-1) - (rho**2).sum(-1)
        short = 0.5 * (1 - a / 2) * energies + (s * left).sum(-1) - a * (s**2).sum(-1)
        worst = max(worst, float(((direct - short) / (1 + direct.abs())).abs().max()))
    return worst


def _refresh_alone(seed: int) -> float:
    """With eps = 0 in the leapfrog and a reversible refresh, w is log p~(z_0) - log q(z_0)."""
    p, noise = random_case("UHA", seed)
    still = p | {"step_size": torch.zeros(1, dtype=torch.float64)}
    w = log_weight(METHODS["UHA"], curved_density, still, noise).detach()
    z = p["mu"] + p["log_sigma"].exp() * noise[0]
    vi = curved_density(z) - log_normal(z, p["mu"], (2 * p["log_sigma"]).exp())
    return float(((w - vi) / (1 + vi.abs())).abs().max())


def leapfrog_checks(density: Callable[[Tensor], Tensor], z: Tensor) -> tuple[float, float]:
    """Reversal error and |log |det J|| of one leapfrog step at `z` `(dim,)`, float64."""
    rho = torch.linspace(-1, 1, len(z), dtype=z.dtype)
    new, momentum = leapfrog(z, rho, 0.05, lambda x: score(density, x))
    back, flipped = leapfrog(new, -momentum, 0.05, lambda x: score(density, x))
    reversal = float(torch.cat([back - z, flipped + rho]).abs().max())

    def flow(state: Tensor) -> Tensor:
        position, velocity = state.split(len(z))
        return torch.cat(
            leapfrog(position, velocity, 0.05, lambda x: differentiable_score(density, x))
        )

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([z, rho]))
    return reversal, abs(float(torch.linalg.slogdet(jacobian)[1]))


def q_is_p(step_sizes: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025)) -> dict[float, float]:
    """Mean |w - log Z| of UHA started at its target (d = 3, K = 5): of third order in eps."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(7, 2000, 3, generator=g, dtype=torch.float64)
    p, _ = random_case("UHA")
    p["knots"] = torch.ones(6, dtype=torch.float64)

    def density(z: Tensor) -> Tensor:
        return LOG_Z + log_normal(z, p["mu"], (2 * p["log_sigma"]).exp())

    errors = {}
    for eps in step_sizes:
        own = p | {"step_size": torch.tensor([eps], dtype=torch.float64)}
        w = log_weight(METHODS["UHA"], density, own, noise).detach()
        errors[eps] = float((w - LOG_Z).abs().mean())
    return errors


def temperature_error() -> float:
    """Largest error of the bridging temperatures against k/(K+1) and numpy's interpolation."""
    worst = 0.0
    g = torch.Generator().manual_seed(0)
    for K in (1, 4, 8, 32, 33, 64, 256):
        size = min(32, K) + 1
        even = temperatures(torch.ones(size, dtype=torch.float64), K)
        known_even = torch.arange(1, K + 1, dtype=torch.float64) / (K + 1)
        worst = max(worst, float((even - known_even).abs().max()))
        knots = 1e-3 + torch.rand(size, generator=g, dtype=torch.float64)
        own = np.concatenate([[0.0], (knots.cumsum(0) / knots.sum()).numpy()])
        grid = np.linspace(0, 1, K + 2)[1:-1]
        known = np.interp(grid, np.linspace(0, 1, size + 1), own)
        found = temperatures(knots, K)
        worst = max(worst, float((found - torch.from_numpy(known)).abs().max()))
        if not bool((found.diff() > 0).all()):
            return math.inf
    return worst


def network_at_start(seed: int = 0) -> float:
    """Largest output of fresh score networks: exactly 0."""
    g = torch.Generator().manual_seed(seed)
    shapes = score_network.shapes(6, 3, 4)
    p = {k: score_network.initial(k, shape, g)[None] for k, shape in shapes.items()}
    return float(score_network.forward(p, torch.randn(1, 50, 26, generator=g)).abs().max())


def gradient_error(name: str, density: Any = curved_density, **sizes: int) -> float:
    """Largest relative difference between the fast and the plain-autograd gradients, and of w."""
    m, rows = METHODS[name], 2
    cases = [random_case(name, seed, **sizes) for seed in range(rows)]
    noise = torch.stack([n for _, n in cases])
    stacked = {k: torch.stack([p[k] for p, _ in cases]) for k in cases[0][0]}
    K, (chains, dim) = noise.shape[1] - 2, noise.shape[2:]
    engine = Engine(m, density, dim, K, rows, chains, torch.float64)
    w = engine.forward(stacked, noise).clone()
    gradients = {k: torch.full_like(v, math.nan) for k, v in stacked.items()}
    engine.backward(gradients)
    worst = 0.0
    for r in range(rows):
        own = {k: v[r].clone().requires_grad_() for k, v in stacked.items()}
        plain = log_weight(m, lambda z: density(z), own, noise[r], network_of(own))
        value = plain.detach()
        worst = max(worst, float(((value - w[r]) / (1 + value.abs())).abs().max()))
        known = torch.autograd.grad(-plain.mean(), list(own.values()), allow_unused=True)
        for k, gradient in zip(own, known, strict=True):
            gradient = torch.zeros_like(own[k]) if gradient is None else gradient
            error = (gradients[k][r] - gradient).abs().max() / (1 + gradient.abs().max())
            worst = max(worst, float(error)) if math.isfinite(error) else math.inf
    return worst
