"""Two chains that share their randomness: the state of the pair, and the coupling of indices.

A maximal coupling of two categorical laws p and q makes both indices equal with the largest
possible probability, sum_k min(p_k, q_k), and leaves either with its own law:

    with probability sum min(p, q):  both are one draw, proportional to min(p, q)
    otherwise:                       independent draws, proportional to (p - q)+ and (q - p)+

(2010.01845, algorithm 5.) Guaranteed: marginals and meeting probability, up to rounding in float64;
equal laws always give equal indices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """Two chains and what is known of them; flags come from indices, never from comparing floats.

    `joined` says that all that decides the future is the same in both; the states may still differ
    in what the next step forgets. `met` says that the whole states are the same.
    """

    first: Any  # state of the chain that is ahead
    second: Any
    joined: Tensor  # (...), bool
    met: Tensor  # (...), bool


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """An index with probability proportional to `weights` `(..., n)`, by inversion, `(...)`.

    An entry of weight zero is never picked, unless all are. Weights that are not numbers give 0.

    Args:
        weights: not negative, float64; they need not add to one.
        uniform: in [0, 1), `(...)`.
    """
    cumulative = weights.cumsum(-1)
    passed = cumulative <= (uniform * cumulative[..., -1]).unsqueeze(-1)
    return passed.sum(-1).clamp(max=weights.shape[-1] - 1)


def maximal_coupling(p: Tensor, q: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two indices `(...)`, the first with law p, the second with q, equal as often as can be.

    Args:
        p: probabilities, `(..., n)`, float64.
        q: the same of the second.
        generator: source of all randomness, on the device of p.
    """
    kind: dict[str, Any] = {"dtype": p.dtype, "device": p.device}
    uniform = torch.rand(4, *p.shape[:-1], generator=generator, **kind)
    common = torch.minimum(p, q)
    laws = torch.stack([common, p - common, q - common])
    totals = laws.sum(-1)
    same, first, second = pick(laws, uniform[:3])
    # where the laws are equal up to rounding there is no rest to draw from
    apart = (uniform[3] > totals[0]) & (totals[1:] > 0).all(0)
    return torch.where(apart, first, same), torch.where(apart, second, same)


def joint_probabilities(p: Tensor, q: Tensor) -> Tensor:
    """The law that `maximal_coupling` draws from, `(..., n, n)`; for exact sums."""
    common = torch.minimum(p, q)
    first, second = p - common, q - common
    rest = first.sum(-1)
    scale = torch.where(rest > 0, 1 / rest.clamp(min=torch.finfo(p.dtype).tiny), 0.0)
    apart = first.unsqueeze(-1) * second.unsqueeze(-2) * scale[..., None, None]
    return torch.diag_embed(common) + apart
