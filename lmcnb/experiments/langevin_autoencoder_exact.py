"""Amortized Langevin dynamics where the answer is known; used by the tests and the notebook.

Every function returns numbers that should be zero, or standard errors away from a known value.
Everything in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.evaluation.grid import centres
from lmcnb.experiments.langevin_autoencoder_toys import quadratic, run_chains
from lmcnb.kernels import mala, ula
from lmcnb.kernels.gradients import value_and_score
from lmcnb.methods.langevin_autoencoder import (
    amortized,
    gaussian_law,
    hat_matrix,
    latent,
    unadjusted_variance,
)
from lmcnb.models.linear_gaussian import LinearGaussian

F64 = torch.float64


class Moments(NamedTuple):
    """Standard errors that sample moments are away from their known values, the largest."""

    mean: float
    covariance: float


def normal(*shape: int, stream: torch.Generator) -> Tensor:
    """Standard normal draws, float64."""
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def stationary(
    n: int,
    features: int,
    stream: torch.Generator,
    *,
    chains: int = 20_000,
    moves: int = 20,
    step_size: float = 0.05,
    adjusted: bool = True,
) -> Moments:
    """Chains drawn from the exact law of the z_i (`gaussian_law`) must still have it after moves.

    This needs no mixing, so that it holds the kernel, the joint accept test and the law to account
    at any width of the features, below, at and above n.
    """
    G = normal(n, features, stream=stream)
    means, root = normal(n, 2, stream=stream), normal(2, 2, stream=stream)
    covariance = root @ root.mT + 0.3 * torch.eye(2, dtype=F64)
    H = hat_matrix(G)
    law_mean, law = gaussian_law(G, means, covariance)
    draws = normal(chains, n, 2, stream=stream) @ torch.linalg.cholesky(covariance).mT
    phi = (torch.linalg.pinv(G) @ (law_mean + H @ draws)).mT.flatten(-2)
    ran = run_chains(
        quadratic(means, covariance), G, phi, moves, step_size, stream, adjusted=adjusted
    )
    centred = ran.z[-1] - law_mean
    mean_z = centred.mean(0) / (centred.std(0) + 1e-12) * math.sqrt(chains)
    flat = centred.flatten(1)
    products = flat[:, :, None] * flat[:, None, :]
    known = law.permute(0, 2, 1, 3).reshape(2 * n, 2 * n)
    error = (products.mean(0) - known) / (products.std(0) + 1e-12) * math.sqrt(chains)
    return Moments(float(mean_z.abs().max()), float(error.abs().max()))


def unadjusted_bias(stream: torch.Generator, moves: int, chains: int = 256) -> dict[str, float]:
    """Standard errors between the variance without the accept test and its formula, per direction.

    Two points with orthogonal features of K = diag(4, 1), posterior precisions 1 and 2; chains
    start from the biased law itself.
    """
    G = torch.diag(torch.tensor([2.0, 1.0], dtype=F64))
    covariance = torch.diag(torch.tensor([1.0, 0.5], dtype=F64))
    eta = 0.06  # eta kappa rho from 0.06 to 0.48
    kappa, rho = torch.tensor([[4.0], [1.0]], dtype=F64), torch.tensor([[1.0, 2.0]], dtype=F64)
    known = unadjusted_variance(rho, kappa, eta)
    z = normal(chains, 2, 2, stream=stream) * known.sqrt()
    phi = torch.linalg.solve(G, z).mT.flatten(-2)
    target = quadratic(torch.zeros(2, 2, dtype=F64), covariance)
    ran = run_chains(target, G, phi, moves, eta, stream, adjusted=False)
    own = ran.z.square().mean(0)  # (chains, n, dim), one number a chain
    errors = (own.mean(0) - known) / own.std(0) * math.sqrt(chains)
    bias = known * rho - 1
    return {f"{float(bias[i, j]):.3f}": float(errors[i, j]) for i in (0, 1) for j in (0, 1)}


def ratio_errors(stream: torch.Generator) -> tuple[float, float, float]:
    """The compact log ratio against Gaussian densities, its antisymmetry, its limit at eta -> 0."""
    G, means = normal(4, 6, stream=stream), normal(4, 2, stream=stream)

    def log_joint(z: Tensor) -> Tensor:
        return -((z - means) ** 4).sum(-1) + torch.sin(z).sum(-1)

    target = amortized(log_joint, G)
    eta = 1e-3
    old = mala.init(0.3 * normal(5, 12, stream=stream), target)
    moved = ula.propose(old.position, old.score, eta, normal(5, 12, stream=stream))
    new = mala.init(moved, target)

    def log_q(to: mala.State, given: mala.State) -> Tensor:
        return -((to.position - given.position - eta * given.score) ** 2).sum(-1) / (4 * eta)

    direct = new.log_density - old.log_density + log_q(old, new) - log_q(new, old)
    forth, back = mala.log_ratio(old, new, eta), mala.log_ratio(new, old, eta)
    tiny = 1e-9
    near = mala.init(
        ula.propose(old.position, old.score, tiny, normal(5, 12, stream=stream)), target
    )
    limit = mala.log_ratio(old, near, tiny)
    return (
        float((forth - direct).abs().max()),
        float((forth + back).abs().max()),
        float(limit.abs().max()),
    )


def detailed_balance(stream: torch.Generator, moves: int, chains: int = 200) -> float:
    """Total variation between one chain variable (n = d = dim = 1) and its quartic density."""

    def log_joint(z: Tensor) -> Tensor:
        return (-0.25 * z**4 + 0.5 * z).sum(-1)

    G = torch.ones(1, 1, dtype=F64)
    phi = normal(chains, 1, stream=stream)
    z = run_chains(log_joint, G, phi, moves, 0.4, stream, drop=moves // 10).z.flatten()
    edges = torch.linspace(-4, 4, 41, dtype=F64)
    fine = centres(4000, 4.0)
    p = log_joint(fine[:, None]).exp().view(40, 100).sum(1)
    counts = torch.histogram(z, edges).hist / len(z)
    return float(0.5 * (counts - p / p.sum()).abs().sum())


def one_hot_error(stream: torch.Generator) -> float:
    """One-hot features: one unadjusted step against independent Langevin steps, shared noise."""
    n, dim, eta = 5, 3, 0.07
    means = normal(n, dim, stream=stream)

    def log_joint(z: Tensor) -> Tensor:
        return -((z - means) ** 4).sum(-1)

    z, noise = normal(n, dim, stream=stream), normal(n, dim, stream=stream)
    eye = torch.eye(n, dtype=F64)
    state = ula.init(z.mT.flatten(), amortized(log_joint, eye))
    together = latent(ula.propose(state.position, state.score, eta, noise.mT.flatten()), eye)
    own = value_and_score(log_joint, z)[1]
    return float((together - ula.propose(z, own, eta, noise)).abs().max())


def null_space(stream: torch.Generator, moves: int = 50, chains: int = 400) -> tuple[float, float]:
    """d > n: how much z feels a move within the null space, and the variance of Phi's walk there.

    The second is in standard errors from 2 eta t a coordinate, without the accept test.
    """
    n, d, eta = 3, 7, 0.02
    G, means = normal(n, d, stream=stream), normal(n, 1, stream=stream)
    off = torch.eye(d, dtype=F64) - torch.linalg.pinv(G) @ G
    phi, shift = normal(chains, d, stream=stream), normal(chains, d, stream=stream)
    felt = (latent(phi + shift @ off, G) - latent(phi, G)).abs().max()
    target = quadratic(means, torch.eye(1, dtype=F64))
    end = run_chains(target, G, phi, moves, eta, stream, adjusted=False).final
    basis = torch.linalg.svd(G).Vh[n:]
    squares = ((end - phi) @ basis.mT).square() / (2 * eta * moves)
    z = (squares.mean() - 1) / squares.std() * math.sqrt(squares.numel())
    return float(felt), float(z)


def fisher_identity(stream: torch.Generator, moves: int, chains: int = 64) -> tuple[float, float]:
    """The time average of grad_W V against the gradient of the exact log marginal likelihood.

    Returns the relative error and the largest deviation in standard errors, n = 5 points, d = 32.
    """
    W, n = normal(4, 2, stream=stream), 5
    noise = 0.5 * torch.eye(4, dtype=F64)
    x = LinearGaussian(W, noise).sample(n, stream)
    G = normal(n, 32, stream=stream)
    model = LinearGaussian(W.clone().requires_grad_(), noise)
    (exact,) = torch.autograd.grad(-model.log_marginal(x).sum(), model.weight)
    means, covariance = LinearGaussian(W, noise).posterior(x)
    target = quadratic(means, covariance)
    z0 = means + normal(chains, n, 2, stream=stream) @ torch.linalg.cholesky(covariance).mT
    phi = (torch.linalg.pinv(G) @ z0).mT.flatten(-2)  # the stationary law
    z = run_chains(target, G, phi, moves, 1e-3, stream, thin=5).z
    residual = x - z @ W.mT  # -grad_W log p(x, z) = -S^-1 (x - W z) z^T
    own = -torch.einsum("tcni,tcnj->cij", residual, z) / len(z) / 0.5
    error = own.mean(0) - exact
    se = own.std(0) / math.sqrt(chains)
    return float(error.norm() / exact.norm()), float((error / se).abs().max())
