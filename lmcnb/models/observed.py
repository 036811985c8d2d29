"""An image observed with Gaussian noise through a generator: the posterior that inference samples.

    log p(x, z) = log N(x; g(z), sigma^2 I) + log N(z; 0, I)

The first term sums over observed pixels only. Constants are included: the value is a log density,
in nats, and log p(x) its log normalizer. Not guaranteed: anything about the generator, which is a
callable `(..., dim) -> (..., pixels)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.models.gaussian import LOG_2_PI, log_standard
from lmcnb.models.top_down import TopDown
from lmcnb.models.top_down_fast import Sweeps

Generator = Callable[[Tensor], Tensor]
LEAST, MOST = 1e-100, 1e100  # of sigma: its square is still a number


class LogJoint:
    """log p(x, z) of images as a function of z `(..., n, dim)`, by any generator; autograd."""

    def __init__(
        self, generator: Generator, x: Tensor, sigma: float, mask: Tensor | None = None
    ) -> None:
        """The density of `x` `(n, pixels)`.

        Args:
            generator: g.
            x: images, flattened.
            sigma: standard deviation of a pixel's noise.
            mask: 1 where a pixel is observed and 0 elsewhere, `(pixels)` or the shape of x.

        Raises:
            UsageError: sigma that is not positive; images that are not `(n, pixels)` of floats; a
                mask of another shape or with other values.
        """
        if isinstance(sigma, bool) or not LEAST < float(sigma) < MOST:
            raise UsageError(
                f"sigma={sigma!r}: the width of the observation noise must be positive (between "
                f"{LEAST:g} and {MOST:g}); at zero the posterior has no density"
            )
        if x.dim() != 2 or not x.is_floating_point():
            raise UsageError(
                f"x of shape {tuple(x.shape)}, {x.dtype}: images (n, pixels) of floats are needed"
            )
        if mask is not None:
            mask = checked_mask(mask, x).to(x)
            x = torch.where(mask > 0, x, 0)  # what is hidden may be anything, NaN too
        self.generator, self.x, self.sigma, self.mask = generator, x, float(sigma), mask
        self.precision = 1 / self.sigma**2

    def __call__(self, z: Tensor) -> Tensor:
        """log p(x, z), `(..., n)`, nats."""
        y = self.generator(z)
        self._check(z, y)
        error = (self.x - y).square()
        return self._of(error if self.mask is None else error * self.mask, z)

    def _check(self, z: Tensor, y: Tensor) -> None:
        """Refuse what would be broadcast.

        Raises:
            UsageError: images of another size, or another number of points than of images.
        """
        n, pixels = self.x.shape
        if y.shape[-1] != pixels:
            raise UsageError(f"the generator's images have {y.shape[-1]} pixels, x has {pixels}")
        if n > 1 and (z.dim() < 2 or z.shape[-2] != n):
            raise UsageError(f"z of shape {tuple(z.shape)}: (..., {n}, dim), a point an image")

    def _of(self, error: Tensor, z: Tensor) -> Tensor:
        observed = self.x.shape[-1] if self.mask is None else self.mask.sum(-1)
        constant = observed * (0.5 * LOG_2_PI + math.log(self.sigma))
        return -0.5 * self.precision * error.sum(-1) - constant + log_standard(z)


class TopDownLogJoint(LogJoint):
    """The same of a `TopDown` generator, with its derivatives by hand.

    The generator's weights are taken when the object is made, in the type of x.
    """

    def __init__(
        self, generator: TopDown, x: Tensor, sigma: float, mask: Tensor | None = None
    ) -> None:
        super().__init__(generator, x, sigma, mask)
        self.sweeps = Sweeps(generator, x.dtype)

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Score and Hessian product at z, for `kernels.gradients`."""
        trace = self.sweeps.trace(z.reshape(-1, z.shape[-1]))
        residual = self._residual(trace.output, z)
        score = self.sweeps.pull_back(trace, residual).view(z.shape) - z

        def product(v: Tensor) -> Tensor:
            return (self.second_order(z)[2] @ v.unsqueeze(-1)).squeeze(-1)

        return score, product

    def second_order(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, score and Hessian at z, for `kernels.hessian`."""
        lead, dim = z.shape[:-1], z.shape[-1]
        trace = self.sweeps.trace(z.reshape(-1, dim))
        residual = self._residual(trace.output, z)
        weight = torch.full_like(self.x, -self.precision)
        weight = weight if self.mask is None else weight * self.mask
        weight = weight.expand(*lead, weight.shape[-1]).reshape(residual.shape)
        hessian = self.sweeps.hessian(trace, residual, weight).view(*lead, dim, dim)
        hessian = hessian - torch.eye(dim, dtype=z.dtype, device=z.device)
        error = (residual.square() / self.precision**2).view(*lead, -1)
        score = self.sweeps.pull_back(trace, residual).view(z.shape) - z
        return self._of(error, z), score, hessian

    def _residual(self, y: Tensor, z: Tensor) -> Tensor:
        """Derivative of the log likelihood by the image, `(points, pixels)`."""
        self._check(z, y)
        x = self.x if z.dim() == 2 else self.x.expand(*z.shape[:-1], -1).reshape(y.shape)
        residual = (x - y) * self.precision
        if self.mask is None:
            return residual
        return residual * self.mask.expand(*z.shape[:-1], -1).reshape(y.shape)


def log_joint(
    generator: Generator, x: Tensor, sigma: float, mask: Tensor | None = None
) -> LogJoint:
    """The log density of `LogJoint`, with derivatives by hand where the generator has them."""
    if isinstance(generator, TopDown):
        return TopDownLogJoint(generator, x, sigma, mask)
    return LogJoint(generator, x, sigma, mask)


def checked_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask if it fits the images.

    Raises:
        UsageError: another shape than `(pixels)` or that of x, or values other than 0 and 1.
    """
    if mask.shape not in (x.shape, x.shape[-1:]):
        raise UsageError(
            f"mask of shape {tuple(mask.shape)}: {tuple(x.shape)} or {tuple(x.shape[-1:])} is "
            "needed, 1 where a pixel is observed"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UsageError("mask: values 0 (hidden) and 1 (observed) are allowed")
    return mask
