"""Random networks in the plane: the likelihood of the paper's figures 3 and 5, and toy encoders.

The paper leaves both initializations open, and both decide the outcome. The likelihood's "N(0, 0.2
I)" and "N(0, 0.1 I)" are read as standard deviations: as variances the posterior is a spike. The
encoder's features are scaled to a given trace of K = G G^T, which fixes the speed of the chain:
with torch's default initialization 3,000 steps barely move.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from lmcnb.errors import UsageError
from lmcnb.models.gaussian import LOG_2_PI, log_standard


@dataclass(frozen=True)
class RandomDecoder:
    """x = f(z) + 0.25 noise, f a frozen random ReLU network R^2 -> R^2 (section 4.2)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    noise: float = 0.25

    @classmethod
    def draw(cls, generator: torch.Generator, width: int = 128, layers: int = 4) -> RandomDecoder:
        """Weights of standard deviation 0.2, biases of 0.1, float64."""
        sizes = [2, *[width] * (layers - 1), 2]

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        weights, biases = [], []
        for a, b in itertools.pairwise(sizes):
            weights.append(0.2 * normal(a, b))
            biases.append(0.1 * normal(b))
        return cls(tuple(weights), tuple(biases))

    def mean(self, z: Tensor) -> Tensor:
        """f(z), `(..., 2)`."""
        for W, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = torch.relu(z @ W + b)
        return z @ self.weights[-1] + self.biases[-1]

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) `(..., n)` of points `(n, 2)` and latents `(..., n, 2)`, nats."""
        error = (x - self.mean(z)) / self.noise
        log_likelihood = -0.5 * (error.square() + LOG_2_PI).sum(-1) - 2 * math.log(self.noise)
        return log_likelihood + log_standard(z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` points `(n, 2)` of the model."""
        z, e = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
        return self.mean(z) + self.noise * e


def random_features(
    points: Tensor, features: int, trace: float, generator: torch.Generator, width: int = 128
) -> Tensor:
    """g(x) of a random encoder for points `(n, dim)`, `(n, features)`, float64.

    Three hidden layers of `width` units, LayerNorm and ReLU, one more LayerNorm, and a linear layer
    of `features` units without a ReLU, since few ReLUs are often dead or collinear. Biases are
    small: large ones make all points alike. Inputs are standardized, and the features scaled by one
    number so that tr(K) = trace * n. Of seven such choices this one had the best conditioned K for
    random points (smallest eigenvalue, median over 300 draws).
    """
    if type(features) is not int or features < 1:
        raise UsageError(f"features={features!r}: an integer of at least 1 is needed")
    if not 0 < trace < math.inf:
        raise UsageError(f"trace={trace!r}: a positive number is needed")
    h = points.double()
    if len(h) > 1 and bool((h.std(0) == 0).any()):
        raise UsageError("points: all have the same value in some dimension, and need to differ")
    if len(h) > 1:
        h = (h - h.mean(0)) / h.std(0)
    for layer, outputs in enumerate((width, width, width, features)):
        W = torch.randn(h.shape[-1], outputs, generator=generator, dtype=torch.float64)
        h = h @ W * math.sqrt(2 / h.shape[-1])
        if layer < 3:
            b = torch.randn(outputs, generator=generator, dtype=torch.float64)
            h = torch.relu(layer_norm(h + (0.1 if layer else 0.5) * b, (width,)))
        if layer == 2:
            h = layer_norm(h, (width,))
    return h * (trace * len(h) / h.square().sum()).sqrt()
