"""Settings and runs of MCMC teaching that take a second; the experiments' tests share them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from lmcnb.papers.mcmc_teaching import Settings

sys.path.append(str(Path(__file__).parent))
from entered import Entered

PLANE: dict[str, Any] = {
    "densities": ["eight_gaussians"],
    "arms": {"default": ["variational"]},
    "iterations": 30,
    "batch": 64,
    "chains": 32,
    "steps": 3,
    "step_size": 0.1,
    "reference": 2.0,
    "sigma": 0.1,
    "ancestral": True,
    "energy_rate": 1e-3,
    "generator_rate": 2e-3,
    "generator_steps": 2,
    "start_std": 2.0,
    "pool": 200,
    "inference_steps": 2,
    "width": 8,
    "samples": 200,
    "looks": 3,
    "longest": 40,
}
DIGITS: dict[str, Any] = {
    "tasks": ["none"],
    "arms": {"default": ["variational"]},
    "iterations": 12,
    "batch": 16,
    "chains": 16,
    "steps": 2,
    "step_size": 0.05,
    "reference": 1.0,
    "sigma": 0.1,
    "ancestral": False,
    "energy_rate": 1e-4,
    "generator_rate": 1e-3,
    "data_noise": 0.1,
    "start": "uniform",
    "pool": 104,
    "inference_steps": 2,
    "width": 8,
    "latent": 3,
    "samples": 100,
    "classifiers": 1,
    "looks": 2,
    "longest": 30,
}
IMAGES: dict[str, Any] = {
    "arms": ["variational"],
    "iterations": 2,
    "batch": 4,
    "chains": 4,
    "steps": 1,
    "step_size": 0.002,
    "reference": 0.016,
    "sigma": 1.0,
    "ancestral": False,
    "energy_rate": 0.009,
    "generator_rate": 2e-4,
    "decay": "exponential",
    "latent": 5,
    "samples": 100,
    "classifiers": 1,
    "looks": 1,
    "longest": 3,
}
EXACT: dict[str, Any] = {
    "draws": 1000,
    "learning": 100,
    "learning_chains": 100,
    "learning_names": ["variational"],
    "tolerance": 0.01,
}


def settings(**changed: Any) -> Settings:
    """Of all groups; `plane__steps=5` changes one of the plane's, `images={...}` a whole group."""
    table: dict[str, Any] = {
        "n_seeds": 2,
        "exact": dict(EXACT),
        "plane": dict(PLANE),
        "digits": dict(DIGITS),
        "images": {"datasets": []},
    }
    for key, value in changed.items():
        group, _, name = key.partition("__")
        if name:
            table[group][name] = value
        else:
            table[group] = value
    return Settings.model_validate(table)


class FakeRun(Entered):
    """What the experiments need of a `lab.Run`."""

    def __init__(
        self, directory: Path = Path("nowhere"), deadline: float | None = None, **changed: Any
    ) -> None:
        super().__init__(
            settings=settings(**changed),
            seeds=[3, 4],
            directory=directory,
            device=torch.device("cpu"),
            deadline=deadline,
        )


def without_time(value: Any) -> Any:
    """A result without the times in it."""
    if isinstance(value, dict):
        return {k: without_time(v) for k, v in value.items() if k != "seconds"}
    return [without_time(v) for v in value] if isinstance(value, list) else value


def same(a: Any, b: Any) -> bool:
    """Whether two tables hold the same tensors, bit for bit."""
    return set(a) == set(b) and all(torch.equal(v, b[k]) for k, v in a.items())
