"""Unbiased expectations from coupled Markov chains with a lag (2010.01845, algorithm 4, eq. 14).

Two chains with the same law, the second L steps behind, are moved so that they meet. For any chain
that converges to pi, with tau the first time at which u(t) = u'(t - L),

    H = (1/L) { sum_{t=t0}^{t0+L-1} h(u(t)) + sum_{t=t0+L}^{tau-1} [h(u(t)) - h(u'(t-L))] }

has the expectation E_pi[h]. (In the (k, m) language of Jacob, O'Leary and Atchade: k = t0, the
window ends at t0 + L - 1, and every correction has the weight one. With a lag: Vanetti and Doucet.)

Guaranteed: unbiasedness, if the meeting time has a light enough tail (proposition 3), chains that
met stay together, and nothing is cut. Not guaranteed: a small variance, or the sign: estimates of
positive quantities can be negative. A `cap` on the correction terms makes the estimate biased by
what is cut off; rows that reach it are kept and reported, since dropping or redrawing them would
bias it by selection. cap = 0 is the plain average over the window. Rows that are done are taken out
of the batch, so that it costs the sum of its meeting times and not its size times the longest.

Everything is generic: a state is any NamedTuple of tensors whose leading dimension is the row.
A pair of your own, here Metropolis on 0 ... 9 with one uniform proposal for both chains:

    class State(NamedTuple):
        x: Tensor  # (rows,)

    g, n, power = torch.Generator().manual_seed(0), 10_000, torch.arange(1.0, 11.0)  # pi ~ x + 1

    def move(state, y, u):  # y with probability min(1, pi(y) / pi(x))
        return State(torch.where(u * power[state.x] < power[y], y, state.x))

    def draw(rows):
        return torch.randint(10, (len(rows),), generator=g), torch.rand(len(rows), generator=g)

    def kernel(state, rows):
        return move(state, *draw(rows))

    def coupled_kernel(pair, rows):
        y, u = draw(rows)
        first, second = move(pair.first, y, u), move(pair.second, y, u)
        same = pair.met | (first.x == second.x)  # whole numbers: no rounding can separate them
        return Pair(first, second, same, same)

    first, second = (State(torch.randint(10, (n,), generator=g)) for _ in range(2))
    h = lambda state, rows: state.x.double()
    found = unbiased_expectation(kernel, coupled_kernel, h, first, second)  # value: mean 6
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.coupling import Pair

S = TypeVar("S")
Kernel = Callable[[Any, Tensor], Any]  # (state, rows) -> state
CoupledKernel = Callable[[Pair, Tensor], Pair]
TestFunction = Callable[[Any, Tensor], Tensor]  # (state, rows) -> (len(rows), ...)


PATIENCE = 10_000  # joint steps without any meeting before a warning


class Meeting(NamedTuple):
    """When the rows of a batch met."""

    joint_steps: Tensor  # (rows,), tau - L; where capped, the joint steps that were run
    capped: Tensor  # (rows,), bool
    calls: int  # of the coupled kernel: joint steps of the slowest row
    row_steps: int  # joint steps of all rows together


class Unbiased(NamedTuple):
    """Estimates of every row, and what they cost and miss."""

    value: Tensor  # (rows, ...)
    meeting: Meeting
    cut: Tensor  # (rows,), norm of the last correction of a capped row, 0 elsewhere


def take(state: S, rows: Tensor) -> S:
    """The given rows of every tensor in a (nested) NamedTuple."""
    if isinstance(state, Tensor):
        return state[rows]  # type: ignore[return-value]
    return type(state)(*(take(part, rows) for part in state))  # type: ignore[call-arg, attr-defined]


def rows_of(state: Any) -> Tensor:
    """0 ... rows - 1, on the device of the state."""
    while not isinstance(state, Tensor):
        state = state[0]
    return torch.arange(len(state), device=state.device)


@torch.no_grad()
def couple(
    kernel: Kernel,
    coupled_kernel: CoupledKernel,
    first: Any,
    second: Any,
    average: Callable[[Any, Tensor], None],
    correct: Callable[[Any, Any, Tensor], None],
    *,
    lag: int = 10,
    start: int = 1,
    cap: int | None = None,
    equal: Callable[[Any, Any], Tensor] | None = None,
    compact: bool = True,
) -> Meeting:
    """Run a batch of pairs until all have met, and hand out the terms of H as they come.

    Args:
        kernel: one transition of the given rows: `kernel(state, rows)`, the new state alone.
        coupled_kernel: one joint transition: `coupled_kernel(pair, rows)`, a `Pair`. A row ends
            where it says `met`: the whole states are equal then, and would remain so. `joined` is
            for the kernel's own use (`kernels/pimh.py` is a short example).
        first: u(0), states of all rows.
        second: u'(0), independent of it, with the same law.
        average: called with (u(t), rows) for t = t0 ... t0 + L - 1.
        correct: called with (u(t), u'(t - L), rows) for t = t0 + L ... tau - 1.
        lag: L.
        start: t0.
        cap: most correction terms of a row; None: until it meets, however long that takes.
        equal: `(first, second) -> (rows,) bool`, whether states that were not moved together are
            the same; for discrete states, where that has a probability.
        compact: take rows that are done out of the batch; False is for comparison.

    Raises:
        UsageError: lag below 1, start or cap below 0; kernels that return something else.

    Warns:
        UserWarning: after 10,000 joint steps without a cap none of the rows has met.
    """
    for name, value, least in (("lag", lag, 1), ("start", start, 0), ("cap", cap, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise UsageError(f"{name}={value!r}: an integer of at least {least} is needed")
    rows, last = rows_of(first), start + lag - 1  # of the window
    end = None if cap is None else last + cap
    for t in range(lag + 1):
        first = _same_kind(kernel(first, rows), second, "kernel") if t else first
        if start <= t <= last:
            average(first, rows)
    met = torch.zeros_like(rows, dtype=torch.bool) if equal is None else equal(first, second)
    pair = Pair(first, second, met, met)
    joint_steps, t, calls, row_steps = torch.zeros_like(rows), lag, 0, 0
    while True:
        apart = (~pair.met).nonzero().squeeze(-1)
        left, own = pair, rows
        if len(apart) < len(rows):
            left, own = take(pair, apart), rows[apart]
        if t >= last:
            if compact:
                pair, rows = left, own
            if t > last and len(own) and (end is None or t <= end):
                correct(left.first, left.second, own)
            if len(own) == 0 or (end is not None and t >= end):
                break
        joint_steps[own] += 1
        pair = _same_kind(coupled_kernel(pair, rows), pair, "coupled_kernel")
        t, calls, row_steps = t + 1, calls + 1, row_steps + len(rows)
        if calls == PATIENCE and cap is None and len(own) == len(joint_steps):
            warnings.warn(
                f"none of {len(own)} rows has met after {PATIENCE:,} joint steps; does "
                "coupled_kernel set `met`? A cap ends it",
                stacklevel=2,
            )
        if start <= t <= last:
            average(pair.first, rows)
    capped = torch.zeros_like(joint_steps, dtype=torch.bool)
    capped[own] = True
    return Meeting(joint_steps, capped, calls, row_steps)


def _same_kind(found: Any, like: Any, name: str) -> Any:
    """What a kernel returned, if it is a state (or pair) as it was given."""
    if type(found) is not type(like):
        raise UsageError(
            f"{name}: it returned a {type(found).__name__}; a {type(like).__name__}, as it was "
            "given, is needed, without diagnostics"
        )
    return found


def unbiased_expectation(
    kernel: Kernel,
    coupled_kernel: CoupledKernel,
    test_function: TestFunction,
    first: Any,
    second: Any,
    *,
    lag: int = 10,
    start: int = 1,
    cap: int | None = None,
    equal: Callable[[Any, Any], Tensor] | None = None,
    compact: bool = True,
) -> Unbiased:
    """H of every row (eq. 14).

    Args:
        kernel: one transition of the given rows: `kernel(state, rows)`.
        coupled_kernel: one joint transition: `coupled_kernel(pair, rows)`.
        test_function: h, `(state, rows) -> (len(rows), ...)`.
        first: u(0), states of all rows.
        second: u'(0), independent of it, with the same law.
        lag: L.
        start: t0.
        cap: most correction terms of a row; None: until it meets.
        equal: as in `couple`, for discrete states.
        compact: as in `couple`.

    Raises:
        UsageError: h of a wrong shape; values that are not finite.

    Warns:
        UserWarning: rows reached the cap (with cap = 0 that is meant, and nothing is said).
    """
    n = len(rows_of(first))
    total: list[Tensor] = []
    cut = torch.zeros(n, dtype=torch.float64, device=rows_of(first).device)

    def of(state: Any, rows: Tensor) -> Tensor:
        h = test_function(state, rows)
        if not isinstance(h, Tensor) or h.dim() == 0 or len(h) != len(rows):
            shape = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise UsageError(
                f"test_function: {shape}; a tensor ({len(rows)}, ...) is needed, a value a row"
            )
        if not bool(torch.isfinite(h).all()):  # here, since such a row might never meet
            raise UsageError(
                "test_function or the chain's weights: values that are not finite; does the "
                "proposal have support wherever the target has?"
            )
        if not total:
            total.append(torch.zeros(n, *h.shape[1:], dtype=h.dtype, device=h.device))
        if h.shape[1:] != total[0].shape[1:]:
            raise UsageError(
                f"test_function: {tuple(h.shape[1:])} a row now, {tuple(total[0].shape[1:])} before"
            )
        return h

    def average(state: Any, rows: Tensor) -> None:
        h = of(state, rows)
        total[0].index_add_(0, rows, h)

    def correct(ahead: Any, behind: Any, rows: Tensor) -> None:
        h = of(ahead, rows) - of(behind, rows)
        total[0].index_add_(0, rows, h)
        cut[rows] = h.double().flatten(1).norm(dim=1) if h.dim() > 1 else h.double().abs()

    meeting = couple(
        kernel,
        coupled_kernel,
        first,
        second,
        average,
        correct,
        lag=lag,
        start=start,
        cap=cap,
        equal=equal,
        compact=compact,
    )
    if cap and bool(meeting.capped.any()):
        warnings.warn(
            f"cap={cap}: {float(meeting.capped.float().mean()):.2%} of the rows had not met; their "
            "estimates, and so their mean, are biased by what was cut off",
            stacklevel=2,
        )
    return Unbiased(total[0] / lag, meeting, torch.where(meeting.capped, cut / lag, 0.0))
