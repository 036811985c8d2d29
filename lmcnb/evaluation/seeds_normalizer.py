"""Normalizer of the seeds posterior: random effects by Gauss-Hermite, the rest by sampling.

Given (a, t) the 21 random effects are independent, so each is a one-dimensional integral against
N(0, exp(-t)). What is left has five dimensions: importance sampling from a Student t at the mode
of the marginal. Guaranteed: unbiased for Z up to the error of the Gauss-Hermite rule, about 2e-6
nats at 60 nodes.
"""

from __future__ import annotations

from math import lgamma, log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmcnb.evaluation.estimators import Estimate, log_mean_exp
from lmcnb.evaluation.laplace import laplace
from lmcnb.models.targets.seeds import Seeds

FREEDOM = 5.0  # degrees of freedom of the proposal
WIDENING = 1.2  # of its scale over the curvature at the mode


def seeds_marginal(target: Seeds, rest: Tensor, nodes: int = 60) -> Tensor:
    """Log p(r, a, t) with every b_j integrated out.

    Args:
        target: in float64.
        rest: (a0, a1, a12, a2, t), `(..., 5)`.
        nodes: of the Gauss-Hermite rule.

    Returns:
        `(...)`, in nats.
    """
    kind: dict[str, Any] = {"dtype": rest.dtype, "device": rest.device}
    points, masses = (torch.tensor(v, **kind) for v in np.polynomial.hermite_e.hermegauss(nodes))
    log_masses = masses.log() - 0.5 * log(2 * pi)
    a, t = rest[..., :4], rest[..., 4:]
    effects = (-0.5 * t).exp() * points  # (..., nodes)
    logits = (a @ target.fixed).unsqueeze(-1) + effects.unsqueeze(-2)  # (..., plates, nodes)
    hits, misses = target.hits[:, None], (target.trials - target.hits)[:, None]
    plates = hits * logsigmoid(logits) + misses * logsigmoid(-logits)
    likelihood = torch.logsumexp(plates + log_masses, -1).sum(-1)
    return likelihood + target.log_prior(a, t[..., 0])


def seeds_log_normalizer(
    target: Seeds, *, samples: int, generator: torch.Generator, nodes: int = 60, chunk: int = 2000
) -> Estimate:
    """Log Z of the seeds posterior from `samples` draws, in chunks to bound the memory."""

    def marginal(rest: Tensor) -> Tensor:
        return seeds_marginal(target, rest, nodes)

    kind: dict[str, Any] = {"dtype": target.hits.dtype, "device": target.hits.device}
    peak = laplace(marginal, torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0], **kind))
    root = WIDENING * peak.root
    log_det = torch.linalg.slogdet(root).logabsdet
    half, dim = 0.5 * (FREEDOM + 5), 5
    constant = lgamma(half) - lgamma(0.5 * FREEDOM) - 0.5 * dim * log(FREEDOM * pi) - log_det
    log_weights = []
    for first in range(0, samples, chunk):
        n = min(chunk, samples - first)
        normal = torch.randn(n, dim, generator=generator, **kind)
        pieces = torch.randn(n, int(FREEDOM), generator=generator, **kind)
        standard = normal * (pieces.square().mean(-1, keepdim=True)).rsqrt()
        proposal = constant - half * torch.log1p(standard.square().sum(-1) / FREEDOM)
        log_weights.append(marginal(peak.mode + standard @ root.mT) - proposal)
    return log_mean_exp(torch.cat(log_weights))
