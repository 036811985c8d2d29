"""Fixed points of learning in one dimension: closed forms, and where the trainer's loop arrives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.methods.mcmc_teaching_data import Batch, Networks, Streams
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.linear_vae import LinearDecoder, LinearPosterior
from lmcnb.models.quadratic_energy import QuadraticEnergy

F64 = torch.float64
Stream = torch.Generator
MU, VARIANCE, STEP_SIZE, STEPS, SIGMA = 2.0, 0.25, 0.2, 10, 0.2  # the sheet's instance
LEARNED = {  # name: teacher, ancestral
    "variational": ("variational", True),
    "variational, from g(z)": ("variational", False),
    "short-run": ("short-run", True),
    "fast": ("fast", True),
    "original": ("original", True),
    "persistent": ("persistent", True),
}


def fixed_points() -> dict[str, float]:
    """Closed forms at the sheet's instance less its digits."""
    instance = (MU, VARIANCE, STEP_SIZE, STEPS)
    short = theory.fixed_point("short-run", *instance)
    ours = theory.fixed_point("variational", *instance, sigma=SIGMA)
    from_mean = theory.fixed_point("variational", *instance, sigma=SIGMA, ancestral=False)
    invariant = theory.invariant_variance(from_mean.precision, STEP_SIZE)
    return {
        "short-run/l": rounded(short.precision - 5.8415, 5e-5),
        "short-run/m": rounded(short.mean - 2.8117, 5e-5),
        "short-run/variance": rounded(short.variance - 0.1712, 5e-5),
        "variational/variance": rounded(ours.variance - 0.23956, 5e-6),
        "variational/m": ours.mean - MU,
        "from_mean/V": rounded(invariant - 0.25921, 5e-6),
        "from_mean/w2": rounded(from_mean.weight**2 - 0.21, 1e-9),
    }


def rounded(error: float, half: float) -> float:
    """Zero where an error lies within half of the last printed digit."""
    return 0.0 if abs(error) <= half else error


def learning(
    stream: Callable[[str], Stream],
    iterations: int,
    chains: int = 4000,
    names: tuple[str, ...] = tuple(LEARNED),
) -> list[dict[str, Any]]:
    """What the trainer's own loop learns, beside the closed form: rows of 1 / l, m and w.

    Averages over the last quarter of the iterations; rates fall linearly from half of the run.
    """
    rows = []
    for name in names:
        teacher, ancestral = LEARNED[name]
        known = theory.fixed_point(
            teacher, MU, VARIANCE, STEP_SIZE, STEPS, sigma=SIGMA, ancestral=ancestral
        )
        precision, m, w = learn(teacher, ancestral, iterations, chains, stream(name))
        rows.append(
            {
                "teacher": name,
                "variance": 1 / precision,
                "exact variance": known.variance,
                "mean": m,
                "exact mean": known.mean,
                "weight": w if known.weight or teacher in ("fast", "original") else None,
                "exact weight": known.weight,
            }
        )
    return rows


def learn(
    teacher: str, ancestral: bool, iterations: int, chains: int, stream: Stream
) -> tuple[float, float, float]:
    """Mean of precision, mean and weight over the last quarter of a training in one dimension."""

    def number(*values: float) -> Tensor:
        return torch.tensor(values, dtype=F64)

    energy = QuadraticEnergy(number(5.0)[None], number(9.0))
    decoder = LinearDecoder(number(0.4)[None], number(1.5))
    networks = Networks(
        energy, LinearPosterior(number(1.0)[None], number(-1.0), number(0.6)), decoder
    )

    def draw(n: int, s: Stream) -> Batch:
        x = torch.randn(n, 1, generator=s, dtype=F64)
        return Batch(MU + math.sqrt(VARIANCE) * x)

    teaching = Teaching(
        teacher=teacher, ancestral=ancestral, iterations=iterations, batch=chains, chains=chains,
        pool=chains, steps=STEPS, step_size=STEP_SIZE, reference=None, sigma=SIGMA, start_std=1.0,
        energy_rate=0.15, generator_rate=0.02, generator_steps=1,
    )  # fmt: skip
    trainer = Trainer(teaching, networks, draw, Streams(stream, stream))
    kept = []
    while trainer.done < iterations:
        trainer.step()
        if trainer.done > 0.75 * iterations:
            at = (energy.A, energy.b / energy.A, decoder.W.abs())
            kept.append(torch.stack([v.detach().squeeze() for v in at]))
    precision, mean, weight = torch.stack(kept).mean(0).tolist()
    return precision, mean, weight
