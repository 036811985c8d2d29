"""What is measured of a trained generator: errors, samples, inpainting, its latents, J(s).

Errors are means over pixels on the [-1, 1] scale, of held-out images, at the end of training, by
the inference that trained the model: one chain from a fresh prior draw for short-run inference
("sampled"; "mean" is its noise-free chain), one sample of q and q's mean for an autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.classifier import Classifier
from lmcnb.evaluation.frechet import frechet_distance
from lmcnb.experiments.short_run_cells import read
from lmcnb.methods.short_run import Objective, draw, objective, short_run
from lmcnb.methods.short_run_baselines import reconstruct
from lmcnb.methods.short_run_marginal import Bracket, marginal_bounds
from lmcnb.methods.short_run_training import Trainer, in_float64, to_unit
from lmcnb.models.observed import Generator, checked_mask, log_joint

AT_ONCE = 1000  # images a batch
CHAINS = 16  # per image, to tell inference from the prior
COLLAPSED = 0.1  # a latent of whose variance the image explains less is unused


def reconstructions(trainer: Trainer, x: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampled and mean reconstructions `(n, pixels)` of images `(n, pixels)` in [-1, 1]."""
    t = trainer.training
    sampled, mean = [], []
    with torch.no_grad():
        for part in x.split(AT_ONCE):
            if trainer.encoder is not None:
                shape = (len(part), t.dim)
                e = torch.randn(shape, generator=stream, device=x.device)
                both = [
                    reconstruct(trainer.generator, trainer.encoder, part, n).image
                    for n in (e, 0 * e)
                ]
            else:
                both = [trainer.generator(z) for z in infer(trainer, part, stream)]
            sampled.append(both[0])
            mean.append(both[1])
    return torch.cat(sampled), torch.cat(mean)


def infer(trainer: Trainer, x: Tensor, stream: torch.Generator, factor: int = 1) -> list[Tensor]:
    """z_K of the noisy and of the noise-free chain from one start, `(n, dim)` each."""
    t = trainer.training
    steps = t.steps * factor
    target = log_joint(trainer.generator, x, t.sigma)
    z, noise = draw((len(x), t.dim), steps, stream, x.dtype)
    given = noise if t.noisy else None
    return [short_run(target, z, trainer.step_size, steps, e) for e in (given, None)]


def squared_error(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Mean over pixels and images, with its standard error over images."""
    own = (a - b).square().mean(-1).double()
    return {"value": float(own.mean()), "se": float(own.std()) / math.sqrt(len(own)), "n": len(own)}


@cache
def classifiers(dataset: str, count: int) -> list[Classifier]:
    """Classifiers of the training images, seeds 0, 1, ..."""
    train, _ = read(dataset)
    images = to_unit(train.images)
    return [Classifier.fit(images, train.labels, seed=seed) for seed in range(count)]


def synthesis(
    generator: Generator, dataset: str, dim: int, samples: int, count: int, stream: torch.Generator
) -> dict[str, Any]:
    """Frechet distances of generated images, in the features of small classifiers and in pixels.

    Against the test images if there are 1,500, else against the training images; `floor` is the
    distance of the other split from those.
    """
    train, test = (to_unit(s.images) for s in read(dataset))
    against, other = (test, train) if len(test) >= 1500 else (train, test)
    with torch.no_grad():
        z = torch.randn(samples, dim, generator=stream)
        made = torch.cat([generator(part) for part in z.split(AT_ONCE)])
    networks = classifiers(dataset, count)
    own = [frechet_distance(c.features(made), c.features(against)) for c in networks]
    floor = [frechet_distance(c.features(other), c.features(against)) for c in networks]
    return {
        "classifier": own,
        "floor": floor,
        "pixels": frechet_distance(made, against),
        "pixels_floor": frechet_distance(other, against),
        "n": [samples, len(against)],
        "reference": "test" if against is test else "train",
        "accuracy": [c.accuracy(test, read(dataset)[1].labels) for c in networks],
    }


def latents(trainer: Trainer, x: Tensor, stream: torch.Generator) -> dict[str, Any]:
    """How much of each latent's variance the image explains, and what is left of it given x.

    Of a chain that ignores x all is left: the latents have collapsed where no dimension passes a
    tenth. Latents are the generator's noise, standard normal a priori, of every model.
    """
    t = trainer.training
    many = x.repeat(CHAINS, 1)
    with torch.no_grad():
        if trainer.encoder is None:
            z = infer(trainer, many, stream)[0]
        else:
            e = torch.randn(len(many), t.dim, generator=stream, device=x.device)
            z = reconstruct(trainer.generator, trainer.encoder, many, e).z
    within, explained = _explained(z.view(CHAINS, len(x), t.dim).double())
    found = {
        "explained": rounded(explained),
        "collapsed": bool(explained.max() < COLLAPSED),
        "within": rounded(within),
    }
    if trainer.encoder is None:
        found["prior"] = prior_variance(trainer.step_size, t.steps, t.noisy)
    return found


def _explained(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Variance within an image, and the share of the variance that lies between images, `(dim)`.

    Of draws `(chains, n, dim)`; unbiased variance components.
    """
    within = draws.var(0).mean(0)
    between = draws.mean(0).var(0) - within / len(draws)
    return within, (between / (between + within)).clamp(min=0)


def prior_variance(step_size: float, steps: int, noisy: bool) -> float:
    """Variance of z_K of a chain that knows nothing of x (posterior precision 1)."""
    c0 = (1 - step_size**2 / 2) ** (2 * steps)
    return c0 + ((1 - c0) / (1 - step_size**2 / 4) if noisy else 0.0)


def inpaint(
    generator: Generator,
    x: Tensor,
    mask: Tensor,
    sigma: float,
    step_size: float,
    z: Tensor,
    noise: Tensor,
) -> Tensor:
    """Images completed by a chain on the squared error of the observed pixels alone.

    Args:
        generator: g.
        x: images `(n, pixels)`; hidden pixels are not looked at.
        mask: 1 where a pixel is observed, `(pixels)` or `(n, pixels)`.
        sigma: standard deviation of a pixel's noise.
        step_size: s.
        z: starts, `(n, dim)`.
        noise: of the steps, `(K, n, dim)`.

    Raises:
        UsageError: a mask that does not fit, or an image without an observed pixel.
    """
    seen = checked_mask(mask, x).to(x).expand_as(x)
    blind = (seen.sum(-1) == 0).nonzero().flatten().tolist()
    if blind:
        raise UsageError(
            f"mask: images {blind[:5]} have no observed pixel; their posterior is the prior, draw "
            "from it instead"
        )
    with torch.no_grad():
        target = log_joint(generator, torch.where(seen > 0, x, 0.0), sigma, seen)
        filled = generator(short_run(target, z, step_size, len(noise), noise))
    return torch.where(seen > 0, x, filled)


def masks(n: int, shape: Sequence[int], stream: torch.Generator) -> dict[str, Tensor]:
    """Of every image 30 % of the pixels at random, and one block of half the sides, hidden."""
    rows, columns = shape[-2:]
    channels = math.prod(shape[:-2])
    scattered = (torch.rand(n, 1, rows * columns, generator=stream) > 0.3).float()
    block = torch.ones(n, 1, rows, columns)
    top = torch.randint(0, rows - rows // 2 + 1, (n,), generator=stream)
    left = torch.randint(0, columns - columns // 2 + 1, (n,), generator=stream)
    for i in range(n):
        a, b = int(top[i]), int(left[i])
        block[i, 0, a : a + rows // 2, b : b + columns // 2] = 0
    return {
        name: m.reshape(n, 1, -1).expand(n, channels, rows * columns).reshape(n, -1)
        for name, m in (("scattered", scattered), ("block", block))
    }


def fills(train: Tensor, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What inpainting must beat: the training mean, and the nearest image by what is seen.

    The squared distance over seen pixels is t^2 m - 2 t (m x) + const: two matrix products.
    """
    distance = train.square() @ mask.T - 2 * train @ (mask * x).T  # (training images, images)
    return {"mean": train.mean(0).expand_as(x), "nearest": train[distance.argmin(0)]}


def hidden_error(a: Tensor, x: Tensor, mask: Tensor) -> dict[str, Any]:
    """Squared error a hidden pixel, with its standard error over images that have one."""
    hidden = 1 - mask
    some = hidden.sum(-1) > 0
    own = ((a - x).square() * hidden)[some].sum(-1).double() / hidden[some].sum(-1)
    return {"value": float(own.mean()), "se": float(own.std()) / math.sqrt(len(own)), "n": len(own)}


def curve(
    trainer: Trainer, x: Tensor, grid: Sequence[float], stream: torch.Generator, *, noisy: bool
) -> list[Objective]:
    """J(s) on the grid for images x `(n, pixels)`, all with the same draws; stops once unstable."""
    t = trainer.training
    z, noise = draw((len(x), t.dim), t.steps, stream, torch.float64)
    target = log_joint(in_float64(trainer.generator), x.double(), t.sigma)
    found = []
    for s in grid:
        found.append(objective(target, z, s, t.steps, noise if noisy else None))
        if found[-1].negative > 0.25:  # larger steps are worse still
            break
    return found


def marginal_curve(
    trainer: Trainer, x: Tensor, grid: Sequence[float], stream: torch.Generator
) -> list[tuple[float, Bracket]]:
    """Both ends of the marginal J(s) on the grid, images x `(n, pixels)`, with shared draws."""
    t = trainer.training
    z, noise = draw((t.search_chains, len(x), t.dim), t.steps, stream, x.dtype)
    with torch.no_grad():
        target = log_joint(trainer.generator, x, t.sigma)
        return [(s, marginal_bounds(target, z, s, t.steps, noise)) for s in grid]


def error_by_step_size(
    trainer: Trainer, x: Tensor, grid: Sequence[float], stream: torch.Generator
) -> list[float | None]:
    """Test error of one chain an image for every step size of the grid, with the same draws.

    None where the chain is not finite.
    """
    t = trainer.training
    z, noise = draw((len(x), t.dim), t.steps, stream, x.dtype)
    target = log_joint(trainer.generator, x, t.sigma)
    with torch.no_grad():
        given = noise if t.noisy else None
        ends = [short_run(target, z, s, t.steps, given) for s in grid]
        errors = [float((trainer.generator(e) - x).square().mean()) for e in ends]
    return [e if math.isfinite(e) else None for e in errors]


def rounded(values: Tensor) -> list[float]:
    """Six significant digits."""
    return [float(f"{v:.6g}") for v in values.flatten().tolist()]
