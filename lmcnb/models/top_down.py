"""Top-down generators of one latent layer or many, non-centred (1912.01909; layout of its code).

    z = (z_1 ... z_L) ~ N(0, I),   u_1 = z_1,   u_{l+1} = m_l(h_l) + s_l(h_l) z_{l+1}
    a_l = gelu(P_l u_l),   h_l = a_l + gelu(D_l a_l) + h_{l-1},   h_0 = 0
    g(z) = tanh(O h_L)

Every latent is standard normal noise, and the image a deterministic map of all of it, so that the
prior's score is -z for every layer. The released network with its convolutions is
`models.conv_generators`; this one has linear maps P, D, O, m and log s^2 of one width.
Guaranteed: smooth (GELU, tanh, a soft bound on the log variance), so that a Langevin step has a
Jacobian everywhere. Its derivatives by hand stand in `models.top_down_fast`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from lmcnb.errors import UsageError
from lmcnb.models.encoders import affine

Variant = Literal["gaussian", "wide", "ladder"]
CENTRE, REACH = -1.0, 5.0  # the log variance stays within (-6, 4)


class TopDown(nn.Module):
    """The network; `latent` lists the dimensions of the layers, from the top to the bottom."""

    def __init__(
        self,
        latent: Sequence[int],
        pixels: int,
        width: int,
        generator: torch.Generator,
        *,
        variant: Variant = "gaussian",
    ) -> None:
        """Weights and biases uniform in +-1/sqrt(inputs), drawn from `generator`.

        Args:
            latent: dimensions of z_1 ... z_L.
            pixels: values of an image.
            width: units of every h_l.
            generator: source of the weights.
            variant: of the stochastic layers: "gaussian", its log variance free within (-6, 4);
                "wide", the released code's, whose standard deviation is at least 1; "ladder", the
                code's other one, u = gelu(C [m(h), z]).
        """
        super().__init__()
        sizes = (*latent, pixels, width)
        if not latent or any(type(n) is not int or n < 1 for n in sizes):
            raise UsageError(
                f"latent={latent!r}, pixels={pixels!r}, width={width!r}: integers of at least 1 "
                "are needed, and at least one layer"
            )
        if variant not in ("gaussian", "wide", "ladder"):
            raise UsageError(f"variant={variant!r}: gaussian, wide or ladder is needed")
        self.latent, self.pixels, self.width = tuple(latent), pixels, width
        self.variant: Variant = variant
        self.dim = sum(latent)
        below = latent[1:]
        ladder = variant == "ladder"

        def layer(inputs: int, outputs: int) -> nn.Linear:
            return affine(inputs, outputs, generator)

        self.project = nn.ModuleList(layer(d, width) for d in latent)
        self.deterministic = nn.ModuleList(layer(width, width) for _ in latent)
        self.out = layer(width, pixels)
        self.head = nn.ModuleList(layer(width, d if ladder else 2 * d) for d in below)
        self.mix = nn.ModuleList(layer(2 * d, d) for d in below if ladder)

    def forward(self, z: Tensor) -> Tensor:
        """Images `(..., pixels)` in [-1, 1] of noise `(..., dim)`, in the graph of both."""
        h: Tensor | None = None
        for i, own in enumerate(z.split(self.latent, -1)):
            u = own if h is None else self.below(i, h, own)
            h = self.feature(i, u, h)
        assert h is not None
        return self.image(h)

    def image(self, h: Tensor) -> Tensor:
        """Images `(..., pixels)` of the last features."""
        return torch.tanh(self.out(h))

    def feature(self, i: int, u: Tensor, above: Tensor | None) -> Tensor:
        """h of layer i (from 0) from its latent u and the features above."""
        a = gelu(self.project[i](u))
        h = a + gelu(self.deterministic[i](a))
        return h if above is None else h + above

    def below(self, i: int, h: Tensor, z: Tensor) -> Tensor:
        """The latent u of layer i from the features above it and its noise."""
        if self.variant == "ladder":
            return gelu(self.mix[i - 1](torch.cat([self.head[i - 1](h), z], -1)))
        mean, std = self.conditional(i, h)
        return mean + std * z

    def conditional(self, i: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent u of layer i given the features above."""
        mean, raw = self.head[i - 1](h).chunk(2, -1)
        return mean, deviation(raw, self.variant)[0]


def deviation(raw: Tensor, variant: Variant) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation of a stochastic layer, with its first and second derivative in `raw`."""
    if variant == "wide":  # half the log variance, and its derivatives
        first = 0.5 * torch.sigmoid(raw)
        value, second = 0.5 * softplus(raw), first * (1 - 2 * first)
    else:
        bent = torch.tanh((raw - CENTRE) / REACH)
        value, first = bent * (0.5 * REACH) + 0.5 * CENTRE, 0.5 - 0.5 * bent.square()
        second = -2 / REACH * bent * first
    std = torch.exp(value)
    return std, first * std, (second + first.square()) * std
