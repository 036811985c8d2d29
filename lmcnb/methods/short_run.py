"""Short-run MCMC inference with a variationally chosen step size (1912.01909).

A chain of K Langevin steps of the posterior, from a fresh draw of the prior, is the inference:

    z_{k+1} = z_k - (s^2 / 2) grad U(z_k) + s e_k,   U(z) = -log p(x, z),   z_0, e_k ~ N(0, I)

(the released code's convention; the sister paper writes s_B = s^2 / 2). q_s(z | x) is the law of
z_K. Its step size minimizes a divergence from the posterior,

    J(s) = E [log N(z_0; 0, I) - log |det dz_K / dz_0| + U(z_K)] = KL + (-log p(x)),

and the determinant is exact: the Jacobian of a step, I - (s^2 / 2) Hessian of U, is symmetric.

Guaranteed: `objective` equals the closed forms of a linear-Gaussian model (tests). Not guaranteed:
that it is the divergence of the marginal law of z_K. The noise e_k is treated as given, so that
J(s) + log p(x) = E_e KL(q_s(z | x, e) || p(z | x)), which is at least KL(q_s(z | x) || p(z | x)),
with equality for the noise-free chain alone; its minimizer is too small (`short_run_theory` has all
three curves, `short_run_marginal` a bound without this defect). The chain has no Metropolis test
and is stopped early: q_s is not the posterior at any s. The formula needs a step that is smooth and
injective, s^2 lambda < 2 for every eigenvalue lambda of the Hessian of U.
Units: nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import ula
from lmcnb.kernels.gradients import LogDensity, score
from lmcnb.kernels.hessian import second_order
from lmcnb.kernels.smoothness import require_smooth
from lmcnb.models.gaussian import log_standard

StepSize = float | Tensor  # s: one number, or one for every dimension, (dim)
TANGENTS = 64  # at once, where the Hessian is autograd's
NEGATIVE = 0.01  # a larger share of negative eigenvalues makes the objective unusable


def states(
    log_joint: LogDensity, z: Tensor, step_size: StepSize, steps: int, noise: Tensor | None = None
) -> Iterator[Tensor]:
    """z_0 ... z_K, one at a time; nothing is kept.

    Args:
        log_joint: log p(x, z), callable `(..., dim) -> (...)`.
        z: the start z_0, `(..., dim)`.
        step_size: s.
        steps: K.
        noise: e_0 ... e_{K-1}, `(K, ..., dim)`; None: the noise-free chain, gradient descent on U.
    """
    _check(z, step_size, steps, noise)
    eta = half_square(step_size)
    yield z
    for k in range(steps):
        z = move(z, score(log_joint, z), eta, None if noise is None else noise[k])
        yield z


def short_run(
    log_joint: LogDensity, z: Tensor, step_size: StepSize, steps: int, noise: Tensor | None = None
) -> Tensor:
    """z_K, `(..., dim)`: a draw of q_s(z | x). Arguments as in `states`."""
    for state in states(log_joint, z, step_size, steps, noise):
        z = state
    return z


def move(z: Tensor, score: Tensor, eta: StepSize, noise: Tensor | None) -> Tensor:
    """z + eta score + sqrt(2 eta) noise, with eta = s^2 / 2."""
    if isinstance(eta, Tensor):
        return z + eta * score if noise is None else ula.propose(z, score, eta, noise)
    z = torch.add(z, score, alpha=eta)
    return z if noise is None else z.add_(noise, alpha=math.sqrt(2 * eta))


def half_square(step_size: StepSize) -> StepSize:
    """eta = s^2 / 2.

    Raises:
        UsageError: s is not positive and finite.
    """
    if isinstance(step_size, Tensor):
        s = step_size.detach()
        good = bool((torch.isfinite(s) & (s > 0)).all())
    else:
        good = isinstance(step_size, Real) and 0 < step_size < math.inf
    if not good:
        raise UsageError(f"step_size={step_size!r}: a positive number is needed")
    return 0.5 * step_size * step_size


def _check(z: Tensor, step_size: StepSize, steps: int, noise: Tensor | None) -> None:
    """Refuse what would be broadcast to another chain.

    Raises:
        UsageError: steps, noise or step_size of a wrong type or shape.
    """
    if type(steps) is not int or steps < 0:
        raise UsageError(f"steps={steps!r}: an integer of at least 0 is needed")
    if noise is not None and noise.shape != (steps, *z.shape):
        raise UsageError(
            f"noise of shape {tuple(noise.shape)}: {(steps, *z.shape)} is needed, steps={steps} "
            f"for z of shape {tuple(z.shape)}"
        )
    if isinstance(step_size, Tensor) and step_size.shape not in ((), z.shape[-1:]):
        raise UsageError(
            f"step_size of shape {tuple(step_size.shape)}: one number, or one for each of the "
            f"{z.shape[-1]} dimensions, is needed"
        )


def require_exact(log_joint: LogDensity, z: Tensor) -> None:
    """Refuse what has no log-determinant of use.

    Raises:
        UsageError: z is not `(n, dim)` float64 and finite, or the density has kinks.
    """
    if z.dim() < 2 or z.dtype != torch.float64 or 0 in z.shape:
        raise UsageError(
            f"z of shape {tuple(z.shape)}, {z.dtype}: (n, dim) with n of at least 1, in "
            "torch.float64, is needed for the determinant"
        )
    if not bool(torch.isfinite(z).all()):
        raise UsageError("z: values that are not finite")
    x = getattr(log_joint, "x", None)
    if isinstance(x, Tensor) and not bool(torch.isfinite(x).all()):
        raise UsageError("x: values that are not finite; hide them with a mask")
    require_smooth(log_joint, z)


def draw(
    points: Sequence[int], steps: int, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A start z_0 of the given shape and the noise of `steps` steps, `(steps, *points)`."""
    z, noise = (
        torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
        for shape in (tuple(points), (steps, *points))
    )
    return z, noise


class Transport(NamedTuple):
    """The chain as a map of z_0, with the noise held fixed."""

    z: Tensor  # z_K, (..., dim)
    log_joint: Tensor  # log p(x, z_K), (...)
    log_det: Tensor  # log |det dz_K / dz_0|, (...)
    smallest: Tensor  # smallest eigenvalue of any step's Jacobian, ()
    largest: Tensor  # above 1 where U is not convex, ()
    negative: Tensor  # share of negative eigenvalues, ()


def transport(
    log_joint: LogDensity, z: Tensor, step_size: StepSize, steps: int, noise: Tensor | None = None
) -> Transport:
    """Push z_0 through the chain: log |det| = sum over k and i of log |1 - (s^2 / 2) h_ki|.

    h_ki are the eigenvalues of the Hessian of U at z_k; with a step size for every dimension those
    of S^(1/2) (I - ...) S^(-1/2), with S = diag(s^2 / 2): the determinant is the same and the
    matrix I - S^(1/2) H S^(1/2) symmetric. Everything is differentiable in `step_size` (forward
    mode). Use float64. Where a point is not finite any more, its log_det is NaN. Arguments as in
    `states`.
    """
    _check(z, step_size, steps, noise)
    eta = half_square(step_size)
    root = torch.as_tensor(step_size, dtype=z.dtype, device=z.device).expand(z.shape[-1])
    root = root * math.sqrt(0.5)
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    log_det = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
    smallest = torch.full((), math.inf, dtype=z.dtype, device=z.device)
    largest = -smallest
    negative = torch.zeros((), dtype=z.dtype, device=z.device)
    for k in range(steps):
        _, gradient, hessian = second_order(log_joint, z, chunk=TANGENTS)  # of log p = -U
        jacobian = eye + root[:, None] * hessian * root
        finite = torch.isfinite(jacobian).all(-1).all(-1)
        eigenvalues = torch.linalg.eigvalsh(torch.where(finite[..., None, None], jacobian, eye))
        log_det = log_det + torch.where(finite, eigenvalues.abs().log().sum(-1), math.nan)
        smallest = torch.minimum(smallest, eigenvalues.detach().amin())
        largest = torch.maximum(largest, eigenvalues.detach().amax())
        negative = negative + (eigenvalues < 0).to(z.dtype).mean() / steps
        z = move(z, gradient, eta, None if noise is None else noise[k])
    return Transport(z, log_joint(z), log_det, smallest, largest, negative)


class Objective(NamedTuple):
    """J(s) over the examples at hand, or why there is none."""

    step_size: float | list[float]
    value: float | None  # mean over the examples, nats; None where it is unusable
    se: float | None  # its standard error over the examples' draws
    log_det: float  # mean; NaN, like what follows, where it is not known
    smallest: float  # smallest eigenvalue of a step's Jacobian
    largest: float  # above 1 where U is not convex
    negative: float  # share of negative eigenvalues
    reason: str | None  # why it is unusable


def log_density_gap(t: Transport, start: Tensor) -> Tensor:
    """log q(z_K | e) - log p(x, z_K) of every example, `(...)`."""
    return log_standard(start) - t.log_det - t.log_joint


def objective(
    log_joint: LogDensity, z: Tensor, step_size: StepSize, steps: int, noise: Tensor | None = None
) -> Objective:
    """J(s) with constants, so that J(s) + log p(x) is a divergence; never a number it is not.

    The value is withheld where the chain is unstable (not finite) and where more than one percent
    of the eigenvalues of I - (s^2 / 2) Hessian are negative: the map then need not be injective,
    and the change of variables says too little. Arguments as in `states`; z `(n, dim)`, float64.

    Raises:
        UsageError: the density has kinks (`kernels.smoothness`), step_size is not positive, or
            arguments do not fit each other.
    """
    require_exact(log_joint, z)
    with torch.no_grad():
        t = transport(log_joint, z, step_size, steps, noise)
        gap = log_density_gap(t, z)
    smallest, negative = float(t.smallest), float(t.negative)
    s = step_size.tolist() if isinstance(step_size, Tensor) else float(step_size)
    finite = bool(torch.isfinite(gap).all())
    reason = None
    if not finite or negative > NEGATIVE:
        reason = too_large(s, smallest, negative, finite)
    usable = reason is None
    return Objective(
        s,
        float(gap.mean()) if usable else None,
        float(gap.std()) / math.sqrt(gap.numel()) if usable and gap.numel() > 1 else None,
        float(t.log_det.mean()),
        smallest,
        float(t.largest),
        negative,
        reason,
    )


def too_large(s: float | list[float], smallest: float, negative: float, finite: bool) -> str:
    """Why a step size cannot be judged: the eigenvalue, and the bounds that it breaks."""
    if not finite:
        return (
            f"step_size = {s}: the chain or its determinant is not finite; "
            f"stable steps need s^2 lambda < 4, and the determinant is zero at s^2 lambda = 2"
        )
    product = 2 * (1 - smallest)  # s^2 lambda of the largest eigenvalue
    about = f"s^2 lambda = {product:.3g}"
    if not isinstance(s, list):
        about += f" (lambda = {product / s**2:.3g})"
    bound = "unstable beyond 4, not injective beyond 2"
    return (
        f"step_size = {s}: {negative:.1%} of the eigenvalues of a step's Jacobian are negative, "
        f"the smallest {smallest:.3g}, at {about}: {bound}; take a smaller step"
    )
