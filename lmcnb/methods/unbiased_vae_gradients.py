"""Gradients of binary VAEs: of the importance-weighted bound, and from weighted points.

    decoder   sum_k w~_k grad log p(x | z_k): of K draws it is the bound's own gradient, of the
              signed points of coupled chains the unbiased one of log p(x)
    encoder   the doubly reparameterized gradient of the bound (DReG, Tucker et al. 2019),
              sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi)

Gradients are of the negative, a mean over the batch, as an optimizer wants them. Guaranteed: the
encoder's has the expectation of the plain reparameterized gradient (a test). Units: nats an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lmcnb.methods.unbiased_vae import Weighted, gaussian_log_weight
from lmcnb.models.binary_vae import BinaryVAE, Parameters

DECAY, EPSILON = 0.9, 1e-8  # of RMSProp; the paper does not state them
NEGLIGIBLE = 1e-9  # |weight| of a point: 60 times below float32's rounding of a weight of one
CHUNK = 16_384  # latents decoded at once, with gradient


def bound_gradients(
    model: BinaryVAE, p: Parameters, x: Tensor, noise: Tensor, *, elbo: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The K-sample bound of every run `(runs)`, and the gradients of its negative, all parameters.

    Of the decoder: sum_k w~_k grad log p(x | z_k). Of the encoder: DReG, which is the decoder's
    signal at z_k times w~_k once more. ELBO: 1 / K in the place of both weights.

    Args:
        model: the architecture.
        p: parameters.
        x: images `(runs, batch, pixels)`.
        noise: standard normals `(runs, batch, K, latent)`.
        elbo: the ELBO, averaged over K draws; its encoder has the path derivative.
    """
    leaves = {k: v.detach().requires_grad_() for k, v in p.items()}
    names = {part: [k for k in p if k.startswith(part)] for part in ("decoder", "encoder")}
    with torch.enable_grad():
        mean, std = (v.unsqueeze(2) for v in model.encode(leaves, x))
        reparameterized = mean + std * noise
        z = reparameterized.detach().requires_grad_()
        m, s = mean.detach(), std.detach()
        log_q = -0.5 * ((z - m) / s).square().sum(-1) - s.log().sum(-1)
        log_w = model.log_likelihood(leaves, x, z) - 0.5 * z.square().sum(-1) - log_q
        log_w = log_w.double()
        K, batch = noise.shape[2], x.shape[1]
        if elbo:
            bound = log_w.mean(-1)
            weights = torch.full_like(log_w, 1 / K)
            again = torch.ones_like(weights)
        else:
            bound = torch.logsumexp(log_w, -1) - math.log(K)
            weights = again = torch.softmax(log_w.detach(), -1)
        loss = -(weights * log_w).sum() / batch
        inputs = [leaves[k] for k in names["decoder"]]
        *decoder, by_z = torch.autograd.grad(loss, [*inputs, z])
        by_z = by_z * again.unsqueeze(-1).to(by_z.dtype)
        encoder = torch.autograd.grad(reparameterized, [leaves[k] for k in names["encoder"]], by_z)
    gradients = dict(zip(names["decoder"], decoder, strict=True))
    gradients |= dict(zip(names["encoder"], encoder, strict=True))
    return bound.detach().mean(-1).float(), gradients


def row_log_weight(
    model: BinaryVAE, own: Parameters, x: Tensor
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """log w of one run's images `(1, batch, pixels)`, and mean and std of q `(batch, latent)`."""
    mean, std = (v[0] for v in model.encode(own, x))
    projected = model.projected(own, x)

    def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
        return model.likelihood_of(own, projected[:, rows], z.unsqueeze(0))[0]

    return gaussian_log_weight(log_likelihood, mean, std), mean, std


def decoder_gradients(
    model: BinaryVAE, own: Parameters, x: Tensor, points: Weighted, z: Tensor
) -> dict[str, Tensor]:
    """Gradient of -(1/B) sum of weight log p(x | z) over all points, one run's decoder.

    Points of |weight| up to 1e-9 are left out: a thousand of them move the mean by at most 1e-6.
    A weight that is not a number stays, and so does the gradient: the run diverges visibly.
    """
    kept = ~(points.weights.abs() <= NEGLIGIBLE)
    entry, slot = kept.nonzero(as_tuple=True)
    weights = points.weights[entry, slot].to(z.dtype)
    names = [k for k in own if k.startswith("decoder")]
    total = {k: torch.zeros_like(own[k]) for k in names}
    for part in torch.arange(len(entry), device=z.device).split(CHUNK):
        leaves = {k: own[k].detach().requires_grad_() for k in names}
        at = entry[part]
        with torch.enable_grad():
            projected = model.projected(leaves, x)[:, points.rows[at]]
            value = model.likelihood_of(
                leaves, projected, z[at, slot[part]].unsqueeze(0).unsqueeze(2)
            )
            loss = -(weights[part] * value[0, :, 0]).sum() / x.shape[1]
            found = torch.autograd.grad(loss, list(leaves.values()))
        for k, g in zip(names, found, strict=True):
            total[k] += g
    return total


def rmsprop(
    p: Mapping[str, Tensor], g: Mapping[str, Tensor], v: Mapping[str, Tensor], rate: float
) -> None:
    """One update in place: v <- 0.9 v + 0.1 g^2, p <- p - rate g / sqrt(v + 1e-8)."""
    names = list(p)
    gradients, squares = [g[k] for k in names], [v[k] for k in names]
    torch._foreach_mul_(squares, DECAY)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - DECAY)
    roots = torch._foreach_add(squares, EPSILON)
    torch._foreach_sqrt_(roots)
    torch._foreach_addcdiv_([p[k] for k in names], gradients, roots, value=-rate)


def norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm of all parts together."""
    return torch.stack([g.double().norm() for g in gradients.values()]).norm()
