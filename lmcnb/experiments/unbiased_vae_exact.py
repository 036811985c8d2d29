"""Coupled ISIR and DISIR chains where the gradient is known; used by the tests and the notebook.

The reference instance is linear-Gaussian with three pixels and two latents. Errors are counted in
standard errors over independent replicates: an unbiased estimator passes `worst` < 4, and the same
number rejects importance sampling, a premature stop, a cap, chains without coupling, index meetings
where beta > 0, and a beta that follows the chain that it moves. float64 throughout; log p in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.experiments.unbiased_vae_exact_models import Case, reference, toy
from lmcnb.kernels import disir, pimh
from lmcnb.kernels.coupling import Pair
from lmcnb.methods import unbiased_vae as uv
from lmcnb.methods import unbiased_vae_theory as theory
from lmcnb.methods.unbiased import Meeting, unbiased_expectation
from lmcnb.methods.unbiased_vae_kernels import Coupling
from lmcnb.models.linear_gaussian import LinearGaussian

F64 = torch.float64
CHUNK = 100_000  # replicates at a time: bounds the memory
SAMPLES, BETA = 4, 0.5  # of the reference instance

UNBIASED = {
    "C-ISIR": Coupling(SAMPLES, composite=False),
    "C-ISIR-DISIR": Coupling(SAMPLES),
}
BIASED = {
    "C-ISIR, stopped at the selected points": Coupling(SAMPLES, composite=False, rule="index"),
    "C-ISIR, cap 2": Coupling(SAMPLES, composite=False, cap=2),
    "C-ISIR-DISIR, no coupling": Coupling(SAMPLES, cap=0),
    "C-ISIR-DISIR, index rule": Coupling(SAMPLES, rule="index"),
}
WINDOWS = ((1, 1), (1, 10), (5, 3))  # (t0, L)


class Estimate(NamedTuple):
    """An estimator over many replicates; tensors have one entry a component."""

    error: Tensor  # mean less the exact value
    sd: Tensor  # of one replicate
    replicates: int
    steps: Tensor  # (most + 1,), how many replicates took so many joint steps; empty: no chains
    capped: float  # share of the replicates
    n_weights: float  # log weights evaluated per replicate

    @property
    def se(self) -> Tensor:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.replicates)

    @property
    def z(self) -> Tensor:
        """Error in standard errors."""
        return self.error / self.se

    @property
    def worst(self) -> float:
        """Largest |z|: below 4 for an unbiased estimator."""
        return float(self.z.abs().max())

    @property
    def joint_steps(self) -> float:
        """Their mean."""
        return float((self.steps * torch.arange(len(self.steps))).sum()) / self.replicates

    @property
    def one(self) -> float:
        """Share of the replicates that met at the first joint step."""
        return float(self.steps[1]) / self.replicates


Draw = Callable[[int], tuple[Tensor, Meeting | None, float]]  # n -> values (n, c), meeting, weights


def collect(exact: Tensor, replicates: int, draw: Draw) -> Estimate:
    """Draw in chunks and sum up."""
    first, second = torch.zeros_like(exact), torch.zeros_like(exact)
    steps = torch.zeros(0, dtype=torch.int64)
    capped = spent = 0.0
    sizes = [min(CHUNK, replicates - done) for done in range(0, replicates, CHUNK)]
    for n in sizes:
        value, meeting, n_weights = draw(n)
        e = value - exact
        first, second, spent = first + e.sum(0), second + e.square().sum(0), spent + n_weights
        if meeting is not None:
            counts = torch.bincount(meeting.joint_steps, minlength=max(2, len(steps)))
            counts[: len(steps)] += steps
            steps, capped = counts, capped + float(meeting.capped.sum())
    error = first / replicates
    sd = ((second - replicates * error.square()) / (replicates - 1)).sqrt()
    return Estimate(error, sd, replicates, steps, capped / replicates, spent / replicates)


def coupled(
    case: Case, stream: torch.Generator, replicates: int, coupling: Coupling, beta: float = BETA
) -> Estimate:
    """The gradient by coupled chains."""

    def draw(n: int) -> tuple[Tensor, Meeting | None, float]:
        dim = len(case.mean)
        w = uv.weighted_points(case.log_weight(n), n, dim, coupling, beta, stream, F64)
        return uv.expectation(w, case.gradient, 1 << 16), w.meeting, w.n_weights

    return collect(case.exact(), replicates, draw)


def importance(
    case: Case, stream: torch.Generator, replicates: int, samples: int = SAMPLES
) -> Estimate:
    """The IWAE gradient: self-normalized importance sampling, biased."""

    def draw(n: int) -> tuple[Tensor, Meeting | None, float]:
        rows, weigh = torch.arange(n), case.log_weight(n)
        state = disir.start((n, samples, len(case.mean)), lambda p: weigh(p, rows), stream, F64)
        h = case.gradient(state.points, rows)
        return (disir.weights(state).unsqueeze(-1) * h).sum(-2), None, n * samples

    return collect(case.exact(), replicates, draw)


def metropolis(
    case: Case, stream: torch.Generator, replicates: int, coupling: Coupling | None = None
) -> Estimate:
    """The gradient by coupled PIMH chains; of the settings K, t0 and L are used."""
    c = coupling or Coupling(SAMPLES)

    def draw(n: int) -> tuple[Tensor, Meeting | None, float]:
        weigh = case.log_weight(n)
        spent = 0

        def count(info: pimh.Info, rows: Tensor) -> None:
            nonlocal spent
            spent += info.n_weights * len(rows)

        def kernel(state: pimh.State, rows: Tensor) -> pimh.State:
            state, info = pimh.step(state, lambda p: weigh(p, rows), stream)
            count(info, rows)
            return state

        def joint(pair: Pair, rows: Tensor) -> Pair:
            pair, info = pimh.coupled_step(pair, lambda p: weigh(p, rows), stream)
            count(info, rows)
            return pair

        def h(state: pimh.State, rows: Tensor) -> Tensor:
            return (pimh.weights(state).unsqueeze(-1) * case.gradient(state.points, rows)).sum(-2)

        every, shape = torch.arange(n), (n, c.samples, len(case.mean))
        u, v = (pimh.start(shape, lambda p: weigh(p, every), stream, F64) for _ in range(2))
        found = unbiased_expectation(kernel, joint, h, u, v, lag=c.lag, start=c.start)
        return found.value, found.meeting, spent + 2.0 * n * c.samples

    return collect(case.exact(), replicates, draw)


def estimators(stream: torch.Generator, replicates: int) -> dict[str, Estimate]:
    """The estimators that must pass, at the reference instance (K = 4, beta = 0.5)."""
    case = reference()
    found = {name: coupled(case, stream, replicates, c) for name, c in UNBIASED.items()}
    return found | {"PIMH": metropolis(case, stream, replicates)}


def controls(
    stream: torch.Generator, replicates: int, names: Iterable[str] = tuple(BIASED)
) -> dict[str, Estimate]:
    """Those that must not pass: IWAE, and the named ones of `BIASED`."""
    case = reference()
    found = {"IWAE": importance(case, stream, replicates)}
    return found | {name: coupled(case, stream, replicates, BIASED[name]) for name in names}


def windows(
    stream: torch.Generator, replicates: int, which: Iterable[tuple[int, int]] = WINDOWS
) -> dict[tuple[int, int], Estimate]:
    """C-ISIR-DISIR with several (t0, L): other laws, one mean."""
    of = {(start, lag): Coupling(SAMPLES, lag=lag, start=start) for start, lag in which}
    return {key: coupled(reference(), stream, replicates, c) for key, c in of.items()}


def meetings(stream: torch.Generator, replicates: int, inflation: float) -> Tensor:
    """Joint steps of `replicates` runs of C-ISIR-DISIR at the toy (K = 4, beta = 0.9), counted."""
    c = Coupling(SAMPLES, lag=1)
    return coupled(toy(inflation), stream, replicates, c, 0.9).steps


def hazards(steps: Tensor) -> tuple[Tensor, Tensor]:
    """P(tau - L = n | tau - L >= n) for n = 1, 2, ..., and standard errors, from `steps`.

    Bounded weights: never below P_meet, and flat at last, since log P(tau - L > n) is linear in n.
    """
    here, left = steps[1:].double(), steps[1:].double().flip(0).cumsum(0).flip(0)
    p = here / left
    return p, (p * (1 - p) / left).sqrt()


def adaptation_inside(stream: torch.Generator, replicates: int, gain: float) -> Estimate:
    """E[z] and E[z^2] of the toy with beta adapted inside a run, which biases the estimate.

    K = 4, L = 10, beta = 0.9 at first, one a replicate. After every iteration
    beta <- beta - gain (ESS - 0.3 K), ESS that of the first chain; the paper has gain = 0.01. With
    gain = 0 it is C-ISIR-DISIR.
    """
    case = toy()

    def draw(n: int) -> tuple[Tensor, Meeting | None, float]:
        weigh, every, shape = case.log_weight(n), torch.arange(n), (n, SAMPLES, len(case.mean))
        beta, spent = torch.full((n,), 0.9, dtype=F64), 2.0 * n * SAMPLES

        def adapt(state: disir.State, rows: Tensor, *steps: disir.Info) -> None:
            nonlocal spent
            spent += len(rows) * sum(info.n_weights for info in steps)
            moved = beta[rows] - gain * (disir.effective_samples(state) - 0.3 * SAMPLES)
            beta[rows] = moved.clamp(uv.LEAST, uv.MOST)

        def kernel(state: disir.State, rows: Tensor) -> disir.State:
            def w(points: Tensor) -> Tensor:
                return weigh(points, rows)

            state, explored = disir.step(state, w, 0.0, stream)
            state, exploited = disir.step(state, w, beta[rows], stream)
            adapt(state, rows, explored, exploited)
            return state

        def joint(pair: Pair, rows: Tensor) -> Pair:
            def w(points: Tensor) -> Tensor:
                return weigh(points, rows)

            pair, explored = disir.coupled_step(pair, w, 0.0, stream)
            pair, exploited = disir.coupled_step(pair, w, beta[rows], stream)
            adapt(pair.first, rows, explored, exploited)
            return pair

        def h(state: disir.State, rows: Tensor) -> Tensor:
            return (disir.weights(state).unsqueeze(-1) * case.squares(state.points, rows)).sum(-2)

        u, v = (disir.start(shape, lambda p: weigh(p, every), stream, F64) for _ in range(2))
        found = unbiased_expectation(kernel, joint, h, u, v)
        return found.value, found.meeting, spent

    return collect(case.moments(), replicates, draw)


PRINTED = {  # the digits of the reference instance
    "log p(x)": "-3.3976473566",
    "intercept": "0.63126965 0.03249396 0.75368122",
    "weight": "-0.39038997 0.05714573 -0.15302569 0.53739030 0.45268208 0.18344069",
    "mu": "0.18880911 0.59111214",
    "w_max / p(x)": "3.8611593",
    "rho_2": "2.2007570",
    "K bias": "-0.2044 0.1723",
}


def formulas() -> dict[str, float]:
    """The closed forms against the printed digits, in units of the last: at most a half."""
    case = reference()
    mean, covariance = case.posterior()
    g, w = theory.gradients(case.weight, case.intercept, case.variance, case.x), case.weights()
    model = LinearGaussian(case.weight, case.variance * torch.eye(3, dtype=F64))
    values = {
        "log p(x)": model.log_marginal(case.x - case.intercept),
        "intercept": g.intercept,
        "weight": g.weight,
        "mu": mean,
        "w_max / p(x)": torch.tensor(w.bound, dtype=F64),
        "rho_2": torch.tensor(w.second_moment, dtype=F64),
        "K bias": theory.iwae_bias(mean, covariance, case.mean, case.std, 1),
    }
    found = {}
    for name, text in PRINTED.items():
        known = torch.tensor([float(t) for t in text.split()], dtype=F64)
        unit = 10.0 ** -len(text.split()[0].partition(".")[2])
        found[name] = float((values[name].flatten() - known).abs().max()) / unit
    return found


SHORT = ("C-ISIR, stopped at the selected points", "C-ISIR-DISIR, no coupling")


def summary(stream: torch.Generator, replicates: int = 20_000) -> dict[str, dict[str, float]]:
    """The estimators and the clearest controls in a few seconds: |z|, sd, joint steps."""
    found = estimators(stream, replicates) | controls(stream, replicates, SHORT)
    name = "C-ISIR-DISIR, beta adapted inside the run"
    found[name] = adaptation_inside(stream, replicates, 0.1)
    return {
        name: {"worst": e.worst, "sd": float(e.sd.square().mean().sqrt())}
        | ({"joint steps": e.joint_steps, "one": e.one} if len(e.steps) else {})
        for name, e in found.items()
    }
