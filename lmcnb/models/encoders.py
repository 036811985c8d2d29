"""Inference networks of variational autoencoders: Gaussian posteriors from an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

LEAST, MOST = -10.0, 10.0  # bounds of a log variance


def affine(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, weights and biases uniform in +-1/sqrt(inputs), drawn from `generator`."""
    made = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for p in made.parameters():
        nn.init.uniform_(p, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return made


def mean_and_std(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from `(..., 2 dim)`: mean and log variance."""
    mean, log_variance = output.chunk(2, -1)
    return mean, torch.exp(0.5 * log_variance.clamp(LEAST, MOST))


class Encoder(nn.Module):
    """q(z | x): two hidden layers, then mean and log variance of a diagonal Gaussian."""

    def __init__(self, pixels: int, width: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = affine(pixels, width, generator)
        self.second = affine(width, width, generator)
        self.head = affine(width, 2 * dim, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(n, dim)`, of images `(n, pixels)`."""
        return mean_and_std(self.head(gelu(self.second(gelu(self.first(x))))))


class LadderEncoder(nn.Module):
    """The deterministic upward pass of a ladder VAE (1602.02282): a Gaussian term for each layer.

    Features rise from the image; the layer next to the image takes the first, the top the last.
    """

    def __init__(
        self, pixels: int, width: int, latent: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        inputs = [pixels] + [width] * (2 * len(latent) - 1)
        self.up = nn.ModuleList(affine(n, width, generator) for n in inputs)
        self.head = nn.ModuleList(affine(width, 2 * d, generator) for d in latent)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of every layer's term, from the top to the bottom."""
        found: list[tuple[Tensor, Tensor]] = []
        for i, head in enumerate(reversed(self.head)):
            x = gelu(self.up[2 * i + 1](gelu(self.up[2 * i](x))))
            found.append(mean_and_std(head(x)))
        return found[::-1]
