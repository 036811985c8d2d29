"""The variational autoencoders beside short-run inference: same generator, same noise width.

    VAE          q(z | x) = N(m(x), s(x)^2),
                 -ELBO = |x - g(z)|^2 / (2 sigma^2) + const + KL(q || N(0, I))
    ladder VAE   a layer's posterior joins the encoder's term (m_e, s_e) with the generator's own
                 (m_p, s_p), 1602.02282: precision s_q^-2 = s_e^-2 + s_p^-2,
                 mean s_q^2 (m_e s_e^-2 + m_p s_p^-2)

The third baseline, alternating back-propagation, is short-run inference whose chains go on where
they stopped (`short_run_training`). Units: nats, constants included.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.models.conv_generators import ConvLadderEncoder, FiveLayer
from lmcnb.models.encoders import LadderEncoder
from lmcnb.models.gaussian import LOG_2_PI, kl_to_standard
from lmcnb.models.top_down import TopDown


def negative_elbo(
    generator: nn.Module, encoder: nn.Module, x: Tensor, noise: Tensor, sigma: float
) -> Tensor:
    """-ELBO of every image, `(n)`, one reparameterized sample.

    Args:
        generator: g; of a ladder a `TopDown` or `FiveLayer` with stochastic layers.
        encoder: gives mean and standard deviation `(n, dim)`, as `Encoder`, or those of every
            layer, as `LadderEncoder`.
        x: images `(n, pixels)`.
        noise: standard normal, `(n, dim)`.
        sigma: standard deviation of a pixel's noise.
    """
    y, kl, _ = reconstruct(generator, encoder, x, noise)
    constant = x.shape[-1] * (0.5 * LOG_2_PI + math.log(sigma))
    return (x - y).square().sum(-1) / (2 * sigma**2) + constant + kl


class Reconstruction(NamedTuple):
    """What an autoencoder makes of images, with one z from q."""

    image: Tensor  # g(z), (n, pixels)
    kl: Tensor  # KL(q || N(0, I)), (n)
    z: Tensor  # in the generator's non-centred form, (n, dim)


def reconstruct(
    generator: nn.Module, encoder: nn.Module, x: Tensor, noise: Tensor
) -> Reconstruction:
    """One z from q and its image; zero noise gives q's means."""
    if isinstance(encoder, LadderEncoder | ConvLadderEncoder):
        if not isinstance(generator, TopDown | FiveLayer) or generator.variant == "ladder":
            raise UsageError(
                "a ladder VAE needs a TopDown or FiveLayer generator whose layers have a density "
                "(variant 'gaussian' or 'wide')"
            )
        return _ladder(generator, encoder, x, noise)
    mean, std = encoder(x)
    z = mean + std * noise
    return Reconstruction(generator(z), kl_to_standard(mean, std), z)


def _ladder(
    generator: TopDown | FiveLayer,
    encoder: LadderEncoder | ConvLadderEncoder,
    x: Tensor,
    noise: Tensor,
) -> Reconstruction:
    h: Tensor | None = None
    kl = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    z = []
    terms = encoder(x)
    for i, (own, (up_mean, up_std)) in enumerate(
        zip(noise.split(generator.latent, -1), terms, strict=True)
    ):
        if h is None:
            mean, std = torch.zeros_like(up_mean), torch.ones_like(up_std)
        else:
            mean, std = generator.conditional(i, h)
        precision, up = std**-2, up_std**-2
        q_std = (precision + up).rsqrt()
        q_mean = (mean * precision + up_mean * up) * q_std.square()
        kl = kl + kl_to_standard((q_mean - mean) / std, q_std / std)
        u = q_mean + q_std * own
        z.append((u - mean) / std)
        h = generator.feature(i, u, h)
    assert h is not None
    return Reconstruction(generator.image(h), kl, torch.cat(z, -1))
