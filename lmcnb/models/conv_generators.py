"""The generators of the released code for 32 x 32 colour images, non-centred (1912.01909).

`FiveLayer` is the network of `train_celeba_five_layers.py`, with any number of layers:

    P(z)      Linear to 1024, GELU, 4 x 16 x 16, transposed convolution to 64 channels, GELU
    D(h)      convolutions 5 and 3, each with GELU, plus h
    h_l = D_l(P_l(u_l)) + h_{l-1},   u_{l+1} = m_l(h_l) + s_l(h_l) z_{l+1}
    g(z) = tanh(T(D(h_L)))           with T a transposed convolution to 32 x 32

`OneLayer` is the transposed-convolution stack that the authors use for one layer on SVHN in later
work. Images are flattened channel first, values in [-1, 1]. Guaranteed for `FiveLayer`, and for
`OneLayer` with GELU: smooth. Not for the original's LeakyReLU, which has no Hessian of use: the
log-determinant refuses it (`kernels.smoothness`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, leaky_relu

from lmcnb.errors import UsageError
from lmcnb.models.encoders import affine, mean_and_std
from lmcnb.models.top_down import Variant, deviation

SIDE, PIXELS = 32, 3 * 32 * 32
HIDDEN = 16  # side of the feature maps


def drawn(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Weights and biases uniform in +-1/sqrt(fan in), torch's own start, from `generator`.

    torch takes the second dimension of a weight for the inputs, also of a transposed convolution.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    bound = (weight.shape[1] * math.prod(weight.shape[2:])) ** -0.5
    for p in layer.parameters():
        nn.init.uniform_(p, -bound, bound, generator=generator)
    return layer


def convolution(
    inputs: int, outputs: int, size: int, padding: int, generator: torch.Generator
) -> nn.Module:
    """A convolution with its weights drawn."""
    made = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=padding)
    return drawn(made, generator)


def transposed(
    inputs: int,
    outputs: int,
    size: int,
    stride: int,
    padding: int,
    generator: torch.Generator,
    *,
    bias: bool = True,
) -> nn.Module:
    """A transposed convolution with its weights drawn."""
    made = nn.utils.skip_init(
        nn.ConvTranspose2d, inputs, outputs, size, stride=stride, padding=padding, bias=bias
    )
    return drawn(made, generator)


class Projection(nn.Module):
    """P: a latent becomes a feature map."""

    def __init__(self, dim: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = affine(dim, 4 * HIDDEN * HIDDEN, generator)
        self.spread = transposed(4, channels, 5, 1, 2, generator, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """`(n, channels, 16, 16)` of `(n, dim)`."""
        return gelu(self.spread(gelu(self.linear(u)).view(-1, 4, HIDDEN, HIDDEN)))


class Deterministic(nn.Module):
    """D: two convolutions and the input."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 5, 2, generator)
        self.second = convolution(channels, channels, 3, 1, generator)

    def forward(self, h: Tensor) -> Tensor:
        """The same shape."""
        return h + gelu(self.second(gelu(self.first(h))))


class Head(nn.Module):
    """A convolution without padding and a linear map: one number a latent dimension."""

    def __init__(self, channels: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        side = HIDDEN - 4
        self.convolution = convolution(channels, dim, 5, 0, generator)
        self.linear = affine(dim * side * side, dim, generator)

    def forward(self, h: Tensor) -> Tensor:
        """`(n, dim)`."""
        return self.linear(gelu(self.convolution(h)).flatten(1))


class Stochastic(nn.Module):
    """u = m(h) + s(h) z."""

    def __init__(
        self, channels: int, dim: int, variant: Variant, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.variant: Variant = variant
        self.mean, self.raw = (Head(channels, dim, generator) for _ in range(2))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of u given the features above, `(n, dim)` each."""
        return self.mean(h), deviation(self.raw(h), self.variant)[0]


class FiveLayer(nn.Module):
    """The released network; `latent` lists the dimensions of the layers, from the top."""

    pixels = PIXELS

    def __init__(
        self,
        generator: torch.Generator,
        latent: Sequence[int] = (64, 64, 64, 96, 128),
        channels: int = 64,
        *,
        variant: Variant = "gaussian",
    ) -> None:
        """Weights as torch starts them, drawn from `generator`.

        Args:
            generator: source of the weights.
            latent: dimensions of z_1 ... z_L.
            channels: of the feature maps.
            variant: "gaussian": log variances free within (-6, 4); "wide": the code's, whose
                standard deviations are at least 1.
        """
        super().__init__()
        sizes = (*latent, channels)
        if not latent or any(type(n) is not int or n < 1 for n in sizes):
            raise UsageError(
                f"latent={latent!r}, channels={channels!r}: integers of at least 1 are needed, and "
                "at least one layer"
            )
        if variant not in ("gaussian", "wide"):
            raise UsageError(f"variant={variant!r}: gaussian or wide is needed")
        self.latent, self.dim, self.variant = tuple(latent), sum(latent), variant
        self.project = nn.ModuleList(Projection(d, channels, generator) for d in latent)
        self.deterministic = nn.ModuleList(Deterministic(channels, generator) for _ in latent)
        self.stochastic = nn.ModuleList(
            Stochastic(channels, d, variant, generator) for d in latent[1:]
        )
        self.last = Deterministic(channels, generator)
        self.out = transposed(channels, 3, 4, 2, 1, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Images `(..., 3072)` of noise `(..., dim)`."""
        flat = z.reshape(-1, self.dim)
        h: Tensor | None = None
        for i, own in enumerate(flat.split(self.latent, -1)):
            u = own
            if h is not None:
                mean, std = self.conditional(i, h)
                u = mean + std * own
            h = self.feature(i, u, h)
        assert h is not None
        return self.image(h).reshape(*z.shape[:-1], PIXELS)

    def feature(self, i: int, u: Tensor, above: Tensor | None) -> Tensor:
        """h of layer i (from 0) from its latent u and the features above."""
        h = self.deterministic[i](self.project[i](u))
        return h if above is None else h + above

    def conditional(self, i: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent u of layer i given the features above."""
        return self.stochastic[i - 1](h)

    def image(self, h: Tensor) -> Tensor:
        """Images `(n, 3072)` of the last features."""
        return torch.tanh(self.out(self.last(h))).flatten(1)


class OneLayer(nn.Module):
    """Transposed convolutions 4-8-16-32 from one latent."""

    pixels = PIXELS

    def __init__(
        self,
        generator: torch.Generator,
        dim: int = 100,
        channels: int = 128,
        *,
        activation: Literal["gelu", "leaky_relu"] = "gelu",
    ) -> None:
        """Weights as torch starts them, drawn from `generator`.

        Args:
            generator: source of the weights.
            dim: of z.
            channels: of the last hidden layer; 128 in the original.
            activation: "leaky_relu" (0.2) is the original's, "gelu" its smooth stand-in.
        """
        super().__init__()
        if activation not in ("gelu", "leaky_relu"):
            raise UsageError(f"activation={activation!r}: gelu or leaky_relu is needed")
        if any(type(n) is not int or n < 1 for n in (dim, channels)):
            raise UsageError(f"dim={dim!r}, channels={channels!r}: integers of at least 1")
        self.latent, self.dim, self.activation = (dim,), dim, activation
        self.layers = nn.ModuleList(
            [
                transposed(dim, 4 * channels, 4, 1, 0, generator),
                transposed(4 * channels, 2 * channels, 4, 2, 1, generator),
                transposed(2 * channels, channels, 4, 2, 1, generator),
            ]
        )
        self.out = transposed(channels, 3, 4, 2, 1, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Images `(..., 3072)` of noise `(..., dim)`."""
        h = z.reshape(-1, self.dim, 1, 1)
        for layer in self.layers:
            h = layer(h)
            h = gelu(h) if self.activation == "gelu" else leaky_relu(h, 0.2)
        return torch.tanh(self.out(h)).reshape(*z.shape[:-1], PIXELS)


class ConvEncoder(nn.Module):
    """q(z | x) of 32 x 32 colour images: strided convolutions, then mean and log variance."""

    def __init__(self, dim: int, generator: torch.Generator, channels: int = 64) -> None:
        super().__init__()
        widths = (3, channels, 2 * channels, 4 * channels)
        self.layers = nn.ModuleList(
            drawn(nn.utils.skip_init(nn.Conv2d, a, b, 4, stride=2, padding=1), generator)
            for a, b in itertools.pairwise(widths)
        )
        self.head = affine(4 * channels * 16, 2 * dim, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(n, dim)`, of images `(n, 3072)`."""
        h = x.view(-1, 3, SIDE, SIDE)
        for layer in self.layers:
            h = gelu(layer(h))
        return mean_and_std(self.head(h.flatten(1)))


class ConvLadderEncoder(nn.Module):
    """The upward pass of a ladder VAE for `FiveLayer`, of the same blocks."""

    def __init__(
        self, latent: Sequence[int], generator: torch.Generator, channels: int = 64
    ) -> None:
        super().__init__()
        first = nn.utils.skip_init(nn.Conv2d, 3, channels, 4, stride=2, padding=1)
        self.first = drawn(first, generator)
        self.up = nn.ModuleList(Deterministic(channels, generator) for _ in latent)
        self.head = nn.ModuleList(Head(channels, 2 * d, generator) for d in latent)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of every layer's term, from the top to the bottom."""
        h = gelu(self.first(x.view(-1, 3, SIDE, SIDE)))
        found: list[tuple[Tensor, Tensor]] = []
        for up, head in zip(self.up, reversed(self.head), strict=True):
            h = up(h)
            found.append(mean_and_std(head(h)))
        return found[::-1]
