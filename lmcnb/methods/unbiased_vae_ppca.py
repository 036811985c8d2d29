"""Gradients of probabilistic PCA, where all is known exactly (2010.01845, figures 2, 5 and 6).

    p(x, z) = N(z; 0, I) N(x; theta0 + W z, sigma^2 I),    W = theta1^T,    r = x - theta0
    grad_theta0 log p(x) = C^-1 r,    grad_W log p(x) = C^-1 r r^T C^-1 W - C^-1 W
    C = W W^T + sigma^2 I,    Lambda = I + W^T W / sigma^2 (the posterior's precision)

Every estimator is a (signed) measure that stands for the posterior, and the gradients need only its
moments: (r - W E[z]) / sigma^2 and (r E[z]^T - W E[z z^T]) / sigma^2. With the Gaussian proposal
z = m + s xi the log weight is a quadratic form in xi, and costs one product with Lambda:

    log w(xi) = c + xi . s (W^T r / sigma^2 - Lambda m) + |xi|^2 / 2 - (s xi)^T Lambda (s xi) / 2

Moments are summed as the chains go, so that memory does not grow with their length. Guaranteed: as
in `unbiased_vae`; assumption A3 holds exactly where Lambda - diag(1 / s^2) is positive definite
(`bounded`), else the weights have no bound and the chains' meeting times may have no mean.

A row is one chain or pair; `data` says which image it belongs to. Units: nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.methods.unbiased_vae import run_chains
from lmcnb.methods.unbiased_vae_kernels import Coupling, RowLogWeight


class Gradients(NamedTuple):
    """Of log p(x) by the parameters; the leading dimension is images or replicates."""

    intercept: Tensor  # (..., pixels)
    weight: Tensor  # (..., pixels, dim), or of some columns of W only


class Proposal(NamedTuple):
    """N(mean, diag std^2) of every image."""

    mean: Tensor  # (images, dim)
    std: Tensor  # (images, dim)


class Moments(NamedTuple):
    """Of the measure that stands for the posterior, row by row, and what it cost."""

    mean: Tensor  # (rows, dim), E[z], float64
    second: Tensor  # (rows, columns, dim), E[z_d z] of the chosen coordinates d, float64
    joint_steps: Tensor  # (rows,); 0 of estimators without chains
    capped: Tensor  # (rows,), bool
    n_weights: int  # log weights, or decoder evaluations, of all rows together


@dataclass(frozen=True)
class PPCA:
    """The model; float64 is advised, the chains have their own type."""

    weight: Tensor
    """W, `(pixels, dim)`."""
    intercept: Tensor
    """theta0, `(pixels,)`."""
    noise: float
    """sigma^2."""

    def __post_init__(self) -> None:
        if not (isinstance(self.noise, (int, float)) and 0 < self.noise < math.inf):
            raise UsageError(f"noise={self.noise!r}: the variance sigma^2 must be positive")
        if self.weight.dim() != 2 or self.intercept.shape != self.weight.shape[:1]:
            raise UsageError(
                f"weight {tuple(self.weight.shape)}, intercept {tuple(self.intercept.shape)}: "
                "(pixels, dim) and (pixels,) are needed"
            )

    @classmethod
    def draw(
        cls, pixels: int, dim: int, noise: float, scale: float, generator: torch.Generator
    ) -> PPCA:
        """W and theta0 with independent entries N(0, scale^2)."""
        both = torch.randn(pixels, dim + 1, generator=generator, dtype=torch.float64) * scale
        return cls(both[:, :dim].contiguous(), both[:, dim].contiguous(), noise)

    def to(self, device: torch.device | str) -> PPCA:
        """The same on another device."""
        return PPCA(self.weight.to(device), self.intercept.to(device), self.noise)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Observations `(n, pixels)`."""
        pixels, dim = self.weight.shape
        z, e = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (dim, pixels))
        return self.intercept + z @ self.weight.mT + self.noise**0.5 * e

    @property
    def precision(self) -> Tensor:
        """Lambda, `(dim, dim)`."""
        gram = self.weight.mT @ self.weight / self.noise
        return gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device)

    def pull(self, x: Tensor) -> Tensor:
        """W^T r / sigma^2, `(n, dim)`."""
        return (x - self.intercept) @ self.weight / self.noise

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means `(n, dim)` and the covariance `(dim, dim)`, the same for every x."""
        covariance = torch.linalg.inv(self.precision)
        return self.pull(x) @ covariance, covariance

    def exact_gradients(self, x: Tensor) -> Gradients:
        """Of log p(x) of every image `(n, pixels)`; the weight's is `(n, pixels, dim)`."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(self.weight @ self.weight.mT + self.noise * eye)
        solved = torch.cholesky_solve((x - self.intercept).mT, factor).mT  # C^-1 r
        inner = solved @ self.weight  # r^T C^-1 W
        fixed = torch.cholesky_solve(self.weight, factor)
        return Gradients(solved, solved.unsqueeze(-1) * inner.unsqueeze(-2) - fixed)

    def gradients(self, x: Tensor, moments: Moments, columns: tuple[int, ...] = ()) -> Gradients:
        """Estimates of the gradient of sum_n log p(x_n), a row for every replicate.

        Args:
            x: `(n, pixels)`.
            moments: rows are replicates x images, the image runs fastest.
            columns: the d of `moments.second`; the weight's gradient is `(..., pixels, columns)`.
        """
        r = x - self.intercept
        mean, second = (m.unflatten(0, (-1, len(x))) for m in (moments.mean, moments.second))
        intercept = r.sum(0) - mean.sum(1) @ self.weight.mT
        weight = torch.einsum("np,rnc->rpc", r, mean[..., list(columns)])
        weight = weight - torch.einsum("pd,rcd->rpc", self.weight, second.sum(1))
        return Gradients(intercept / self.noise, weight / self.noise)

    def log_weight(
        self, x: Tensor, proposal: Proposal, data: Tensor, dtype: torch.dtype = torch.float32
    ) -> RowLogWeight:
        """log p(x, z) - log q(z) in the coordinates xi, for `methods.unbiased_vae`.

        Args:
            x: `(images, pixels)`.
            proposal: of every image.
            data: image of every row, `(rows,)`.
            dtype: of the points that will come.
        """
        mean, std = proposal
        if not bool((std > 0).all()):
            raise UsageError(f"std: the smallest is {float(std.min()):.3g}; it must be positive")
        b, precision = self.pull(x), self.precision
        constant = (x - self.intercept).square().sum(-1) / self.noise
        constant = constant + x.shape[-1] * math.log(2 * math.pi * self.noise)
        constant = (mean * (b - 0.5 * mean @ precision)).sum(-1) - 0.5 * constant
        constant = constant + std.log().sum(-1)
        linear = (std * (b - mean @ precision)).to(dtype)
        half, scale = (0.5 * precision).to(dtype), std.to(dtype)

        def of(points: Tensor, rows: Tensor) -> Tensor:
            own = data[rows]
            s = scale[own].unsqueeze(1)
            slope = ((points * s) @ half).mul_(-s).add_(points, alpha=0.5)
            slope = slope.add_(linear[own].unsqueeze(1)).mul_(points)
            return slope.sum(-1).double() + constant[own].unsqueeze(1)

        return of

    def bounded(self, proposal: Proposal) -> Tensor:
        """Whether A3 holds, `(images,)`: Lambda - diag(1 / s^2) is positive definite."""
        q = torch.diag_embed(proposal.std.to(self.weight.dtype).square().reciprocal())
        return torch.linalg.eigvalsh(self.precision - q)[:, 0] > 0

    def shifted_mean_field(self, x: Tensor, shift: float, inflation: float) -> Proposal:
        """Proposals with a known defect: mean mu + shift s, std inflation s.

        s = diag(Lambda)^-1/2 is the std of the best factorised Gaussian. At shift 0 the estimates
        of the intercept's gradient are symmetric about the truth, so no bias can be seen.
        """
        std = self.precision.diagonal().rsqrt()
        mean, _ = self.posterior(x)
        return Proposal(mean + shift * std, (inflation * std).expand_as(mean).contiguous())


# ---- moments


def independent(
    log_weight: RowLogWeight | None,
    proposal: Proposal,
    data: Tensor,
    samples: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    columns: tuple[int, ...] = (),
) -> Moments:
    """Of K draws of the proposal: weighted by w~ (IWAE), or equally if there is no log weight.

    Equal weights are the ELBO's gradient, averaged over K samples; so is K = 1 with weights.
    """
    if type(samples) is not int or samples < 1:
        raise UsageError(f"samples={samples!r}: an integer of at least 1 is needed")
    shape = (len(data), samples, proposal.mean.shape[-1])
    points = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
    if log_weight is None:
        w = torch.full(shape[:2], 1 / samples, dtype=torch.float64, device=points.device)
    else:
        w = torch.softmax(log_weight(points, torch.arange(len(data), device=points.device)), -1)
    none = torch.zeros(len(data), dtype=torch.long, device=points.device)
    spent = len(data) * samples
    return in_z(_sums(points, w, columns), proposal, data, columns, none, none > 0, spent)


@torch.no_grad()
def coupled(
    log_weight: RowLogWeight,
    proposal: Proposal,
    data: Tensor,
    coupling: Coupling,
    beta: float | Tensor,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    columns: tuple[int, ...] = (),
) -> Moments:
    """Of `unbiased_vae.weighted_points` (with the same generator), without keeping the points.

    Args:
        log_weight: from `PPCA.log_weight` with the same proposal and data.
        proposal: of every image.
        data: image of every row, `(rows,)`.
        coupling: the settings.
        beta: a number, or one a row.
        generator: source of all randomness.
        dtype: of the points.
        columns: the coordinates d of E[z_d z].
    """
    rows, dim = len(data), proposal.mean.shape[-1]
    kind: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}
    total = torch.zeros(rows, 1 + len(columns), dim, **kind)

    def average(state: disir.State, own: Tensor) -> None:
        total.index_add_(0, own, _sums(state.points, disir.weights(state), columns))

    def correct(first: disir.State, second: disir.State, own: Tensor) -> None:
        average(first, own)
        behind = _sums(second.points, disir.weights(second), columns)
        total.index_add_(0, own, behind, alpha=-1)

    run = (log_weight, rows, dim, coupling, beta, generator, dtype)
    meeting, spent = run_chains(*run, average, correct)
    own = (meeting.joint_steps, meeting.capped, spent)
    return in_z(total / coupling.lag, proposal, data, columns, *own)


def in_z(
    sums: Tensor,
    proposal: Proposal,
    data: Tensor,
    columns: tuple[int, ...],
    joint_steps: Tensor,
    capped: Tensor,
    n_weights: int,
) -> Moments:
    """Moments of z = m + s xi from those of xi: `(rows, 1 + columns, dim)`, E[xi] and E[xi_d xi].

    The measure's total mass is one, so that m need not be summed along the chains.
    """
    m, s = (p[data].double() for p in proposal)
    mean = m + s * sums[:, 0]
    at = list(columns)
    inner = m.unsqueeze(1) * sums[:, 0, at].unsqueeze(-1) + s.unsqueeze(1) * sums[:, 1:]
    second = m[:, at].unsqueeze(-1) * mean.unsqueeze(1) + s[:, at].unsqueeze(-1) * inner
    return Moments(mean, second, joint_steps, capped, n_weights)


def _sums(points: Tensor, weights: Tensor, columns: tuple[int, ...]) -> Tensor:
    """sum_k w_k xi_k and sum_k w_k xi_kd xi_k, `(n, 1 + columns, dim)`, float64."""
    w = weights.to(points.dtype).unsqueeze(1)
    if columns:
        w = torch.cat([w, w * points[..., list(columns)].mT], 1)
    return (w @ points).double()
