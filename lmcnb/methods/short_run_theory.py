"""What is known of short-run inference in closed form: Gaussian posteriors, one learned weight.

The posterior has precision eigenvalues lambda_i and mean m~_i in their basis (lambda >= 1 where the
prior is standard normal); the chain starts at N(0, I), a_i = 1 - s^2 lambda_i / 2:

    mean of z_K        (1 - a^K) m~
    variance           without noise c0 = a^{2K},
                       with noise cN = c0 + (1 - c0) / (lambda (1 - s^2 lambda / 4))
    log |det|          K sum log |a|
    KL of N(mean, c)   1/2 sum [lambda c - 1 - log(lambda c) + lambda c0 m~^2]
    J + log p(x)       KL(c0) + 1/2 sum (1 - c0) / (1 - s^2 lambda / 4)

The last line is what the paper's procedure minimizes when the chain has noise: the divergence with
the noise given, above the divergence of z_K's own law, KL(cN). Averaged over images that come from
the model, lambda m~^2 becomes lambda - 1. Own derivations, checked by Monte Carlo in the tests.
Units: nats.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from lmcnb.errors import UsageError


class Divergences(NamedTuple):
    """The three curves at one step size, nats, summed over the eigenvalues."""

    noise_free: float  # KL of the noise-free chain: J + log p(x) is exact there
    marginal: float  # KL of the noisy chain's own law
    frozen: float  # J + log p(x) of the noisy chain: its noise treated as given
    log_det: float


def divergences(
    precision: Tensor, mean: Tensor | None, step_size: float, steps: int
) -> Divergences:
    """The closed forms.

    Args:
        precision: eigenvalues lambda of the posterior's precision, `(dim)`.
        mean: m~, `(dim)`; None: averaged over images from the model.
        step_size: s.
        steps: K.
    """
    lam = precision.double()
    if not 0 < step_size < math.inf or not bool((torch.isfinite(lam) & (lam > 0)).all()):
        raise UsageError(
            f"step_size={step_size!r}, precision={lam.tolist()}: positive numbers are needed"
        )
    if mean is not None and mean.shape != lam.shape:
        raise UsageError(f"mean of shape {tuple(mean.shape)}: that of precision is needed")
    if bool((step_size**2 * lam >= 4).any()):
        raise UsageError(
            f"step_size={step_size!r}: s^2 lambda = {float((step_size**2 * lam).max()):.3g} for "
            f"lambda = {float(lam.max()):.3g}; the chain is stable below 4"
        )
    a = 1 - step_size**2 * lam / 2
    c0 = a.abs() ** (2 * steps)
    cN = c0 + (1 - c0) / (lam * (1 - step_size**2 * lam / 4))
    shift = c0 * (lam - 1 if mean is None else lam * mean.double() ** 2)

    def kl(c: Tensor) -> float:
        return float(0.5 * (lam * c - 1 - torch.log(lam * c) + shift).sum())

    excess = 0.5 * ((1 - c0) / (1 - step_size**2 * lam / 4)).sum()
    return Divergences(kl(c0), kl(cN), kl(c0) + float(excess), float(steps * a.abs().log().sum()))


def minimizer(
    curve: str, precision: Tensor, mean: Tensor | None, steps: int, most: float
) -> tuple[float, float]:
    """The step size below `most` where a curve of `Divergences` is least, and its value."""

    def at(s: float) -> float:
        return float(getattr(divergences(precision, mean, s, steps), curve))

    coarse = [most * (i + 0.5) / 400 for i in range(400)]
    best = min(coarse, key=at)
    width = most / 400
    found = minimize_scalar(
        at, bounds=(max(best - width, 1e-9), min(best + width, most)), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return float(found.x), float(found.fun)


class Moments(NamedTuple):
    """What the learning map needs of the chain for a scalar model x = w z + noise."""

    gain: float  # A: the mean of z_K is A times the posterior's
    variance: float  # c


def chain_moments(precision: float, step_size: float, steps: int, noisy: bool) -> Moments:
    """A = 1 - a^K and the variance of z_K given x.

    Raises:
        UsageError: an unstable chain, s^2 lambda of 4 or more.
    """
    if not 0 < step_size**2 * precision < 4:
        raise UsageError(
            f"step_size={step_size!r}: s^2 lambda = {step_size**2 * precision:.3g} for lambda = "
            f"{precision:.3g}; the chain is stable between 0 and 4"
        )
    a = 1 - step_size**2 * precision / 2
    c0 = a ** (2 * steps)
    extra = (1 - c0) / (precision * (1 - step_size**2 * precision / 4)) if noisy else 0.0
    return Moments(1 - a**steps, c0 + extra)


def learning_map(
    w: float, data: float, noise: float, step_size: float, steps: int, noisy: bool
) -> float:
    """The weight that one exact M-step gives, E[x z] / E[z^2] under q at weight w.

    Args:
        w: the weight of x = w z + N(0, noise).
        data: variance v of x ~ N(0, v).
        noise: sigma^2, fixed.
        step_size: s.
        steps: K.
        noisy: whether the chain has noise.
    """
    m = chain_moments(1 + w * w / noise, step_size, steps, noisy)
    slope = m.gain * w / (w * w + noise)
    return data * slope / (slope * slope * data + m.variance)


def fixed_points(
    data: float, noise: float, step_size: float, steps: int, noisy: bool
) -> list[tuple[float, bool]]:
    """Fixed points w > 0 of the learning map below the edge of stability, each with its stability.

    w = 0 is always one: see `collapse_slope`. The edge is w^2 = sigma^2 (4 / s^2 - 1).
    """
    if not 0 < step_size < 2:
        raise UsageError(f"step_size={step_size!r}: stable chains have 0 < s < 2 at w = 0")
    edge = math.sqrt(noise * (4 / step_size**2 - 1)) * (1 - 1e-9)

    def excess(w: float) -> float:
        return learning_map(w, data, noise, step_size, steps, noisy) - w

    points = [1e-4 + (edge - 1e-4) * i / 4000 for i in range(4001)]
    found = []
    for left, right in itertools.pairwise(points):
        if excess(left) * excess(right) < 0:
            root = float(brentq(excess, left, right, xtol=1e-13))
            found.append((root, excess(left) > 0))
    return found


def collapse_slope(data: float, noise: float, step_size: float, steps: int, noisy: bool) -> float:
    """Slope of the learning map at w = 0: below 1 the weight dies and latents are ignored.

    v (1 - a^K) / (sigma^2 c) with a = 1 - s^2 / 2.
    """
    m = chain_moments(1.0, step_size, steps, noisy)
    return data * m.gain / (noise * m.variance)
