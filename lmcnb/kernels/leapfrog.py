"""The leapfrog step of Hamiltonian dynamics with unit mass.

Guaranteed: the map is a volume-preserving bijection; flipping the momentum, stepping again and
flipping once more returns to the start (to rounding). Not guaranteed: conservation of energy,
which holds only to O(step_size^2); used without a Metropolis test it leaves a bias.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def leapfrog(
    position: Tensor,
    momentum: Tensor,
    step_size: Tensor | float,
    score: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """One step for U = -log density, `score` its negative gradient (2208.07743, Algorithm 3).

        h  = rho + (eps/2) score(z)
        z' = z + eps h
        rho' = h + (eps/2) score(z')

    Args:
        position: z, `(..., dim)`.
        momentum: rho, `(..., dim)`.
        step_size: eps, a number or a tensor that broadcasts.
        score: callable `(..., dim) -> (..., dim)`.

    Returns:
        The new position and momentum.
    """
    half = momentum + 0.5 * step_size * score(position)
    new_position = position + step_size * half
    return new_position, half + 0.5 * step_size * score(new_position)
