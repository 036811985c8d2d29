"""Unbiased gradients of log p(x) by coupled ISIR and DISIR chains (2010.01845).

    C-ISIR:        one iteration is one step with beta = 0
    C-ISIR-DISIR:  one step with beta = 0 (only there can chains meet), then one with beta > 0
    gradient:      h(u) = sum_k w~_k grad log p(x, z_k), in eq. 14 (`methods.unbiased`)

What counts as a meeting decides whether the estimator is unbiased. `rule="strict"` (default): the
whole states are equal. For C-ISIR that is one iteration after the selected points are; for the
composite the second step rebuilds everything from equal points, so it is the same iteration.
`rule="index"`: equal new indices in any step count, also where beta > 0, and for C-ISIR without the
iteration that follows. The points differ still, the estimate is BIASED; it is here because the
published meeting times look like it.

Guaranteed with the strict rule and no cap: E[gradient] = grad log p(x), if the weights are bounded
(assumption A3; `unbiased_vae_theory` has the condition for Gaussians). beta must not depend on the
run itself: `adapted` moves it between runs. Not guaranteed: that a run ends soon. With a cap, rows
whose log weights are not numbers have weights that are none either; without, they are an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased import CoupledKernel, Kernel, Meeting, couple

RowLogWeight = Callable[[Tensor, Tensor], Tensor]  # (points (n, k, dim), rows (n,)) -> (n, k)
Rule = Literal["strict", "index"]
LEAST, MOST = 1e-6, 1 - 1e-6  # of an adapted beta


@dataclass(frozen=True)
class Coupling:
    """Settings of the estimator; the defaults are the paper's."""

    samples: int = 10
    """K: points of a state."""
    composite: bool = True
    """C-ISIR-DISIR; False: C-ISIR."""
    lag: int = 10
    """L."""
    start: int = 1
    """t0."""
    cap: int | None = None
    """Most correction terms; None: until the chains meet; 0: the average without coupling."""
    rule: Rule = "strict"
    """What counts as a meeting; index is biased."""

    def __post_init__(self) -> None:
        if type(self.samples) is not int or self.samples < 2:
            raise UsageError(
                f"samples={self.samples!r}: an integer of at least 2 is needed; with K = 1 the "
                "chain never moves"
            )
        for name, least in (("lag", 1), ("start", 0), ("cap", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise UsageError(f"{name}={value!r}: an integer of at least {least} is needed")
        if self.rule not in ("strict", "index"):
            raise UsageError(f"rule={self.rule!r}: strict or index is needed")


class Counter:
    """Log weights evaluated so far: decoder evaluations, if w is that of a VAE."""

    def __init__(self) -> None:
        self.weights = 0


def kernels(
    log_weight: RowLogWeight,
    coupling: Coupling,
    beta: float | Tensor | disir.Arms,
    generator: torch.Generator,
    counter: Counter | None = None,
) -> tuple[Kernel, CoupledKernel]:
    """One iteration of a chain, and of a pair, for `methods.unbiased`.

    Args:
        log_weight: log w in the coordinates where the proposal is N(0, I).
        coupling: composite or not, and the rule.
        beta: of the second step of the composite: a number, one a row `(rows,)`, or the `Arms` made
            of it. It is frozen: a tensor that changes later is not looked at again.
        generator: source of all randomness.
        counter: counts evaluations of the log weight.
    """
    tables: list[disir.Arms] = []  # made at the first step, when the points' type is known
    if isinstance(beta, disir.Arms):
        tables.append(beta)
    elif isinstance(beta, Tensor) and beta.dim():
        if beta.dim() != 1 or not bool(((beta >= 0) & (beta < 1)).all()):
            raise UsageError(f"beta of shape {tuple(beta.shape)}: one a row, in [0, 1), is needed")
    elif not 0 <= float(beta) < 1:
        raise UsageError(f"beta={beta!r}: a correlation in [0, 1) is needed")

    def own(rows: Tensor) -> disir.LogWeight:
        return lambda points: log_weight(points, rows)

    def arms(state: disir.State, rows: Tensor) -> disir.Arms:
        if not isinstance(beta, disir.Arms) and not tables:
            tables.append(disir.Arms.of(beta, coupling.samples, state.points))
        return tables[0].take(rows)

    def count(info: disir.Info, rows: Tensor) -> None:
        if counter is not None:
            counter.weights += info.n_weights * len(rows)

    def kernel(state: disir.State, rows: Tensor) -> disir.State:
        weigh = own(rows)
        state, info = disir.step(state, weigh, 0.0, generator)
        count(info, rows)
        if coupling.composite:
            state, info = disir.step(state, weigh, arms(state, rows), generator)
            count(info, rows)
        return state

    def coupled_kernel(pair: Pair, rows: Tensor) -> Pair:
        weigh = own(rows)
        pair, info = disir.coupled_step(pair, weigh, 0.0, generator)
        count(info, rows)
        touched = info.touched
        if coupling.composite:
            pair, info = disir.coupled_step(pair, weigh, arms(pair.first, rows), generator)
            count(info, rows)
            touched = touched | info.touched
        if coupling.rule == "index":
            pair = pair._replace(joined=pair.joined | touched, met=pair.met | touched)
        return pair

    return kernel, coupled_kernel


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
    weighted: Weighted, h: Callable[[Tensor, Tensor], Tensor], rows: int, chunk: int = 4096
) -> Tensor:
    """H of every row, `(rows, ...)`.

    Args:
        weighted: from `weighted_points`.
        h: the test function, `(points (n, K, dim), rows (n,)) -> (n, K, ...)`: a value a point.
        rows: number of rows, as `weighted_points` was told.
        chunk: entries that h is told at once.

    Raises:
        UsageError: h of a wrong shape, or another number of rows.
    """
    if len(weighted.effective) != rows:
        raise UsageError(f"rows={rows}: the points are of {len(weighted.effective)} rows")
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
