"""Langevin diffusion VI against cases whose answer is known; used by the tests and the notebook.

The golden case: d = 1, log p~(z) = 0.7 + log N(z; 2, 0.5^2), q = N(0.3, 1.2^2), K = 4, equal
knots, gamma = 2, eta = 0.6, linear "networks" s = 0.1 - 0.2 z and s = 0.1 - 0.2 z + 0.3 rho'. Then
w is a quadratic form in the chain's noise and its moments are known to rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.evaluation.quadratic_form import Moments, quadratic_moments
from lmcnb.methods.langevin_diffusion import (
    METHODS,
    Network,
    log_normal,
    log_weight,
)

LOG_Z = 0.7
KNOWN = {  # row: step size, eta, E[w], sd[w] (computed independently of this package)
    "ULA": (0.05, 0.6, -4.43849671, 6.531231),
    "MCD": (0.05, 0.6, -4.47873177, 6.655883),
    "UHA": (0.3, 0.6, -3.59991380, 5.604466),
    "UHA_eta0": (math.sqrt(0.1), 0.0, -4.43849671, 6.531231),
    "a-lp": (0.3, 0.6, -3.69931153, 5.714385),
    "LDVI": (0.3, 0.6, -3.75030265, 5.213433),
}
OPTIMUM = {  # method: known maximum of E[w] over the linear score's coefficients, and where it is
    "MCD": (-2.67387756, (-6.80067, 2.21228)),
    "LDVI": (-3.17053590, (0.478787, -0.0897515, 0.0629206)),
}


def golden_density(z: Tensor) -> Tensor:
    """0.7 + log N(z; 2, 0.5^2) of `(..., 1)`."""
    return LOG_Z + log_normal(z, 2.0, 0.25)


def golden_parameters(step_size: float, persistence: float = 0.6) -> dict[str, Tensor]:
    """Parameters of the golden case, float64."""
    one = torch.ones(1, dtype=torch.float64)
    return {
        "mu": 0.3 * one,
        "log_sigma": math.log(1.2) * one,
        "step_size": step_size * one,
        "damping": 2.0 * one,
        "persistence": persistence * one,
        "knots": torch.ones(5, dtype=torch.float64),
    }


def linear_network(coefficients: Tensor) -> Network:
    """s = c0 + c1 z (+ c2 rho'), the same at every bridge."""
    return lambda inputs, k: coefficients[0] + inputs @ coefficients[1:, None]


def golden_network(name: str, scale: float = 1.0) -> Network | None:
    """The golden case's linear network for a method, scaled; None for a method without one."""
    seen = {"z": 2, "new z": 2, "z and rho": 3, None: 0}[METHODS[name].network]
    coefficients = scale * torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)[:seen]
    return linear_network(coefficients) if seen else None


def golden_weights(
    row: str, noise: Tensor, network: Network | None = None, scale: float = 1.0
) -> Tensor:
    """Log weights of the golden case for a row of KNOWN or a method, noise `(6, chains, 1)`."""
    name = row.removesuffix("_eta0")
    step_size, persistence = KNOWN[row][:2] if row in KNOWN else (0.3, 0.6)
    network = network or golden_network(name, scale)
    p = golden_parameters(step_size, persistence)
    return log_weight(METHODS[name], golden_density, p, noise, network).detach()


def golden_moments(row: str, scale: float = 1.0) -> Moments:
    """Exact moments of the golden case by the quadratic form."""
    name = row.removesuffix("_eta0")
    step_size, persistence = KNOWN[row][:2] if row in KNOWN else (0.3, 0.6)
    network, p = golden_network(name, scale), golden_parameters(step_size, persistence)

    def w(x: Tensor) -> Tensor:
        return log_weight(METHODS[name], golden_density, p, x.view(6, 1, 1), network)[0]

    return quadratic_moments(w, 6)


class Score(NamedTuple):
    """A Monte Carlo mean against its exact value."""

    estimate: float
    exact: float
    standard_error: float

    @property
    def z(self) -> float:
        """Distance in standard errors."""
        return (self.estimate - self.exact) / self.standard_error


def golden_scores(
    row: str, chains: int, generator: torch.Generator, scale: float = 0.3
) -> tuple[Score, Score]:
    """E[w] with the golden network, and E[exp w] with the network scaled to a finite variance.

    The exact standard deviations come from the quadratic form, not from the sample. LDVI's and
    LDVI_EM's exp w has infinite variance with the full network; `scale` times it has a finite one.
    """
    exact, small = golden_moments(row), golden_moments(row, scale)
    parts: list[tuple[float, float]] = []
    left = chains
    while left > 0:
        n = min(left, 200_000)
        noise = torch.randn(6, n, 1, dtype=torch.float64, generator=generator)
        w, w_small = golden_weights(row, noise), golden_weights(row, noise, scale=scale)
        parts.append((float(w.sum()), float(torch.exp(w_small - LOG_Z).sum())))
        left -= n
    mean, ratio = (sum(column) / chains for column in zip(*parts, strict=True))
    spread = math.sqrt(math.expm1(small.log_mean_exp_2w - 2 * small.log_mean_exp))
    return (
        Score(mean, exact.mean, exact.sd / math.sqrt(chains)),
        Score(ratio, 1.0, spread / math.sqrt(chains)),
    )


def learn_linear_score(
    name: str, iterations: int, generator: torch.Generator, chains: int = 500
) -> tuple[Tensor, float]:
    """Adam on the linear score's coefficients, all else frozen; returns them and the exact E[w]."""
    size = len(OPTIMUM[name][1])
    c = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([c], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, iterations)
    step_size, persistence = KNOWN[name][:2]
    p = golden_parameters(step_size, persistence)
    for _ in range(iterations):
        noise = torch.randn(6, chains, 1, dtype=torch.float64, generator=generator)
        loss = -log_weight(METHODS[name], golden_density, p, noise, linear_network(c)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    c = c.detach()

    def w(x: Tensor) -> Tensor:
        return log_weight(METHODS[name], golden_density, p, x.view(6, 1, 1), linear_network(c))[0]

    return c, quadratic_moments(w, 6).mean
