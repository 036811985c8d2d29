"""Choosing the step size of a short-run chain: the least J(s), by grid or by gradient (1912.01909).

Every candidate sees the same z_0 and the same noise (common random numbers), so that differences of
J are far less noisy than J. Guaranteed: no step size is returned at which J is unusable. Not
guaranteed: a minimum. J may fall to the largest step size that is still injective, and then that is
what is returned; `Search.visited` tells. The paper names grid search and gradient descent, and no
details: grid, guard, optimizer and starts are ours.
Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity
from lmcnb.methods.short_run import (
    Objective,
    Transport,
    half_square,
    log_density_gap,
    objective,
    require_exact,
    transport,
)


class Search(NamedTuple):
    """A step size, and how it was found."""

    step_size: float | list[float] | None  # None: no usable one was seen
    visited: list[Objective]


def grid_search(
    log_joint: LogDensity, z: Tensor, grid: Sequence[float], steps: int, noise: Tensor | None
) -> Search:
    """The step size of `grid` with the least J, all with the same z_0 and noise."""
    return best([objective(log_joint, z, s, steps, noise) for s in checked_grid(grid)])


def checked_grid(grid: Sequence[float]) -> list[float]:
    """The step sizes of a grid as numbers.

    Raises:
        UsageError: it is empty, or holds something else than positive numbers.
    """
    values = [s.item() if hasattr(s, "item") else s for s in grid]
    if not values:
        raise UsageError("grid: at least one step size is needed")
    for s in values:
        try:
            half_square(s)
        except UsageError as error:
            raise UsageError(f"grid={values!r}: {error}") from None
    return values


def best(visited: list[Objective]) -> Search:
    """The step size of the least usable value."""
    usable = [o for o in visited if o.value is not None]
    if not usable:
        return Search(None, visited)
    return Search(min(usable, key=_value).step_size, visited)


def _value(o: Objective) -> float:
    return math.nan if o.value is None else o.value


def _allowed(o: Objective, guard: float) -> bool:
    """Whether J is a number and every step injective."""
    return math.isfinite(_value(o)) and o.smallest >= guard


class PastGuard(UsageError):
    """The gradient search cannot start where it was told to."""


def gradient_search(
    log_joint: LogDensity,
    z: Tensor,
    start: float | Sequence[float],
    steps: int,
    noise: Tensor | None,
    *,
    learning_rate: float = 0.05,
    iterations: int = 40,
    guard: float = 0.05,
    layers: Sequence[int] | None = None,
) -> Search:
    """Minimize J over log s by Adam, with one fixed z_0 and noise; the least J visited wins.

    Past the injective steps the gradient is huge and means nothing. A move to a step size at which
    an eigenvalue of a step's Jacobian falls below `guard` is therefore taken back by half (in
    log s) until it does not. Start from a small step. An iteration costs three to four times what
    `objective` does; a few dozen chains of some images are enough, for they stay the same.

    Args:
        log_joint: as in `states`.
        z: z_0, `(n, dim)`, float64.
        start: s, or one for every layer.
        steps: K.
        noise: as in `states`.
        learning_rate: of Adam, on log s.
        iterations: of Adam.
        guard: the least eigenvalue allowed, in (0, 1).
        layers: the dimension of every layer, for a step size each; None: one step size.

    Raises:
        PastGuard: `start` is already past the guard.
        UsageError: the density has kinks, or arguments do not fit each other.
    """
    require_exact(log_joint, z)
    if not 0 < guard < 1:
        raise UsageError(f"guard={guard!r}: a number between 0 and 1 is needed")
    if type(iterations) is not int or iterations < 0:
        raise UsageError(f"iterations={iterations!r}: an integer of at least 0 is needed")
    if layers is not None and sum(layers) != z.shape[-1]:
        raise UsageError(f"layers={layers!r}: {sum(layers)} dimensions, z has {z.shape[-1]}")
    values = torch.as_tensor(start, dtype=z.dtype, device=z.device)
    half_square(values)
    sizes = None if layers is None else torch.tensor(list(layers), device=z.device)
    if sizes is not None and values.dim() == 0:
        values = values.expand(len(sizes))
    if values.shape != (() if sizes is None else sizes.shape):
        raise UsageError(f"start={start!r}: one number, or one for every one of layers={layers!r}")
    rho = values.log().clone()
    adam = torch.optim.Adam([rho], lr=learning_rate)

    def spread(log_s: Tensor) -> Tensor:
        s = log_s.exp()
        return s if sizes is None else s.repeat_interleave(sizes)

    def value(log_s: Tensor) -> tuple[Tensor, Transport]:
        t = transport(log_joint, z, spread(log_s), steps, noise)
        return log_density_gap(t, z).mean(), t

    visited: list[Objective] = []
    before: Tensor | None = None
    for _ in range(iterations + 1):
        gradient, seen = _derivatives(value, rho)
        while seen is None or not _allowed(seen, guard):
            if before is None:
                smallest = math.nan if seen is None else seen.smallest
                raise PastGuard(
                    f"start={start!r}: an eigenvalue of a step's Jacobian is {smallest:.3g} "
                    f"there, below guard={guard}; start from a smaller step"
                )
            rho.copy_(0.5 * (rho + before))
            gradient, seen = _derivatives(value, rho)
        visited.append(seen)
        before = rho.clone()
        rho.grad = gradient
        adam.step()
    return best(visited)


@torch.no_grad()  # of the generator's parameters; forward mode does not mind
def _derivatives(
    value: Callable[[Tensor], tuple[Tensor, Transport]], rho: Tensor
) -> tuple[Tensor, Objective | None]:
    """dJ / d log s by forward mode, and J, at rho = log s; None where s is no number."""
    gradient = torch.zeros_like(rho)
    s = rho.exp()
    if not bool((torch.isfinite(s) & (s > 0)).all()):
        return gradient, None
    directions = torch.eye(max(1, rho.numel()), dtype=rho.dtype, device=rho.device)
    for i, direction in enumerate(directions):
        j, slope, t = torch.func.jvp(  # type: ignore[misc]
            value, (rho,), (direction.view(rho.shape),), has_aux=True
        )
        gradient.view(-1)[i] = slope
    own = Objective(
        s.tolist(),
        float(j.detach()),
        None,
        float(t.log_det.mean()),
        float(t.smallest),
        float(t.largest),
        float(t.negative),
        None,
    )
    return gradient, own
