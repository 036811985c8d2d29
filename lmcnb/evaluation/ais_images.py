"""Annealed importance sampling of log p(x) for many images at once (Wu et al. 2017).

    pi_b ~ p(x, z)^b q(z | x)^(1 - b),   b = 0, 1 / T, ..., 1,   16 chains or so an image

with a diagonal Gaussian q (an encoder's, say), in whose coordinates u = (z - mean) / std
Hamiltonian Monte Carlo runs. The log of the mean weight of an image's chains is, in expectation, at
most log p(x), and rises to it with T. One step size serves all chains, with a jitter of 30 percent
(a fixed length of trajectory can resonate); it is moved towards an acceptance of 0.65 after every
temperature by what all chains did there. Not guaranteed: that this adaptation leaves the mean
weight unbiased; its dependence on any one chain is of the order of one over their number.
Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.importance_weighted import Bound
from lmcnb.kernels import hmc

TARGET, GAIN = 0.65, 0.05  # acceptance, and the gain of the step size's logarithm
JITTER = 0.3  # of the step size, relative


class Annealed(NamedTuple):
    """The estimate of every image, and how the chains moved."""

    bound: Bound  # (images)
    acceptance: float  # mean over the last half of the temperatures
    step_size: float  # at the end


def ais_images(
    log_joint: Callable[[Tensor], Tensor],
    mean: Tensor,
    std: Tensor,
    *,
    chains: int = 16,
    temperatures: int = 1000,
    step_size: float = 0.1,
    n_leapfrog: int = 10,
    generator: torch.Generator,
    report: Callable[[int], None] | None = None,
) -> Annealed:
    """Log p(x) of every image by annealing from q = N(mean, diag std^2).

    Args:
        log_joint: log p(x, z), `(chains, images, dim) -> (chains, images)`.
        mean: of q, `(images, dim)`.
        std: of q.
        chains: an image.
        temperatures: T.
        step_size: of the leapfrog at the start.
        n_leapfrog: leapfrogs of a transition.
        generator: source of all randomness.
        report: called with 1 after every temperature.

    Raises:
        UsageError: std or step_size not positive, fewer than two chains or temperatures.
    """
    for name, given in (("chains", chains), ("temperatures", temperatures)):
        if type(given) is not int or given < 2:
            raise UsageError(f"{name}={given!r}: an integer of at least 2 is needed")
    if bool((std <= 0).any()):  # NaN, of a model that diverged, goes through to the value
        raise UsageError(f"std: the smallest is {float(std.min()):.3g}; it must be positive")
    if not 0 < step_size < math.inf:
        raise UsageError(f"step_size={step_size!r}: a positive number is needed")
    volume = std.log().sum(-1) + 0.5 * mean.shape[-1] * math.log(2 * math.pi)
    u = torch.randn(chains, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    own = torch.Generator().manual_seed(temperatures)  # of the jitter, which no state decides
    log_weights = torch.zeros(u.shape[:-1], dtype=torch.float64, device=u.device)
    log_step, accepted = math.log(step_size), 0.0

    def target(at: Tensor) -> Tensor:
        return log_joint(mean + std * at)

    for k in range(1, temperatures + 1):
        with torch.no_grad():
            gap = target(u) + 0.5 * u.square().sum(-1) + volume
            log_weights += gap.double() / temperatures
        if k < temperatures:  # a move under the last density no longer changes the weights
            b = k / temperatures

            def bridge(at: Tensor, b: float = b) -> Tensor:
                return b * target(at) - 0.5 * (1 - b) * at.square().sum(-1)

            state = hmc.init(u, bridge)
            jitter = 1 + JITTER * (2 * float(torch.rand((), generator=own)) - 1)
            size = math.exp(log_step) * jitter
            state, info = hmc.step(state, bridge, size, n_leapfrog, generator)
            u = state.position
            rate = float(info.acceptance.mean())
            log_step += GAIN * (rate - TARGET)
            accepted += rate if 2 * k >= temperatures else 0.0
        if report is not None:
            report(1)
    value: Tensor = torch.logsumexp(log_weights, 0) - math.log(chains)
    se = torch.exp(log_weights - value).std(0) / math.sqrt(chains)
    return Annealed(Bound(value, se), accepted / (temperatures // 2), math.exp(log_step))
