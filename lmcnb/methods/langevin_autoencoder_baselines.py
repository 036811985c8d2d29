"""The baselines of table 1: VAE, VAE with planar flows, Hoffman's MCMC-refined VAE. Plain autograd.

Each is a loss `(rows)` in nats an image, averaged over the batch, and everything it trains follows
from it. Parameters have a leading row dimension; noise is given. Sources: the paper's appendix B
and code; Kingma and Welling 2014; Rezende and Mohamed 2015; Hoffman 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lmcnb.kernels.gradients import score
from lmcnb.kernels.ula import propose
from lmcnb.models import planar_flow
from lmcnb.models.gaussian import LOG_2_PI, elbo, log_standard

LogLikelihood = Callable[[Tensor], Tensor]


def vae(log_likelihood: LogLikelihood, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """-ELBO with one reparameterized sample and the KL in closed form.

    Args:
        log_likelihood: `(rows, B, dim) -> (rows, B)`, log p(x | z).
        mean: of q(z | x), `(rows, B, dim)`.
        std: of q(z | x), the same shape.
        noise: standard normal, the same shape.
    """
    return -elbo(log_likelihood, mean, std, noise).mean(-1)


def vae_flow(
    log_likelihood: LogLikelihood,
    mean: Tensor,
    std: Tensor,
    noise: Tensor,
    flow: Mapping[str, Tensor],
) -> Tensor:
    """-ELBO of a flowed posterior: -log p(x, z_K) - H[q_0] - sum log |det|, H in closed form."""
    z, log_det = planar_flow.forward(flow, mean + std * noise)
    entropy = (std.log() + 0.5 * (1 + LOG_2_PI)).sum(-1)
    return -(log_likelihood(z) + log_standard(z) + entropy + log_det).mean(-1)


def hoffman(
    log_likelihood: LogLikelihood,
    frozen_likelihood: LogLikelihood,
    mean: Tensor,
    std: Tensor,
    noise: Tensor,
    step_size: float,
) -> Tensor:
    """The encoder follows the ELBO, the decoder the likelihood of a Langevin-refined sample.

        z_0 ~ q(z | x),   z_{t+1} = z_t + eta score(z_t) + sqrt(2 eta) noise,  unadjusted,
        loss = -ELBO with the decoder held fixed  -  log p(x | z_T) with z_T held fixed

    The value is the sum of both; only its gradients mean something. With T = 0 they are the VAE's.

    Args:
        log_likelihood: in the graph of the decoder's parameters.
        frozen_likelihood: the same function, without them in the graph.
        mean: of q(z | x), `(rows, B, dim)`.
        std: of q(z | x), the same shape.
        noise: `(1 + T, rows, B, dim)`, the first for z_0.
        step_size: eta; the code has 0.005 and no accept test.
    """
    bound = elbo(frozen_likelihood, mean, std, noise[0])
    z = (mean + std * noise[0]).detach()
    for xi in noise[1:]:
        gradient = score(lambda u: frozen_likelihood(u) + log_standard(u), z)
        z = propose(z, gradient, step_size, xi)
    return -(bound + log_likelihood(z)).mean(-1)


def detached(p: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, out of every graph."""
    with torch.no_grad():
        return {k: v.detach() for k, v in p.items()}
