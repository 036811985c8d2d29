"""Fixed points of MCMC teaching in one dimension, in closed form (beyond 2012.14936).

Data N(mu, v); energy f = -l (x - m)^2 / 2 without a reference; a linear generator x = w z + b with
decoder noise of standard deviation s. K Langevin steps of size d multiply the distance to m by
a^K, a = 1 - d^2 l / 2, and their invariant variance is V = d^2 / (1 - a^2). Learning is at rest
where the revised samples have the data's two moments:

    a^K b + (1 - a^K) m = mu,       a^(2K) t + (1 - a^(2K)) V = v

with b and t the mean and variance of the chains' start. So a teacher is a start variance:

    short-run      b = 0, t given              m is wrong, and the variance too
    variational    b = mu, t = v               V = v: only the unadjusted step's own bias is left
    ... from g(z)  b = mu, t = v - s^2         V = v + s^2 a^(2K) / (1 - a^(2K))
    fast           b = mu, w = a^K w           w = 0: a generator shrunk to a point, t = s^2 or 0;
                                               where K d^2 < v - s^2, a = 1: no energy at all,
                                               l = 0 and w^2 = v - s^2 - K d^2
    original       b = mu, by L                w = E[z' x~] / E[z'^2], z' after L steps from z
    persistent     K to infinity               V = v

(For fast teaching w = 0 is the other root there, and unstable. Short-run learning whose noise falls
short of v, t + K d^2 < v, has l < 0: the energy pushes the chains apart, and no density belongs to
it. a^(2K) t + d^2 (1 + a^2 + ... + a^(2K-2)) = v has one solution a > 0 whatever t.)

Guaranteed: the equations above, exactly, to the tolerance of a root finder. Not guaranteed: that
gradient learning gets there (tests simulate it), and that more than one dimension behaves so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from lmcnb.errors import UsageError


class FixedPoint(NamedTuple):
    """Where learning is at rest."""

    precision: float
    """l of the energy."""
    mean: float
    """m of the energy."""
    start_variance: float
    """t of the chains' start."""
    weight: float
    """w of the generator; 0 without one."""

    @property
    def variance(self) -> float:
        """1 / l: the variance of the energy's density; infinite where l <= 0 and there is none."""
        return 1 / self.precision if self.precision > 0 else math.inf


def multiplier(precision: float, step_size: float) -> float:
    """a = 1 - d^2 l / 2: what a step multiplies the distance to the mean by."""
    return 1 - 0.5 * step_size**2 * precision


def invariant_variance(precision: float, step_size: float) -> float:
    """V = S^2 / (1 - d^2 / (4 S^2)), S^2 = 1 / l: of unadjusted Langevin on a Gaussian.

    Raises:
        UsageError: a step past the bound of stability, d < 2 S.
    """
    if precision <= 0:
        raise UsageError(f"precision={precision}: without a positive one no density is invariant")
    sd = 1 / math.sqrt(precision)
    if not 0 < step_size < 2 * sd:
        raise UsageError(
            f"step_size={step_size}: unadjusted Langevin on a Gaussian of standard deviation "
            f"{sd:.4g} is stable for 0 < step_size < {2 * sd:.4g}"
        )
    return sd**2 / (1 - step_size**2 / (4 * sd**2))


def after(
    mean: float, variance: float, energy_mean: float, precision: float, step_size: float, steps: int
) -> tuple[float, float]:
    """Mean and variance after K noisy steps, from a start of the given mean and variance.

    Any precision will do, also a negative one, whose chain runs away.
    """
    a = multiplier(precision, step_size)
    spread = step_size**2 * sum(a ** (2 * k) for k in range(steps))
    return energy_mean + a**steps * (mean - energy_mean), a ** (2 * steps) * variance + spread


def precision_of(invariant: float, step_size: float) -> float:
    """l with invariant variance V: 1 / l = (V + sqrt(V^2 - V d^2)) / 2.

    Raises:
        UsageError: an invariant variance that no step of this size can have, V < d^2.
    """
    if invariant < step_size**2:
        raise UsageError(
            f"step_size={step_size}: the chain's invariant variance is at least d^2 = "
            f"{step_size**2:.4g}, and {invariant:.4g} is wanted"
        )
    return 2 / (invariant + math.sqrt(invariant**2 - invariant * step_size**2))


def fixed_point(
    teacher: str,
    mu: float,
    v: float,
    step_size: float,
    steps: int,
    *,
    sigma: float = 0.0,
    ancestral: bool = True,
    start_variance: float = 1.0,
    inference: tuple[int, float] = (10, 0.1),
) -> FixedPoint:
    """Where the teacher's learning is at rest, with noise in the revision.

    Args:
        teacher: variational, fast, original, short-run or persistent.
        mu: mean of the data.
        v: their variance.
        step_size: d.
        steps: K.
        sigma: s, standard deviation of the decoder's noise.
        ancestral: whether chains start with that noise.
        start_variance: of chains that start from noise, about zero.
        inference: L and the step size on the latents, of the original teacher.

    Raises:
        UsageError: no such teacher; a variance below s^2; a chain that cannot have the variance.
    """
    if teacher not in ("variational", "fast", "original", "short-run", "persistent"):
        raise UsageError(
            f"teacher={teacher!r}: variational, fast, original, short-run or persistent is needed"
        )
    own = sigma**2 if ancestral else 0.0
    if teacher == "persistent":
        return FixedPoint(precision_of(v, step_size), mu, v, 0.0)
    if teacher == "short-run":
        precision = energy_precision(v, step_size, steps, start_variance)
        a = multiplier(precision, step_size) ** steps
        return FixedPoint(precision, mu / (1 - a) if a != 1 else math.inf, start_variance, 0.0)
    if teacher == "fast":
        left = v - own - steps * step_size**2
        if left > 0:  # the chains' noise is too little: the generator alone carries the data
            return FixedPoint(0.0, mu, v - steps * step_size**2, math.sqrt(left))
        return FixedPoint(energy_precision(v, step_size, steps, own), mu, own, 0.0)
    if v <= sigma**2 or (teacher == "original" and sigma <= 0):
        raise UsageError(
            f"sigma={sigma}: the decoder's variance must be below the data's, {v}, and for MCMC "
            "inference of its latents positive"
        )
    if teacher == "variational":
        w = math.sqrt(v - sigma**2)
        start = w**2 + own
        return FixedPoint(energy_precision(v, step_size, steps, start), mu, start, w)
    return _original(mu, v, step_size, steps, sigma, own, inference)


def energy_precision(v: float, step_size: float, steps: int, start_variance: float) -> float:
    """l whose K steps turn the start variance t into v: the solution with a > 0, which is unique.

    It is at most zero where K steps of noise alone fall short of v, and no density belongs to it.

    Raises:
        UsageError: no steps, or v of at most the noise of one.
    """
    point = steps == 1 and start_variance == 0
    if steps < 1 or v <= step_size**2 or start_variance < 0 or point:
        raise UsageError(
            f"steps={steps}, step_size={step_size}, start variance {start_variance:.4g}: at least "
            f"one step of noise below the variance {v:.4g} is needed, from a point two"
        )

    def excess(a: float) -> float:
        precision = 2 * (1 - a) / step_size**2
        return after(0.0, start_variance, 0.0, precision, step_size, steps)[1] - v

    high = 1.0
    while excess(high) <= 0:
        high *= 1 + 1 / steps
    return 2 * (1 - bisect(excess, 0.0, high)) / step_size**2


def _original(
    mu: float,
    v: float,
    step_size: float,
    steps: int,
    sigma: float,
    own: float,
    inference: tuple[int, float],
) -> FixedPoint:
    """The root of w = E[z' x~] / E[z'^2], z' after L steps of Langevin from the z of x_0.

    Centred: x~ = A (w z + e) + ..., E[x~^2] = v, E[z x~] = A w with A = a^K, and
    z' = rho^L z + (1 - rho^L) w x~ / (w^2 + s^2) + noise, rho = 1 - dz^2 (1 + w^2 / s^2) / 2.
    """
    L, dz = inference

    def moments(w: float) -> tuple[float, FixedPoint]:
        start = w**2 + own
        precision = energy_precision(v, step_size, steps, start)
        A = multiplier(precision, step_size) ** steps
        rho = 1 - 0.5 * dz**2 * (1 + w**2 / sigma**2)
        if abs(rho) >= 1:
            raise UsageError(f"inference step size {dz}: past the bound of stability at w={w:.3g}")
        r, gain = rho**L, w / (w**2 + sigma**2)
        noise = dz**2 * (1 - r**2) / (1 - rho**2)
        zx = r * A * w + gain * (1 - r) * v
        zz = r**2 + 2 * r * gain * (1 - r) * A * w + (gain * (1 - r)) ** 2 * v + noise
        return zx / zz, FixedPoint(precision, mu, start, w)

    w = math.sqrt(v - sigma**2)
    for _ in range(100_000):  # the generator's own updates, each to its optimum
        found, point = moments(w)
        if abs(found - w) < 1e-13:
            return point
        w = found
    raise UsageError(f"inference={inference}: no fixed point was found in 100,000 updates")


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """A root of `f` between two places where its signs differ."""
    if math.copysign(1, f(low)) == math.copysign(1, f(high)):
        raise UsageError(f"bisect: no change of sign between {low:g} and {high:g}")
    positive = f(high) > 0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if (f(middle) > 0) == positive:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)
