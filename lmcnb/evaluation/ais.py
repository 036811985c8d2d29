"""Annealed importance sampling with Hamiltonian Monte Carlo (Neal 2001).

    pi_k ~ p~^{beta_k} q^{1 - beta_k},  q = N(mean, A A^T)
    log w = sum_k (beta_k - beta_{k-1}) (log p~ - log q)(z_{k-1}),  z_k ~ HMC for pi_k from z_{k-1}

Guaranteed: the mean weight is unbiased for Z at any settings. Everything runs in the coordinates
u = A^{-1} (z - mean), where q is N(0, I), so one step size suits a target that q fits.
"""

from __future__ import annotations

from math import log, pi
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.estimators import Estimate, effective_sample_size, log_mean_exp
from lmcnb.kernels import hmc
from lmcnb.kernels.gradients import LogDensity, Product, linearize, value_and_score


class AISResult(NamedTuple):
    """Estimate and diagnostics."""

    log_normalizer: Estimate
    effective_samples: float  # (sum w)^2 / sum w^2
    log_weights: Tensor  # (particles,)
    positions: Tensor  # (particles, dim), weighted draws from the target
    acceptance: Tensor  # (steps - 1,), mean acceptance probability at each temperature


class _Bridge:
    """Log pi_k in the coordinates u, up to the normalizers of p~ and q."""

    def __init__(self, target: LogDensity, mean: Tensor, root: Tensor) -> None:
        self.target, self.mean, self.root = target, mean, root
        log_det = torch.linalg.slogdet(root).logabsdet
        self.log_volume = log_det + 0.5 * len(mean) * log(2 * pi)
        self.beta = 0.0

    def gap(self, u: Tensor) -> Tensor:
        """Log p~(z) - log q(z), `(particles,)`."""
        return self.target(self.place(u)) + 0.5 * u.square().sum(-1) + self.log_volume

    def place(self, u: Tensor) -> Tensor:
        """The place z = mean + A u in the target's own coordinates."""
        return self.mean + u @ self.root.mT

    def __call__(self, u: Tensor) -> Tensor:
        rest = 0.5 * (1 - self.beta) * u.square().sum(-1)
        return self.beta * self.target(self.place(u)) - rest

    def linearize(self, u: Tensor) -> tuple[Tensor, Product]:
        _, score = value_and_score(self.target, self.place(u))

        beta = self.beta

        def product(vector: Tensor) -> Tensor:
            hessian = linearize(self.target, self.place(u))[1]
            return beta * (hessian(vector @ self.root.mT) @ self.root) - (1 - beta) * vector

        return beta * (score @ self.root) - (1 - beta) * u, product


def ais(
    log_density: LogDensity,
    mean: Tensor,
    root: Tensor,
    *,
    particles: int,
    steps: int,
    step_size: float,
    n_leapfrog: int,
    generator: torch.Generator,
) -> AISResult:
    """Log Z of `log_density` by annealing from q = N(mean, root root^T).

    Args:
        log_density: callable `(..., dim) -> (...)`.
        mean: of q, `(dim,)`; the mode of Laplace's approximation, say.
        root: A, `(dim, dim)`; `Laplace.root`, say.
        particles: independent chains.
        steps: number of temperatures, beta_k = k / steps.
        step_size: of the leapfrog, in the coordinates where q is N(0, I).
        n_leapfrog: leapfrogs of each transition.
        generator: source of all randomness.

    Returns:
        The estimate with its standard error and effective number of samples, and diagnostics.
    """
    for name, value in (("particles", particles), ("steps", steps)):
        if value < 1:
            raise UsageError(f"{name}={value!r}: an integer of at least 1 is needed")
    bridge = _Bridge(log_density, mean, root)
    kind: dict[str, Any] = {"dtype": mean.dtype, "device": mean.device}
    u = torch.randn(particles, len(mean), generator=generator, **kind)
    log_weights = torch.zeros(particles, **kind)
    acceptance = []
    for k in range(1, steps + 1):
        with torch.no_grad():
            log_weights = log_weights + bridge.gap(u) / steps
        bridge.beta = k / steps
        if k == steps:
            break  # a move under the last density no longer changes the weights
        state, info = hmc.step(hmc.init(u, bridge), bridge, step_size, n_leapfrog, generator)
        u = state.position
        acceptance.append(info.acceptance.mean())
    return AISResult(
        log_mean_exp(log_weights),
        effective_sample_size(log_weights),
        log_weights,
        bridge.place(u),
        torch.stack(acceptance) if acceptance else torch.zeros(0, **kind),
    )
