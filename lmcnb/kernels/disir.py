"""Dependent iterated sampling importance resampling (2010.01845, algorithms 1 to 3).

The state is K points xi_k in the coordinates where the proposal is N(0, I), and the index l of the
selected one. With w(xi) = p(x, g(xi)) / q(g(xi) | x), one step with correlation beta:

    l_aux ~ Uniform{1 ... K};     xi*_{l_aux} = xi_l
    xi*_k = beta xi*_{k -+ 1} + sqrt(1 - beta^2) e_k,  along both arms away from l_aux
    l* = k with probability proportional to w(xi*_k)

beta = 0 is ISIR: the other K - 1 points are fresh draws of the proposal. beta > 0 keeps them near
the selected point. The coupled step moves two chains with the same l_aux and e, and takes
(l*, l*') from the maximal coupling of their selection probabilities.

Points are kept with the retained one first, whatever l_aux was: the next step looks at the selected
point alone, and sums over the points do not depend on their order.

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
    state: State,
    log_weight: LogWeight,
    beta: float | Tensor | Arms,
    generator: torch.Generator,
) -> tuple[State, Info]:
    """One transition of every chain (algorithm 2; with beta = 0 algorithm 1).

    Args:
        state: from `init`, `start` or the last step.
        log_weight: log w, `(..., k, dim) -> (..., k)`, chain by chain.
        beta: correlation in [0, 1): a number, one for each chain `(...)`, or the `Arms` made of it.
        generator: source of all randomness, on the device of the points.

    Returns:
        The new state, whose first point is the retained one, and diagnostics.

    Raises:
        UsageError: beta is a number outside [0, 1).
    """
    matrix, noise = _draw(state, beta, generator)
    point, weight = selected(state)
    new = _propose(point, matrix, noise)
    log_weights = torch.cat([weight, log_weight(new).double()], -1)
    kind: dict[str, Any] = {"dtype": torch.float64, "device": new.device}
    uniform = torch.rand(log_weights.shape[:-1], generator=generator, **kind)
    chosen = pick(torch.softmax(log_weights, -1), uniform)
    moved = chosen != 0
    state = State(torch.cat([point, new], -2), chosen, log_weights)
    return state, Info(moved, torch.zeros_like(moved), new.shape[-2])


def coupled_step(
    pair: Pair,
    log_weight: LogWeight,
    beta: float | Tensor | Arms,
    generator: torch.Generator,
) -> tuple[Pair, Info]:
    """One joint transition (algorithm 3); either chain alone moves as in `step`.

    The chains are joined where both select the same one of the points that they share: only with
    beta = 0, and not the retained points, which differ. They have met one step later, when the
    retained point, too, is one.

    Arguments and errors as in `step`.
    """
    first, second, joined, _ = pair
    matrix, noise = _draw(first, beta, generator)
    (a, a_weight), (b, b_weight) = selected(first), selected(second)
    fresh = matrix is None
    if fresh:  # all other points are shared, and so are their weights
        a_new = b_new = noise
        a_log = b_log = log_weight(noise).double()
    else:
        both = torch.cat([_propose(a, matrix, noise), _propose(b, matrix, noise)], -2)
        a_new, b_new = both.chunk(2, -2)
        a_log, b_log = log_weight(both).double().chunk(2, -1)
    a_log, b_log = torch.cat([a_weight, a_log], -1), torch.cat([b_weight, b_log], -1)
    p, q = torch.softmax(torch.stack([a_log, b_log]), -1)
    i, j = maximal_coupling(p, q, generator)
    j = torch.where(joined, i, j)
    a_points, b_points = torch.cat([a, a_new], -2), torch.cat([b, b_new], -2)
    if not fresh:  # one and the same to the last bit, whatever the order of a product's sums
        b_points = torch.where(joined[..., None, None], a_points, b_points)
        b_log = torch.where(joined[..., None], a_log, b_log)
    moved = i != 0
    touched = (i == j) & moved
    new = Pair(
        State(a_points, i, a_log),
        State(b_points, j, b_log),
        joined | touched if fresh else joined,
        joined,
    )
    return new, Info(moved, touched, noise.shape[-2] * (1 if fresh else 2))


class Arms(NamedTuple):
    """The arms of every l_aux, made once for many steps with the same correlation."""

    table: Tensor  # (..., K, K - 1, K): see `arms`

    @classmethod
    def of(cls, beta: float | Tensor, count: int, like: Tensor) -> Arms:
        """For K = `count` points of the type and device of `like`; beta a number or `(...)`."""
        slots = torch.arange(count, device=like.device)
        b = torch.as_tensor(beta, dtype=like.dtype, device=like.device)
        return cls(arms(slots, b.unsqueeze(-1), count))

    def take(self, rows: Tensor) -> Arms:
        """Of some chains, where there is a table for each."""
        return Arms(self.table[rows]) if self.table.dim() > 3 else self

    def at(self, aux: Tensor) -> Tensor:
        """The matrix of every chain's l_aux, `(..., K - 1, K)`."""
        if self.table.dim() == 3:
            return self.table[aux]
        index = aux[..., None, None, None].expand(*aux.shape, 1, *self.table.shape[-2:])
        return self.table.gather(-3, index).squeeze(-3)


def arms(aux: Tensor, beta: Tensor, count: int) -> Tensor:
    """The matrix A of xi* = A (xi_l, e) of every l_aux `(...)`, `(..., K - 1, K)`.

    Its rows are the slots k other than l_aux, in order; its first column belongs to the retained
    point and has beta^|k - l_aux|. The column of the noise of slot j has
    sqrt(1 - beta^2) beta^|k - j| where j lies on the arm from l_aux to k, and else 0.

    Args:
        aux: l_aux, int64.
        beta: broadcasts against aux.
        count: K.
    """
    rest = torch.arange(count - 1, device=aux.device)
    slots = rest + (rest >= aux.unsqueeze(-1)).long()  # (..., K - 1), without l_aux
    k, j, origin = slots.unsqueeze(-1), slots.unsqueeze(-2), aux[..., None, None]
    b = beta[..., None, None]
    on_arm = (k - j) * (j - origin) >= 0
    noise = torch.where(on_arm, (1 - b * b).sqrt() * b ** (k - j).abs(), 0.0)
    return torch.cat([b ** (k - origin).abs(), noise], -1)


def selected(state: State) -> tuple[Tensor, Tensor]:
    """The selected point `(..., 1, dim)` and its log weight `(..., 1)`."""
    at = state.selected.unsqueeze(-1)
    wide = at.unsqueeze(-1).expand(*at.shape, state.points.shape[-1])
    return state.points.gather(-2, wide), state.log_weights.gather(-1, at)


def _draw(
    state: State, beta: float | Tensor | Arms, generator: torch.Generator
) -> tuple[Tensor | None, Tensor]:
    """The matrix of a drawn l_aux (None: beta = 0), and e of the other slots."""
    x = state.points
    *lead, count, dim = x.shape
    noise = torch.randn(*lead, count - 1, dim, generator=generator, dtype=x.dtype, device=x.device)
    if not isinstance(beta, Tensor | Arms):
        if not 0 <= beta < 1:
            raise UsageError(f"beta={beta!r}: a correlation in [0, 1) is needed")
        if beta == 0:
            return None, noise
    table = beta if isinstance(beta, Arms) else Arms.of(beta, count, x)
    aux = torch.randint(count, tuple(lead), generator=generator, device=x.device)
    return table.at(aux), noise


def _propose(point: Tensor, matrix: Tensor | None, noise: Tensor) -> Tensor:
    """The K - 1 new points, `(..., K - 1, dim)`."""
    if matrix is None:
        return noise
    return matrix[..., :1] * point + matrix[..., 1:] @ noise
