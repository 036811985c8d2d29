"""The exact answers of the unbiased estimators, and the controls that they must reject."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lmcnb.evaluation.ais_images import ais_images
from lmcnb.experiments import unbiased_vae_exact as exact
from lmcnb.experiments import unbiased_vae_finite as finite
from lmcnb.experiments import unbiased_vae_illustration as illustration
from lmcnb.experiments.unbiased_vae_exact_models import reference
from lmcnb.lab.bars import Progress
from lmcnb.lab.randomness import generator
from lmcnb.methods import unbiased_vae_theory as theory
from lmcnb.models.linear_gaussian import LinearGaussian

F64 = torch.float64
ERRORS = "standard errors"
MOST = 4.0  # |z| of an unbiased estimator
STEPS = 9  # of the bar
ALL_CONTROLS = 100_000  # replicates from which every control is rejected; fewer: the clearest


def exact_answers(run: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All checks (check, worst, allowed, holds), and the estimators with their verdicts."""
    with Progress(STEPS, "exact answers") as bar:
        return _answers(run, bar)


def _answers(run: Any, bar: Progress) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    seed, replicates = run.seeds[0], run.settings.exact.replicates

    def enter(check: str, found: dict[str, float], allowed: float, unit: str) -> None:
        for name, value in found.items():
            run.metric(f"exact/{name}", value, seed=seed, unit="1" if unit == ERRORS else unit)
        worst = largest(found)
        row = {"check": check, "worst": worst, "allowed": allowed, "in": unit}
        rows.append(row | {"holds": worst <= allowed})
        bar.update()

    def stream(name: str) -> torch.Generator:
        return generator(seed, f"exact/{name}")

    digits = {"finite_worst": largest(finite.errors())}
    enter("four states, by enumeration: all digits", digits, 1e-10, "–")
    rate = finite.found()["ISIR/eigenvalue"] / theory.contraction(
        float((finite.PI / finite.Q).max()), finite.K
    )
    run.metric("exact/rate_over_bound", rate, seed=seed, unit="1")
    driven = finite.driver(stream("finite"), max(2_000, replicates // 4))
    scores = {f"driver/{k}": v for k, v in driven.items() if not k.endswith("/rejects")}
    enter("the same, by the estimator's own code", scores, MOST, ERRORS)
    digits = {f"formula/{k}": v for k, v in exact.formulas().items()}
    enter("linear-Gaussian: closed forms, to a half of the last digit", digits, 0.5001, "digits")

    table = []
    good = exact.estimators(stream("estimators"), replicates)
    scores = {f"unbiased/{k}": e.worst for k, e in good.items()}
    enter("the gradient by coupled chains against the exact one", scores, MOST, ERRORS)
    table += [estimator(run, name, e, True) for name, e in good.items()]
    few = replicates < ALL_CONTROLS
    bad = exact.controls(stream("controls"), replicates, exact.SHORT if few else exact.BIASED)
    name = "C-ISIR-DISIR, beta adapted inside the run"
    bad[name] = exact.adaptation_inside(stream("adapted"), replicates, 0.1)
    for name, e in bad.items():
        run.metric(f"exact/biased/{name}", e.worst, seed=seed, unit="1")
        table.append(estimator(run, name, e, False))
    bar.update()
    for name, e in (good | bad).items():
        run.metric(f"exact/rms_bias/{name}", rms(e), seed=seed, unit="1")
    ratio = rms(bad["IWAE"]) / rms(bad["C-ISIR-DISIR, no coupling"])
    run.metric("exact/rms_bias_ratio/IWAE:uncoupled", ratio, seed=seed, unit="1")

    bound = reference().weights().bound
    over: dict[str, float] = {}
    for name, composite in (("C-ISIR", False), ("C-ISIR-DISIR", True)):
        most = theory.most_joint_steps(bound, exact.SAMPLES, composite)
        over[f"bound/{name}"] = good[name].joint_steps / most
    enter("mean joint steps over their bound (proposition 4)", over, 1.0, "–")
    for K in (2, 4, 16, 64):
        most = theory.most_joint_steps(bound, K)
        run.metric(f"exact/most_joint_steps/K={K}", most, seed=seed, unit="joint steps")
    at, most = illustration.largest_weight()
    known = {"illustration/weight": most / 139.2 - 1, "illustration/place": at / 1.227 - 1}
    enter("illustration: the largest weight, and where", known, 1e-3, "–")
    enter(
        "annealed importance sampling of log p(x)", {"ais": annealed(stream("ais"))}, 0.05, "nats"
    )
    return rows, table


def largest(errors: Mapping[str, float]) -> float:
    """Largest absolute error; infinite where one is not a number."""
    return max(abs(v) if v == v else math.inf for v in errors.values())


def estimator(run: Any, name: str, e: exact.Estimate, unbiased: bool) -> dict[str, Any]:
    """A row of the table of estimators, and its standard deviation and joint steps as metrics."""
    seed = run.seeds[0]
    sd = float(e.sd.square().mean().sqrt())
    run.metric(f"exact/sd/{name}", sd, seed=seed, n=e.replicates, unit="1")
    row: dict[str, Any] = {"estimator": name, "largest |z|": e.worst, "sd": sd}
    if e.joint_steps > 0:
        run.metric(f"exact/joint_steps/{name}", e.joint_steps, seed=seed, unit="joint steps")
        row |= {"joint steps": e.joint_steps, "met at the first": e.one}
    row["log weights"] = e.n_weights
    rejected = e.worst > MOST
    row["unbiased"] = "yes" if unbiased else "no"
    row["test"] = "rejects" if rejected else "passes"
    return row | {"right": rejected is not unbiased}


def rms(e: exact.Estimate) -> float:
    """Root mean square of the errors of all components."""
    return float(e.error.square().mean().sqrt())


def annealed(stream: torch.Generator) -> float:
    """Largest error of log p(x) of three images of a linear-Gaussian model, nats."""
    weight = torch.tensor([[1.0, 0.5], [0.3, -0.8], [-0.6, 0.4]], dtype=F64)
    model = LinearGaussian(weight, 0.5 * torch.eye(3, dtype=F64))
    x = model.sample(3, stream)
    mean, covariance = model.posterior(x)
    std = 1.2 * covariance.diagonal().sqrt().expand_as(mean)
    found = ais_images(
        lambda z: model.log_joint(x, z), mean + 0.3, std, chains=16, temperatures=1000,
        n_leapfrog=5, generator=stream,
    )  # fmt: skip
    return float((found.bound.value - model.log_marginal(x)).abs().max())
