"""Iterations of the chains behind unbiased gradients, and what counts as a meeting (2010.01845).

    C-ISIR:        one iteration is one step with beta = 0
    C-ISIR-DISIR:  one step with beta = 0 (only there can chains meet), then one with beta > 0

What counts as a meeting decides whether the estimator is unbiased. `rule="strict"` (default): the
whole states are equal. For C-ISIR that is one iteration after the selected points are; for the
composite the second step rebuilds everything from equal points, so it is the same iteration.
`rule="index"`: equal new indices in any step count, also where beta > 0, and for C-ISIR without the
iteration that follows. The points differ still, the estimate is BIASED; it is here because the
published meeting times look like it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased import CoupledKernel, Kernel

RowLogWeight = Callable[[Tensor, Tensor], Tensor]  # (points (n, k, dim), rows (n,)) -> (n, k)
Rule = Literal["strict", "index"]


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
