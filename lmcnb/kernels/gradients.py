"""Scores and Hessian products of log densities: the one place that differentiates a target.

A target is any callable `log_density(z)` from `(..., dim)` to `(...)`. One that also offers
`linearize(z) -> (score, product)` is differentiated by its own formulas, otherwise by autograd.
Guaranteed: both routes give the same numbers up to rounding (tests hold ours to 1e-9 in float64).
Not guaranteed: anything about a density that mixes chains; `check_log_density` refuses the
obvious mistakes (shape, NaN, chains that influence each other) before a run starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lmcnb.errors import UsageError

LogDensity = Callable[[Tensor], Tensor]
Product = Callable[[Tensor], Tensor]
V = TypeVar("V")


def value_and_score(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log density `(...)` in nats and its gradient `(..., dim)` at `z`, both detached."""
    if hasattr(log_density, "linearize"):
        with torch.no_grad():
            return log_density(z), log_density.linearize(z)[0]
    with torch.inference_mode(False), torch.enable_grad():
        leaf = (z.clone() if z.is_inference() else z.detach()).requires_grad_(True)
        value = log_density(leaf)
        (score,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), score


def score(log_density: LogDensity, z: Tensor) -> Tensor:
    """Gradient of the log density at `z`, `(..., dim)`, detached."""
    if hasattr(log_density, "linearize"):
        with torch.no_grad():
            return log_density.linearize(z)[0]
    return value_and_score(log_density, z)[1]


def differentiable_score(log_density: LogDensity, z: Tensor) -> Tensor:
    """Gradient of the log density at `z`, `(..., dim)`, kept in the graph of `z` if it has one.

    The reference route: plain autograd, never a target's own formulas.
    """
    in_graph = z.requires_grad
    with torch.enable_grad():
        point = z if in_graph else z.detach().requires_grad_(True)
        value = log_density(point).sum()
        (gradient,) = torch.autograd.grad(value, point, create_graph=in_graph)
    return gradient


def linearize(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Product]:
    """Score at `z` and the map `v -> (Hessian at z) v`, all shaped `(..., dim)`.

    The Hessian is symmetric, so the same map serves as the score's Jacobian product and as its
    transpose in a reverse sweep.
    """
    own = getattr(log_density, "linearize", None)
    if own is not None:
        return own(z)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.detach().clone().requires_grad_(True)  # a copy: callers reuse their buffers
        (gradient,) = torch.autograd.grad(log_density(leaf).sum(), leaf, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a log density linear in z has no Hessian
            return torch.zeros_like(vector)
        with torch.inference_mode(False), torch.enable_grad():
            (result,) = torch.autograd.grad(
                gradient, leaf, vector.clone(), retain_graph=True, allow_unused=True
            )
        return torch.zeros_like(vector) if result is None else result

    return gradient.detach(), product


def check_log_density(log_density: LogDensity, points: Tensor) -> None:
    """Refuse a target that cannot be sampled, by evaluating it at `points` `(n, dim)`, n >= 2.

    Raises:
        UsageError: the density is not callable, raises, gives something else than one finite
            number per point, lets one point influence another, has another dimension, or has a
            score that is not finite or, if its own (`linearize`), not the gradient.
    """
    name = getattr(log_density, "name", getattr(log_density, "__name__", "log_density"))
    if not callable(log_density):
        raise UsageError(f"target {name!r} is not callable: give a function (..., dim) -> (...)")
    n, dim = points.shape
    own = getattr(log_density, "dim", None)
    if isinstance(own, int) and own != dim:
        raise UsageError(f"target {name!r} has dim = {own}, not {dim}")
    rtol, atol = (1e-9, 1e-9) if points.dtype == torch.float64 else (5e-5, 1e-3)

    def attempt(function: Callable[[LogDensity, Tensor], V], z: Tensor, what: str) -> V:
        try:
            return function(log_density, z)
        except Exception as error:
            raise UsageError(
                f"target {name!r} raised {type(error).__name__} {what} a tensor of shape "
                f"{tuple(z.shape)}: {error}. It must map (..., {dim}) to (...), by torch functions"
            ) from error

    value = attempt(lambda f, z: f(z), points, "on")
    if not isinstance(value, Tensor):
        raise UsageError(f"target {name!r} returned {type(value).__name__}, not a torch.Tensor")
    if value.shape != (n,):
        raise UsageError(
            f"target {name!r} returned shape {tuple(value.shape)} for input ({n}, {dim}); it must "
            f"return one number per sample, shape ({n},): sum over the last dimension only"
        )
    if not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise UsageError(f"target {name!r} returned NaN or infinity at {bad} of {n} points")
    gradient = attempt(value_and_score, points, "in the gradient at")[1]
    if gradient.shape != points.shape or not torch.isfinite(gradient).all():
        raise UsageError(
            f"target {name!r} has a score that is not finite at every one of {n} points"
        )
    one, alone = value_and_score(log_density, points[:1])
    if not torch.allclose(one, value[:1], rtol=rtol, atol=atol) or not torch.allclose(
        alone, gradient[:1], rtol=1e-3, atol=1e-3 * float(gradient[:1].abs().max())
    ):
        raise UsageError(
            f"target {name!r} mixes samples: a point's value or score depends on the others"
        )
    if hasattr(log_density, "linearize"):
        try:
            plain = value_and_score(lambda z: log_density(z), points)[1]
        except RuntimeError:  # not written in torch: its own score is all there is
            plain = gradient
        if not torch.allclose(gradient, plain, rtol=1e-2, atol=1e-2 * float(plain.abs().max())):
            raise UsageError(f"target {name!r}: its linearize gives a score that is no gradient")
    batched = attempt(lambda f, z: f(z), points[None], "on")
    if batched.shape != (1, n):
        raise UsageError(
            f"target {name!r} returned shape {tuple(batched.shape)} for input (1, {n}, {dim}); it "
            f"must accept any leading dimensions and return shape (1, {n})"
        )
