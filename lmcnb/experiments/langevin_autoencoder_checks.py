"""The exact answers of the Langevin autoencoder, entered into a run."""

from __future__ import annotations

import math
from typing import Any

from lmcnb.experiments import langevin_autoencoder_exact as exact
from lmcnb.experiments import langevin_autoencoder_exact_models as models
from lmcnb.lab.randomness import generator

MOMENTS = "standard errors"


def exact_answers(run: Any) -> list[dict[str, Any]]:
    """All checks against known answers; rows of (check, largest error, allowed, holds)."""
    rows: list[dict[str, Any]] = []
    seed, draws = run.seeds[0], run.settings.exact.draws

    def enter(check: str, found: dict[str, float], allowed: float, unit: str = "1") -> None:
        for name, value in found.items():
            run.metric(f"exact/{name}", value, seed=seed, unit=unit)
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

    def stream(name: str) -> Any:
        return generator(seed, f"exact/{name}")

    laws = {d: exact.stationary(4, d, stream(f"law/{d}")) for d in (1, 3, 4, 9)}
    moments = {f"law/mean/d={d}": m.mean for d, m in laws.items()}
    moments |= {f"law/covariance/d={d}": m.covariance for d, m in laws.items()}
    enter("law of 4 points, 1, 3, 4 and 9 features: E Z = H M, Cov = H_ij S", moments, 4.5, MOMENTS)
    bias = exact.unadjusted_bias(stream("bias"), draws)
    enter(
        "variance without the accept test, by its formula",
        {f"bias/{name}": z for name, z in bias.items()},
        4.0,
        MOMENTS,
    )
    direct, antisymmetric, limit = exact.ratio_errors(stream("ratio"))
    enter(
        "log ratio: from the densities, antisymmetric",
        {"ratio/direct": direct, "ratio/antisymmetric": antisymmetric},
        1e-10,
        "nats",
    )
    enter("log ratio at a step size of 1e-9", {"ratio/limit": limit}, 1e-6, "nats")
    balance = exact.detailed_balance(stream("balance"), draws)
    enter("one variable against its density, total variation", {"balance": balance}, 0.03)
    enter(
        "one-hot features: independent chains",
        {"one_hot": exact.one_hot_error(stream("hot"))},
        1e-12,
    )
    felt, walk = exact.null_space(stream("null"))
    enter("null space is not felt by z", {"null/felt": felt}, 1e-10)
    enter("null space: Phi walks with variance 2 eta t", {"null/walk": walk}, 4.0, MOMENTS)
    relative, z = exact.fisher_identity(stream("fisher"), draws)
    enter(
        "time-averaged gradient of V, relative to the exact one",
        {"fisher/relative": relative},
        0.05,
    )
    enter("the same in standard errors", {"fisher/z": z}, 4.5, MOMENTS)
    closed, tight = models.elbo_errors(stream("elbo"))
    enter("ELBO of a linear-Gaussian model", {"elbo/closed": closed, "elbo/tight": tight}, 1e-10)
    for levels in (256, 17):
        masses, gradient = models.logistic_errors(levels)
        enter(f"{levels} pixel masses sum to one", {f"masses/{levels}": masses}, 1e-12)
        enter(
            f"their gradient, {levels} levels, by autograd", {f"gradient/{levels}": gradient}, 1e-10
        )
    integral, start = models.scale_errors()
    enter("prior of the scale; 1.2011 at the start", {"prior": integral, "scale": start}, 1e-7)
    enter(
        "log-determinant of planar flows, by autograd",
        {"flow": models.flow_error(stream("flow"))},
        1e-12,
    )
    same, last = models.hoffman_errors(stream("hoffman"))
    enter("Hoffman, T = 0: the VAE's gradients", {"hoffman/vae": same}, 0.0)
    enter("Hoffman, T = 3: decoder trained on the last z", {"hoffman/last": last}, 1e-12)
    enter(
        "hand-written training step against autograd",
        {f"step/{name}": error for name, error in models.step_errors().items()},
        1e-8,
    )
    return rows
