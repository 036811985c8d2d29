"""Importance-sampled log p(x) with a short-run chain as the proposal (1912.01909, and ours).

Guaranteed: a lower bound in expectation, exact as the samples grow, wherever the chain's steps are
injective, with noise or without. Not
guaranteed: a finite variance of the weights; a noise-free chain of a large step is narrower than
the posterior. Units: nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.importance_weighted import Bound, importance_weighted_bound
from lmcnb.kernels.gradients import LogDensity
from lmcnb.methods.short_run import (
    NEGATIVE,
    StepSize,
    draw,
    log_density_gap,
    require_exact,
    too_large,
    transport,
)

CHUNK = 4096  # chains at once


def log_likelihood(
    log_joint: LogDensity,
    dim: int,
    step_size: StepSize,
    steps: int,
    samples: int,
    generator: torch.Generator,
    *,
    noisy: bool = False,
) -> Bound:
    """log p(x) of every example by importance sampling with q = the chain's pushed-forward prior.

    log (1/M) sum_m p(x, z^m) / q(z^m | e^m): where the steps are injective a lower bound in
    expectation and exact as M grows, with any noise, since q(z | e) is a density for every e. Where
    they are not, q is too small and the value too large: it is withheld, as `objective`'s is.

    Args:
        log_joint: a density over `(n, dim)` with its `x`, as `models.observed.LogJoint`.
        dim: of z.
        step_size: s.
        steps: K.
        samples: M, at least 2.
        generator: source of z_0 and of the noise.
        noisy: whether the chain has noise.

    Raises:
        UsageError: more than one percent of the eigenvalues of a step's Jacobian are negative, the
            chain is not finite, x is not float64, or the density has kinks.
    """
    x = getattr(log_joint, "x", None)
    if not isinstance(x, Tensor) or x.dtype != torch.float64:
        raise UsageError("log_joint: a density with its images `x` in torch.float64 is needed")
    n = len(x)
    if type(samples) is not int or samples < 2:
        raise UsageError(f"samples={samples!r}: an integer of at least 2 is needed")
    require_exact(log_joint, torch.zeros(n, dim, dtype=torch.float64, device=x.device))
    at_once = max(1, CHUNK // n)
    found = []
    smallest, negative = math.inf, 0.0
    for first in range(0, samples, at_once):
        shape = (min(at_once, samples - first), n, dim)
        z, noise = draw(shape, steps, generator, torch.float64)
        with torch.no_grad():
            t = transport(log_joint, z, step_size, steps, noise if noisy else None)
        found.append(-log_density_gap(t, z))
        smallest = min(smallest, float(t.smallest))
        negative += float(t.negative) * shape[0] / samples
    finite = all(bool(torch.isfinite(w).all()) for w in found)
    if not finite or negative > NEGATIVE:
        s = step_size.tolist() if isinstance(step_size, Tensor) else float(step_size)
        raise UsageError(too_large(s, smallest, negative, finite))
    weights = iter(torch.cat(found))
    return importance_weighted_bound(lambda: next(weights), samples)
