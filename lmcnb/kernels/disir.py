"""Dependent iterated sampling importance resampling (2010.01845, algorithms 1 to 3).

The state is K points xi_k in the coordinates where the proposal is N(0, I), and the index l of the
selected one. With w(xi) = p(x, g(xi)) / q(g(xi) | x), one step with correlation beta:

    l_aux ~ Uniform{1 ... K};     xi*_{l_aux} = xi_l
    xi*_k = beta xi*_{k -+ 1} + sqrt(1 - beta^2) e_k,  along both arms away from l_aux
    l* = k with probability proportional to w(xi*_k)

beta = 0 is ISIR: the other K - 1 points are fresh draws of the proposal. beta > 0 keeps them near
the selected point. The coupled step moves two chains with the same l_aux and e, and takes
(l*, l*') from the maximal coupling of their selection probabilities.

Guaranteed: the selected point's invariant law is the posterior, for every beta in [0, 1) and K >= 2
(proposition 1), and sum_k w~_k h(xi_k) has the posterior's expectation of h there (proposition 2).
A pair whose selected points are one point stays together. Not guaranteed: speed. Without a bound on
w (assumption A3) the chain is not uniformly ergodic, and it stays long at points of large weight.
beta > 0 cannot make two chains meet: shared noise contracts differences and never removes them.

Probabilities are float64; points have the type they come with. All leading dimensions are chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.coupling import Pair, maximal_coupling, pick

LogWeight = Callable[[Tensor], Tensor]  # (..., k, dim) -> (..., k)


class State(NamedTuple):
    """Points, the selected one, and the log weights that the next step needs one of."""

    points: Tensor  # (..., K, dim)
    selected: Tensor  # (...), int64, l
    log_weights: Tensor  # (..., K), float64


class Info(NamedTuple):
    """Diagnostics of one step."""

    moved: Tensor  # (...), bool: another point was selected (of the first chain)
    touched: Tensor  # (...), bool: both chains selected one new index; of one chain False
    n_weights: int  # log weights evaluated per chain or pair


def init(points: Tensor, selected: Tensor, log_weight: LogWeight) -> State:
    """The state at points `(..., K, dim)` with selected slots `(...)`.

    Raises:
        UsageError: fewer than two points, or slots of another shape.
    """
    if points.dim() < 2 or points.shape[-2] < 2:
        raise UsageError(
            f"points of shape {tuple(points.shape)}: (..., K, dim) with K of at least 2 is needed; "
            "with K = 1 the chain never moves"
        )
    if selected.shape != points.shape[:-2]:
        shape = tuple(selected.shape)
        raise UsageError(f"selected of shape {shape}: {tuple(points.shape[:-2])} is needed")
    return State(points, selected, log_weight(points).double())


def start(
    shape: tuple[int, ...], log_weight: LogWeight, generator: torch.Generator, dtype: torch.dtype
) -> State:
    """K draws of the proposal and a uniform index; `shape` is `(..., K, dim)`."""
    kind: dict[str, Any] = {"generator": generator, "device": generator.device}
    points = torch.randn(shape, dtype=dtype, **kind)
    return init(points, torch.randint(max(1, shape[-2]), shape[:-2], **kind), log_weight)


def weights(state: State) -> Tensor:
    """Normalized weights w~, `(..., K)`, float64."""
    return torch.softmax(state.log_weights, -1)


def effective_samples(state: State) -> Tensor:
    """1 / sum_k w~_k^2, between 1 and K, `(...)`."""
    return 1 / weights(state).square().sum(-1)


def step(
    state: State, log_weight: LogWeight, beta: float | Tensor, generator: torch.Generator
) -> tuple[State, Info]:
    """One transition of every chain (algorithm 2; with beta = 0 algorithm 1).

    Args:
        state: from `init`, `start` or the last step.
        log_weight: log w, `(..., k, dim) -> (..., k)`, chain by chain.
        beta: correlation in [0, 1): a number, or one for each chain `(...)`.
        generator: source of all randomness, on the device of the points.

    Returns:
        The new state and diagnostics.

    Raises:
        UsageError: beta is a number outside [0, 1).
    """
    aux, noise = _draw(state, beta, generator)
    points, log_weights = _propose(state, aux, noise, beta, log_weight)
    uniform = torch.rand(aux.shape, generator=generator, dtype=torch.float64, device=aux.device)
    new = State(points, pick(torch.softmax(log_weights, -1), uniform), log_weights)
    none = torch.zeros_like(aux, dtype=torch.bool)
    return new, Info(new.selected != aux, none, points.shape[-2] - 1)


def coupled_step(
    pair: Pair, log_weight: LogWeight, beta: float | Tensor, generator: torch.Generator
) -> tuple[Pair, Info]:
    """One joint transition (algorithm 3); either chain alone moves as in `step`.

    The chains are joined where both select the same one of the points that they share: only with
    beta = 0, and not the slot l_aux, whose points differ. They have met one step later, when that
    slot, too, is filled from the same point.

    Arguments and errors as in `step`.
    """
    first, second, joined, _ = pair
    aux, noise = _draw(first, beta, generator)
    K = first.points.shape[-2]
    fresh = not isinstance(beta, Tensor) and beta == 0
    if fresh:  # all other slots are shared, and so are their weights
        points, log_weights = _propose(first, aux, noise, beta, log_weight)
        at, kept, weight = aux.unsqueeze(-1), *_selected(second)
        others = points.scatter(-2, _wide(at, kept), kept.unsqueeze(-2))
        a = State(points, aux, log_weights)
        b = State(others, aux, log_weights.scatter(-1, at, weight.unsqueeze(-1)))
    else:
        points = torch.cat([_points(s, aux, noise, beta) for s in (first, second)], -2)
        where = _others(aux, K)
        where = torch.cat([where, where + K], -1)
        new = log_weight(points.gather(-2, _wide(where, points))).double()
        a, b = (
            State(p, aux, _weight(_selected(s)[1], aux, w))
            for s, p, w in zip((first, second), points.split(K, -2), new.chunk(2, -1), strict=True)
        )
    i, j = maximal_coupling(weights(a), weights(b), generator)
    a = a._replace(selected=i)
    b = State(
        torch.where(joined[..., None, None], a.points, b.points),
        torch.where(joined, i, j),
        torch.where(joined[..., None], a.log_weights, b.log_weights),
    )
    touched = (i == b.selected) & (i != aux)
    met = joined
    joined = joined | touched if fresh else joined
    return Pair(a, b, joined, met), Info(i != aux, touched, (1 if fresh else 2) * (K - 1))


def arms(aux: Tensor, beta: float | Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """The matrix A of xi* = A e, with e_{l_aux} = xi_l, of every chain: `(..., K, K)`.

    A_kj = beta^|k - j| for j = l_aux, sqrt(1 - beta^2) beta^|k - j| for the j from l_aux (without
    it) to k, and 0 elsewhere.
    """
    slots = torch.arange(count, device=aux.device)
    k, j, origin = slots[:, None], slots, aux[..., None, None]
    b = torch.as_tensor(beta, dtype=dtype, device=aux.device)[..., None, None]
    power = b ** (k - j).abs()
    on_arm = (k - j) * (j - origin) >= 0
    return torch.where(j == origin, power, torch.where(on_arm, (1 - b * b).sqrt() * power, 0.0))


def _draw(state: State, beta: float | Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """l_aux and e."""
    if not isinstance(beta, Tensor) and not 0 <= beta < 1:
        raise UsageError(f"beta={beta!r}: a correlation in [0, 1) is needed")
    x = state.points
    kind: dict[str, Any] = {"generator": generator, "device": x.device}
    aux = torch.randint(x.shape[-2], state.selected.shape, **kind)
    return aux, torch.randn(x.shape, dtype=x.dtype, **kind)


def _propose(
    state: State, aux: Tensor, noise: Tensor, beta: float | Tensor, log_weight: LogWeight
) -> tuple[Tensor, Tensor]:
    """New points and their log weights; that of the retained point is known."""
    points = _points(state, aux, noise, beta)
    others = _others(aux, points.shape[-2])
    new = log_weight(points.gather(-2, _wide(others, points))).double()
    return points, _weight(_selected(state)[1], aux, new)


def _points(state: State, aux: Tensor, noise: Tensor, beta: float | Tensor) -> Tensor:
    at, kept = aux.unsqueeze(-1), _selected(state)[0]
    points = noise.scatter(-2, _wide(at, noise), kept.unsqueeze(-2))
    if not isinstance(beta, Tensor) and beta == 0:
        return points
    moved = arms(aux, beta, noise.shape[-2], noise.dtype) @ points
    return moved.scatter(-2, _wide(at, noise), kept.unsqueeze(-2))  # kept to the last bit


def _selected(state: State) -> tuple[Tensor, Tensor]:
    """The selected point `(..., dim)` and its log weight `(...)`."""
    at = state.selected.unsqueeze(-1)
    point = state.points.gather(-2, _wide(at, state.points)).squeeze(-2)
    return point, state.log_weights.gather(-1, at).squeeze(-1)


def _others(aux: Tensor, count: int) -> Tensor:
    """The slots that are not l_aux, `(..., K - 1)`."""
    return (aux.unsqueeze(-1) + torch.arange(1, count, device=aux.device)) % count


def _weight(kept: Tensor, aux: Tensor, new: Tensor) -> Tensor:
    """Log weights `(..., K)` from that of slot l_aux and those of the others."""
    count = new.shape[-1] + 1
    full = kept.unsqueeze(-1).expand(*kept.shape, count)
    return full.scatter(-1, _others(aux, count), new)


def _wide(index: Tensor, points: Tensor) -> Tensor:
    """Indices `(..., k)` of slots for gathering or scattering points."""
    return index.unsqueeze(-1).expand(*index.shape, points.shape[-1])
