"""The models of the paper's table: their settings and networks (2209.07036, appendix B, its code).

Networks are functions of parameters with a leading row dimension; rows are independent models of
the same method. With the same generators all methods begin with the same features and decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.methods.langevin_autoencoder import Langevin
from lmcnb.methods.langevin_autoencoder_baselines import detached, hoffman, vae, vae_flow
from lmcnb.methods.langevin_autoencoder_fast import Engine, part
from lmcnb.models import planar_flow
from lmcnb.models.discretized_logistic import log_mass, scale_of
from lmcnb.models.gaussian import split
from lmcnb.models.perceptron import Perceptron, orthogonal

Method = Literal["VAE", "VAE-flow", "Hoffman", "LAE"]
PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Training:
    """How one model is trained; the defaults are the paper's on MNIST."""

    method: Method
    """Which of the table's models."""
    epochs: float = 50
    """Passes through the images."""
    batch: int = 100
    """Images a step."""
    learning_rate: float = 1e-4
    """Of plain SGD, on the mean over the batch."""
    width: int = 1024
    """Units of each hidden layer; the features are the last of them."""
    hidden: int = 3
    """Hidden layers of encoder and decoder each."""
    latent: int = 8
    """Dimension of z."""
    levels: int = 256
    """Levels of a pixel."""
    langevin: Langevin = field(default_factory=Langevin)
    """LAE: how Phi moves."""
    refinements: int = 2
    """Hoffman: Langevin steps on z."""
    refinement_step: float = 0.005
    """Hoffman: their step size."""
    flows: int = 3
    """VAE-flow: planar flows."""
    products: str = "float32"
    """Type of the factors of matrix products in training, float32 or bfloat16."""

    def __post_init__(self) -> None:
        least = {"batch": 1, "width": 1, "hidden": 1, "latent": 1, "flows": 1, "levels": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise UsageError(f"{name}={value!r}: an integer of at least {low} is needed")
        if not isinstance(self.langevin, Langevin):
            raise UsageError(f"langevin={self.langevin!r}: Langevin(step_size=…) is needed")
        for name in ("learning_rate", "epochs", "refinement_step"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"{name}={value!r}: a positive number is needed")
        if type(self.refinements) is not int or self.refinements < 0:
            raise UsageError(
                f"refinements={self.refinements!r}: an integer of at least 0 is needed"
            )
        if self.method not in ("VAE", "VAE-flow", "Hoffman", "LAE"):
            raise UsageError(f"method={self.method!r}: VAE, VAE-flow, Hoffman or LAE is needed")
        if self.products not in PRODUCTS:
            raise UsageError(f"products={self.products!r}: {' or '.join(PRODUCTS)} is needed")


class Model:
    """The networks of one method, as functions of its parameters (a leading row dimension)."""

    def __init__(self, t: Training, pixels: int, *, products: str = "float32") -> None:
        """Networks for images of `pixels` values, their products in `products`."""
        kind = None if products == "float32" else PRODUCTS[products]
        hidden = (t.width,) * t.hidden
        self.t, self.pixels = t, pixels
        self.body = Perceptron((pixels, *hidden), None, kind)
        self.decoder = Perceptron((t.latent, *hidden), pixels, kind)
        self.engine = Engine(self.body, self.decoder, t.langevin, t.levels)

    def initial(self, streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Parameters at the start, one row a generator: features and decoder come first."""
        t, device = self.t, streams[0].device
        p = {f"body.{k}": v for k, v in self.body.initial(streams).items()}
        p |= {f"decoder.{k}": v for k, v in self.decoder.initial(streams).items()}
        p["b"] = torch.zeros(len(streams), 1, 1, device=device)
        if t.method == "LAE":
            p["phi"] = torch.stack([orthogonal((t.latent, t.width), g).flatten() for g in streams])
            return p
        p["head.W"] = torch.stack([orthogonal((t.width, 2 * t.latent), g) for g in streams])
        p["head.b"] = torch.zeros(len(streams), 1, 2 * t.latent, device=device)
        if t.method == "VAE-flow":
            flow = planar_flow.initial(t.latent, t.flows, streams)
            p |= {f"flow.{k}": v for k, v in flow.items()}
        return p

    def encode(self, p: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x) `(rows, B, dim)` of the stochastic encoders."""
        h = self.body.forward(part(p, "body"), x)
        return split(h @ p["head.W"] + p["head.b"])

    def log_likelihood(self, p: Mapping[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), `(rows, B)`, for images x and latents z `(rows, B, ·)`."""
        mean = self.decoder.forward(part(p, "decoder"), z)
        return log_mass(x, mean, scale_of(p["b"]), self.t.levels).sum(-1)

    def loss(self, p: Mapping[str, Tensor], x: Tensor, noise: Tensor) -> Tensor:
        """The loss `(rows)` of a baseline, in the graph of its parameters."""

        def likelihood(z: Tensor) -> Tensor:
            return self.log_likelihood(p, x, z)

        mean, std = self.encode(p, x)
        if self.t.method == "VAE":
            return vae(likelihood, mean, std, noise[0])
        if self.t.method == "VAE-flow":
            return vae_flow(likelihood, mean, std, noise[0], part(p, "flow"))
        fixed = detached(p)
        eta = self.t.refinement_step
        return hoffman(
            likelihood, lambda z: self.log_likelihood(fixed, x, z), mean, std, noise, eta
        )
