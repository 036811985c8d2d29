"""The exact answers of MCMC teaching, entered into a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lmcnb.evaluation.plane_truth import divergence
from lmcnb.experiments import mcmc_teaching_exact as exact
from lmcnb.experiments import mcmc_teaching_exact_vae as vae
from lmcnb.experiments import mcmc_teaching_learning as learning
from lmcnb.lab.bars import Progress
from lmcnb.lab.randomness import generator
from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.models import plane

ERRORS = "standard errors"
MOST = 4.2  # |z| of the largest of a few dozen
CHECKS = 14  # of the bar
STEPS = (1, 2, 5, 10, 20, 40)  # K at which closed forms are entered


def exact_answers(run: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Checks (check, worst, allowed, holds), and what learning in one dimension arrives at."""
    with Progress(CHECKS, "exact answers") as bar:
        return _answers(run, bar)


def _answers(run: Any, bar: Progress) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    e, seed = run.settings.exact, run.seeds[0]

    def enter(check: str, found: Mapping[str, float], allowed: float, unit: str = "–") -> None:
        for name, value in found.items():
            run.metric(f"exact/{name}", value, seed=seed, unit="nats" if unit == "nats" else "1")
        worst = max((abs(v) if v == v else math.inf) for v in found.values())
        row = {"check": check, "worst": worst, "allowed": allowed, "in": unit}
        rows.append(row | {"holds": worst <= allowed})
        bar.update()

    def stream(name: str) -> torch.Generator:
        return generator(seed, f"exact/{name}")

    def named(kind: str, found: Mapping[str, float]) -> dict[str, float]:
        return {f"{kind}/{k}": v for k, v in found.items()}

    found = named("revision", exact.revision(stream("revision"), e.draws))
    enter("revision of a Gaussian: mean and variance after K steps", found, MOST, ERRORS)
    enter("its invariant variance, 1.06667 at S = 1, d = 0.5", {"inflation": exact.inflation()},
          1e-12)  # fmt: skip
    found = named("shrinking", exact.shrinking())
    enter("flat energy, s_ref = 0.016: factors of the released settings", found, 1e-5)
    found = named("partition", exact.partition_function())
    enter("partition function of a quadratic energy against a grid", found, 1e-6, "nats")
    found = named("gradient", exact.likelihood_gradient(stream("gradient"), e.draws))
    enter("gradient from exact samples against the likelihood's", found, MOST, ERRORS)
    found = named("divergences", exact.contrastive_divergence())
    enter("the same as a gradient of KL(data, p) - KL(M q, p)", found, 1e-10)
    found = named("pca", vae.principal_components()) | {"pca/gradient": vae.principal_gradient()}
    enter("linear autoencoder: probabilistic PCA and its bound", found, 1e-10, "nats")
    enter("loss of the code against -2 s^2 ELBO", {"loss": vae.loss_identity(stream("loss"))}, 1e-5)
    found = named("chain_rule", vae.chain_rule())
    enter("chain rule of the joint divergence, three ways", found, 1e-10, "nats")
    enter("score by hand against autograd", {"score": exact.scores(stream("score"))}, 1e-10)
    found = named("plumbing", exact.plumbing(stream("plumbing")))
    enter("gradients where they should be, none elsewhere", found, 0.0)
    enter("grid: KL, total variation and log Z of the truth itself", grid(), 1e-6, "nats")
    found = named("fixed", learning.fixed_points())
    enter("fixed points in one dimension, by their formulas", found, 1e-12)

    names = tuple(e.learning_names or learning.LEARNED)
    learned = learning.learning(
        lambda name: stream(f"learning/{name}"), e.learning, e.learning_chains, names
    )
    errors: dict[str, float] = {}
    for row in learned:
        name = row["teacher"]
        for what in ("variance", "mean"):
            errors[f"learned/{name}/{what}"] = row[what] / row[f"exact {what}"] - 1
        run.metric(f"learning/{name}/variance", row["variance"], seed=seed, unit="1")
        run.metric(f"learning/{name}/mean", row["mean"], seed=seed, unit="1")
        if row["weight"] is not None:
            run.metric(f"learning/{name}/weight", row["weight"], seed=seed, unit="1")
    enter("learning by the trainer's own loop, relative to them", errors, e.tolerance)
    for name, value in theory_entries().items():
        run.metric(f"theory/{name}", value, seed=seed, unit="1")
    return rows, learned


def grid() -> dict[str, float]:
    """Of the eight Gaussians against themselves, on 401 x 401 cells."""
    truth = plane.make("eight_gaussians")
    own = divergence(truth, truth, 401, 4.0)
    return {"grid/kl": own.kl, "grid/tv": own.total_variation, "grid/log_z": own.log_normalizer}


def theory_entries() -> dict[str, float]:
    """Closed forms of the sheet's instance, over K: l, m and w of what a teacher learns."""
    found: dict[str, float] = {}
    instance = (learning.MU, learning.VARIANCE, learning.STEP_SIZE)
    for name, (teacher, ancestral) in learning.LEARNED.items():
        for steps in STEPS:
            p = theory.fixed_point(
                teacher, *instance, steps, sigma=learning.SIGMA, ancestral=ancestral
            )
            found[f"{name}/K={steps}/precision"] = p.precision
            found[f"{name}/K={steps}/mean"] = p.mean
            found[f"{name}/K={steps}/weight"] = p.weight
    return found
