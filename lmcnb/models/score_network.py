"""The score network of Langevin diffusion VI: two residual softplus blocks and a linear layer.

    x = [input, embedding_k],   h1 = x + softplus(x W1 + b1),   h2 = h1 + softplus(h1 W2 + b2),
    s = factor * (h2 W3 + b3)                                   (2208.07743, section 5; code)

`factor` starts at 0, so the network starts as the zero function and only `factor` has a gradient.
Parameters are a plain dict of tensors with one leading row dimension (independent networks).
`Network.backward` is the hand-written reverse of `Network.forward`; a test holds it to autograd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

softplus_into = torch.ops.aten.softplus.out  # softplus(x, beta, threshold, out=...)
THRESHOLD = 40  # above it softplus is the identity, in float64 as well; torch's default 20 is not
EMBEDDING = 20  # width of the learned embedding of the bridge index

Parameters = Mapping[str, Tensor]


def shapes(n_input: int, n_output: int, bridges: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one network's parameters; `n_input` counts the state only, not the embedding."""
    width = n_input + EMBEDDING
    return {
        "embedding": (bridges, EMBEDDING),
        "W1": (width, width),
        "b1": (width,),
        "W2": (width, width),
        "b2": (width,),
        "W3": (width, n_output),
        "b3": (n_output,),
        "factor": (1,),
    }


def initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Initial value of one parameter, float32, on the generator's device (code of the paper).

    Glorot normal weights, biases 0.01 N(0, 1), embeddings 0.05 N(0, 1), factor 0.
    """
    if name == "factor":
        return torch.zeros(shape, device=generator.device)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if name.startswith("W"):
        return noise * math.sqrt(2.0 / (shape[0] + shape[1]))
    return noise * (0.05 if name == "embedding" else 0.01)


def forward(p: Parameters, x: Tensor) -> Tensor:
    """Output `(rows, batch, dim)` for inputs `x` `(rows, batch, width)`, embedding included."""
    h1 = x + softplus(torch.baddbmm(p["b1"][:, None], x, p["W1"]), threshold=THRESHOLD)
    h2 = h1 + softplus(torch.baddbmm(p["b2"][:, None], h1, p["W2"]), threshold=THRESHOLD)
    return p["factor"][:, None] * torch.baddbmm(p["b3"][:, None], h2, p["W3"])


class Network:
    """The same function at all bridges at once, in buffers made once, with its reverse.

    Args:
        n_input: width of the inputs without the embedding.
        n_output: d.
        steps: `(bridges, rows, chains, dim)`, the shape of the states it is given.
        dtype: of buffers.
        device: of buffers.
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        steps: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        K, R, N, d = steps
        width = n_input + EMBEDDING

        def empty(last: int) -> Tensor:
            return torch.zeros(R, K * N, last, dtype=dtype, device=device)

        def by_bridge(whole: Tensor, start: int, stop: int) -> Tensor:
            """Columns of a buffer as `(bridges, rows, chains, stop - start)`."""
            return whole.view(R, K, N, -1)[..., start:stop].transpose(0, 1)

        self.x, self.a1, self.a2, self.h1, self.h2 = (empty(width) for _ in range(5))
        self.inner, self.down = empty(width), empty(width)
        self.raw, self.up = empty(d), empty(d)
        self.s = torch.zeros(steps, dtype=dtype, device=device)
        # where z, u and the embedding stand in x, and their derivatives in down
        edges = [0, d, n_input, width]
        self.parts, self.bars = (
            [by_bridge(whole, *edge) for edge in pairwise(edges)] for whole in (self.x, self.down)
        )
        self.raw_, self.up_ = by_bridge(self.raw, 0, d), by_bridge(self.up, 0, d)
        self.sees_u = n_input > d

    def forward(self, params: Parameters, z: Tensor, u: Tensor | None = None) -> Tensor:
        """s at every bridge, `(bridges, rows, chains, dim)`, from `net.*` entries of `params`."""

        def layer(i: str, below: Tensor, out: Tensor) -> Tensor:
            return torch.baddbmm(params["net.b" + i][:, None], below, params["net.W" + i], out=out)

        self.parts[0].copy_(z)
        if self.sees_u and u is not None:
            self.parts[1].copy_(u)
        self.parts[2].copy_(params["net.embedding"].transpose(0, 1)[:, :, None])
        softplus_into(layer("1", self.x, self.a1), 1, THRESHOLD, out=self.h1).add_(self.x)
        softplus_into(layer("2", self.h1, self.a2), 1, THRESHOLD, out=self.h2).add_(self.h1)
        layer("3", self.h2, self.raw)
        return torch.mul(self.raw_, params["net.factor"][:, :, None], out=self.s)

    def backward(
        self, params: Parameters, sbar: Tensor, gradient: Parameters
    ) -> tuple[Tensor, Tensor | None]:
        """Reverse of `forward`: writes the gradients of all parameters into `gradient`.

        Args:
            params: as in `forward`.
            sbar: derivative of the loss in s, `(bridges, rows, chains, dim)`.
            gradient: buffers shaped as `params`; the `net.*` entries are overwritten.

        Returns:
            Derivatives in z and, if the network sees it, in u, each shaped as `sbar`.
        """
        torch.mul(sbar, self.raw_, out=self.up_)
        gradient["net.factor"].copy_(self.up.sum((1, 2))[:, None])
        torch.mul(sbar, params["net.factor"][:, :, None], out=self.up_)
        torch.sum(self.up, 1, out=gradient["net.b3"])
        torch.bmm(self.h2.mT, self.up, out=gradient["net.W3"])
        torch.bmm(self.up, params["net.W3"].mT, out=self.down)
        for below, a, i in ((self.h1, self.a2, "2"), (self.x, self.a1, "1")):
            torch.sigmoid(a, out=self.inner).mul_(self.down)
            torch.sum(self.inner, 1, out=gradient["net.b" + i])
            torch.bmm(below.mT, self.inner, out=gradient["net.W" + i])
            self.down.baddbmm_(self.inner, params["net.W" + i].mT)
        torch.sum(self.bars[2].transpose(0, 1), 2, out=gradient["net.embedding"])
        return self.bars[0], self.bars[1] if self.sees_u else None
