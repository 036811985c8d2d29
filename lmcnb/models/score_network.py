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

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    h1 = x + softplus(torch.baddbmm(p["b1"][:, None], x, p["W1"]))
    h2 = h1 + softplus(torch.baddbmm(p["b2"][:, None], h1, p["W2"]))
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
        self.K, self.R, self.N, self.d = steps
        self.n_input, width = n_input, n_input + EMBEDDING

        def empty(last: int) -> Tensor:
            return torch.empty(self.R, self.K * self.N, last, dtype=dtype, device=device)

        self.x, self.a1, self.a2, self.h1, self.h2 = (empty(width) for _ in range(5))
        self.inner, self.down = empty(width), empty(width)
        self.output, self.upstream = empty(n_output), empty(n_output)

    def forward(self, params: Parameters, z: Tensor, u: Tensor | None = None) -> Tensor:
        """s at every bridge, `(bridges, rows, chains, dim)`, from `net.*` entries of `params`."""
        x = self.x.view(self.R, self.K, self.N, -1)
        x[..., : self.d] = z.transpose(0, 1)
        if self.n_input > self.d and u is not None:
            x[..., self.d : self.n_input] = u.transpose(0, 1)
        x[..., self.n_input :] = params["net.embedding"][:, :, None]
        p = {name: params[f"net.{name}"] for name in ("W1", "b1", "W2", "b2", "W3", "b3", "factor")}
        for below, a, above, i in (
            (self.x, self.a1, self.h1, "1"),
            (self.h1, self.a2, self.h2, "2"),
        ):
            torch.baddbmm(p["b" + i][:, None], below, p["W" + i], out=a)
            torch.ops.aten.softplus.out(a, 1, 20, out=above)
            above += below
        torch.baddbmm(p["b3"][:, None], self.h2, p["W3"], out=self.output)
        s = p["factor"][:, None] * self.output
        return s.view(self.R, self.K, self.N, self.d).transpose(0, 1)

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
        up = self.upstream
        up.view(self.R, self.K, self.N, self.d).copy_(sbar.transpose(0, 1))
        gradient["net.factor"][:, 0] = (up * self.output).sum((1, 2))
        up *= params["net.factor"][:, None]
        torch.sum(up, 1, out=gradient["net.b3"])
        torch.bmm(self.h2.mT, up, out=gradient["net.W3"])
        torch.bmm(up, params["net.W3"].mT, out=self.down)
        for below, a, i in ((self.h1, self.a2, "2"), (self.x, self.a1, "1")):
            torch.sigmoid(a, out=self.inner).mul_(self.down)
            torch.sum(self.inner, 1, out=gradient["net.b" + i])
            torch.bmm(below.mT, self.inner, out=gradient["net.W" + i])
            self.down.baddbmm_(self.inner, params["net.W" + i].mT)
        xbar = self.down.view(self.R, self.K, self.N, -1)
        torch.sum(xbar[..., self.n_input :], 2, out=gradient["net.embedding"])
        along = xbar.transpose(0, 1)
        second = along[..., self.d : self.n_input] if self.n_input > self.d else None
        return along[..., : self.d], second
