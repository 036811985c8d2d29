"""Amortized Langevin dynamics and the Langevin autoencoder (Taniguchi et al. 2022, 2209.07036).

Langevin dynamics on the last linear layer Phi of an encoder z_i = Phi g(x_i), for all n points of a
batch at once, with the potential V(Phi) = -sum_i log p(x_i, z_i):

    Phi' ~ N(Phi - eta grad V(Phi), 2 eta I),   one joint accept test for the whole batch.

Guaranteed (theorem 1; `gaussian_law` is the exact answer it is tested against): if the features
G = (g(x_1), ..., g(x_n)) have rank n, the stationary law of the z_i is the product of the
posteriors. It needs at least as many features as points. With K = G G^T the z_i follow Langevin
dynamics preconditioned by K: the smallest eigenvalue of K sets how fast they mix, the largest how
large a step is stable.

Not guaranteed: anything of that kind in training. There the chain makes T + 1 moves a batch, has no
burn-in, and meets another target with every batch; without the accept test the step is biased
besides (`kernels.ula`). For more features than points Phi itself has no stationary law, only the
z_i do. Step sizes follow the official code: `step_size` multiplies the gradient of the batch mean,
so that eta = step_size / batch (the paper's text, eta = step_size, is never accepted on images).
Units: nats.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import mala, ula
from lmcnb.kernels.gradients import LogDensity

RANK_TOLERANCE = 1e-10  # smallest eigenvalue of K, relative to the largest, that counts


@dataclass(frozen=True)
class Langevin:
    """How Phi moves within one batch (algorithm 2)."""

    moves: int = 2
    """T, moves whose energies are averaged in the loss; 0 leaves Phi where it is (a control)."""
    step_size: float = 1e-4
    """Step on the gradient of the batch mean; eta = step_size / batch."""
    adjusted: bool = True
    """Whether the accept test is made."""
    extra_step: bool = True
    """One move more after the T, its energy not in the loss, as in the official code."""
    target_acceptance: float | None = None
    """If given, the step size follows this acceptance rate from step to step (ours, not the
    paper's: with the published step the acceptance falls to zero)."""

    gradient: bool = False
    """With no moves: the optimizer trains Phi like everything else (a control, a plain autoencoder:
    the encoder then seeks the mode of the posterior)."""

    def __post_init__(self) -> None:
        if type(self.moves) is not int or self.moves < 0:
            raise UsageError(f"moves={self.moves!r}: an integer of at least 0 is needed")
        if not (0 < self.step_size < float("inf")):
            raise UsageError(f"step_size={self.step_size!r}: a positive number is needed")
        if self.step_size > 1e30:
            raise UsageError(f"step_size={self.step_size!r}: at most 1e30, which float32 can hold")
        if self.target_acceptance is not None and not 0 < self.target_acceptance < 1:
            raise UsageError(
                f"target_acceptance={self.target_acceptance!r}: between 0 and 1, or None"
            )
        if self.target_acceptance is not None and not (self.adjusted and self.moves):
            raise UsageError("target_acceptance needs moves with the accept test (adjusted)")
        if self.gradient and self.moves:
            raise UsageError(f"gradient=True with moves={self.moves}: it needs moves=0")

    @property
    def total(self) -> int:
        """Moves a batch."""
        return self.moves + (1 if self.extra_step and self.moves else 0)


def latent(phi: Tensor, features: Tensor) -> Tensor:
    """z = Phi g(x): `(..., n, dim)` from a flat Phi `(..., dim * d)` and features `(..., n, d)`."""
    return features @ phi.unflatten(-1, (-1, features.shape[-1])).mT


def amortized(log_joint: LogDensity, features: Tensor) -> LogDensity:
    """The log density of a flat Phi: -V(Phi) = sum_i log p(x_i, Phi g(x_i)), summed in float64.

    Args:
        log_joint: callable `(..., n, dim) -> (..., n)`, log p(x_i, z_i) up to a constant.
        features: g(x_i), `(..., n, d)`.

    Returns:
        Callable `(..., dim * d) -> (...)`, a target for every kernel of `lmcnb.kernels`. It raises
        a UsageError where log_joint gives another shape: chains or points would be mixed.
    """

    def log_density(phi: Tensor) -> Tensor:
        z = latent(phi, features)
        log_p = log_joint(z)
        if log_p.shape != z.shape[:-1]:
            raise UsageError(
                f"log_joint: for latents {tuple(z.shape)} it gave {tuple(log_p.shape)}, not one "
                f"number a point, {tuple(z.shape[:-1])}; sum over the last dimension and no other"
            )
        return log_p.sum(-1, dtype=torch.float64)

    return log_density


def training_step(
    phi: Tensor,
    images: Tensor,
    body: Callable[[Tensor], Tensor],
    log_joint: Callable[[Tensor, Tensor], Tensor],
    settings: Langevin,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[Any]]:
    """Algorithm 2 on one batch: move Phi, then the loss of everything else. Plain autograd.

        loss = 1/(T B) sum_{t=1..T} V_t,    V_t = -sum_i log p(x_i, Phi_t g(x_i))

    The optimizer takes `loss` down in the decoder and the features; it never holds Phi (unless
    `settings.gradient`, the control, in which `loss` is in the graph of `phi` too).
    `langevin_autoencoder_fast` computes the same numbers with one backward pass a move.

    Args:
        phi: flat Phi `(dim * d)`, kept from batch to batch.
        images: the batch `(B, pixels)`.
        body: g, `(B, pixels) -> (B, d)`, in the graph of its parameters.
        log_joint: `(images, z (B, dim)) -> (B,)`, in the graph of the decoder's parameters.
        settings: moves, step size, accept test.
        generator: source of the chain's noise.

    Returns:
        The new Phi, the loss (a scalar in the graph, nats an image), and the kernel's diagnostics.
    """
    features = body(images)
    density = amortized(lambda z: log_joint(images, z), features.detach())
    in_graph = amortized(lambda z: log_joint(images, z), features)
    kernel: Any = mala if settings.adjusted else ula
    eta = settings.step_size / len(images)
    if settings.moves == 0:
        return phi, -in_graph(phi) / len(images), []
    state = kernel.init(phi, density)
    losses, infos = [], []
    for t in range(settings.total):
        state, info = kernel.step(state, density, eta, generator)
        infos.append(info)
        if t < settings.moves:
            losses.append(-in_graph(state.position) / len(images))
    return state.position, torch.stack(losses).mean(), infos


class Gram(NamedTuple):
    """The matrix K = G G^T of a batch of features, by its eigenvalues."""

    smallest: Tensor  # (...)
    largest: Tensor  # (...)
    rank: Tensor  # (...), integer


def gram(features: Tensor) -> Gram:
    """Extreme eigenvalues and rank of K for features `(..., n, d)`, in float64; NaN for NaN."""
    K = features.double() @ features.double().mT
    finite = torch.isfinite(K).all(-1).all(-1)
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], K, 0.0))
    values = torch.where(finite[..., None], values, torch.nan)
    top = values[..., -1]
    rank = (values > RANK_TOLERANCE * top[..., None]).sum(-1)
    return Gram(values[..., 0].clamp(min=0), top, rank)


def check_features(features: Tensor, step_size: float, curvature: float = 1.0) -> Gram:
    """Warn where theorem 1 does not hold or the step is unstable; refuse what is no number.

    Args:
        features: g(x_i) of one batch, `(n, d)`.
        step_size: eta, of the potential summed over the batch.
        curvature: an estimate of the largest curvature of -log p(x, z) in z; 1, the prior's, is the
            least it can be where the likelihood is log-concave.

    Raises:
        UsageError: features that are not finite, or not `(n, d)`; a step size or curvature that is
            no positive number.
    """
    for name, value in (("step_size", step_size), ("curvature", curvature)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{name}={value!r}: a positive number is needed")
    if features.dim() != 2 or 0 in features.shape or not torch.isfinite(features).all():
        raise UsageError(
            f"features of shape {tuple(features.shape)}: finite numbers `(n, d)` are needed"
        )
    n, d = features.shape
    K = gram(features)
    if n > d:
        warnings.warn(too_few_features(n, d), stacklevel=2)
    elif int(K.rank) < n:
        warnings.warn(
            f"the features of {n} points have rank {int(K.rank)}: some points have the same or "
            "dependent features and cannot follow their posteriors; remove duplicates or widen the "
            "features",
            stacklevel=2,
        )
    if step_size * float(K.largest) * curvature > 2:
        warnings.warn(
            f"step_size = {step_size:.3g} times the Gram matrix's largest eigenvalue "
            f"{float(K.largest):.4g} times the curvature {curvature:.3g} exceeds 2: without a test "
            "the chain diverges, with it nearly nothing is accepted; use at most "
            f"{2 / (float(K.largest) * curvature):.2g}, or scale the features down",
            stacklevel=2,
        )
    return K


def too_few_features(n: int, d: int) -> str:
    """What to say of a batch of n points on d < n features."""
    return (
        f"batch = {n} points exceeds width = {d} features: the z_i are confined to {d} of {n} "
        f"directions and cannot follow their posteriors; use a batch of at most {d}, or a last "
        f"hidden layer of at least {n} units"
    )


def hat_matrix(features: Tensor) -> Tensor:
    """H = G (G^T G)^+ G^T `(n, n)`, the projection on what Phi can reach; I for rank n."""
    u, s, _ = torch.linalg.svd(features, full_matrices=False)
    u = u[:, s > s[0] * RANK_TOLERANCE**0.5]
    return u @ u.mT


def gaussian_law(features: Tensor, means: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The stationary law of the z_i for Gaussian posteriors N(m_i, S), for any width.

        E[Z] = H M,    Cov(z_i, z_j) = H_ij S,    H the hat matrix of the features

    With d >= n, H = I: theorem 1. With fewer features H_ii < 1 shrinks the point i (sum_i H_ii =
    d), which is figure 2 of the paper in one line. Derived here, not in the paper: V is
    quadratic in Phi, and Phi can move Z only within the column space of G.

    Args:
        features: `(n, d)`.
        means: M, `(n, dim)`.
        covariance: S, `(dim, dim)`, the same for all points.

    Returns:
        Means `(n, dim)` and covariances `(n, n, dim, dim)`.
    """
    H = hat_matrix(features)
    return H @ means, H[:, :, None, None] * covariance


def unadjusted_variance(precision: Tensor, kappa: Tensor, step_size: float) -> Tensor:
    """Stationary variance of the unadjusted dynamics along one eigendirection.

    (1/rho) / (1 - eta kappa rho / 2), for rho an eigenvalue of the posterior precision and kappa
    one of K; infinite where eta kappa rho >= 2.
    """
    factor = 1 - step_size * kappa * precision / 2
    return torch.where(factor > 0, 1 / (precision * factor), torch.inf)
