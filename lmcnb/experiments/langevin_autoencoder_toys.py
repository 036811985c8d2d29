"""The synthetic experiments of the Langevin autoencoder: conjugate Gaussian, random networks.

Each function returns plain dicts of numbers and the arrays that its figures need.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.evaluation.grid import binned, centres, histogram, on_grid, total_variation
from lmcnb.kernels import mala, ula
from lmcnb.kernels.gradients import LogDensity
from lmcnb.lab.bars import Progress
from lmcnb.lab.randomness import generator
from lmcnb.methods.langevin_autoencoder import amortized, gaussian_law, gram, hat_matrix, latent
from lmcnb.methods.langevin_autoencoder_vi import density, fit_gaussians
from lmcnb.models.linear_gaussian import LinearGaussian
from lmcnb.models.random_network import RandomDecoder, random_features
from lmcnb.papers.langevin_autoencoder import Conjugate, Neural

COVARIANCE = {  # the paper prints [[0.7, 0.6], [0.7, 0.8]], which is no covariance
    "symmetric": [[0.7, 0.6], [0.6, 0.8]],
    "lower triangle": [[0.7, 0.7], [0.7, 0.8]],
}
POINTS = 3
BINS = 40


class Chains(NamedTuple):
    """Samples of parallel chains, and how they moved."""

    z: Tensor  # (kept, chains, n, dim)
    acceptance: Tensor  # (chains), mean over all moves
    final: Tensor  # (chains, dim * d), Phi after the last move


def run_chains(
    log_joint: LogDensity,
    features: Tensor,
    phi: Tensor,
    moves: int,
    step_size: float,
    stream: torch.Generator,
    *,
    drop: int = 0,
    thin: int = 1,
    adjusted: bool = True,
    bar: Progress | None = None,
) -> Chains:
    """Amortized Langevin dynamics from flat starts `phi` `(chains, dim * d)` (algorithm 1)."""
    target = amortized(log_joint, features)
    kernel: Any = mala if adjusted else ula
    state = kernel.init(phi, target)
    kept, acceptance = [], torch.zeros(len(phi), dtype=phi.dtype)
    for t in range(moves):
        state, info = kernel.step(state, target, step_size, stream)
        acceptance += info.acceptance if adjusted else 1.0
        if t >= drop and (t - drop) % thin == 0:
            kept.append(latent(state.position, features))
        if bar is not None:
            bar.update(1)
    return Chains(torch.stack(kept), acceptance / moves, state.position)


def start(chains: int, dim: int, features: Tensor, trace: float, stream: torch.Generator) -> Tensor:
    """Flat Phi `(chains, dim * d)`, scaled so that z starts roughly as the prior."""
    shape = (chains, dim * features.shape[-1])
    return torch.randn(shape, generator=stream, dtype=torch.float64) / trace**0.5


def quadratic(means: Tensor, covariance: Tensor) -> LogDensity:
    """log N(z_i; m_i, C) up to a constant, `(..., n, dim) -> (..., n)`."""
    precision = torch.linalg.inv(covariance)

    def log_joint(z: Tensor) -> Tensor:
        centred = z - means
        return -0.5 * ((centred @ precision) * centred).sum(-1)

    return log_joint


def conjugate_problem(settings: Conjugate, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three points of the model, their posterior means and the posterior covariance."""
    noise = torch.tensor(COVARIANCE[settings.covariance], dtype=torch.float64)
    model = LinearGaussian(torch.eye(2, dtype=torch.float64), noise)
    points = model.sample(POINTS, generator(seed, "conjugate/points"))
    return points, *model.posterior(points)


def conjugate(settings: Conjugate, seed: int) -> list[dict[str, Any]]:
    """The sweep over the number of features (figure 2), one dict a width."""
    points, means, covariance = conjugate_problem(settings, seed)
    target = quadratic(means, covariance)
    found = []
    total = len(settings.widths) * (settings.moves + settings.display_moves)
    with Progress(total, "conjugate Gaussian") as bar:
        for d in settings.widths:
            stream = generator(seed, f"conjugate/d={d}")
            g = random_features(points, d, settings.trace, stream)
            first = run_chains(
                target,
                g,
                start(settings.chains, 2, g, settings.trace, stream),
                settings.display_moves,
                settings.step_size,
                stream,
                drop=settings.display_moves // 3,
                bar=bar,
            )
            rest = run_chains(
                target,
                g,
                first.final,
                settings.moves,
                settings.step_size,
                stream,
                thin=10,
                bar=bar,
            )
            H = hat_matrix(g)
            law, _ = gaussian_law(g, means, covariance)
            z = rest.z.flatten(0, 1)
            spread = z.var(0).sum(-1) / covariance.trace()
            off = covariances(z) - covariance
            outside = (torch.eye(POINTS, dtype=H.dtype) - H) @ rest.z
            K = gram(g)
            found.append(
                {
                    "width": d,
                    "hat": H.diagonal().tolist(),
                    "trace_ratio": spread.tolist(),
                    "law_mean": law.tolist(),
                    "law_error": float((z.mean(0) - law).abs().max()),
                    "posterior_error": float((z.mean(0) - means).abs().max()),
                    "ratio_error": float((spread - H.diagonal()).abs().max()),
                    "covariance_error": float((off.norm(dim=(1, 2)) / covariance.norm()).max()),
                    "outside": float(outside.abs().max()),
                    "acceptance": float(rest.acceptance.mean()),
                    "smallest": float(K.smallest),
                    "largest": float(K.largest),
                    "rank": int(K.rank),
                    "samples": first.z[:, 0],
                    "means": means,
                    "covariance": covariance,
                }
            )
    return found


def covariances(z: Tensor) -> Tensor:
    """The covariance of every point's samples: `(n, dim, dim)` of `(samples, n, dim)`."""
    return torch.stack([torch.cov(own.T) for own in z.unbind(1)])


def neural(settings: Neural, seed: int) -> list[dict[str, Any]]:
    """Posteriors under random networks (figures 3 and 5), one dict a network."""
    found = []
    with Progress(
        settings.networks * (settings.display_moves + settings.moves), "neural likelihood"
    ) as bar:
        for j in range(settings.networks):
            stream = generator(seed, f"neural/{j}")
            network = RandomDecoder.draw(stream)
            x = network.sample(settings.points, stream)
            found.append({"network": j, **_posterior(settings, network, x, stream, bar)})
    return found


def _posterior(
    settings: Neural, network: RandomDecoder, x: Tensor, stream: torch.Generator, bar: Progress
) -> dict[str, Any]:
    """ALD and Gaussian VI on one network's points, held to the grid."""
    n = len(x)

    def target(z: Tensor) -> Tensor:
        return network.log_joint(x, z)

    truth = on_grid(target, n)
    coarse = binned(truth.masses, BINS)
    g = random_features(x, 128, settings.trace, stream)
    eta, shown = settings.step_size, settings.display_moves
    begin = start(settings.chains, 2, g, settings.trace, stream)
    first = run_chains(target, g, begin, shown, eta, stream, drop=shown // 3, bar=bar)
    many = run_chains(target, g, first.final, settings.moves, eta, stream, thin=5, bar=bar)
    shares = {
        "ALD": histogram(many.z.flatten(0, 1), BINS, truth.limit),
        "ALD, one chain": histogram(first.z[:, 0], BINS, truth.limit),
    }
    gaps = {}
    axis = centres(truth.masses.shape[-1], truth.limit)
    points = torch.cartesian_prod(axis, axis)[:, None].expand(-1, n, 2)
    for name, full in (("VI, diagonal", False), ("VI, full", True)):
        fit = fit_gaussians(
            target,
            n,
            2,
            stream,
            full=full,
            iterations=settings.vi_iterations,
            restarts=settings.vi_restarts,
        )
        cell = (2 * truth.limit / len(axis)) ** 2
        q = (density(fit, points).exp() * cell).T.reshape(truth.masses.shape)
        shares[name] = binned(q, BINS)
        gaps[name] = (truth.log_normalizer - fit.elbo).tolist()
    K = gram(g)
    return {
        "truth": coarse,
        "shares": shares,
        "total_variation": {k: total_variation(v, coarse).tolist() for k, v in shares.items()},
        "gap": gaps,
        "log_normalizer": truth.log_normalizer.tolist(),
        "acceptance": float(many.acceptance.mean()),
        "smallest": float(K.smallest),
        "largest": float(K.largest),
        "samples": many.z[-1],
    }
