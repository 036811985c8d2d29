"""Densities in the plane whose truth is known: eight Gaussians, a checkerboard, a pinwheel.

Guaranteed: each is normalized over the plane (nats), `sample` draws from that very density, and
randomness comes from the generator alone. The pinwheel's density is exact up to rounding, by root
finding (`pinwheel.py`). Not guaranteed: gradients of the checkerboard and the pinwheel, which have
none here; what a grid makes of the integrable poles on the pinwheel's folds (with the default
settings a mass of 1.5e-9 lies beyond them).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product
from lmcnb.models.pinwheel import by_arm
from lmcnb.models.targets.toy import GaussianMixture


class PlaneDensity(ABC):
    """A normalized density `(..., 2)` -> `(...)` with samples and known modes.

    Attributes:
        name: what records and messages call it.
        modes: `(modes, 2)`, float64 on the CPU.
    """

    name: str
    modes: Tensor
    dim = 2
    log_normalizer: float | None = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """The same as `log_density`."""
        return self.log_density(x)

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Log density `(...)` in nats at `x` `(..., 2)`, in the dtype of `x`."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent draws `(n, 2)`, float32, on the device of the generator."""

    @abstractmethod
    def within(self, x: Tensor) -> float:
        """Share of the samples `(n, 2)` near a mode; those that are not finite never are."""

    @abstractmethod
    def mode_shares(self, x: Tensor) -> Tensor:
        """Share of the samples `(n, 2)` near each mode, `(modes)`, float64; the sum is `within`."""


class EightGaussians(PlaneDensity):
    """Eight equal Gaussians on a circle.

    Args:
        radius: of the circle of centres.
        sd: standard deviation of each, in every direction.
    """

    name = "eight_gaussians"

    def __init__(self, radius: float = 2.0, sd: float = 0.2) -> None:
        _positive(self.name, radius=radius, sd=sd)
        angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        self.radius, self.sd = radius, sd
        self.centres = self.modes = radius * torch.stack([angles.cos(), angles.sin()], 1)
        self._mixtures: dict[tuple[torch.dtype, torch.device], GaussianMixture] = {}

    def _mixture(self, x: Tensor) -> GaussianMixture:
        key = (x.dtype, x.device)
        if key not in self._mixtures:
            covariances = self.sd**2 * torch.eye(2, dtype=torch.float64).expand(8, 2, 2)
            self._mixtures[key] = GaussianMixture(
                torch.ones(8), self.centres, covariances, dtype=x.dtype, device=x.device
            )
        return self._mixtures[key]

    def log_density(self, x: Tensor) -> Tensor:
        """Log (1/8) sum_c N(x; centre_c, sd^2 I), computed in the dtype of `x`."""
        x = _points(x)
        return self._mixture(x)(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product in closed form."""
        return self._mixture(x).linearize(x)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """A centre at random and Gaussian noise."""
        device = generator.device
        which = torch.randint(8, (_count(n),), generator=generator, device=device)
        noise = torch.randn(n, 2, generator=generator, device=device)
        return self.centres.to(device, torch.float32)[which] + self.sd * noise

    def within(self, x: Tensor, k: float = 3.0) -> float:
        """Share within k standard deviations of the nearest mode.

        Of the density it is 1 - exp(-k^2 / 2), up to the neighbours' tails (below 1e-4).
        """
        return float(self.mode_shares(x, k).sum())

    def mode_shares(self, x: Tensor, k: float = 3.0) -> Tensor:
        """Share nearest to each mode and within k standard deviations of it, `(8)`."""
        away = torch.cdist(_samples(x), self.modes)
        nearest = away.min(1)
        return _shares(nearest.indices[nearest.values <= k * self.sd], 8, len(x))


class Checkerboard(PlaneDensity):
    """Density 1/8 on the dark ones of the 16 unit cells of [-2, 2)^2, and 0 elsewhere.

    A cell [i, i + 1) x [j, j + 1) is dark where i + j is even.

    Attributes:
        cells: lower left corners (i, j) of the dark cells, `(8, 2)`; `modes` are their centres.
    """

    name = "checkerboard"

    def __init__(self) -> None:
        corners = torch.cartesian_prod(torch.arange(-2, 2), torch.arange(-2, 2))
        self.cells = corners[corners.sum(1) % 2 == 0]
        self.modes = self.cells.double() + 0.5

    @staticmethod
    def _dark(x: Tensor) -> Tensor:
        inside = ((x >= -2) & (x < 2)).all(-1)
        return inside & (x.floor().sum(-1).remainder(2) == 0)

    def log_density(self, x: Tensor) -> Tensor:
        """-log 8 in dark cells, -inf elsewhere (NaN where `x` is)."""
        x = _points(x)
        inside = torch.full(x.shape[:-1], -math.log(8), dtype=x.dtype, device=x.device)
        log_p = torch.where(self._dark(x), inside, -math.inf)
        return torch.where(x.isnan().any(-1), math.nan, log_p)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """A dark cell at random and a place in it, of 2^22 a side: none rounds out of its cell."""
        device = generator.device
        which = torch.randint(8, (_count(n),), generator=generator, device=device)
        place = torch.randint(2**22, (n, 2), generator=generator, device=device)
        return self.cells.to(device, torch.float32)[which] + (place.float() + 0.5) / 2**22

    def within(self, x: Tensor) -> float:
        """Share inside dark cells; of the density it is 1, of a uniform one 1/2."""
        return float(self.cell_shares(x).sum())

    def cell_shares(self, x: Tensor) -> Tensor:
        """Share in each of the 8 dark cells, in the order of `cells`; of the density 1/8 each."""
        x = _samples(x)
        column, row = (x[self._dark(x)].floor().long() + 2).unbind(1)
        return _shares(2 * column + row // 2, 8, len(x))

    def mode_shares(self, x: Tensor) -> Tensor:
        """The same as `cell_shares`."""
        return self.cell_shares(x)


class Pinwheel(PlaneDensity):
    """Arms that are Gaussians wound about the origin.

    Features a ~ N(1, radial_sd^2) and t ~ N(0, tangential_sd^2), an arm k at random, and

        x = scale R(2 pi k / arms + rate exp(a)) (a, t),

    R the counterclockwise rotation (the common code turns clockwise: the mirror image). Its density
    is derived in `lmcnb.models.pinwheel`.

    Args:
        radial_sd: standard deviation along an arm, before scaling.
        tangential_sd: standard deviation across it.
        rate: of the winding, at least 0; the cost grows as rate exp(1 + 12 radial_sd).
        arms: their number.
        scale: 1.6 leaves a mass of 1.4e-4 outside [-3.2, 3.2]^2, the usual 2 leaves 9.3e-3.
    """

    name = "pinwheel"

    def __init__(
        self,
        radial_sd: float = 0.3,
        tangential_sd: float = 0.1,
        rate: float = 0.25,
        arms: int = 5,
        scale: float = 1.6,
    ) -> None:
        _positive(
            self.name, radial_sd=radial_sd, tangential_sd=tangential_sd, arms=arms, scale=scale
        )
        if not 0 <= rate < math.inf:
            raise UsageError(f"{self.name}: rate={rate}: at least 0")
        self.radial_sd, self.tangential_sd = radial_sd, tangential_sd
        self.rate, self.arms, self.scale = rate, arms, scale
        mean = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(arms, 2)
        self.modes = self._wind(mean, torch.arange(arms))  # images of the features' mean

    def _wind(self, features: Tensor, arm: Tensor) -> Tensor:
        a, t = features.unbind(-1)
        angle = self.rate * a.exp() + arm.to(a.dtype) * (2 * math.pi / self.arms)
        cos, sin = angle.cos(), angle.sin()
        return self.scale * torch.stack([a * cos - t * sin, a * sin + t * cos], -1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Features, an arm, the map."""
        device = generator.device
        arm = torch.randint(self.arms, (_count(n),), generator=generator, device=device)
        noise = torch.randn(n, 2, generator=generator, device=device)
        spread = torch.tensor([self.radial_sd, self.tangential_sd], device=device)
        return self._wind(torch.tensor([1.0, 0.0], device=device) + spread * noise, arm)

    @torch.no_grad()
    def log_density(self, x: Tensor) -> Tensor:
        """Log p(x), computed in float64, without a gradient (NaN where `x` is)."""
        log_p = self._by_arm(_points(x).double().reshape(-1, 2))[0]
        return torch.logsumexp(log_p, 1).view(x.shape[:-1]).to(x.dtype)

    def within(self, x: Tensor, k: float = 3.0) -> float:
        """Share within k standard deviations in the features of an arm.

        Of the density it is 1 - exp(-k^2 / 2) and, by the neighbours' tails, 1e-3 more at k = 3.
        """
        return float(self.mode_shares(x, k).sum())

    def mode_shares(self, x: Tensor, k: float = 3.0) -> Tensor:
        """Share nearest to each arm, in the features, and within k standard deviations."""
        nearest = self._by_arm(_samples(x))[1].min(1)
        return _shares(nearest.indices[nearest.values <= k**2], self.arms, len(x))

    def _by_arm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_p, distance = by_arm(
            x / self.scale, self.radial_sd, self.tangential_sd, self.rate, self.arms
        )
        return log_p - 2 * math.log(self.scale), distance


DENSITIES: dict[str, Callable[[], PlaneDensity]] = {
    c.name: c for c in (EightGaussians, Checkerboard, Pinwheel)
}


def make(name: str) -> PlaneDensity:
    """The density called `name`, with its default settings.

    Raises:
        UsageError: no density has that name.
    """
    if name not in DENSITIES:
        raise UsageError(f"density {name!r} does not exist; choose one of {', '.join(DENSITIES)}")
    return DENSITIES[name]()


def _points(x: Tensor) -> Tensor:
    if x.shape[-1:] != (2,) or not x.is_floating_point():
        raise UsageError(f"points of shape {tuple(x.shape)}, {x.dtype}: give floats (..., 2)")
    return x


def _samples(x: Tensor) -> Tensor:
    """Samples `(n, 2)` in float64 on the CPU."""
    if x.dim() != 2 or len(_points(x)) == 0:
        raise UsageError(f"samples of shape {tuple(x.shape)}: give (n, 2), n at least 1")
    return x.detach().double().cpu()


def _shares(which: Tensor, modes: int, n: int) -> Tensor:
    return torch.bincount(which, minlength=modes).double() / n


def _count(n: int) -> int:
    if n < 1:
        raise UsageError(f"n={n}: at least one sample")
    return n


def _positive(name: str, **values: float) -> None:
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name}: {key}={value}: a positive number is needed")
