"""Gradient estimators on probabilistic PCA beside the exact gradient (2010.01845, figs. 2, 5, 6).

Every estimator of a study (`unbiased_vae_ppca_problem`) runs many times on all of its images.
Errors are of the gradient of sum_n log p(x_n): for one random intercept (figure 2), one random
weight (figure 5) and all intercepts (figure 6). Results are plain numbers and arrays.

Rows (replicates x images) run in chunks with streams of their own, so memory is bounded and an
estimator's numbers depend neither on the others nor on their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments.unbiased_vae_ppca_problem import (
    COST,
    ESTIMATORS,
    Problem,
    Study,
    about,
    problem,
)
from lmcnb.lab import pool
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased_vae_ppca import Moments, coupled, independent
from lmcnb.methods.unbiased_vae_ppca_fit import pilot_beta

PILOT_ROWS = 200
Report = Callable[[float], None]


def choose_beta(p: Problem, study: Study, seed: int) -> tuple[float, float | None]:
    """The study's beta, or the pilot's and the mean ESS that it had there."""
    if study.beta is not None:
        return study.beta, None
    count = max(1, -(-PILOT_ROWS // study.points))
    data = torch.arange(study.points, device=p.x.device).repeat(count)
    log_weight = p.model.log_weight(p.x, p.proposal, data, getattr(torch, study.dtype))
    stream = generator(seed, "ppca/pilot", p.x.device)
    shape = (len(data), study.samples, study.dim)
    return pilot_beta(log_weight, shape, stream, getattr(torch, study.dtype))


def estimate(
    p: Problem,
    study: Study,
    name: str,
    beta: float,
    seed: int,
    *,
    samples: int | None = None,
    report: Report = pool.report,
) -> dict[str, Any]:
    """All replicates of one estimator.

    Args:
        p: from `problem`.
        study: the settings.
        name: one of `study.named()`, or of `ESTIMATORS`.
        beta: of DISIR; a name with a beta has its own.
        seed: of the run.
        samples: K of ELBO and IWAE, if not the study's.
        report: told the work done after every chunk.

    Returns:
        `intercept`, `weight`: `summary` of the errors; `relative`: figure 6 both ways and what
        unbiased estimates would have there; `rms_bias` over all intercepts, its error removed;
        `max_z` over them; meeting times, decoder evaluations, seconds (processor time on a CPU).
    """
    kind, _, own_beta = name.partition(" beta=")
    if kind not in ESTIMATORS:
        raise UsageError(f"estimator {name!r}: choose from {', '.join(ESTIMATORS)}")
    beta, K = float(own_beta) if own_beta else beta, samples or study.samples
    clock = time.process_time if p.x.device.type == "cpu" else time.perf_counter
    per_chunk = max(1, study.chunk // (study.points * K * study.dim))
    at, pixel, d = p.entry
    intercept, weight, relative, steps = [], [], [], []
    total = torch.zeros(2, study.pixels, dtype=torch.float64, device=p.x.device)
    capped, spent, seconds = 0, 0, 0.0
    for first in range(0, study.replicates, per_chunk):
        count = min(per_chunk, study.replicates - first)
        stream = generator(seed, f"ppca/{name}/K={K}/{first}", p.x.device)
        begin = clock()
        found = _moments(p, study, kind, beta, K, count, stream)
        gradients = p.model.gradients(p.x, found, (d,))
        error = gradients.intercept - p.exact.intercept
        intercept.append(error[:, at].cpu())
        weight.append((gradients.weight[:, pixel, 0] - p.exact.weight[pixel, d]).cpu())
        relative.append((error / p.exact.intercept).abs().mean(-1).cpu())
        total += torch.stack([error.sum(0), error.square().sum(0)])
        steps.append(found.joint_steps.cpu())
        seconds += clock() - begin
        capped, spent = capped + int(found.capped.sum()), spent + found.n_weights
        report(count * study.points * COST[kind] * K / study.samples)
    n, joint = study.replicates, torch.cat(steps).numpy()
    mean = total[0] / n
    se = ((total[1] / n - mean.square()).clamp(min=0) / (n - 1)).sqrt()
    each, truth = torch.cat(relative).numpy(), p.exact.intercept.abs()
    noise = se.square().mean()
    return {
        "estimator": name,
        "samples": K,
        "beta": beta if kind in ("C-ISIR-DISIR", "average") else None,
        "replicates": n,
        "intercept": summary(torch.cat(intercept).numpy(), study.kept),
        "weight": summary(torch.cat(weight).numpy(), study.kept),
        "relative": {
            "of_each": float(each.mean()),
            "of_each_se": float(each.std(ddof=1) / n**0.5),
            "of_mean": float((mean.abs() / truth).mean()),
            "of_mean_unbiased": float((se / truth).mean()) * (2 / np.pi) ** 0.5,
        },
        "rms_bias": float((mean.square().mean() - noise).clamp(min=0).sqrt()),
        "rms_se": float(noise.sqrt()),
        "max_z": float((mean / se).abs().max()),
        "joint_steps": float(joint.mean()),
        "joint_steps_99": float(np.quantile(joint, 0.99)),
        "joint_steps_max": int(joint.max()),
        "capped": capped / len(joint),
        "evaluations": spent / len(joint),
        "seconds": seconds,
    }


def _moments(
    p: Problem, study: Study, kind: str, beta: float, K: int, count: int, stream: torch.Generator
) -> Moments:
    """Of `count` replicates of all images."""
    data = torch.arange(len(p.x), device=p.x.device).repeat(count)
    dtype, columns = getattr(torch, study.dtype), (p.entry[2],)
    if kind == "ELBO":
        return independent(None, p.proposal, data, K, stream, dtype, columns)
    log_weight = p.model.log_weight(p.x, p.proposal, data, dtype)
    if kind == "IWAE":
        return independent(log_weight, p.proposal, data, K, stream, dtype, columns)
    coupling = study.coupling(kind != "C-ISIR", 0 if kind == "average" else -1)
    found = coupled(log_weight, p.proposal, data, coupling, beta, stream, dtype, columns)
    none = torch.zeros_like(found.capped)  # the average is not meant to meet
    return found._replace(capped=none) if kind == "average" else found


def summary(errors: np.ndarray, kept: int) -> dict[str, Any]:
    """Mean with its standard error, and what a boxplot needs (whiskers: 1.5 IQR).

    `errors` are every so many of the replicates, at most `kept`.
    """
    q1, median, q3 = np.quantile(errors, [0.25, 0.5, 0.75])
    reach = 1.5 * (q3 - q1)
    inside = errors[(errors >= q1 - reach) & (errors <= q3 + reach)]
    sd = errors.std(ddof=1)
    se = sd / len(errors) ** 0.5
    numbers = {
        "mean": errors.mean(),
        "se": se,
        "z": errors.mean() / se if se > 0 else np.copysign(np.inf, errors.mean()),
        "sd": sd,
        "q1": q1,
        "median": median,
        "q3": q3,
        "min": errors.min(),
        "max": errors.max(),
        "whisker_low": inside.min(),
        "whisker_high": inside.max(),
    }
    thinned = errors[:: -(-len(errors) // kept)]
    return {**{k: float(v) for k, v in numbers.items()}, "errors": thinned}


def run(
    study: Study, seed: int, device: torch.device | str = "cpu", report: Report = pool.report
) -> dict[str, Any]:
    """The whole study: every estimator, and IWAE's bias against K; reports `study.work` in all."""
    p = problem(study, seed, device)
    beta, effective = choose_beta(p, study, seed)
    found = {n: estimate(p, study, n, beta, seed, report=report) for n in study.named()}
    sizes = [estimate(p, study, "IWAE", beta, seed, samples=k, report=report) for k in study.sizes]
    return {
        "about": about(p) | {"beta": beta, "pilot_effective": effective},
        "estimators": found,
        "bias": sizes,
    }
