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
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.importance_weighted import Bound, importance_weighted_bound
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


def _check_exact(log_joint: LogDensity, z: Tensor) -> None:
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
    negative = torch.zeros((), dtype=z.dtype, device=z.device)
    for k in range(steps):
        _, gradient, hessian = second_order(log_joint, z, chunk=TANGENTS)  # of log p = -U
        jacobian = eye + root[:, None] * hessian * root
        finite = torch.isfinite(jacobian).all(-1).all(-1)
        eigenvalues = torch.linalg.eigvalsh(torch.where(finite[..., None, None], jacobian, eye))
        log_det = log_det + torch.where(finite, eigenvalues.abs().log().sum(-1), math.nan)
        smallest = torch.minimum(smallest, eigenvalues.detach().amin())
        negative = negative + (eigenvalues < 0).to(z.dtype).mean() / steps
        z = move(z, gradient, eta, None if noise is None else noise[k])
    return Transport(z, log_joint(z), log_det, smallest, negative)


class Objective(NamedTuple):
    """J(s) over the examples at hand, or why there is none."""

    step_size: float | list[float]
    value: float | None  # mean over the examples, nats; None where it is unusable
    se: float | None  # its standard error over the examples' draws
    log_det: float  # mean
    smallest: float  # smallest eigenvalue of a step's Jacobian
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
    _check_exact(log_joint, z)
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


class Search(NamedTuple):
    """A step size, and how it was found."""

    step_size: float | list[float] | None  # None: no usable one was seen
    visited: list[Objective]


def grid_search(
    log_joint: LogDensity, z: Tensor, grid: Sequence[float], steps: int, noise: Tensor | None
) -> Search:
    """The step size of `grid` with the least J, all with the same z_0 and noise."""
    return best([objective(log_joint, z, s, steps, noise) for s in checked_grid(grid)])


def checked_grid(grid: Sequence[float]) -> list[float]:
    """The step sizes of a grid as numbers.

    Raises:
        UsageError: it is empty, or holds something else than positive numbers.
    """
    values = [s.item() if hasattr(s, "item") else s for s in grid]
    if not values:
        raise UsageError("grid: at least one step size is needed")
    for s in values:
        try:
            half_square(s)
        except UsageError as error:
            raise UsageError(f"grid={values!r}: {error}") from None
    return values


def best(visited: list[Objective]) -> Search:
    """The step size of the least usable value."""
    usable = [o for o in visited if o.value is not None]
    if not usable:
        return Search(None, visited)
    return Search(min(usable, key=lambda o: o.value or 0.0).step_size, visited)


class PastGuard(UsageError):
    """The gradient search cannot start where it was told to."""


def gradient_search(
    log_joint: LogDensity,
    z: Tensor,
    start: float | Sequence[float],
    steps: int,
    noise: Tensor | None,
    *,
    learning_rate: float = 0.05,
    iterations: int = 40,
    guard: float = 0.05,
    layers: Sequence[int] | None = None,
) -> Search:
    """Minimize J over log s by Adam, with one fixed z_0 and noise; the least J visited wins.

    Past the injective steps the gradient is huge and means nothing. A move to a step size at which
    an eigenvalue of a step's Jacobian falls below `guard` is therefore taken back by half (in
    log s) until it does not. Start from a small step.

    Args:
        log_joint: as in `states`.
        z: z_0, `(n, dim)`, float64.
        start: s, or one for every layer.
        steps: K.
        noise: as in `states`.
        learning_rate: of Adam, on log s.
        iterations: of Adam.
        guard: the least eigenvalue allowed, in (0, 1).
        layers: the dimension of every layer, for a step size each; None: one step size.

    Raises:
        PastGuard: `start` is already past the guard.
        UsageError: the density has kinks, or arguments do not fit each other.
    """
    _check_exact(log_joint, z)
    if not 0 < guard < 1:
        raise UsageError(f"guard={guard!r}: a number between 0 and 1 is needed")
    if type(iterations) is not int or iterations < 0:
        raise UsageError(f"iterations={iterations!r}: an integer of at least 0 is needed")
    if layers is not None and sum(layers) != z.shape[-1]:
        raise UsageError(f"layers={layers!r}: {sum(layers)} dimensions, z has {z.shape[-1]}")
    values = torch.as_tensor(start, dtype=z.dtype, device=z.device)
    half_square(values)
    sizes = None if layers is None else torch.tensor(list(layers), device=z.device)
    if sizes is not None and values.dim() == 0:
        values = values.expand(len(sizes))
    if values.shape != (() if sizes is None else sizes.shape):
        raise UsageError(f"start={start!r}: one number, or one for every one of layers={layers!r}")
    rho = values.log().clone()
    adam = torch.optim.Adam([rho], lr=learning_rate)

    def spread(log_s: Tensor) -> Tensor:
        s = log_s.exp()
        return s if sizes is None else s.repeat_interleave(sizes)

    def value(log_s: Tensor) -> tuple[Tensor, Transport]:
        t = transport(log_joint, z, spread(log_s), steps, noise)
        return log_density_gap(t, z).mean(), t

    visited: list[Objective] = []
    before: Tensor | None = None
    for _ in range(iterations + 1):
        gradient, seen = _derivatives(value, rho)
        while seen is None or not math.isfinite(seen.value or math.nan) or seen.smallest < guard:
            if before is None:
                smallest = math.nan if seen is None else seen.smallest
                raise PastGuard(
                    f"start={start!r}: an eigenvalue of a step's Jacobian is {smallest:.3g} "
                    f"there, below guard={guard}; start from a smaller step"
                )
            rho.copy_(0.5 * (rho + before))
            gradient, seen = _derivatives(value, rho)
        visited.append(seen)
        before = rho.clone()
        rho.grad = gradient
        adam.step()
    return best(visited)


def _derivatives(
    value: Callable[[Tensor], tuple[Tensor, Transport]], rho: Tensor
) -> tuple[Tensor, Objective | None]:
    """dJ / d log s by forward mode, and J, at rho = log s; None where s is no number."""
    gradient = torch.zeros_like(rho)
    s = rho.exp()
    if not bool((torch.isfinite(s) & (s > 0)).all()):
        return gradient, None
    directions = torch.eye(max(1, rho.numel()), dtype=rho.dtype, device=rho.device)
    for i, direction in enumerate(directions):
        j, slope, t = torch.func.jvp(  # type: ignore[misc]
            value, (rho,), (direction.view(rho.shape),), has_aux=True
        )
        gradient.view(-1)[i] = slope
    own = Objective(
        s.tolist(),
        float(j.detach()),
        None,
        float(t.log_det.mean()),
        float(t.smallest),
        float(t.negative),
        None,
    )
    return gradient, own


def log_likelihood(
    log_joint: LogDensity,
    dim: int,
    step_size: StepSize,
    steps: int,
    samples: int,
    generator: torch.Generator,
    *,
    noisy: bool = False,
) -> Bound:
    """log p(x) of every example by importance sampling with q = the chain's pushed-forward prior.

    log (1/M) sum_m p(x, z^m) / q(z^m | e^m): where the steps are injective a lower bound in
    expectation and exact as M grows, with any noise, since q(z | e) is a density for every e. Where
    they are not, q is too small and the value too large: it is withheld, as `objective`'s is.

    Args:
        log_joint: a density over `(n, dim)` with its `x`, as `models.observed.LogJoint`.
        dim: of z.
        step_size: s.
        steps: K.
        samples: M, at least 2.
        generator: source of z_0 and of the noise.
        noisy: whether the chain has noise.

    Raises:
        UsageError: more than one percent of the eigenvalues of a step's Jacobian are negative, the
            chain is not finite, x is not float64, or the density has kinks.
    """
    x = getattr(log_joint, "x", None)
    if not isinstance(x, Tensor) or x.dtype != torch.float64:
        raise UsageError("log_joint: a density with its images `x` in torch.float64 is needed")
    n = len(x)
    if type(samples) is not int or samples < 2:
        raise UsageError(f"samples={samples!r}: an integer of at least 2 is needed")
    _check_exact(log_joint, torch.zeros(n, dim, dtype=torch.float64, device=x.device))
    at_once = max(1, CHUNK // n)
    found = []
    smallest, negative = math.inf, 0.0
    for first in range(0, samples, at_once):
        shape = (min(at_once, samples - first), n, dim)
        z, noise = draw(shape, steps, generator, torch.float64)
        with torch.no_grad():
            t = transport(log_joint, z, step_size, steps, noise if noisy else None)
        found.append(-log_density_gap(t, z))
        smallest = min(smallest, float(t.smallest))
        negative += float(t.negative) * shape[0] / samples
    finite = all(bool(torch.isfinite(w).all()) for w in found)
    if not finite or negative > NEGATIVE:
        s = step_size.tolist() if isinstance(step_size, Tensor) else float(step_size)
        raise UsageError(too_large(s, smallest, negative, finite))
    weights = iter(torch.cat(found))
    return importance_weighted_bound(lambda: next(weights), samples)


CHUNK = 4096  # chains at once
