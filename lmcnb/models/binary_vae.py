"""A variational autoencoder of binary images (2010.01845, section 5.2): perceptrons both ways.

    p(z) = N(0, I),   p(x | z) = prod_i Bernoulli(x_i; sigmoid(l_i(z)))
    q(z | x) = N(mean(x), diag std(x)^2),   std = softplus(.) + 1e-4

Parameters are a dict of tensors with a leading dimension of runs (independent models), weights
`(runs, in, out)`; `decoder.*` and `encoder.*`. The evidence is in nats an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lmcnb.errors import UsageError
from lmcnb.models.perceptron import product

Parameters = Mapping[str, Tensor]
FLOOR = 1e-4  # of a standard deviation
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


@dataclass(frozen=True)
class BinaryVAE:
    """The architecture; parameters are given to each function."""

    pixels: int
    """Of an image."""
    latent: int = 20
    """Dimension D of z."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the decoder's hidden layers from z to x, and of the encoder's from x to z."""
    activation: str = "relu"
    """relu or tanh."""

    def __post_init__(self) -> None:
        for name, sizes in (("pixels", (self.pixels,)), ("latent", (self.latent,))):
            if any(type(n) is not int or n < 1 for n in sizes):
                raise UsageError(f"{name}={sizes[0]!r}: an integer of at least 1 is needed")
        if not self.hidden or any(type(n) is not int or n < 1 for n in self.hidden):
            raise UsageError(f"hidden={self.hidden!r}: at least one width of at least 1 is needed")
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"activation={self.activation!r}: relu or tanh is needed")

    def initial(self, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One model a generator: uniform in +-sqrt(6 / (in + out)) (Glorot), biases zero."""
        p: dict[str, Tensor] = {}
        for part, sizes in (
            ("decoder", (self.latent, *self.hidden, self.pixels)),
            ("encoder", (self.pixels, *reversed(self.hidden), 2 * self.latent)),
        ):
            for layer, (a, b) in enumerate(itertools.pairwise(sizes)):
                limit = (6 / (a + b)) ** 0.5
                draws = [torch.rand(a, b, generator=g, device=g.device) for g in generators]
                p[f"{part}.W{layer}"] = (2 * torch.stack(draws) - 1) * limit
                p[f"{part}.b{layer}"] = torch.zeros(len(generators), 1, b, device=draws[0].device)
        return p

    def encode(self, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q, `(runs, n, latent)`, of images `(runs, n, pixels)`."""
        mean, raw = self._stack(p, "encoder", x)[1].chunk(2, -1)
        return mean, softplus(raw) + FLOOR

    def logits(self, p: Parameters, z: Tensor) -> Tensor:
        """l, `(runs, n, pixels)`, of latents `(runs, n, latent)`."""
        return self._stack(p, "decoder", z)[1]

    def log_likelihood(self, p: Parameters, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) of every latent with its image, `(runs, n, k)`, in the graph of all.

        sum_i x_i l_i is taken through the last weights, x W^T, once an image; l only for its
        softplus.

        Args:
            p: parameters.
            x: images of 0 and 1, `(runs, n, pixels)`.
            z: latents, `(runs, n, k, latent)`.
        """
        return self.likelihood_of(p, self.projected(p, x), z)

    def projected(self, p: Parameters, x: Tensor) -> Tensor:
        """x W^T and x . b of the decoder's last layer, `(runs, n, width + 1)`."""
        last = len(self.hidden)
        W, b = p[f"decoder.W{last}"], p[f"decoder.b{last}"]
        return torch.cat([product(x, W.mT), product(x, b.mT)], -1)

    def likelihood_of(self, p: Parameters, projected: Tensor, z: Tensor) -> Tensor:
        """The same from `projected`."""
        features, logits = self._stack(p, "decoder", z.flatten(1, 2))
        features = features.view(*z.shape[:3], features.shape[-1])
        seen = (features @ projected[..., :-1].unsqueeze(-1)).squeeze(-1) + projected[..., -1:]
        return seen - softplus(logits).sum(-1).view(seen.shape)

    def _stack(self, p: Parameters, part: str, a: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden layer and the output."""
        activation = ACTIVATIONS[self.activation]
        for layer in range(len(self.hidden)):
            a = activation(linear(p[f"{part}.W{layer}"], p[f"{part}.b{layer}"], a))
        last = len(self.hidden)
        return a, linear(p[f"{part}.W{last}"], p[f"{part}.b{last}"], a)


def linear(W: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """a W + b for `(runs, n, in)`; one run is one plain product."""
    if len(W) == 1:
        return torch.addmm(b[0, 0], a[0], W[0]).unsqueeze(0)
    return torch.baddbmm(b, a, W)
