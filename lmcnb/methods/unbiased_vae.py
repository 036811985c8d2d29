"""Unbiased gradients of log p(x) by coupled ISIR and DISIR chains (2010.01845).

    gradient:  h(u) = sum_k w~_k grad log p(x, z_k), in eq. 14 (`methods.unbiased`)

The chains are in `unbiased_vae_kernels`, with what counts as a meeting. All states that eq. 14 adds
up are collected here as one signed measure of points, so that a gradient takes one pass.

Guaranteed with the strict rule and no cap: E[gradient] = grad log p(x), if the weights are bounded
(assumption A3; `unbiased_vae_theory` has the condition for Gaussians). beta must not depend on the
run itself: `adapted` moves it between runs. Not guaranteed: that a run ends soon. With a cap, rows
whose log weights are not numbers have weights that are none either; without, they are an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.methods.unbiased import Meeting, couple
from lmcnb.methods.unbiased_vae_kernels import (
    Counter,
    RowLogWeight,
    kernels,
)
from lmcnb.methods.unbiased_vae_kernels import Coupling as Coupling  # for users of this module

LEAST, MOST = 1e-6, 1 - 1e-6  # of an adapted beta


def run_chains(
    log_weight: RowLogWeight,
    rows: int,
    dim: int,
    coupling: Coupling,
    beta: float | Tensor,
    generator: torch.Generator,
    dtype: torch.dtype,
    average: Callable[[disir.State, Tensor], None],
    correct: Callable[[disir.State, disir.State, Tensor], None],
) -> tuple[Meeting, int]:
    """Start two chains a row from the proposal and run them to their meeting or the cap.

    Args:
        log_weight: as in `kernels`.
        rows: number of rows.
        dim: dimension of a point.
        coupling: the settings.
        beta: as in `kernels`.
        generator: source of all randomness.
        dtype: of the points.
        average: told every state of the window, as in `methods.unbiased.couple`.
        correct: told every pair after it.

    Returns:
        The meetings, and the number of log weights evaluated.

    Raises:
        UsageError: log weights of a wrong shape; without a cap also log weights that are NaN or
            +inf, or -inf at all starting points of a row: such a row would never meet.
    """
    if isinstance(beta, Tensor) and beta.shape not in ((), (rows,)):
        raise UsageError(f"beta of shape {tuple(beta.shape)}: one a row, ({rows},), is needed")

    def checked(points: Tensor, own: Tensor) -> Tensor:
        value = log_weight(points, own)
        if value.shape != points.shape[:-1]:
            shape, wanted = tuple(value.shape), tuple(points.shape[:-1])
            raise UsageError(f"log_weight: {shape}; {wanted} is needed, one a point")
        if coupling.cap is None and bool((value.isnan() | (value == math.inf)).any()):
            raise UsageError(
                "log_weight: NaN or +inf; finite, or -inf where p(x, z) = 0, is needed"
            )
        return value

    counter = Counter()
    kernel, coupled_kernel = kernels(checked, coupling, beta, generator, counter)
    every = torch.arange(rows, device=generator.device)
    shape = (rows, coupling.samples, dim)
    first, second = (
        disir.start(shape, lambda p: checked(p, every), generator, dtype) for _ in range(2)
    )
    if coupling.cap is None:
        for state in (first, second):
            lost = int((state.log_weights == -math.inf).all(-1).sum())
            if lost:
                raise UsageError(
                    f"log_weight: -inf at all {coupling.samples} starting points of {lost} rows; "
                    "the proposal needs support where the target has, or more samples"
                )
    c = coupling
    meeting = couple(
        kernel, coupled_kernel, first, second, average, correct,
        lag=c.lag, start=c.start, cap=c.cap,
    )  # fmt: skip
    return meeting, counter.weights + 2 * rows * coupling.samples


class Weighted(NamedTuple):
    """A signed measure that stands for the posterior: the points of all terms of H.

    Every row's weights add up to one. sum over its entries of weight h(point) is H.
    """

    rows: Tensor  # (entries,), which row an entry belongs to
    points: Tensor  # (entries, K, dim)
    weights: Tensor  # (entries, K), w~ / L with the sign of the term, float64
    meeting: Meeting
    last: Tensor  # (entries,), bool: of the last correction of a row that reached the cap
    effective: Tensor  # (rows,), mean of 1 / sum w~^2 over the window, of the first chain
    n_weights: int  # log weights evaluated


def weighted_points(
    log_weight: RowLogWeight,
    rows: int,
    dim: int,
    coupling: Coupling,
    beta: float | Tensor,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Weighted:
    """Run the chains of `rows` rows and collect the points, without any gradient.

    Nothing is said of chains that reach the cap, since training means to have them: look at
    `meeting.capped`. They, and the index rule, make the estimates biased.

    Args:
        log_weight: log w, `(points (n, k, dim), rows (n,)) -> (n, k)`, in the coordinates where the
            proposal is N(0, I): log target less log N(points; 0, I), up to a constant a row.
        rows: number of rows, independent of each other.
        dim: dimension of a point.
        coupling: the settings.
        beta: correlation of the second step of the composite, in [0, 1): a number or `(rows,)`.
        generator: source of all randomness.
        dtype: of the points.

    Returns:
        The signed points, when the chains met, and what they cost; `expectation` sums them up.

    Raises:
        UsageError: as in `run_chains`; a beta outside [0, 1).
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    newest: list[int] = []  # for every part the number of its call of `correct`, else -1
    kind: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}
    effective = torch.zeros(rows, **kind)
    calls = 0

    def average(state: disir.State, own: Tensor) -> None:
        w = disir.weights(state)
        effective[own] += 1 / w.square().sum(-1) / coupling.lag
        parts.append((own, state.points, w / coupling.lag))
        newest.append(-1)

    def correct(first: disir.State, second: disir.State, own: Tensor) -> None:
        nonlocal calls
        parts.append((own, first.points, disir.weights(first) / coupling.lag))
        parts.append((own, second.points, -disir.weights(second) / coupling.lag))
        newest.extend([calls, calls])
        calls += 1

    run = (log_weight, rows, dim, coupling, beta, generator, dtype)
    meeting, spent = run_chains(*run, average, correct)
    owners, points, weights = (torch.cat(p) for p in zip(*parts, strict=True))
    number = torch.cat(
        [torch.full_like(own, n) for (own, _, _), n in zip(parts, newest, strict=True)]
    )
    last = (number == calls - 1) & (number >= 0) & meeting.capped[owners]
    return Weighted(owners, points, weights, meeting, last, effective, spent)


def adapted(beta: Tensor, share: Tensor, target: float = 0.3, gain: float = 0.1) -> Tensor:
    """beta after a run: beta - gain (ESS / K - target), within [1e-6, 1 - 1e-6].

    The paper's rule in other units: it has 0.01 (ESS - 0.3 K), which for K = 10 is the same and
    for K = 100 jumps between the ends. Never within a run: chains whose beta follows their own
    weights have different laws, and what they estimate is biased.

    Args:
        beta: correlations, any shape.
        share: ESS / K of the run, `Weighted.effective` over K.
        target: of ESS / K.
        gain: of the step.
    """
    moved = beta - gain * (share.to(beta.dtype) - target)
    return moved.clamp(LEAST, MOST)


def expectation(
    weighted: Weighted, h: Callable[[Tensor, Tensor], Tensor], chunk: int = 4096
) -> Tensor:
    """H of every row, `(rows, ...)`.

    Args:
        weighted: from `weighted_points`.
        h: the test function, `(points (n, K, dim), rows (n,)) -> (n, K, ...)`: a value a point.
        chunk: entries that h is told at once.

    Raises:
        UsageError: h of a wrong shape.
    """
    rows = len(weighted.effective)
    total: Tensor | None = None
    for part in torch.arange(len(weighted.rows)).split(chunk):
        own = weighted.rows[part]
        value = h(weighted.points[part], own)
        wanted = tuple(weighted.points[part].shape[:2])
        if tuple(value.shape[:2]) != wanted:
            raise UsageError(f"h: {tuple(value.shape)}; {(*wanted, '...')} is needed, one a point")
        w = weighted.weights[part].to(value.dtype)
        value = (w.reshape(*w.shape, *[1] * (value.dim() - 2)) * value).sum(1)
        if total is None:
            total = torch.zeros(rows, *value.shape[1:], dtype=value.dtype, device=value.device)
        total.index_add_(0, own, value)
    assert total is not None
    return total


def gaussian_log_weight(
    log_likelihood: Callable[[Tensor, Tensor], Tensor], mean: Tensor, std: Tensor
) -> RowLogWeight:
    """log w in the coordinates xi of a Gaussian proposal z = mean + std xi, prior N(0, I), nats.

        log w = log p(x | z) - |z|^2 / 2 + |xi|^2 / 2 + sum log std

    Args:
        log_likelihood: `(z (n, k, dim), rows (n,)) -> (n, k)`, log p(x | z) of the rows' images.
        mean: of q, `(rows, dim)`.
        std: of q, `(rows, dim)`.

    Raises:
        UsageError: a std that is not positive: the proposal would not have the target's support.
    """
    if not bool((std > 0).all()):
        raise UsageError(
            f"std: the smallest is {float(std.min()):.3g}; it must be positive, since the proposal "
            "needs support wherever the posterior has"
        )
    log_volume = std.log().sum(-1)

    def log_weight(points: Tensor, rows: Tensor) -> Tensor:
        z = mean[rows].unsqueeze(1) + std[rows].unsqueeze(1) * points
        own = log_likelihood(z, rows) + log_volume[rows].unsqueeze(1)
        return own - 0.5 * (z.square().sum(-1) - points.square().sum(-1))

    return log_weight
