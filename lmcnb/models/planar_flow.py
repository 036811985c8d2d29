"""Planar flows (Rezende and Mohamed 2015), their parameters shared by all examples.

    z' = z + u tanh(<w, z> + c),    log |det dz'/dz| = log |1 + (1 - tanh^2) <w, u>|

Not guaranteed: that the map is invertible. As in the paper's code u is not constrained; where
<w, u> < -1 the map can fold, and the bound built on it is then not a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def initial(dim: int, depth: int, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Unit-norm w, u `(rows, depth, dim)` and c = 0 `(rows, depth)`, one row a generator."""

    def unit() -> Tensor:
        noise = [torch.randn(depth, dim, generator=g, device=g.device) for g in generators]
        return torch.nn.functional.normalize(torch.stack(noise), dim=-1)

    rows, device = len(generators), generators[0].device
    return {"w": unit(), "u": unit(), "c": torch.zeros(rows, depth, device=device)}


def forward(p: Mapping[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The flowed z `(rows, batch, dim)` and the log-determinant `(rows, batch)`, in nats."""
    log_det = z.new_zeros(z.shape[:-1])
    for k in range(p["w"].shape[1]):
        w, u, c = (p[name][:, k, None] for name in ("w", "u", "c"))
        t = torch.tanh((z * w).sum(-1) + c)
        z = z + t[..., None] * u
        log_det = log_det + torch.log((1 + (1 - t.square()) * (w * u).sum(-1)).abs())
    return z, log_det
