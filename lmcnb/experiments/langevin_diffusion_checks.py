"""The exact answers and the Lorenz references of Langevin diffusion VI, entered into a run.

Every function enters its numbers into a run (`lab.start`) and returns rows for a table.
"""

from __future__ import annotations

from typing import Any

import torch

from lmcnb.evaluation.particle_filter import lorenz_log_normalizer
from lmcnb.experiments import langevin_diffusion_exact as exact
from lmcnb.experiments import langevin_diffusion_identities as same
from lmcnb.experiments.langevin_diffusion import laplace_point, mean_field_cells, target, train
from lmcnb.experiments.langevin_diffusion_report import record
from lmcnb.kernels.gradients import differentiable_score, score
from lmcnb.lab.randomness import generator
from lmcnb.methods.langevin_diffusion import METHODS
from lmcnb.models.targets import Lorenz
from lmcnb.papers.langevin_diffusion import Pretrain

GOLDEN_DENSITIES = {  # log p~ at 0 and at 0.1 (1, ..., 1), computed independently of this package
    "ionosphere": (-275.45750904, -240.99687403),
    "sonar": (-200.22988368, -360.79256010),
    "seeds": (-124.67109030, -126.99119735),
    "brownian": (-38.14380369, -42.63652683),
    "lorenz": (-1202.59989763, -1429.19527515),
}
PUBLISHED = Pretrain(iterations=150_000, chains=5, learning_rate=0.01, decay=0.0)
"""Mean-field VI as the paper starts it: from N(0, I), constant learning rate."""


def exact_answers(run: Any) -> list[dict[str, Any]]:
    """All checks against known answers; rows of (check, largest error, allowed, holds)."""
    rows: list[dict[str, Any]] = []
    settings, seed = run.settings.exact, run.seeds[0]

    def enter(check: str, metrics: dict[str, float], allowed: float, unit: str = "1") -> None:
        for name, value in metrics.items():
            run.metric(f"exact/{name}", value, seed=seed, unit=unit)
        worst = max(abs(v) for v in metrics.values())
        rows.append({"check": check, "worst": worst, "allowed": allowed, "holds": worst <= allowed})

    golden = {r: exact.golden_moments(r).mean - known[2] for r, known in exact.KNOWN.items()}
    enter("E[w] by the quadratic form", {f"quadratic_form/{r}": v for r, v in golden.items()}, 1e-7)
    names = ("ULA", "MCD", "UHA", "LDVI", "a-lp", "UHA_EM", "LDVI_EM")
    scores = {
        m: exact.golden_scores(m, settings.chains, generator(seed, f"golden/{m}")) for m in names
    }
    means = {f"golden/{m}": pair[0].z for m, pair in scores.items()}
    enter("mean log weight (standard errors)", means, 4.0, "standard errors")
    ratios = {f"unbiased/{m}": pair[1].z for m, pair in scores.items()}
    enter("mean of exp w against Z (standard errors)", ratios, 4.0, "standard errors")
    learned = {
        m: exact.learn_linear_score(m, settings.score_iterations, generator(seed, f"optimum/{m}"))
        for m in exact.OPTIMUM
    }
    short = {f"optimum/{m}": learned[m][1] - exact.OPTIMUM[m][0] for m in learned}
    enter("learned linear score below its known optimum (nats)", short, 0.005, "nats")
    equal = {f"identity/{k}": v for k, v in same.identities(seed).items()}
    enter("identities between methods, path by path", equal, 1e-10)
    density = target("seeds", torch.float64)
    point = torch.linspace(-0.5, 0.5, density.dim, dtype=torch.float64)
    reversal, volume = same.leapfrog_checks(density, point)
    enter("leapfrog returns", {"leapfrog/reversal": reversal}, 1e-13)
    enter("leapfrog keeps volume", {"leapfrog/log_det": volume}, 1e-12)
    orders = same.q_is_p()
    for eps, error in orders.items():
        run.metric(f"exact/q_is_p/eps={eps}", error, seed=seed)
    rates = [orders[2 * eps] / orders[eps] for eps in (0.1, 0.05, 0.025)]
    slope = max(abs(r - 8) for r in rates)
    rows.append(
        {"check": "error / error at half the step, minus 8 (third order)", "worst": slope}
        | {"allowed": 1.5, "holds": slope <= 1.5}
    )
    enter("bridging temperatures", {"betas": same.temperature_error()}, 1e-12)
    enter("network at the start", {"network_at_start": same.network_at_start(seed)}, 0.0)
    gradients = {f"gradient/{m}": same.gradient_error(m) for m in METHODS}
    enter("every gradient of the fast code against autograd", gradients, 1e-9)
    values, slopes = density_errors(run)
    enter("target densities", {"targets/values": values, "targets/scores": slopes}, 1e-6)
    return rows


def density_errors(run: Any) -> tuple[float, float]:
    """Largest relative error of known target values and of scores, over the targets at hand."""
    used = {"seeds", "brownian", "lorenz", *run.settings.tables.targets}
    values, scores = 0.0, 0.0
    for name in sorted(used & set(GOLDEN_DENSITIES)):
        density = target(name, torch.float64)
        points = torch.tensor([[0.0], [0.1]], dtype=torch.float64).expand(2, density.dim)
        known = torch.tensor(GOLDEN_DENSITIES[name], dtype=torch.float64)
        values = max(values, float(((density(points) - known) / known).abs().max()))
        plain = differentiable_score(density.__call__, points)
        off = (score(density, points) - plain).abs().max() / plain.abs().max()
        scores = max(scores, float(off))
    return values, scores


def references(run: Any) -> None:
    """Enter the normalizers that are known in closed form or by quadrature."""
    grids = [run.settings.tables, *([run.settings.schemes] if run.settings.schemes else [])]
    for name in sorted({t for grid in grids for t in grid.targets}):
        known = getattr(target(name), "log_normalizer", None)
        if known is not None:
            for seed in run.seeds:
                run.metric(
                    f"log_z/{name}/reference", known, se=0.0, seed=seed, estimator="known exactly"
                )


def lorenz_normalizer(run: Any) -> list[dict[str, Any]]:
    """log Z of Lorenz by a particle filter and by Laplace's approximation, and the mode."""
    particles = run.settings.lorenz.particles
    if particles == 0:
        return []
    seed, density, filters = run.seeds[0], target("lorenz", torch.float64), 10
    assert isinstance(density, Lorenz)
    found = lorenz_log_normalizer(
        density,
        particles=max(1, particles // filters),
        filters=filters,
        generator=generator(seed, "lorenz/particle filter"),
    )
    point = laplace_point("lorenz")
    run.metric(
        "log_z/lorenz/particle_filter",
        found.value,
        se=found.se,
        n=particles,
        seed=seed,
        estimator="bootstrap particle filter",
    )
    run.metric("log_z/lorenz/laplace", float(point.log_normalizer), seed=seed, estimator="Laplace")
    curvature = torch.linalg.eigvalsh(point.precision)
    return [
        {"quantity": "log Z, particle filter", "value": found.value, "se": found.se},
        {"quantity": "log Z, Laplace", "value": float(point.log_normalizer), "se": None},
        {"quantity": "log density at the mode", "value": float(point.log_density), "se": None},
        {"quantity": "smallest curvature", "value": float(curvature[0]), "se": None},
        {"quantity": "largest curvature", "value": float(curvature[-1]), "se": None},
        {
            "quantity": "largest stable step, leapfrog",
            "value": float(2 / curvature[-1].sqrt()),
            "se": None,
        },
        {"quantity": "largest stable step, ULA", "value": float(2 / curvature[-1]), "se": None},
    ]


def lorenz_stall(run: Any) -> list[dict[str, Any]]:
    """Mean-field VI on Lorenz as published (from N(0, I), Adam 0.01 constant, 5 samples)."""
    steps = run.settings.lorenz.stall_iterations
    tables_have_it = "lorenz" in run.settings.tables.targets and not run.settings.pretrain.laplace
    if steps == 0 or tables_have_it:
        return []
    settings = PUBLISHED.model_copy(update={"iterations": steps})
    results = train(
        mean_field_cells(["lorenz"], settings, run), run.settings.workers, "published start"
    )
    record(run, results)
    return results
