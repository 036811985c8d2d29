"""The densities and training steps of the Langevin autoencoder's models against known answers.

Every function returns numbers that should be zero. Everything in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lmcnb.experiments.langevin_autoencoder_exact import F64, normal
from lmcnb.kernels.gradients import value_and_score
from lmcnb.methods.langevin_autoencoder import Langevin, training_step
from lmcnb.methods.langevin_autoencoder_baselines import detached, hoffman, vae
from lmcnb.methods.langevin_autoencoder_fast import Engine, part
from lmcnb.models import planar_flow
from lmcnb.models.discretized_logistic import (
    energy_and_gradient,
    log_mass,
    scale_of,
    scale_penalty,
    to_grid,
)
from lmcnb.models.gaussian import elbo, log_standard
from lmcnb.models.linear_gaussian import LinearGaussian
from lmcnb.models.perceptron import Perceptron


def elbo_errors(stream: torch.Generator) -> tuple[float, float]:
    """The bound's closed form on a linear-Gaussian model; and that it is tight, draw by draw."""
    W, noise = normal(4, 2, stream=stream), 0.5 * torch.eye(4, dtype=F64)
    model = LinearGaussian(W, noise)
    x = model.sample(6, stream)
    mean, covariance = model.posterior(x)
    L = torch.linalg.cholesky(covariance)
    eps = normal(50, 6, 2, stream=stream)
    z = mean + eps @ L.mT
    log_q = -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1) - L.diagonal().log().sum()
    tight = (model.log_joint(x, z) - log_q - model.log_marginal(x)).abs().max()
    width, m = 0.3, mean + 0.1
    # E_q of a quadratic by symmetric points m +- sqrt(2) width e_j, exact for dim = 2
    offsets = math.sqrt(2) * torch.cat([torch.eye(2, dtype=F64), -torch.eye(2, dtype=F64)])

    def log_likelihood(u: Tensor) -> Tensor:
        return model.log_joint(x, u) - log_standard(u)

    std = torch.full_like(m, width)
    bound = torch.stack([elbo(log_likelihood, m, std, o.expand_as(m)) for o in offsets]).mean(0)
    P = torch.linalg.inv(covariance)
    centred = m - mean
    kl = 0.5 * (
        width**2 * P.trace()
        + ((centred @ P) * centred).sum(-1)
        - 2
        + covariance.logdet()
        - 2 * math.log(width**2)
    )
    return float((bound - (model.log_marginal(x) - kl)).abs().max()), float(tight)


def logistic_errors(levels: int = 256) -> tuple[float, float]:
    """How far the masses of all levels are from summing to one; the gradient against autograd."""
    x = torch.arange(levels, dtype=F64) * (2 / (levels - 1)) - 1
    worst, off = 0.0, 0.0
    for scale in (3e-3, 0.05, 1.2, 50.0):
        for mean in (-7.0, -1.0, -0.3, 0.0, 0.99, 2.5):
            mu = torch.full_like(x, mean).requires_grad_()
            s = torch.tensor(scale, dtype=F64).requires_grad_()
            log_p = log_mass(x, mu, s, levels)
            worst = max(worst, abs(float(log_p.detach().exp().sum()) - 1))
            by_mean, by_scale = torch.autograd.grad(-log_p.sum(), (mu, s))
            own = energy_and_gradient(x, mu.detach(), s.detach(), levels)
            for a, b in (
                (own.mean, by_mean),
                (own.scale.sum(), by_scale),
                (own.energy, -log_p.detach()),
            ):
                off = max(off, float(((a - b) / (1 + b.abs())).abs().max()))
    return worst, off


def scale_errors() -> tuple[float, float]:
    """The prior of b integrates to one; the scale starts at 1.2011."""
    b = torch.linspace(-60, 60, 240_001, dtype=F64)
    integral = float(torch.trapezoid(torch.exp(-scale_penalty(b)), b))
    return abs(integral - 1), abs(float(scale_of(torch.zeros(1, dtype=F64))) - 1.20112241)


def flow_error(stream: torch.Generator) -> float:
    """The planar flows' log-determinant `(rows, batch)` against autograd's Jacobian."""
    p = planar_flow.initial(3, 4, [torch.Generator().manual_seed(5)])
    p = {k: v.double() + 0.3 * normal(*v.shape, stream=stream) for k, v in p.items()}
    z = normal(1, 6, 3, stream=stream)
    log_det = planar_flow.forward(p, z)[1]
    if log_det.shape != (1, 6):
        return math.inf
    jacobians = [
        torch.autograd.functional.jacobian(
            lambda u: planar_flow.forward(p, u[None, None])[0][0, 0], v
        )
        for v in z[0]
    ]
    known = torch.stack([torch.linalg.slogdet(J).logabsdet for J in jacobians])
    return float((log_det[0] - known).abs().max())


def hoffman_errors(stream: torch.Generator) -> tuple[float, float]:
    """T = 0 gives the VAE's gradients; at T > 0 the decoder's come from the last z alone."""
    x, W = normal(1, 5, 4, stream=stream), normal(2, 4, stream=stream)
    mean, std = normal(1, 5, 2, stream=stream), normal(1, 5, 2, stream=stream).exp()
    noise = normal(4, 1, 5, 2, stream=stream)

    def likelihood(weight: Tensor, z: Tensor) -> Tensor:
        return -0.5 * (x - torch.tanh(z @ weight)).square().sum(-1)

    def gradients(steps: int | None) -> tuple[Tensor, ...]:
        leaves = [v.clone().requires_grad_() for v in (W, mean, std)]
        if steps is None:
            loss = vae(lambda z: likelihood(leaves[0], z), leaves[1], leaves[2], noise[0])
        else:
            fixed = detached({"W": leaves[0]})["W"]
            loss = hoffman(
                lambda z: likelihood(leaves[0], z),
                lambda z: likelihood(fixed, z),
                leaves[1],
                leaves[2],
                noise[: 1 + steps],
                0.05,
            )
        return torch.autograd.grad(loss.sum(), leaves)

    same = max(
        float((a - b).abs().max()) for a, b in zip(gradients(None), gradients(0), strict=True)
    )
    z = mean + std * noise[0]
    for xi in noise[1:]:
        gradient = value_and_score(lambda u: likelihood(W, u) + log_standard(u), z)[1]
        z = z + 0.05 * gradient + math.sqrt(0.1) * xi
    leaf = W.clone().requires_grad_()
    (known,) = torch.autograd.grad(-likelihood(leaf, z).mean(), leaf)
    return same, float((gradients(3)[0] - known).abs().max())


STEP_SETTINGS = {
    "published": Langevin(step_size=5e-2),
    "rejected": Langevin(step_size=60.0),
    "one": Langevin(moves=1, extra_step=False, step_size=5e-2),
    "five": Langevin(moves=5, step_size=2e-1),
    "unadjusted": Langevin(adjusted=False, step_size=5e-2),
    "frozen": Langevin(moves=0),
    "gradient": Langevin(moves=0, gradient=True),
}


def step_errors(rows: int = 2, seed: int = 0) -> dict[str, float]:
    """The hand-written training step against the readable one: largest error of all it gives.

    Relative to the largest entry of each of loss, acceptance, Phi and every gradient; shared noise.
    """
    found = {}
    for name, settings in STEP_SETTINGS.items():
        p, x = step_problem(rows, seed)
        noise, uniform = step_noise(settings, range(seed + 20, seed + 20 + rows))
        size = torch.full((rows,), settings.step_size, dtype=F64)
        got = Engine(BODY, DECODER, settings, LEVELS).step(p, x, noise, uniform, size)
        worst = 0.0
        for r in range(rows):
            known = readable_step(p, x, r, settings, seed + 20 + r)
            own = {"phi": got.phi[r], "loss": got.loss[r], "acceptance": got.acceptance[r]}
            own |= {f"by {k}": g[r] for k, g in got.gradients.items()}
            if set(own) != set(known):
                return {name: math.inf}
            for key, value in known.items():
                off = (own[key] - value).abs().max() / (value.abs().max() + 1e-12)
                worst = max(worst, float(off))
        found[name] = worst
    return found


LEVELS, PIXELS, LATENT, WIDTH, BATCH = 17, 12, 3, 8, 5
BODY = Perceptron((PIXELS, 9, WIDTH))
DECODER = Perceptron((LATENT, 7, 6), PIXELS)


def step_problem(rows: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters away from their start, and images."""
    streams = [torch.Generator().manual_seed(seed + r) for r in range(rows)]
    p = {f"body.{k}": v.double() for k, v in BODY.initial(streams).items()}
    p |= {f"decoder.{k}": v.double() for k, v in DECODER.initial(streams).items()}
    g = torch.Generator().manual_seed(seed + 100)
    p = {k: v + 0.2 * normal(*v.shape, stream=g) for k, v in p.items()}
    p["phi"] = 0.5 * normal(rows, LATENT * WIDTH, stream=g)
    p["b"] = normal(rows, 1, 1, stream=g)
    pixels = torch.randint(0, LEVELS, (rows, BATCH, PIXELS), generator=g)
    return p, to_grid(pixels, LEVELS).double()


def step_noise(settings: Langevin, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The noise and uniforms that `training_step` draws from generators of these seeds."""
    noise = torch.zeros(len(seeds), settings.total, LATENT * WIDTH, dtype=F64)
    uniform = torch.zeros(len(seeds), settings.total, dtype=F64)
    for r, seed in enumerate(seeds):
        g = torch.Generator().manual_seed(seed)
        for t in range(settings.total):
            noise[r, t] = normal(LATENT * WIDTH, stream=g)
            if settings.adjusted:
                uniform[r, t] = torch.rand((), generator=g, dtype=F64)
    return noise, uniform


def readable_step(
    p: dict[str, Tensor], x: Tensor, r: int, settings: Langevin, seed: int
) -> dict[str, Tensor]:
    """`training_step` on row r: Phi, loss, mean acceptance, and the gradients by autograd."""
    own = {k: v[r : r + 1].clone().requires_grad_() for k, v in p.items()}

    def body(images: Tensor) -> Tensor:
        return BODY.forward(part(own, "body"), images[None])[0]

    def log_joint(images: Tensor, z: Tensor) -> Tensor:
        mean = DECODER.forward(part(own, "decoder"), z[None])[0]
        scale = scale_of(own["b"][0, 0])
        return log_mass(images, mean, scale, LEVELS).sum(-1) - 0.5 * z.square().sum(-1)

    start = own["phi"][0] if settings.gradient else own["phi"][0].detach()
    stream = torch.Generator().manual_seed(seed)
    phi, loss, infos = training_step(start, x[r], body, log_joint, settings, stream)
    tested = [info.acceptance for info in infos] if settings.adjusted else []
    acceptance = torch.stack(tested).mean() if tested else torch.ones((), dtype=F64)
    names = [k for k in own if k != "phi" or settings.gradient]
    gradients = torch.autograd.grad(loss, [own[k] for k in names])
    by = {f"by {k}": g[0] for k, g in zip(names, gradients, strict=True)}
    return {"phi": phi.detach(), "loss": loss.detach(), "acceptance": acceptance.detach(), **by}
