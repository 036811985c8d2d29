"""The autoencoder of MCMC teaching where the answer is known: PCA, the loss, the chain rule.

The functions return numbers that should be zero. float64 throughout.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lmcnb.experiments.mcmc_teaching_exact import gaussian_kl
from lmcnb.methods.mcmc_teaching import vae_loss
from lmcnb.models.gaussian import kl_to_standard
from lmcnb.models.linear_gaussian import LinearGaussian
from lmcnb.models.linear_vae import LinearDecoder, LinearPosterior, exact_posterior, principal
from lmcnb.models.mlp import Decoder, Posterior

F64 = torch.float64


def pca_case() -> tuple[LinearDecoder, LinearPosterior, Tensor, Tensor, float]:
    """The best decoder, its posterior, the data's mean and covariance, and s."""
    root = torch.tensor([[1.5, 0.2, 0.0], [0.3, 0.9, -0.2], [-0.4, 0.1, 0.25]], dtype=F64)
    covariance, mean = root @ root.mT, torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    decoder = principal(covariance, mean, 2, 0.6)
    return decoder, exact_posterior(decoder, 0.6), mean, covariance, 0.6


def sigma_points(n: int, latent: int) -> Tensor:
    """Noise `(2 latent, n, latent)` whose mean and covariance are exactly 0 and I."""
    axes = math.sqrt(latent) * torch.eye(latent, dtype=F64)
    return torch.cat([axes, -axes]).unsqueeze(1).expand(-1, n, -1)


def exact_loss(encoder: Any, decoder: Any, x: Tensor, sigma: float) -> Tensor:
    """E of `vae_loss` over its noise; the squared error of a linear decoder is quadratic in it."""
    noise = sigma_points(len(x), decoder.latent)
    return torch.stack([vae_loss(encoder, decoder, x, e, sigma) for e in noise]).mean()


def elbo_of(loss: Tensor, dim: int, sigma: float) -> Tensor:
    """The evidence lower bound that a loss stands for: loss = -2 s^2 ELBO + const."""
    return -loss / (2 * sigma**2) - 0.5 * dim * math.log(2 * math.pi * sigma**2)


@torch.no_grad()
def principal_components() -> dict[str, float]:
    """Bound against log p(x) at the exact posterior; the best decoder against the closed form."""
    decoder, encoder, mean, covariance, sigma = pca_case()
    x = torch.tensor([[0.3, 1.0, -0.5], [2.0, -1.5, 0.7], [0.0, 0.0, 0.0]], dtype=F64)
    bound = elbo_of(exact_loss(encoder, decoder, x, sigma), 3, sigma)
    noise = sigma**2 * torch.eye(3, dtype=F64)
    marginal = LinearGaussian(decoder.W, noise).log_marginal(x - mean)
    values = torch.linalg.eigvalsh(covariance).flip(-1)
    fitted = torch.linalg.eigvalsh(decoder.W @ decoder.W.mT + noise).flip(-1)
    kept = values > sigma**2
    return {
        "bound": float(bound - marginal.mean()),
        "kept": float((fitted - values)[kept].abs().max()),
        "dropped": float((fitted[~kept] - sigma**2).abs().max()),
    }


def principal_gradient() -> float:
    """Largest gradient of the expected loss at the closed-form optimum, data a Gaussian."""
    decoder, encoder, mean, covariance, sigma = pca_case()
    root = torch.linalg.cholesky(covariance)
    x = mean + sigma_points(1, 3)[:, 0] @ root.mT  # the data's two moments, exactly
    exact_loss(encoder, decoder, x, sigma).backward()
    found = [*decoder.parameters(), *encoder.parameters()]
    return max(float(p.grad.abs().max()) for p in found if p.grad is not None)


@torch.no_grad()
def loss_identity(stream: torch.Generator) -> float:
    """The loss less -w ELBO - w (D/2) log(2 pi s^2), w = 2 s^2, relative; an MLP of 7 values."""
    dim, latent, sigma = 7, 3, 0.35
    decoder = Decoder(latent, [16], dim, stream).double()
    encoder = Posterior(dim, [16], latent, stream).double()
    x = torch.randn(20, dim, generator=stream, dtype=F64)
    noise = torch.randn(20, latent, generator=stream, dtype=F64)
    mean, std = encoder(x)
    log_p = torch.distributions.Normal(decoder(mean + std * noise), sigma).log_prob(x).sum(-1)
    elbo = (log_p - kl_to_standard(mean, std)).mean()
    w = 2 * sigma**2
    code = -w * elbo - 0.5 * w * dim * math.log(2 * math.pi * sigma**2)
    loss = vae_loss(encoder, decoder, x, noise, sigma)
    return float((loss - code).abs() / code.abs())


@torch.no_grad()
def chain_rule() -> dict[str, float]:
    """KL(p(x) q(z|x) || q(z) q(x|z)) three ways: joint, chain rule, and by the bound; nats."""
    decoder, _, _, _, sigma = pca_case()
    R = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.6, -0.4]], dtype=F64)
    encoder = LinearPosterior(R, torch.tensor([0.2, -0.1], dtype=F64),
                              torch.tensor([0.4, 0.9], dtype=F64))  # fmt: skip
    m = torch.tensor([0.2, -0.6, 1.0], dtype=F64)  # p_theta
    C = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.8, -0.2], [0.1, -0.2, 0.6]], dtype=F64)
    W, b, r = decoder.W, decoder.b, encoder.r
    noise, S = sigma**2 * torch.eye(3, dtype=F64), torch.diag(encoder.log_std.exp().square())
    left = _joint(m, C, R, r, S)  # (x, z): x first, z = R x + r + noise
    mean, cov = _joint(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), W, b, noise)
    order = torch.tensor([2, 3, 4, 0, 1])  # (z, x) to (x, z)
    right = mean[order], cov[order][:, order]
    joint = gaussian_kl(*left, *right)

    model_cov = W @ W.mT + noise
    marginal = gaussian_kl(m, C, b, model_cov)
    gain = W.mT @ torch.linalg.inv(model_cov)
    posterior_cov = torch.eye(2, dtype=F64) - gain @ W
    # E over p of KL(N(R x + r, S) || N(gain (x - b), P)): quadratic in x
    at_mean = gaussian_kl(R @ m + r, S, gain @ (m - b), posterior_cov)
    slope = R - gain
    spread = 0.5 * (slope.mT @ torch.linalg.solve(posterior_cov, slope) @ C).trace()
    x = m + sigma_points(1, 3)[:, 0] @ torch.linalg.cholesky(C).mT
    bound = elbo_of(exact_loss(encoder, decoder, x, sigma), 3, sigma)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * C)
    return {
        "chain": float(joint - marginal - at_mean - spread),
        "bound": float(joint + entropy + bound),
    }


def _joint(
    m: Tensor, C: Tensor, slope: Tensor, shift: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (u, slope u + shift + noise), u ~ N(m, C)."""
    below = slope @ C
    cov = torch.cat([torch.cat([C, below.mT], 1), torch.cat([below, below @ slope.mT + noise], 1)])
    return torch.cat([m, slope @ m + shift]), cov
