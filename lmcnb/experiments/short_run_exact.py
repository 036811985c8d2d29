"""Short-run inference where the answer is known; used by the tests and the notebook.

The functions return numbers that should be zero, or standard errors away from a known value.
float64 throughout; U and log p(x) include all constants.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.methods.short_run import (
    draw,
    log_density_gap,
    short_run,
    transport,
)
from lmcnb.methods.short_run_likelihood import log_likelihood
from lmcnb.methods.short_run_marginal import marginal_bounds, marginal_search
from lmcnb.methods.short_run_search import gradient_search
from lmcnb.methods.short_run_theory import divergences, fixed_points, minimizer
from lmcnb.models.linear_gaussian import LinearGaussian
from lmcnb.models.observed import LogJoint

F64 = torch.float64
PRECISION, MEAN = (2.0, 10.0), (0.5, -1.0)  # the reference instance
STEPS, STEP_SIZE = 10, 0.2
STEEP = 0.44  # its step sizes are searched below


class Linear:
    """log p(x, z) of a linear-Gaussian model at one x, with its derivatives."""

    def __init__(self, model: LinearGaussian, x: Tensor) -> None:
        self.model, self.x = model, x[None]
        mean, covariance = model.posterior(x)
        self.mean, self.precision = mean, torch.linalg.inv(covariance)

    def __call__(self, z: Tensor) -> Tensor:
        """log p(x, z), `(...)`."""
        return self.model.log_joint(self.x, z)

    def second_order(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, score and Hessian, for `kernels.hessian`."""
        shape = (*z.shape, z.shape[-1])
        score = (self.mean - z) @ self.precision
        return self(z), score, (-self.precision).expand(shape)


class Case(NamedTuple):
    """A linear-Gaussian posterior in a rotated basis."""

    log_joint: Linear
    log_marginal: float
    precision: Tensor
    mean: Tensor  # in the eigenbasis


def reference(angle: float = 0.7) -> Case:
    """lambda = (2, 10), m~ = (0.5, -1), as a model x = W z + N(0, sigma^2 I) of three pixels."""
    lam, mean = torch.tensor(PRECISION, dtype=F64), torch.tensor(MEAN, dtype=F64)
    c, s = math.cos(angle), math.sin(angle)
    V = torch.tensor([[c, -s], [s, c]], dtype=F64)
    sigma = 0.5
    # three pixels, the columns of Q orthonormal: W^T W / sigma^2 = V (lambda - 1) V^T
    Q = torch.linalg.qr(torch.tensor([[1.0, 0.3], [0.2, 1.0], [-0.4, 0.5]], dtype=F64)).Q
    W = Q @ torch.diag(((lam - 1) * sigma**2).sqrt()) @ V.T
    x = Q @ (mean * lam * sigma**2 / ((lam - 1) * sigma**2).sqrt())  # gives posterior mean V m~
    model = LinearGaussian(W, sigma**2 * torch.eye(3, dtype=F64))
    return Case(Linear(model, x), float(model.log_marginal(x)), lam, mean)


def formulas() -> dict[str, float]:
    """The closed forms at the reference instance against the sheet's digits."""
    case = reference()
    d = divergences(case.precision, case.mean, STEP_SIZE, STEPS)
    found = {
        "noise_free": d.noise_free - 0.809585,
        "marginal": d.marginal - 0.217896,
        "frozen": d.frozen - 1.643428,
        "log_det": d.log_det + 2.639655,
    }
    known = {
        "noise_free": (0.1687, 0.491730),
        "marginal": (0.3313, 0.058275),
        "frozen": (0.1641, 1.219450),
    }
    for curve, (s, value) in known.items():
        at = minimizer(curve, case.precision, case.mean, STEPS, STEEP)
        found[f"minimum/{curve}"] = at[1] - value
        # the step size is printed with four digits
        found[f"at/{curve}"] = 0.0 if abs(at[0] - s) <= 5e-5 else at[0] - s
    return found


def estimator(stream: torch.Generator, draws: int) -> dict[str, float]:
    """Standard errors of J + log p(x) from its closed forms, by the method's own code.

    Several step sizes, with noise and without; `log_det`: the largest error of K sum log |a|.
    """
    case = reference()
    found: dict[str, float] = {}
    worst = 0.0
    for s in (0.1, STEP_SIZE, 0.35):
        z, noise = draw((draws, 2), STEPS, stream, F64)
        known = divergences(case.precision, case.mean, s, STEPS)
        for name, given in (("noise_free", None), ("frozen", noise)):
            t = transport(case.log_joint, z, s, STEPS, given)
            worst = max(worst, float((t.log_det - known.log_det).abs().max()))
            gap = log_density_gap(t, z) + case.log_marginal
            error = float(gap.mean()) - getattr(known, name)
            found[f"{name}/s={s}"] = error / (float(gap.std()) / math.sqrt(draws))
    return found | {"log_det": worst}


def moments(stream: torch.Generator, draws: int) -> dict[str, float]:
    """Standard errors of z_K's mean and variance from the closed forms (reference, s = 0.2)."""
    case = reference(0.0)
    z, noise = draw((draws, 2), STEPS, stream, F64)
    a = 1 - STEP_SIZE**2 * case.precision / 2
    c0 = a ** (2 * STEPS)
    cN = c0 + STEP_SIZE**2 * (1 - c0) / (1 - a**2)
    found = {}
    for name, given, variance in (("noise_free", None, c0), ("noisy", noise, cN)):
        end = short_run(case.log_joint, z, STEP_SIZE, STEPS, given)
        error = (end.mean(0) - (1 - a**STEPS) * case.mean) / (variance / draws).sqrt()
        spread = (end.var(0) - variance) / (variance * math.sqrt(2 / draws))
        found[f"mean/{name}"] = float(error.abs().max())
        found[f"variance/{name}"] = float(spread.abs().max())
    return found


def searches(stream: torch.Generator, draws: int = 60) -> dict[str, float]:
    """Gradient search against the closed-form minimizers, with and without noise.

    z_0 and noise are centred and whitened to exact moments, so that the Monte-Carlo objective is
    the closed form itself: J of a linear-Gaussian model depends on the draws' second moments alone.
    """
    case = reference()
    points, noise = whitened(draws, 2, STEPS, stream)
    found = {}
    for name, given in (("noise_free", None), ("frozen", noise)):
        s = gradient_search(
            case.log_joint, points, 0.1, STEPS, given, learning_rate=0.03, iterations=60
        ).step_size
        known = minimizer(name, case.precision, case.mean, STEPS, STEEP)[0]
        assert isinstance(s, float)
        found[name] = s - known
    return found


def whitened(n: int, dim: int, steps: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """z_0 and noise with mean zero and exactly uncorrelated unit second moments, jointly."""
    joint = torch.randn(n, dim * (steps + 1), generator=stream, dtype=F64)
    joint = joint - joint.mean(0)
    root = torch.linalg.cholesky(joint.T @ joint / n)
    joint = torch.linalg.solve_triangular(root, joint.T, upper=False).T
    z, *noise = joint.split(dim, -1)
    return z.contiguous(), torch.stack(noise)


def likelihood_error(
    stream: torch.Generator, step_size: float = 0.12, samples: int = 20_000
) -> float:
    """Importance-sampled log p(x) of the reference instance minus the exact one (noise-free q).

    At the minimizer of the noise-free divergence, 0.169, q's variance along the second axis is 0.46
    of the posterior's: below a half the weights have no variance. Smaller steps have.
    """
    case, s = reference(), step_size
    bound = log_likelihood(case.log_joint, 2, s, STEPS, samples, stream)
    return float(bound.value[0]) - case.log_marginal


def own_law(stream: torch.Generator, chains: int = 1000, repeats: int = 20) -> dict[str, float]:
    """The bounds of the chain's own divergence at the reference instance, s = 0.33.

    `outside`: by how many standard errors the closed form lies outside them; `width`: nats between.
    """
    case, s = reference(), 0.33
    known = divergences(case.precision, case.mean, s, STEPS).marginal
    found = []
    for _ in range(repeats):
        z, noise = draw((chains, 1, 2), STEPS, stream, F64)
        own = marginal_bounds(case.log_joint, z, s, STEPS, noise)
        found.append((own.lower, own.upper))
    ends = torch.tensor(found, dtype=F64) + case.log_marginal
    mean, se = ends.mean(0), ends.std(0) / math.sqrt(repeats)
    beyond = torch.stack([(mean[0] - known) / se[0], (known - mean[1]) / se[1]])
    return {"outside": max(0.0, float(beyond.max())), "width": float(mean[1] - mean[0])}


def bound_in_many_dimensions(stream: torch.Generator, chains: int = 64) -> dict[str, float]:
    """Where the marginal bound is least over where the marginal divergence is: looseness, shown.

    16 dimensions of precision 10, K = 25, 32 images of the model: x = 3 z + N(0, I). `step_size`:
    ratio of the minimizers; `excess`: nats from the bound's least value down to the exact
    divergence at the same step size.
    """
    dim, images, steps = 16, 32, 25
    z = torch.randn(images, dim, generator=stream, dtype=F64)
    x = 3 * z + torch.randn(images, dim, generator=stream, dtype=F64)
    target = LogJoint(lambda v: 3 * v, x, 1.0)
    log_marginal = float((-0.5 * (x.square() / 10 + math.log(20 * math.pi))).sum(-1).mean())
    start, noise = draw((chains, images, dim), steps, stream, F64)
    grid = [0.01 * i for i in range(8, 45)]
    found = marginal_search(target, start, grid, steps, noise)
    lam = torch.full((dim,), 10.0, dtype=F64)
    least, s = min((o.value, o.step_size) for o in found.visited if o.value is not None)
    assert isinstance(s, float)
    exactly = divergences(lam, None, s, steps).marginal
    known = minimizer("marginal", lam, None, steps, STEEP)[0]
    return {"step_size": s / known, "excess": least + log_marginal - exactly}


# ---- the finding, and learning


def gap() -> dict[str, float]:
    """Least value of the published objective less that of the chain's own divergence (nats).

    And the ratio of their minimizers; at the reference instance.
    """
    case = reference()
    own, least = (
        minimizer("frozen", case.precision, case.mean, STEPS, STEEP),
        minimizer("marginal", case.precision, case.mean, STEPS, STEEP),
    )
    return {"gap/frozen": own[1] - least[1], "gap/step_size": own[0] / least[0]}


def root_errors() -> dict[str, float]:
    """Stable roots of the learning map less the sheet's digits, and the nearest to the maximum."""
    known = {
        (0.2, True): 1.31742,
        (0.3, True): 1.16767,
        (0.2, False): 6.72456,
        (0.3, False): 4.48577,
    }
    found = {}
    for (s, noisy), root in known.items():
        stable = [w for w, good in fixed_points(DATA, NOISE, s, 25, noisy) if good]
        found[f"root/{'noisy' if noisy else 'noise_free'}/s={s}/K=25"] = stable[-1] - root
    return found


def distances() -> dict[str, float]:
    """From the noisy chain's root to the maximum-likelihood weight, as the chain becomes exact."""
    return {
        f"distance/s={s}/K={steps}": abs(
            fixed_points(DATA, NOISE, s, steps, True)[0][0] - math.sqrt(DATA - NOISE)
        )
        for s, steps in ((0.1, 100), (0.1, 400), (0.05, 2000))
    }


def likelihood_limit() -> float:
    """The root at s = 0.05, K = 2,000, less the maximum-likelihood weight."""
    return fixed_points(DATA, NOISE, 0.05, 2000, True)[0][0] - math.sqrt(DATA - NOISE)


DATA, NOISE = 2.0, 0.5  # x ~ N(0, 2), model x = w z + N(0, 0.5)


def learning(stream: torch.Generator, updates: int, draws: int = 20_000) -> dict[str, float]:
    """The learned weight less the root of the learning map, s = 0.2 and 0.3, K = 25."""
    found = {}
    for s in (0.2, 0.3):
        w = sum(learn(stream, s, 25, updates, draws)[updates // 3 :]) / (updates - updates // 3)
        found[f"learning/s={s}"] = w - fixed_points(DATA, NOISE, s, 25, True)[0][0]
    return found


def learn(
    stream: torch.Generator,
    step_size: float,
    steps: int,
    updates: int,
    draws: int,
    *,
    noisy: bool = True,
    start: float = 1.2,
) -> list[float]:
    """The weight of x = w z + noise after every exact M-step on the chain's own draws."""
    w, kept = torch.tensor(start, dtype=F64), []
    for _ in range(updates):
        x = math.sqrt(DATA) * torch.randn(draws, 1, generator=stream, dtype=F64)
        z, noise = draw((draws, 1), steps, stream, F64)

        def scaled(u: Tensor, w: Tensor = w) -> Tensor:
            return u * w

        target = LogJoint(scaled, x, math.sqrt(NOISE))
        z = short_run(target, z, step_size, steps, noise if noisy else None)
        w = (x * z).mean() / (z * z).mean()
        kept.append(float(w))
    return kept
