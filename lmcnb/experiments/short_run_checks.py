"""The exact answers of short-run inference, entered into a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.experiments import short_run_structure as structure
from lmcnb.lab.bars import Progress
from lmcnb.lab.randomness import generator

ERRORS = "standard errors"
QUADRATURE = {  # s: (E log-det, noise-free divergence, divergence of the noisy chain's own law)
    0.05: (-0.04935, 2.98438, 3.02108),
    0.10: (-0.27528, 1.76731, 1.91973),
    0.15: (-0.83381, 0.92585, 0.97796),
    0.20: (-1.77815, 1.11343, 0.51409),
    0.25: (-3.15803, 2.15034, 0.32744),
    0.30: (-5.22240, 4.04111, 0.24695),
}
FROZEN = {0.05: (3.035, 0.008), 0.15: (1.315, 0.005), 0.30: (4.147, 0.005)}


CHECKS = 18


def exact_answers(run: Any) -> list[dict[str, Any]]:
    """All checks against known answers; rows of (check, largest error, allowed, holds)."""
    with Progress(CHECKS, "exact answers") as bar:
        return _answers(run, bar)


def _answers(run: Any, bar: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seed, draws = run.seeds[0], run.settings.exact.draws

    def enter(check: str, found: dict[str, float], allowed: float, unit: str = "nats") -> None:
        for name, value in found.items():
            run.metric(f"exact/{name}", value, seed=seed, unit="1" if unit == ERRORS else unit)
        worst = max((abs(v) if v == v else math.inf) for v in found.values())
        rows.append(
            {
                "check": check,
                "worst": worst,
                "allowed": allowed,
                "in": "–" if unit == "1" else unit,
                "holds": worst <= allowed,
            }
        )
        bar.update()

    def stream(name: str) -> torch.Generator:
        return generator(seed, f"exact/{name}")

    formulas = exact.formulas()
    enter(
        "linear-Gaussian: three divergences, log-determinant and minima, by their formulas",
        {f"formula/{k}": v for k, v in formulas.items()},
        1e-6,
    )
    found = exact.estimator(stream("estimator"), draws)
    enter(
        "log-determinant of the chain against K sum log |a|",
        {"log_det": found.pop("log_det")},
        1e-9,
    )
    enter(
        "J + log p(x), noise-free and with its noise given, by their formulas",
        {f"estimator/{k}": v for k, v in found.items()},
        4.0,
        ERRORS,
    )
    moments = exact.moments(stream("moments"), draws)
    enter("mean and variance of z_K", {f"moments/{k}": v for k, v in moments.items()}, 4.2, ERRORS)
    searched = exact.searches(stream("searches"))
    enter(
        "gradient search against the closed-form minimizers",
        {f"search/{k}": v for k, v in searched.items()},
        1e-3,
        "1",
    )
    bounds = exact.own_law(stream("own law"))
    enter(
        "bounds of the chain's own divergence: its closed form lies between",
        {"own_law/outside": bounds["outside"]},
        4.0,
        ERRORS,
    )
    enter("and they are close, with 1,000 chains", {"own_law/width": bounds["width"]}, 0.05)
    error = exact.likelihood_error(stream("likelihood"))
    enter("importance-sampled log p(x), 20,000 samples", {"likelihood": error}, 0.05)
    errors: dict[str, float] = {}
    for s, (log_det, noise_free, marginal) in QUADRATURE.items():
        own = quadrature.one_dimensional(s, 1801)
        errors |= {
            f"quadrature/log_det/s={s}": own.log_det - log_det,
            f"quadrature/noise_free/s={s}": own.noise_free - noise_free,
            f"quadrature/marginal/s={s}": own.marginal - marginal,
        }
    enter("one dimension, not linear: by quadrature", errors, 1e-3)
    errors = {}
    for s, (value, se) in FROZEN.items():
        mean, own_se = quadrature.frozen_1d(s, stream(f"frozen/{s}"), 10 * draws)
        errors[f"frozen/s={s}"] = (mean - value) / math.hypot(se, own_se)
    enter("the same, J with the noise given", errors, 4.0, ERRORS)
    unrolled = {
        f"unrolled/L={len(d)}": structure.unrolled_error(stream("unrolled"), d)
        for d in ((16,), (3, 4, 5))
    }
    enter("log-determinant by eigenvalues against the unrolled Jacobian", unrolled, 1e-8)
    limits = structure.limit_errors(stream("limits"))
    enter("s to 0, and K = 0", {f"limit/{k}": v for k, v in limits.items()}, 1e-4)
    masked = structure.masks(stream("masks"))
    enter("no pixel hidden: the same chain", {"mask/empty": masked["empty"]}, 0.0, "1")
    enter("every pixel hidden: a chain of the prior", {"mask/full": masked["full"]}, 4.0, ERRORS)
    enter(
        "hand-written score and Hessian of the generators, relative to autograd",
        structure.derivative_errors(stream("derivatives")),
        1e-9,
        "1",
    )
    enter("roots of the learning map", exact.root_errors(), 1.1e-5, "1")
    enter(
        "its root at s = 0.05, K = 2,000 against maximum likelihood",
        {"likelihood_limit": exact.likelihood_limit()},
        0.002,
        "1",
    )
    for name, value in exact.distances().items():
        run.metric(f"exact/{name}", value, seed=seed, unit="1")
    for name, value in exact.bound_in_many_dimensions(stream("many dimensions")).items():
        run.metric(f"exact/bound/{name}", value, seed=seed, unit="1" if "size" in name else "nats")
    for name, value in exact.gap().items():
        run.metric(f"exact/{name}", value, seed=seed, unit="1" if "size" in name else "nats")
    learned = exact.learning(stream("learning"), run.settings.exact.updates)
    enter("fixed point of learning, against the root of its map", learned, 0.005, "1")
    return rows
