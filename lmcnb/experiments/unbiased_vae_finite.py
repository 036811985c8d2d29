"""Coupled ISIR where everything is known: four states, by enumeration; used by tests and notebook.

    z in {0, 1, 2, 3},  q = (.4, .3, .2, .1),  pi = (.1, .2, .3, .4),  w = pi / q,  p(x) = 1,
    h = (1, 2, 4, 8),   E_pi[h] = 4.9,         K = 3

In place of the AR(1) kernel the lazy one: a slot on an arm of DISIR keeps its neighbour's value
with probability beta = 0.7 and takes a fresh draw of q otherwise, which is reversible for q. Both
chains share l_aux, fresh draws and what is kept. A step is enumerated over all of that; arms and
selection are the package's (`disir.arms`, `disir.weights`, `coupling.joint_probabilities`).

Four states are enough: a step forgets all of the old state but the selected value. So that is a
Markov chain, those of a pair are one, and stay equal once they are, and the mean of h(u(t)) is a
function of the selected value before.

Time, as in `methods.unbiased`: n joint steps after t = L the pair is (u(L + n), u'(n)). "Met by n"
says that its selected values are equal, by chance too, at n = 0 too. With t0 = 1 corrections begin
at n = 1; their mean is g(z) - g(z') with the selected values of n - 1. A cap c keeps n = 1 ... c.
The strict rule drops terms where the whole states are equal, which are zero: its mean does not
depend on when that is. The premature rule drops those at equal selected values of n.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair, joint_probabilities, maximal_coupling, pick
from lmcnb.methods.unbiased import unbiased_expectation

F64 = torch.float64
Q = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64)
PI = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
H = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=F64)
COUNT, K, BETA = 4, 3, 0.7
EXACT, LAGS, CAPS = 4.9, (1, 10), (1, 5)

SHEET = {  # the digits that an enumeration by other code gave
    "SNIS/mean": 3.6679328334,
    "ISIR/eigenvalue": 0.6575713830,
    "lazy DISIR/eigenvalue": 0.8906945228,
    "composite/eigenvalue": 0.5856937036,
    "ISIR/tail": 0.6575713830,
    "composite/tail": 0.5856937036,
}
for kernel_and_lag, known in {
    "ISIR/L=1": (1.5827053647, -0.7174003151, -0.1134459217, -0.3255595865),
    "ISIR/L=10": (1.8508709425, -0.1907528118, -0.0321820455, -0.0803536617),
    "composite/L=1": (1.3807175651, -0.5464316980, -0.0556363291),
    "composite/L=10": (1.5662089771, -0.1237481081, -0.0132721840),
}.items():
    columns = ("steps", "cap=1", "cap=5", "premature")
    SHEET |= {f"{kernel_and_lag}/{c}": v for c, v in zip(columns, known, strict=False)}
MET_BY = (0.247552, 0.645366, 0.811551, 0.891786)  # C-ISIR, L = 1, n = 0 ... 3; six digits

KEEP = torch.cartesian_prod(*[torch.arange(2)] * (K - 1)).bool()  # (4, 2), in binary order
FRESH = torch.cartesian_prod(*[torch.arange(COUNT)] * (K - 1))  # (16, 2)


class Step(NamedTuple):
    """The sums that are needed of a step, or of an iteration, by selected values before it."""

    T: Tensor  # (4, 4), of the selected value
    pairs: Tensor  # (16, 16), of both selected values, row 4 a + b
    g: Tensor  # (4,), mean of sum_k w~_k h(z_k) after it
    apart: Tensor  # (16,), mean of the difference of that where the new selected values differ


def log_weight(points: Tensor) -> Tensor:
    """log pi / q at values `(..., 1)`, `(...)`: a log weight for `kernels.disir`."""
    return (PI / Q).log()[points.long().squeeze(-1)]


@cache
def sources() -> Tensor:
    """Where each point but the retained gets its value, by l_aux and what is kept: `(K, 4, K - 1)`.

    0 is the retained point, 1 + i the draw of the other i. k has what was drawn in j if j is on its
    arm and not kept, and all from j (without it) to k are.
    """
    reaches = disir.arms(torch.arange(K), torch.tensor(0.5, dtype=F64), K) > 0  # (l_aux, k, j)
    # whether i, not j, hands on to k what comes from j
    hands = reaches[:, :, 1:, None] & reaches[:, None] & ~torch.eye(K, dtype=torch.bool)[1:]
    handed = (KEEP[:, None, :, None] | ~hands[:, None]).all(-2)
    drawn = torch.nn.functional.pad(~KEEP, (1, 0), value=True)[:, None]
    return (reaches[:, None] & handed & drawn).double().argmax(-1)


def place(selected: Tensor, aux: Tensor, fresh: Tensor, keep: Tensor) -> Tensor:
    """New points `(n, K, 1)`, the retained first, from it `(n,)` and the randomness of a step."""
    drawn = torch.cat([selected.unsqueeze(-1), fresh], -1)
    others = drawn.gather(-1, sources()[aux, (keep * torch.tensor([2, 1])).sum(-1)])
    return torch.cat([drawn[:, :1], others], -1)[..., None]


@cache
def step(beta: float) -> Step:
    """ISIR (beta = 0) or lazy DISIR."""
    every = (torch.arange(n) for n in (K, len(FRESH), len(KEEP)))
    aux, fresh, keep = torch.cartesian_prod(*every).unbind(-1)
    fresh, keep = FRESH[fresh], KEEP[keep]
    chance = (torch.tensor([1 - beta, beta], dtype=F64)[keep.long()] * Q[fresh]).prod(-1) / K
    points = [place(torch.full_like(aux, z), aux, fresh, keep) for z in range(COUNT)]
    states = [disir.init(p, torch.zeros_like(aux), log_weight) for p in points]
    select = torch.stack([disir.weights(s) for s in states], 1)  # (n, 4, K)
    values = torch.stack([s.points[..., 0] for s in states], 1)
    one_hot = torch.nn.functional.one_hot(values, COUNT).double()
    h = torch.stack([average(s) for s in states], 1)  # (n, 4)
    joint = joint_probabilities(select.unsqueeze(2), select.unsqueeze(1).expand(-1, COUNT, -1, -1))
    new = torch.einsum("nabij,naic,nbjd->nabcd", joint, one_hot, one_hot)
    unequal = new.sum((-1, -2)) - new.diagonal(dim1=-2, dim2=-1).sum(-1)
    return Step(
        torch.einsum("n,nak,nakc->ac", chance, select, one_hot),
        torch.einsum("n,nabcd->abcd", chance, new).reshape(COUNT**2, COUNT**2),
        chance @ h,
        torch.einsum("n,nab->ab", chance, (h[:, :, None] - h[:, None]) * unequal).reshape(-1),
    )


def average(state: disir.State) -> Tensor:
    """sum_k w~_k h(z_k), `(n,)`."""
    return (disir.weights(state) * H[state.points[..., 0]]).sum(-1)


# ---- the chains

OFF = ~torch.eye(COUNT, dtype=torch.bool).reshape(-1)  # unequal pairs
BETAS = {"ISIR": (0.0,), "lazy DISIR": (BETA,), "composite": (0.0, BETA)}


def iteration(name: str) -> Step:
    """All sub-steps of a kernel as one."""
    *before, last = (step(beta) for beta in BETAS[name])
    for one in before:
        last = Step(one.T @ last.T, one.pairs @ last.pairs, one.T @ last.g, one.pairs @ last.apart)
    return last


def at_lag(name: str, lag: int) -> Tensor:
    """Law of the pair of selected values at t = L, `(16,)`."""
    return torch.outer(Q @ iteration(name).T.matrix_power(lag), Q).reshape(-1)


def met_by(name: str, lag: int, n: int) -> float:
    """P(equal selected values by n joint steps)."""
    return float((at_lag(name, lag) @ iteration(name).pairs.matrix_power(n))[~OFF].sum())


def visits(name: str, lag: int) -> Tensor:
    """Mean number of times, n = 0, 1, ..., that the pair is each of the 12 unequal ones."""
    stay = torch.eye(12, dtype=F64) - iteration(name).pairs[OFF][:, OFF]
    return torch.linalg.solve(stay.mT, at_lag(name, lag)[OFF])


def steps(name: str, lag: int, whole: bool = False) -> float:
    """Mean number of joint steps to equal selected values.

    `whole`: to states made from equal selected values, at least one; those are equal as a whole.
    C-ISIR takes one step more to them; in the composite the first sub-step of an iteration can make
    the selected values equal, and the second all.
    """
    seen = visits(name, lag)
    if whole and name == "composite":
        seen = seen @ step(0.0).pairs[OFF][:, OFF]
    return float(seen.sum()) + whole


def mean(name: str, lag: int, cap: int | None = None, early: bool = False) -> float:
    """Mean of the estimator, t0 = 1, with a cap or without; `early`: the premature rule."""
    one = iteration(name)
    total = sum(float(Q @ one.T.matrix_power(t) @ one.g) for t in range(lag))
    change = one.apart if early else (one.g[:, None] - one.g).reshape(-1)
    if cap is None:
        return (total + float(visits(name, lag) @ change[OFF])) / lag
    law = [at_lag(name, lag) @ one.pairs.matrix_power(n) for n in range(cap)]
    return (total + sum(float(pair @ change) for pair in law)) / lag


def found() -> dict[str, float]:
    """The numbers of `SHEET`: estimates less 4.9; `tail`: spectral radius of the unequal pairs."""
    z = torch.cartesian_prod(*[torch.arange(COUNT)] * K)
    h = average(disir.init(z.unsqueeze(-1), torch.zeros_like(z[:, 0]), log_weight))
    out = {"SNIS/mean": float(Q[z].prod(-1) @ h)}
    for name in BETAS:
        one = iteration(name)
        out[f"{name}/eigenvalue"] = float(torch.linalg.eigvals(one.T).abs().sort().values[-2])
        out[f"{name}/tail"] = float(torch.linalg.eigvals(one.pairs[OFF][:, OFF]).abs().max())
        for lag in LAGS:
            at = f"{name}/L={lag}"
            out[f"{at}/steps"] = steps(name, lag)
            out |= {f"{at}/cap={cap}": mean(name, lag, cap) - EXACT for cap in CAPS}
            out[f"{at}/premature"] = mean(name, lag, early=True) - EXACT
    return out


def errors() -> dict[str, float]:
    """Differences to the sheet's digits, and to identities that hold exactly."""
    out = {name: value - SHEET[name] for name, value in found().items() if name in SHEET}
    for n, value in enumerate(MET_BY):
        out[f"ISIR/L=1/met by {n}"] = round(met_by("ISIR", 1, n), 6) - value
    for name in BETAS:
        one = iteration(name)
        p = one.pairs.reshape([COUNT] * 4)
        sides = p.sum(3) - one.T[:, None], p.sum(2) - one.T
        out[f"{name}/invariance"] = float((PI @ one.T - PI).abs().max())
        out[f"{name}/Rao-Blackwell"] = float(PI @ one.g) - EXACT
        out[f"{name}/coupled marginals"] = max(float(side.abs().max()) for side in sides)
        out[f"{name}/pairs part"] = float(one.pairs[~OFF][:, OFF].sum())
        out |= {f"{name}/L={lag}/strict": mean(name, lag) - EXACT for lag in LAGS}
    return out


# ---- the same, simulated by the package's driver


def selected_value(state: disir.State) -> Tensor:
    """`(n,)`."""
    return state.points[..., 0].gather(-1, state.selected.unsqueeze(-1)).squeeze(-1)


def equal(first: disir.State, second: disir.State) -> Tensor:
    """Whether the selected values are, `(n,)`."""
    return selected_value(first) == selected_value(second)


def kernels(name: str, early: bool, stream: torch.Generator) -> tuple[Any, Any]:
    """An iteration of one chain and of a pair; `early`: met is said at equal selected values."""

    def propose(beta: float, *states: disir.State) -> list[disir.State]:
        fresh, aux = start(len(states[0].selected), stream)[:2]  # one of the K draws is not used
        keep = torch.rand(len(aux), K - 1, generator=stream) < beta
        points = [place(selected_value(s), aux, fresh[:, 1:, 0], keep) for s in states]
        return [disir.init(p, torch.zeros_like(aux), log_weight) for p in points]

    def kernel(state: disir.State, rows: Tensor) -> disir.State:
        for beta in BETAS[name]:
            (state,) = propose(beta, state)
            uniform = torch.rand(len(rows), generator=stream, dtype=F64)
            state = state._replace(selected=pick(disir.weights(state), uniform))
        return state

    def coupled(pair: Pair, rows: Tensor) -> Pair:
        a, b = pair[:2]
        for beta in BETAS[name]:
            whole = equal(a, b)  # before a sub-step: then all is equal after it
            a, b = propose(beta, a, b)
            i, j = maximal_coupling(disir.weights(a), disir.weights(b), stream)
            a, b = a._replace(selected=i), b._replace(selected=j)
        return Pair(a, b, equal(a, b), equal(a, b) if early else whole)

    return kernel, coupled


def start(rows: int, stream: torch.Generator) -> disir.State:
    """u(0): K draws of q and a uniform slot."""
    points = torch.multinomial(Q, rows * K, True, generator=stream).view(rows, K, 1)
    return disir.init(points, torch.randint(K, (rows,), generator=stream), log_weight)


def driver(stream: torch.Generator, replicates: int) -> dict[str, float]:
    """Standard errors of the driver's means from the exact ones, also where they are biased.

    `.../rejects`: of the biased ones from 4.9; many replicates take them far away.
    """
    out: dict[str, float] = {}

    def put(name: str, sample: Tensor, exact: float) -> None:
        error = float(sample.std()) / math.sqrt(len(sample))
        out[name] = (float(sample.mean()) - exact) / error

    rules = [("strict", None), ("premature", None), *((f"cap={c}", c) for c in CAPS)]
    for name, lag in product(("ISIR", "composite"), LAGS):
        at = f"{name}/L={lag}"
        for rule, cap in rules:
            early = rule == "premature"
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # caps are meant
                value, meeting, _ = unbiased_expectation(
                    *kernels(name, early, stream),
                    lambda state, rows: average(state),
                    start(replicates, stream),
                    start(replicates, stream),
                    lag=lag,
                    cap=cap,
                    equal=equal if early else None,
                )
            put(f"{at}/{rule}", value, mean(name, lag, cap, early))
            if rule != "strict":
                put(f"{at}/{rule}/rejects", value, EXACT)
            if cap is None:
                kind, joint = "steps" if early else "whole steps", meeting.joint_steps.double()
                put(f"{at}/{kind}", joint, steps(name, lag, whole=not early))
    return out
