"""What is known in closed form of coupled ISIR chains, for Gaussian posteriors and proposals.

Posterior N(mu, Sigma) with precision Lambda = Sigma^-1, proposal q = N(m, diag s^2) with precision
Q = diag(1 / s^2), d = mu - m, and w(z) = p(x, z) / q(z), so that E_q[w] = p(x):

    bounded     w <= w_max < infinity if Lambda - Q is positive definite (assumption A3):
                w_max / p(x) = sqrt(|Lambda| / |Q|) exp(1/2 d^T Q (Lambda - Q)^-1 Lambda d)
    moment      rho_2 = E_q[(w / p(x))^2], finite if 2 Lambda - Q is positive definite:
                |Lambda| |Q|^-1/2 |2 Lambda - Q|^-1/2 exp(d^T Q (2 Lambda - Q)^-1 Lambda d)
    tail        P_q(w > y) falls like y^-a up to slower factors, with a = 1 / (1 - l) > 1 for the
                least eigenvalue l < 1 of diag(s) Lambda diag(s); a > 2 where rho_2 is finite
    IWAE        bias of the self-normalized E[z]: -(rho_2 / K) (m_2 - mu) + O(K^-2),
                m_2 = (2 Lambda - Q)^-1 (2 Lambda mu - Q m), the mean under w^2 q
    ISIR        total variation at most rho_K^T after T steps (2010.01845, proposition 5):
                rho_K = 1 - (K - 1) / (2 w_max / p(x) + K - 2)
    meeting     every beta = 0 step makes two chains select one point with probability at least
                P_meet = (p(x) / w_max) (1 - 1/K), so E[tau] <= L + 1 / P_meet (proposition 4;
                L - 1 there, but the first joint step of algorithm 4 gives t = L + 1)

Where Lambda - Q is only semidefinite the weights may be bounded (they are constant if q is the
posterior) or not; these functions call them unbounded. A pair of C-ISIR needs one iteration more
until the whole states are equal. rho_K and the bound on the meeting are the paper's, the rest are
our own derivations, checked numerically in the tests.
Units: nats; z in units of the prior's standard deviation.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError


class Weights(NamedTuple):
    """The law of w / p(x) under the proposal."""

    bound: float  # w_max / p(x); infinite if there is none
    second_moment: float  # rho_2; infinite if there is none
    tail: float  # a in P(w > y) ~ y^-a; infinite where the tails are lighter, or there are none
    least: float  # least eigenvalue of Lambda - Q: bounded if positive
    direction: Tensor  # (dim), its eigenvector
    least_twice: float  # least eigenvalue of 2 Lambda - Q: finite variance if positive


def weights(mean: Tensor, covariance: Tensor, proposal_mean: Tensor, std: Tensor) -> Weights:
    """How large importance weights get.

    Args:
        mean: mu of the posterior, `(dim)`.
        covariance: Sigma, `(dim, dim)`.
        proposal_mean: m, `(dim)`.
        std: s, `(dim)`.

    Raises:
        UsageError: shapes that do not fit, means that are not finite, s not positive, Sigma not
            symmetric or not positive definite.
    """
    mean, precision, m, Q = _checked(mean, covariance, proposal_mean, std)
    d = mean - m
    log_det = torch.linalg.slogdet
    values, vectors = torch.linalg.eigh(precision - Q)
    twice = 2 * precision - Q
    least, least_twice = float(values[0]), float(torch.linalg.eigvalsh(twice)[0])
    bound = second = tail = math.inf
    if least > 0:
        half = 0.5 * d @ Q @ torch.linalg.solve(precision - Q, precision @ d)
        bound = float((0.5 * (log_det(precision)[1] - log_det(Q)[1]) + half).exp())
    if least_twice > 0:
        quadratic = d @ Q @ torch.linalg.solve(twice, precision @ d)
        dets = log_det(precision)[1] - 0.5 * (log_det(Q)[1] + log_det(twice)[1])
        second = float((dets + quadratic).exp())
    s = Q.diagonal().rsqrt()
    scaled = float(torch.linalg.eigvalsh(s[:, None] * precision * s)[0])
    if scaled < 1:
        tail = 1 / (1 - scaled)
    return Weights(bound, second, tail, least, vectors[:, 0], least_twice)


def warn_if_unbounded(
    mean: Tensor, covariance: Tensor, proposal_mean: Tensor, std: Tensor
) -> Weights:
    """`weights`, and a warning where assumption A3 fails that says what that means.

    Warns:
        UserWarning: Lambda - Q is not positive definite; if 2 Lambda - Q is neither, that, too.
    """
    w = weights(mean, covariance, proposal_mean, std)
    if w.least > 0:
        return w
    along = ", ".join(f"{v:.2f}" for v in w.direction.tolist()[:8])
    along += ", ..." if len(w.direction) > 8 else ""
    tails = "" if w.tail == math.inf else f", P(w > y) about y^-{w.tail:.3g}"
    text = (
        f"unbounded importance weights: the least eigenvalue of Lambda - Q is {w.least:.3g}, along "
        f"({along}): there the posterior is not narrower than the proposal. The weights' tails "
        f"are polynomial{tails}. Assumption A3 fails, and with it the guarantee (proposition 4): "
        "the meeting time may have no finite mean or variance, and the variance of the unbiased "
        "estimator may be infinite."
    )
    if w.least_twice <= 0:
        text += (
            f" The least eigenvalue of 2 Lambda - Q is {w.least_twice:.3g}: even the second moment "
            "of the weights is infinite, and with it the variance of plain importance sampling."
        )
    warnings.warn(text + " A wider proposal repairs it.", stacklevel=2)
    return w


def iwae_bias(
    mean: Tensor, covariance: Tensor, proposal_mean: Tensor, std: Tensor, samples: int
) -> Tensor:
    """First-order bias of self-normalized importance sampling of E[z] with K samples, `(dim)`.

    Arguments as in `weights`.

    Raises:
        UsageError: as in `weights`; samples below 1; 2 Lambda - Q not positive definite.
    """
    _at_least(samples, 1)
    w = weights(mean, covariance, proposal_mean, std)
    if w.least_twice <= 0:
        raise UsageError(
            f"std: the least eigenvalue of 2 Lambda - Q is {w.least_twice:.3g}; it must be "
            "positive, or the weights have no second moment and the expansion in 1/K does not exist"
        )
    mean, precision, m, Q = _checked(mean, covariance, proposal_mean, std)
    tilted = torch.linalg.solve(2 * precision - Q, 2 * precision @ mean - Q @ m)
    return -(w.second_moment / samples) * (tilted - mean)


def contraction(bound: float, samples: int) -> float:
    """rho_K of the ISIR kernel (proposition 5).

    Args:
        bound: w_max / p(x), at least one; infinite: no contraction, 1.
        samples: K.
    """
    _bounded(bound, samples)
    return 1 - (samples - 1) / (2 * bound + samples - 2)


def least_meeting_probability(bound: float, samples: int) -> float:
    """P_meet = (p(x) / w_max) (1 - 1/K), of every joint beta = 0 step; arguments as above."""
    _bounded(bound, samples)
    return (1 - 1 / samples) / bound


def most_joint_steps(bound: float, samples: int, composite: bool = True) -> float:
    """The bound on the mean of tau - L: 1 / P_meet, for C-ISIR one iteration more."""
    p = least_meeting_probability(bound, samples)
    return (1 / p if p > 0 else math.inf) + (0 if composite else 1)


class Gradients(NamedTuple):
    """Of log p(x) of x = theta0 + W z + N(0, sigma^2 I), z ~ N(0, I)."""

    intercept: Tensor  # (pixels), with respect to theta0
    weight: Tensor  # (pixels, dim), with respect to W


def gradients(weight: Tensor, intercept: Tensor, variance: float, x: Tensor) -> Gradients:
    """The gradients of log N(x; theta0, C), C = W W^T + sigma^2 I.

    C^-1 r    and    C^-1 r r^T C^-1 W - C^-1 W,    r = x - theta0

    Args:
        weight: W, `(pixels, dim)`.
        intercept: theta0, `(pixels)`.
        variance: sigma^2.
        x: the observation, `(pixels)`.

    Raises:
        UsageError: shapes that do not fit, or a variance that is not positive.
    """
    W, r = _model(weight, intercept, variance, x)
    C = W @ W.T + variance * torch.eye(len(r), dtype=W.dtype, device=W.device)
    white, W_white = torch.linalg.solve(C, r), torch.linalg.solve(C, W)
    return Gradients(white, torch.outer(white, r @ W_white) - W_white)


def fisher_gradients(weight: Tensor, intercept: Tensor, variance: float, x: Tensor) -> Gradients:
    """The same by Fisher's identity, from the posterior N(mu, Sigma); arguments as in `gradients`.

    (r - W mu) / sigma^2    and    [(r - W mu) mu^T - W Sigma] / sigma^2
    """
    W, r = _model(weight, intercept, variance, x)
    mean, covariance = posterior(weight, intercept, variance, x)
    left = r - W @ mean
    return Gradients(left / variance, (torch.outer(left, mean) - W @ covariance) / variance)


def posterior(
    weight: Tensor, intercept: Tensor, variance: float, x: Tensor
) -> tuple[Tensor, Tensor]:
    """mu `(dim)` and Sigma `(dim, dim)`; arguments as in `gradients`.

    Lambda = I + W^T W / sigma^2    and    mu = Sigma W^T r / sigma^2
    """
    W, r = _model(weight, intercept, variance, x)
    identity = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
    covariance = torch.linalg.inv(identity + W.T @ W / variance)
    return covariance @ (W.T @ r) / variance, covariance


def _model(weight: Tensor, intercept: Tensor, variance: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """W and r = x - theta0."""
    if weight.dim() != 2 or intercept.shape != weight.shape[:1] or x.shape != weight.shape[:1]:
        raise UsageError(
            f"weight, intercept, x of shapes {tuple(weight.shape)}, {tuple(intercept.shape)}, "
            f"{tuple(x.shape)}: (pixels, dim), (pixels) and (pixels) are needed"
        )
    if not 0 < variance < math.inf:
        raise UsageError(f"variance={variance!r}: a positive number is needed")
    return weight.double(), (x - intercept).double()


def _checked(
    mean: Tensor, covariance: Tensor, proposal_mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mu, Lambda, m and Q in float64."""
    dim = mean.shape
    if (
        len(dim) != 1
        or covariance.shape != dim * 2
        or proposal_mean.shape != dim
        or std.shape != dim
    ):
        shapes = [tuple(t.shape) for t in (mean, covariance, proposal_mean, std)]
        raise UsageError(
            f"mean, covariance, proposal_mean, std of shapes {shapes}: (dim), (dim, dim), (dim) "
            "and (dim) are needed"
        )
    if not bool((std > 0).all()):
        raise UsageError(f"std={std.tolist()}: positive numbers are needed")
    covariance = covariance.double()
    for name, given in (("mean", mean), ("proposal_mean", proposal_mean)):
        if not bool(torch.isfinite(given).all()):
            raise UsageError(f"{name}={given.tolist()}: finite numbers are needed")
    if not torch.allclose(covariance, covariance.T):
        raise UsageError("covariance: it must be symmetric")
    if not bool((torch.linalg.eigvalsh(covariance) > 0).all()):
        raise UsageError("covariance: it must be positive definite")
    precision = torch.linalg.inv(covariance)
    precision = 0.5 * (precision + precision.T)
    return mean.double(), precision, proposal_mean.double(), std.double().pow(-2).diag()


def _at_least(samples: int, least: int) -> None:
    if type(samples) is not int or samples < least:
        raise UsageError(f"samples={samples!r}: an integer of at least {least} is needed")


def _bounded(bound: float, samples: int) -> None:
    _at_least(samples, 2)
    if not bound >= 1:
        raise UsageError(f"bound={bound!r}: w_max / p(x) is at least 1, since E_q[w] = p(x)")
