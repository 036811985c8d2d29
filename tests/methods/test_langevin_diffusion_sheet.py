"""All twelve methods written out once more, one branch each, and held to the shared chain.

The branches follow the algorithms line by line and share nothing with the package: own schedule
(numpy), own network, normal densities of torch.distributions, a score by hand. Unbiasedness cannot
see a wrong move or a network that looks at the wrong point, since both give other valid bounds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from lmcnb.methods.langevin_diffusion import METHODS, log_weight, network_of
from lmcnb.methods.langevin_diffusion_fast import Engine

SEES = {"MCD": 1, "LDVI": 2, "LDVI_EM": 2, "a-lp-sna": 1, "e-lp-sna": 1, "ea-lp-sn": 2, "me_e": 1}
"""Inputs of the network, in units of the dimension; 0 for methods without one."""
CASES = [
    (1, 1, 0.1, 2.0, 0.6),
    (5, 3, 0.05, 3.0, 0.2),
    (40, 2, 0.1, 1.0, 0.9),
    (33, 2, 0.02, 60, 0),
]
"""Bridges, dimension, step size eps, damping gamma (also with gamma eps > 1), persistence eta."""


def log_density(z: Tensor) -> Tensor:
    return (-0.25 * z**4 + torch.sin(z) - 0.5 * z**2).sum(-1)


def score(z: Tensor) -> Tensor:
    return -(z**3) + torch.cos(z) - z


def normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    return Normal(mean * torch.ones_like(x), math.sqrt(variance)).log_prob(x).sum(-1)


def draw(name: str, K: int, d: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random parameters and noise."""
    g = torch.Generator().manual_seed(K + d)

    def r(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    p = {"mu": 0.3 * r(d), "log_sigma": 0.2 * r(d)}
    p["knots"] = 0.05 + torch.rand(min(32, K) + 1, generator=g, dtype=torch.float64)
    if n := SEES.get(name, 0):
        width = n * d + 20
        sizes = {"W1": (width, width), "W2": (width, width), "W3": (width, d)}
        sizes |= {"b1": (width,), "b2": (width,), "b3": (d,), "embedding": (K, 20)}
        p |= {f"net.{key}": 0.2 * r(*size) for key, size in sizes.items()}
        p["net.factor"] = torch.full((1,), 0.3, dtype=torch.float64)
    return p, r(K + 2, 7, d)


def written_out(
    name: str, p: dict[str, Tensor], noise: Tensor, eps: float, gamma: float, eta: float
):
    K, mu, sigma = len(noise) - 2, p["mu"], p["log_sigma"].exp()
    y = p["knots"].numpy()
    knots = np.concatenate([[0.0], np.cumsum(y) / y.sum()])
    at = np.linspace(0, 1, K + 2)[1:-1]
    beta = np.interp(at, np.linspace(0, 1, len(knots)), knots)

    def g(z: Tensor, k: int) -> Tensor:
        return beta[k] * score(z) + (1 - beta[k]) * (mu - z) / sigma**2

    def s(k: int, *inputs: Tensor) -> Tensor:
        h = torch.cat([*inputs, p["net.embedding"][k].expand(len(noise[0]), 20)], -1)
        for i in "12":
            h = h + torch.logaddexp(h @ p["net.W" + i] + p["net.b" + i], torch.zeros_like(h))
        return p["net.factor"] * (h @ p["net.W3"] + p["net.b3"])

    z, rho = mu + sigma * noise[0], noise[1]
    w = -Normal(mu, sigma).log_prob(z).sum(-1)
    a, E = gamma * eps, math.exp(-gamma * eps)
    if name not in ("ULA", "MCD"):
        w = w - normal(rho, 0.0, 1.0)
    for k in range(K):
        xi = noise[k + 2]
        if name in ("ULA", "MCD"):
            forward = z + eps * g(z, k)
            new = forward + math.sqrt(2 * eps) * xi
            back = new + eps * g(new, k)
            if name == "MCD":
                back = back + eps * s(k, new)
            w = w + normal(z, back, 2 * eps) - normal(new, forward, 2 * eps)
            z = new
        elif name in ("UHA_EM", "LDVI_EM"):
            forward = (1 - a) * rho + eps * g(z, k)
            new = forward + math.sqrt(2 * a) * xi
            back = (1 - a) * new - eps * g(z, k)
            if name == "LDVI_EM":
                back = back + 2 * a * s(k, z, new)
            w = w + normal(rho, back, 2 * a) - normal(new, forward, 2 * a)
            z, rho = z + eps * new, new
        else:
            c, v = (1 - a, 2 * a) if name in ("LDVI", "a-lp", "a-lp-sna") else (E, 1 - E**2)
            if name == "UHA":
                c, v = eta, 1 - eta**2
            u = c * rho + math.sqrt(v) * xi
            back, variance = c * u, v
            if name == "ea-lp-sn":
                back, variance = (1 - a) * u, 2 * a
            if name in ("LDVI", "ea-lp-sn"):
                back = back + 2 * a * s(k, z, u)
            elif name == "a-lp-sna":
                back = back + 2 * a * s(k, z)
            elif name == "e-lp-sna":
                back = back + 2 * (1 - E) * s(k, z)
            elif name == "me_e":
                back = back + 2 * s(k, z)
            w = w + normal(rho, back, variance) - normal(u, c * rho, v)
            if name == "me_e":
                rho = u + eps * g(z, k)
                z = z + eps * rho
            else:
                half = u + eps / 2 * g(z, k)
                z = z + eps * half
                rho = half + eps / 2 * g(z, k)
    w = w + log_density(z)
    return w if name in ("ULA", "MCD") else w + normal(rho, 0.0, 1.0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_the_shared_chain_is_the_method_written_out(name, case):
    K, d, eps, gamma, eta = case
    p, noise = draw(name, K, d)
    expected = written_out(name, p, noise, eps, gamma, eta)
    scalars = {"step_size": eps, "damping": gamma, "persistence": eta}
    p |= {k: torch.tensor([float(v)], dtype=torch.float64) for k, v in scalars.items()}
    w = log_weight(METHODS[name], log_density, p, noise, network_of(p)).detach()
    assert float(((w - expected) / (1 + expected.abs())).abs().max()) < 1e-11
    engine = Engine(METHODS[name], log_density, d, K, 1, 7, torch.float64)
    fast = engine.forward({k: v[None] for k, v in p.items()}, noise[None])[0]
    assert float(((fast - expected) / (1 + expected.abs())).abs().max()) < 1e-9
