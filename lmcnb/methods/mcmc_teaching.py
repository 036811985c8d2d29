"""Variational MCMC teaching and its relatives (2012.14936): revision, losses, and who teaches whom.

An energy-based model p_theta(x) proportional to exp(f_theta(x)) N(x; 0, s_ref^2 I) needs samples to
learn from. A generator proposes them, x_0 = g_alpha(z), and K steps of Langevin dynamics revise
them under the present energy. The revised ones teach both: they are the negative samples of theta's
likelihood gradient, and the training data of the generator. `mcmc_teaching_teachers` says how the
methods differ.

    x_{k+1} = x_k + d^2/2 grad log p_theta(x_k) + d e_k                    (Langevin revision)
    theta:       min  mean f(x~) - mean f(x)                               (energy_loss)
    alpha, beta: min  mean |x~ - g(z)|^2 + 2 s^2 KL(q_beta(z | x~), N(0, I)),   z ~ q_beta(z | x~)

The code's loss of the autoencoder is -2 s^2 ELBO up to a constant. Guaranteed: if the revised
samples had the law p_theta, theta's gradient would be that of maximum likelihood. Not guaranteed:
that they have. The step is unadjusted, which inflates a Gaussian's variance by
1 / (1 - d^2 / (4 S^2)); K steps from the generator's law do not reach the invariant law; without
noise (`noise=None`, as in the released code) the chain ascends to a mode. So a trained energy is a
sampler's energy, and its log density says little of the data's (`mcmc_teaching_theory` has the
fixed points of learning in closed form).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity, score
from lmcnb.models.gaussian import kl_to_standard
from lmcnb.models.observed import log_joint


def revise(
    target: LogDensity,
    x: Tensor,
    step_size: float,
    steps: int,
    noise: Iterable[Tensor] | None = None,
) -> Tensor:
    """x_K of chains that start at `x`, detached; every row is a chain of its own.

    Args:
        target: log density, up to a constant.
        x: `(..., dim)`.
        step_size: d; the kernels' eta is d^2 / 2.
        steps: K.
        noise: e_0, e_1, ..., each shaped as x; None: no noise, gradient ascent.

    Raises:
        UsageError: a step size that is not positive, a negative number of steps.
    """
    if not 0 < step_size < math.inf or steps < 0:
        raise UsageError(f"step_size={step_size!r}, steps={steps!r}: a positive and a whole number")
    x = x.detach()
    each = None if noise is None else iter(noise)
    for _ in range(steps):
        x = torch.add(x, score(target, x), alpha=0.5 * step_size**2)
        if each is not None:
            x = torch.add(x, next(each), alpha=step_size)
    return x


def energy_loss(
    energy: nn.Module, revised: Tensor, data: Tensor, *conditions: Tensor | None
) -> Tensor:
    """mean f(x~) - mean f(x): minus the likelihood's gradient, once differentiated by theta.

    Args:
        energy: f.
        revised: x~, `(chains, dim)`, detached.
        data: x, `(n, dim)`.
        conditions: of the revised and of the data; none without.
    """
    c_revised, c_data = conditions or (None, None)
    return call(energy, revised, c_revised).mean() - call(energy, data, c_data).mean()


def vae_loss(
    encoder: Callable[..., tuple[Tensor, Tensor]],
    decoder: nn.Module,
    x: Tensor,
    noise: Tensor,
    sigma: float,
    c: Tensor | None = None,
) -> Tensor:
    """mean |x - g(z)|^2 + w KL with w = 2 s^2 and z = mu(x) + std(x) noise (section 1.4).

    Args:
        encoder: q(z | x, c), gives mean and standard deviation.
        decoder: g(z, c).
        x: `(n, dim)`; the method's are the revised samples.
        noise: standard normal, `(n, latent)`.
        sigma: s, standard deviation of the decoder's noise.
        c: conditions, or None.
    """
    mean, std = encoder(x) if c is None else encoder(x, c)
    return (
        regression_loss(decoder, mean + std * noise, x, c)
        + 2 * sigma**2 * kl_to_standard(mean, std).mean()
    )


def regression_loss(decoder: nn.Module, z: Tensor, x: Tensor, c: Tensor | None = None) -> Tensor:
    """mean |x - g(z)|^2, summed over dimensions: the generator's loss where z is known."""
    return (x - call(decoder, z, c)).square().sum(-1).mean()


def infer(
    decoder: nn.Module,
    z: Tensor,
    x: Tensor,
    sigma: float,
    step_size: float,
    noise: Iterable[Tensor],
    steps: int,
    c: Tensor | None = None,
) -> Tensor:
    """Latents after L steps of Langevin dynamics on log p(z | x), from `z` (original teaching).

    The same chain as `revise`, on N(x; g(z), s^2 I) N(z; 0, I).
    """
    target = log_joint(lambda u: call(decoder, u, c), x, sigma)
    return revise(target, z, step_size, steps, noise)


def call(network: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
    """A network's output, with the condition if there is one."""
    return network(x) if c is None else network(x, c)
