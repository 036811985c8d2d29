"""What is trained for short-run inference: the settings of one generator, and its networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lmcnb.errors import UsageError
from lmcnb.methods.short_run_search import checked_grid
from lmcnb.models.conv_generators import (
    PIXELS,
    ConvEncoder,
    ConvLadderEncoder,
    FiveLayer,
    OneLayer,
)
from lmcnb.models.encoders import Encoder, LadderEncoder
from lmcnb.models.top_down import TopDown, Variant

Method = Literal["SRI", "ABP", "VAE", "LVAE"]
COUNTS = {"width": 1, "batch": 1, "steps": 1, "search_images": 1, "search_iterations": 1}
COUNTS |= {"search_chains": 2}
POSITIVE = ["sigma", "epochs", "learning_rate", "step_size", "search_every", "search_start"]
POSITIVE += ["search_rate"]


@dataclass(frozen=True)
class Training:
    """How one generator is trained."""

    method: Method = "SRI"
    """Which of the models."""
    latent: tuple[int, ...] = (16,)
    """Dimensions of the layers, from the top."""
    network: Literal["mlp", "conv"] = "mlp"
    """The generator: `TopDown`, or for 32 x 32 x 3 images that of the released code."""
    width: int = 128
    """Units of the generator's and the encoder's layers."""
    variant: Variant = "gaussian"
    """Of the stochastic layers."""
    sigma: float = 0.3
    """Standard deviation of a pixel's noise."""
    epochs: float = 60
    """Passes through the images."""
    batch: int = 100
    """Images an update."""
    learning_rate: float = 1e-3
    """Of Adam, at the start."""
    first_beta: float = 0.5
    """Adam's first beta of SRI and ABP; the autoencoders have 0.9."""
    decay: tuple[tuple[float, float], ...] = ((0.6, 0.3), (0.85, 0.1))
    """From these shares of training on, the learning rate is this factor of its start."""
    steps: int = 25
    """K: Langevin steps."""
    step_size: float = 0.2
    """s: fixed, or at the start."""
    noisy: bool = True
    """Whether the chain has noise."""
    search: Literal["none", "grid", "gradient", "marginal"] = "none"
    """How the step size is chosen: least J by grid or gradient, least marginal bound by grid."""
    search_from: float = 10
    """Epochs before it is chosen first."""
    search_every: float = 5
    """Epochs between choices."""
    search_images: int = 64
    """Training images on which it is chosen."""
    grid: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2)
    """Step sizes of the grid; the marginal bound takes their doubles."""
    search_chains: int = 64
    """Chains an image of the marginal bound."""
    search_start: float = 0.05
    """Where the gradient search starts first: small; later a fifth below the present s."""
    search_rate: float = 0.1
    """Of its Adam, on log s."""
    search_iterations: int = 16
    """Of its Adam."""

    def __post_init__(self) -> None:
        if self.method not in ("SRI", "ABP", "VAE", "LVAE"):
            raise UsageError(f"method={self.method!r}: SRI, ABP, VAE or LVAE is needed")
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name}={value!r}: an integer of at least {least} is needed")
        for name in POSITIVE:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"{name}={value!r}: a positive number is needed")
        if not 0 <= self.search_from < math.inf:
            raise UsageError(f"search_from={self.search_from!r}: at least 0 epochs are needed")
        if not 0 <= self.first_beta < 1:
            raise UsageError(f"first_beta={self.first_beta!r}: a number in [0, 1) is needed")
        if self.network not in ("mlp", "conv"):
            raise UsageError(f"network={self.network!r}: mlp or conv is needed")
        if not self.latent:
            raise UsageError("latent=(): the dimension of at least one layer is needed")
        if any(not (0 <= share <= 1 and factor > 0) for share, factor in self.decay):
            raise UsageError(f"decay={self.decay!r}: pairs of a share in [0, 1] and a factor > 0")
        checked_grid(self.grid)
        if self.search not in ("none", "grid", "gradient", "marginal"):
            raise UsageError(f"search={self.search!r}: none, grid, gradient or marginal is needed")
        if self.search == "marginal" and not self.noisy:
            raise UsageError("search='marginal', noisy=False: the marginal bound needs noise")
        if self.search != "none" and self.method != "SRI":
            raise UsageError(
                f"search={self.search!r}: only SRI's step size can be chosen; a persistent chain "
                "does not start from the prior, and an autoencoder has none"
            )

    @property
    def dim(self) -> int:
        """Of all layers' noise together."""
        return sum(self.latent)


def networks(
    t: Training, pixels: int, stream: torch.Generator
) -> tuple[nn.Module, nn.Module | None]:
    """Generator and encoder (None without one) for images of `pixels` values.

    Raises:
        UsageError: a combination that there is not.
    """
    if t.network == "conv":
        one = len(t.latent) == 1
        if pixels != PIXELS or t.variant == "ladder" or (one and t.method == "LVAE"):
            raise UsageError(
                f"network='conv' has images of {PIXELS} values, layers gaussian or wide, and for "
                f"an LVAE two layers or more; here {pixels}, {t.variant}, {len(t.latent)}"
            )
        if one:
            conv: nn.Module = OneLayer(stream, t.dim, 2 * t.width)
        else:
            conv = FiveLayer(stream, t.latent, t.width, variant=t.variant)
        if t.method == "LVAE":
            return conv, ConvLadderEncoder(t.latent, stream, t.width)
        return conv, ConvEncoder(t.dim, stream) if t.method == "VAE" else None
    generator = TopDown(t.latent, pixels, t.width, stream, variant=t.variant)
    if t.method == "VAE":
        return generator, Encoder(pixels, t.width, t.dim, stream)
    if t.method == "LVAE":
        return generator, LadderEncoder(pixels, t.width, t.latent, stream)
    return generator, None
