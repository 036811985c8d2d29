"""ISIR beside DISIR in one dimension (2010.01845, figure 1).

The target has a narrow mode where the proposal is small. The parameters are read off the paper's
curves, since it prints none; K, beta and the number of iterations are a choice.

    target  0.528 N(-1, 0.5^2) + 0.472 N(1, 0.2237^2),    proposal  N(-1, 0.7^2)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.special import ndtr

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.lab import pool
from lmcnb.lab.randomness import generator
from lmcnb.models.gaussian import LOG_2_PI

SHARES, MEANS, STDS = (0.528, 0.472), (-1.0, 1.0), (0.5, 0.2237)
CENTRE, WIDTH = -1.0, 0.7  # of the proposal
KERNELS = {"ISIR": (False,), "DISIR": (True,), "ISIR-DISIR": (False, True)}
"""Steps of one iteration: whether each has the correlation beta."""
EDGES = (-4.0, 3.0)  # of histograms


def log_target(z: Tensor) -> Tensor:
    """Log density of the target, of the shape of z."""
    both = [
        log_normal(z, mean, std) + math.log(share)
        for share, mean, std in zip(SHARES, MEANS, STDS, strict=True)
    ]
    return torch.logaddexp(*both)


def log_proposal(z: Tensor) -> Tensor:
    """Log density of the proposal, of the shape of z."""
    return log_normal(z, CENTRE, WIDTH)


def log_normal(z: Tensor, mean: float, std: float) -> Tensor:
    """log N(z; mean, std^2), of the shape of z."""
    return -0.5 * ((z - mean) / std).square() - math.log(std) - 0.5 * LOG_2_PI


def log_weight(points: Tensor) -> Tensor:
    """log w at xi, z = -1 + 0.7 xi: `(..., K, 1) -> (..., K)`."""
    z = position(points)
    return log_target(z) - log_proposal(z)


def position(points: Tensor) -> Tensor:
    """The z of xi, without the last dimension."""
    return CENTRE + WIDTH * points.squeeze(-1)


def largest_weight() -> tuple[float, float]:
    """Where the weight is largest, and how large it is."""
    z = torch.linspace(*EDGES, 700_001, dtype=torch.float64)
    log_w = log_target(z) - log_proposal(z)
    at = int(log_w.argmax())
    return float(z[at]), float(log_w[at].exp())


def masses(bins: int) -> Tensor:
    """The target's mass in every bin of the histograms, `(bins,)`, float64."""
    edges = torch.linspace(*EDGES, bins + 1, dtype=torch.float64).unsqueeze(-1)
    mean, std, share = (torch.tensor(v, dtype=torch.float64) for v in (MEANS, STDS, SHARES))
    return (ndtr((edges - mean) / std) @ share).diff()


def chains(
    name: str,
    iterations: int,
    *,
    samples: int = 10,
    beta: float = 0.9,
    count: int = 1,
    seed: int = 0,
    report: Callable[[float], None] = pool.report,
) -> tuple[Tensor, Tensor]:
    """Selected z after every iteration, from draws of the proposal on, and whether it moved.

    Returns:
        `(iterations + 1, count)`, float64, the start first; `(iterations, count)`, bool.
    """
    if name not in KERNELS:
        raise UsageError(f"kernel {name!r}: choose from {', '.join(KERNELS)}")
    stream = generator(seed, f"illustration/{name}")
    state = disir.start((count, samples, 1), log_weight, stream, torch.float64)
    found, moves = [_selected(state)], []
    for _ in range(iterations):
        moved = torch.zeros(count, dtype=torch.bool)
        for correlated in KERNELS[name]:
            state, info = disir.step(state, log_weight, beta if correlated else 0.0, stream)
            moved |= info.moved
        found.append(_selected(state))
        moves.append(moved)
    report(float(iterations * count))
    return torch.stack(found), torch.stack(moves)


def _selected(state: disir.State) -> Tensor:
    return position(state.points).gather(-1, state.selected.unsqueeze(-1)).squeeze(-1)


def illustration(
    seed: int,
    *,
    samples: int = 10,
    beta: float = 0.9,
    shown: int = 1000,
    long: int = 1000,
    count: int = 100,
    burn_in: int = 200,
    bins: int = 70,
    report: Callable[[float], None] = pool.report,
) -> dict[str, Any]:
    """A chain to look at, and many that are measured, of every kernel.

    Args:
        seed: of the run.
        samples: K.
        beta: of the steps that have one.
        shown: iterations of the chain that is shown.
        long: iterations of the chains that are measured.
        count: how many of them.
        burn_in: their first iterations, not counted.
        bins: of the histograms.
        report: told the work done; 3 (shown + count (long + burn_in)) in all.

    Returns:
        For every kernel `trace`; `right`, the share of iterations at z > 0; `moves_right`, the
        share of those after which the chain has moved, both with standard errors over chains;
        `total_variation` of the histogram of all long chains and of the shown one.
    """
    truth = masses(bins)
    found: dict[str, Any] = {"largest_weight": largest_weight(), "masses": truth.numpy()}
    common: dict[str, Any] = {"samples": samples, "beta": beta, "report": report}
    for name in KERNELS:
        trace, _ = chains(name, shown, seed=seed, **common)
        z, moved = chains(name, burn_in + long, count=count, seed=seed + 1, **common)
        before, moved = z[burn_in:-1], moved[burn_in:]
        right = before > 0
        going = (right & moved).sum(0).double(), right.sum(0).double()
        share = float(going[0].sum() / going[1].sum())
        spread = (going[0] - share * going[1]).square().mean().sqrt()  # of a ratio, over chains
        found[name] = {
            "trace": trace[:, 0].numpy(),
            "histogram": _histogram(trace[1:, 0], bins).numpy(),
            "long_histogram": _histogram(z[burn_in + 1 :], bins).numpy(),
            "right": float(right.double().mean()),
            "right_se": float(right.double().mean(0).std() / count**0.5),
            "moves_right": share,
            "moves_right_se": float(spread / going[1].mean() / count**0.5),
            "total_variation": _distance(_histogram(z[burn_in + 1 :], bins), truth),
            "total_variation_shown": _distance(_histogram(trace[1:, 0], bins), truth),
        }
    return found


def _histogram(z: Tensor, bins: int) -> Tensor:
    """Shares, `(bins,)`; what lies outside the edges counts nowhere."""
    return torch.histc(z, bins, *EDGES) / z.numel()


def _distance(shares: Tensor, truth: Tensor) -> float:
    """Total variation, what lies outside the edges counted once."""
    outside = (shares.sum() - truth.sum()).abs()
    return float(0.5 * ((shares - truth).abs().sum() + outside))
