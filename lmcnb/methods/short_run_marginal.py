"""The divergence of the noisy chain's own law, bracketed (what `short_run.objective` is above).

The last step is Gaussian: given z_{K-1}, z_K ~ N(mu, s^2 I) with mu = z_{K-1} + (s^2 / 2) score. So
q_s(z | x) is a mixture over the chain's own past, and with M chains an image

    log (1 / M) sum_m N(z; mu_m, s^2 I),   z drawn from one of them,

has an expectation above E log q if the sum holds z's own component and below it if it is left out
(semi-implicit variational inference, 1805.11183). Guaranteed: the expectations bracket
E [log q - log p(x, z)] = KL(q_s || p(z | x)) - log p(x), for any M. Not guaranteed: that the
bracket is narrow; where q_s is much wider than s in many dimensions it takes very many chains. The
upper end is an objective of its own: `marginal_search` takes the step size at which it is least. It
needs no determinant, no injective step and no smooth activation, only noise. Its minimizer is not
that of the divergence: the bound is looser at small steps, so it errs towards large ones, about
s^2 lambda = 1 (1.8 times, for a Gaussian in 16 dimensions with 64 chains:
`short_run_exact.bound_in_many_dimensions`). Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity, score
from lmcnb.methods.short_run import Objective, half_square, short_run
from lmcnb.methods.short_run_search import Search, best, checked_grid


class Bracket(NamedTuple):
    """Both ends, means over images, with their standard errors over images."""

    lower: float
    upper: float
    lower_se: float
    upper_se: float


def marginal_bounds(
    log_joint: LogDensity, z: Tensor, step_size: float, steps: int, noise: Tensor
) -> Bracket:
    """Bounds of E [log q_s(z_K | x) - log p(x, z_K)], the marginal J(s).

    Args:
        log_joint: log p(x, z), callable `(chains, images, dim) -> (chains, images)`.
        z: starts, `(chains, images, dim)`, at least two chains.
        step_size: s.
        steps: K, at least 1.
        noise: of the steps, `(K, chains, images, dim)`.
    """
    if z.dim() != 3 or len(z) < 2 or steps < 1:
        raise UsageError(
            f"z of shape {tuple(z.shape)}, steps={steps!r}: (chains, images, dim) with at least "
            "two chains, and at least one step, are needed"
        )
    if noise is None:
        raise UsageError("noise=None: the bounds are of a chain with noise; without it use J")
    if isinstance(step_size, Tensor) and step_size.dim() > 0:
        raise UsageError(f"step_size={step_size!r}: one number is needed")
    if noise.shape != (steps, *z.shape):
        raise UsageError(f"noise of shape {tuple(noise.shape)}: {(steps, *z.shape)} is needed")
    before = short_run(log_joint, z, step_size, steps - 1, noise[: steps - 1])
    centre = before + half_square(step_size) * score(log_joint, before)
    end = centre + step_size * noise[steps - 1]
    chains, _, dim = z.shape
    constant = 0.5 * dim * math.log(2 * math.pi * step_size**2)
    value = log_joint(end).detach()
    upper, lower = [], []
    for i in range(z.shape[1]):
        squares = torch.cdist(end[:, i].double(), centre[:, i].double()).square()
        log_q = -0.5 * squares / step_size**2 - constant  # (chains, components)
        own = log_q.logsumexp(-1) - math.log(chains)
        others = log_q.fill_diagonal_(-math.inf).logsumexp(-1) - math.log(chains - 1)
        upper.append((own - value[:, i]).mean())
        lower.append((others - value[:, i]).mean())
    ends = [torch.stack(v) for v in (lower, upper)]
    errors = [float(v.std()) / math.sqrt(len(v)) if len(v) > 1 else math.nan for v in ends]
    return Bracket(float(ends[0].mean()), float(ends[1].mean()), *errors)


def marginal_search(
    log_joint: LogDensity, z: Tensor, grid: Sequence[float], steps: int, noise: Tensor
) -> Search:
    """The step size of `grid` with the least upper end, all with the same z_0 and noise.

    Where a chain is not finite, the step size is unusable. Arguments as in `marginal_bounds`.
    """
    visited = []
    for s in checked_grid(grid):
        found, unknown = marginal_bounds(log_joint, z, s, steps, noise), math.nan
        usable = math.isfinite(found.upper)
        visited.append(
            Objective(
                s,
                found.upper if usable else None,
                found.upper_se if usable and z.shape[1] > 1 else None,
                unknown,
                unknown,
                unknown,
                unknown,
                None if usable else f"step_size = {s}: the chain is not finite",
            )
        )
    return best(visited)
