"""Small perceptrons with SiLU: the encoder and decoder of a conditional variational autoencoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lmcnb.errors import UsageError
from lmcnb.models.encoders import affine, mean_and_std


class Mlp(nn.Module):
    """Linear layers with SiLU between them; weights uniform in +-1/sqrt(inputs)."""

    def __init__(self, sizes: Sequence[int], stream: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(affine(a, b, stream) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., out)` of `(..., in)`."""
        for layer in self.layers[:-1]:
            x = silu(layer(x))
        return self.layers[-1](x)


class Decoder(nn.Module):
    """g(z, c): the mean of x."""

    def __init__(
        self,
        latent: int,
        widths: Sequence[int],
        dim: int,
        stream: torch.Generator,
        *,
        condition: int = 0,
        bounded: bool = False,
    ) -> None:
        """Draw the weights.

        Args:
            latent: dimension of z.
            widths: of the hidden layers.
            dim: of x.
            stream: source of the weights.
            condition: numbers in a condition; 0: none.
            bounded: whether a final tanh keeps the output in (-1, 1).
        """
        super().__init__()
        self.latent, self.condition, self.bounded = latent, condition, bounded
        self.net = Mlp([latent + condition, *widths, dim], stream)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """`(..., dim)` of latents `(..., latent)` and conditions `(..., condition)`."""
        x = self.net(joined(z, c, self.condition))
        return torch.tanh(x) if self.bounded else x


class Posterior(nn.Module):
    """q(z | x, c): a diagonal Gaussian."""

    def __init__(
        self,
        dim: int,
        widths: Sequence[int],
        latent: int,
        stream: torch.Generator,
        *,
        condition: int = 0,
    ) -> None:
        """Draw the weights; arguments as of `Decoder`."""
        super().__init__()
        self.condition = condition
        self.net = Mlp([dim + condition, *widths, 2 * latent], stream)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(..., latent)`."""
        return mean_and_std(self.net(joined(x, c, self.condition)))


def joined(x: Tensor, c: Tensor | None, condition: int) -> Tensor:
    """x `(..., n, dim)` with its conditions `(n, condition)` behind it.

    Raises:
        UsageError: conditions of another shape, lacking, or one too many.
    """
    if c is None and condition == 0:
        return x
    if c is None or condition == 0 or c.shape != (x.shape[-2], condition):
        has = None if c is None else tuple(c.shape)
        needed = f"shape ({x.shape[-2]}, {condition})" if condition else "none"
        raise UsageError(
            f"c: a condition of shape {has}; for x {tuple(x.shape)} {needed} is needed"
        )
    return torch.cat([x, c.expand(*x.shape[:-1], condition)], -1)
