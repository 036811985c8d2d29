"""Bounds on log p(x) of trained models, image by image: the table's, and a tighter one.

The paper evaluates every model by -ELBO with one sample an image: baselines with their own encoder,
the Langevin autoencoder with q(z) = N(Phi g(x), sigma^2 I), sigma = 0.05 by hand. That sigma is not
trained, so callers try others, and the importance-weighted bound depends on it less. Both bounds
still judge encoder and decoder together; `refined` replaces the encoder's posterior by one that is
optimized image by image, and so judges the decoder, the density that was learned. Products
are float32 here whatever they were in training. Units: nats an image (divide by the number of
pixels for the table's nats per dimension).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.importance_weighted import Bound, importance_weighted_bound
from lmcnb.methods.langevin_autoencoder import latent
from lmcnb.methods.langevin_autoencoder_fast import part
from lmcnb.methods.langevin_autoencoder_model import Model
from lmcnb.models import planar_flow
from lmcnb.models.discretized_logistic import to_grid
from lmcnb.models.gaussian import elbo, log_normal, log_standard

CHUNK = 1000  # images at once


def posterior(
    model: Model, p: Mapping[str, Tensor], x: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q (before any flow) for images `(rows, B, pixels)`."""
    if model.t.method == "LAE":
        if not 0 < width < float("inf"):
            raise UsageError(f"width={width!r}: a positive number is needed")
        mean = latent(p["phi"], model.body.forward(part(p, "body"), x))
        return mean, torch.full_like(mean, width)
    return model.encode(p, x)


def log_weight(
    model: Model, p: Mapping[str, Tensor], x: Tensor, mean: Tensor, std: Tensor, noise: Tensor
) -> Tensor:
    """log p(x, z) - log q(z | x) at one sample, `(rows, B)`."""
    z = mean + std * noise
    log_q = log_normal(z, mean, std)
    if model.t.method == "VAE-flow":
        z, log_det = planar_flow.forward(part(p, "flow"), z)
        log_q = log_q - log_det
    return model.log_likelihood(p, x, z) + log_standard(z) - log_q


@torch.no_grad()
def negative_elbo(
    model: Model,
    p: Mapping[str, Tensor],
    pixels: Tensor,
    generators: Sequence[torch.Generator],
    width: float = 0.05,
) -> Tensor:
    """-ELBO of every image with one sample `(rows, n)`; the KL in closed form, but for the flow.

    Args:
        model: the networks.
        p: their parameters.
        pixels: images `(n, pixels)`, whole levels.
        generators: one a row.
        width: sigma of the Langevin autoencoder's posterior; baselines have their own.
    """
    parts = []
    for x in chunks(model, p, pixels):
        mean, std = posterior(model, p, x, width)
        noise = draw(mean, generators)
        if model.t.method == "VAE-flow":
            parts.append(-log_weight(model, p, x, mean, std, noise))
        else:
            likelihood = partial(model.log_likelihood, p, x)
            parts.append(-elbo(likelihood, mean, std, noise))
    return torch.cat(parts, -1).double()


@torch.no_grad()
def importance_weighted(
    model: Model,
    p: Mapping[str, Tensor],
    pixels: Tensor,
    generators: Sequence[torch.Generator],
    samples: int,
    width: float = 0.05,
) -> Bound:
    """Minus the importance-weighted bound of every image, and its error, both `(rows, n)`.

    Arguments as above; `samples` is the number of draws an image.
    """

    def bound(x: Tensor) -> Bound:
        mean, std = posterior(model, p, x, width)
        return importance_weighted_bound(
            lambda: log_weight(model, p, x, mean, std, draw(mean, generators)), samples
        )

    return minus([bound(x) for x in chunks(model, p, pixels)])


def refined(
    model: Model,
    p: Mapping[str, Tensor],
    pixels: Tensor,
    generators: Sequence[torch.Generator],
    samples: int,
    steps: int = 300,
    learning_rate: float = 0.02,
) -> Bound:
    """Minus the importance-weighted bound with a Gaussian posterior fitted to every image.

    Mean and standard deviations start at the encoder's (0.05 for the Langevin autoencoder) and go
    up the one-sample ELBO by Adam, the rate falling linearly to 0 over the second half; fresh
    samples then give the bound. A bound for any q, it may be fitted on the image that it is
    evaluated on. Arguments as above.
    """
    fixed = {k: v.detach() for k, v in p.items()}

    def bound(x: Tensor) -> Bound:
        likelihood = partial(model.log_likelihood, fixed, x)
        with torch.no_grad():
            start, std = posterior(model, fixed, x, 0.05)
        mean = start.clone().requires_grad_()
        log_std = std.log().clone().requires_grad_()
        optimizer = torch.optim.Adam([mean, log_std], lr=learning_rate)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))
            with torch.enable_grad():
                loss = -elbo(likelihood, mean, log_std.exp(), draw(mean, generators)).sum()
                mean.grad, log_std.grad = torch.autograd.grad(loss, (mean, log_std))
            optimizer.step()
        m, s = mean.detach(), log_std.detach().exp()

        def weight() -> Tensor:
            z = m + s * draw(m, generators)
            return likelihood(z) + log_standard(z) - log_normal(z, m, s)

        with torch.no_grad():
            return importance_weighted_bound(weight, samples)

    return minus([bound(x) for x in chunks(model, p, pixels)])


def minus(parts: Sequence[Bound]) -> Bound:
    """Bounds of chunks of images as one, the sign turned."""
    return Bound(-torch.cat([b.value for b in parts], -1), torch.cat([b.se for b in parts], -1))


def chunks(model: Model, p: Mapping[str, Tensor], pixels: Tensor) -> list[Tensor]:
    """The images on the grid, `(rows, at most CHUNK, pixels)` each, rows sharing them."""
    rows, device = p["b"].shape[0], p["b"].device
    return [
        to_grid(c, model.t.levels).to(device, p["b"].dtype).expand(rows, *c.shape)
        for c in pixels.split(CHUNK)
    ]


def draw(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise shaped as `like`, one generator a row."""
    if len(generators) != len(like):
        raise UsageError(f"{len(generators)} generators for {len(like)} rows: one a row is needed")
    kind: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    return torch.stack([torch.randn(like.shape[1:], generator=g, **kind) for g in generators])
