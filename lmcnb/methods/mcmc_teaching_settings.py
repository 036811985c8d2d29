"""How one model is taught: the settings of a run of `mcmc_teaching_training.Trainer`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lmcnb.errors import UsageError
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS

COUNTS = {"batch": 1, "chains": 1, "steps": 1, "generator_steps": 1, "iterations": 1}
COUNTS |= {"inference_steps": 1, "pool": 1}
POSITIVE = ["step_size", "sigma", "energy_rate", "generator_rate", "inference_step_size"]
POSITIVE += ["start_std", "explosion", "decay_every"]


@dataclass(frozen=True)
class Teaching:
    """Everything that decides a training but the networks, the data and the seed."""

    teacher: str = "variational"
    """One of `TEACHERS`."""
    iterations: int = 4000
    """Updates of the energy (of a VAE: `generator_steps` times as many of its own)."""
    batch: int = 256
    """Data points an iteration."""
    chains: int = 256
    """M: chains an iteration."""
    steps: int = 20
    """K: Langevin steps."""
    step_size: float = 0.15
    """d."""
    noisy: bool = True
    """Whether the revision has noise; the released code has none."""
    reference: float | None = 2.0
    """s_ref, standard deviation of the reference density; None: none."""
    sigma: float = 0.1
    """s, standard deviation of the decoder's noise; the weight of the KL is 2 s^2."""
    ancestral: bool = True
    """Whether chains start from g(z) + s e, a draw of the generator's law; else from g(z)."""
    energy_rate: float = 1e-3
    """Adam's learning rate of the energy."""
    generator_rate: float = 2e-3
    """Adam's learning rate of generator and encoder."""
    first_beta: float = 0.5
    """Adam's first beta, of both."""
    generator_steps: int = 3
    """Updates of the generator an iteration."""
    decay: Literal["none", "linear", "exponential"] = "linear"
    """Of both rates: linear from half of the run to 2 %; exponential 0.98^(iteration / every)."""
    decay_every: float = 3000.0
    """Iterations of a factor 0.98, of the exponential decay."""
    data_noise: float = 0.0
    """Standard deviation of noise added to the data that the energy sees."""
    start: Literal["normal", "uniform"] = "normal"
    """Of chains that start from noise: N(0, start_std^2), or uniform in +-start_std."""
    start_std: float = 2.0
    """Its width."""
    pool: int = 4000
    """Chains that persist; at every iteration some `chains` of them go on."""
    inference_steps: int = 10
    """L: Langevin steps on the latents (original)."""
    inference_step_size: float = 0.1
    """Their step size."""
    explosion: float = 1e4
    """A run whose gap of energies passes this has diverged."""

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise UsageError(f"teacher={self.teacher!r}: {', '.join(TEACHERS)} is needed")
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name}={value!r}: an integer of at least {least} is needed")
        for name in POSITIVE:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"{name}={value!r}: a positive number is needed")
        if not 0 <= self.data_noise < math.inf:
            raise UsageError(f"data_noise={self.data_noise!r}: at least 0 is needed")
        if not 0 <= self.first_beta < 1:
            raise UsageError(f"first_beta={self.first_beta!r}: a number in [0, 1) is needed")
        if self.decay not in ("none", "linear", "exponential"):
            raise UsageError(f"decay={self.decay!r}: none, linear or exponential is needed")
        if self.start not in ("normal", "uniform"):
            raise UsageError(f"start={self.start!r}: normal or uniform is needed")
        if self.reference is not None and not 0 < self.reference < math.inf:
            raise UsageError(f"reference={self.reference!r}: a positive width, or None for none")
        if self.reference is not None and self.step_size >= 2 * self.reference:
            raise UsageError(
                f"step_size={self.step_size}, reference={self.reference}: the chain is stable "
                f"under the reference alone only for step_size < 2 reference = {2 * self.reference}"
            )
        if self.teacher == "persistent" and self.pool < self.chains:
            raise UsageError(f"pool={self.pool}: at least chains={self.chains} is needed")

    def factor(self, done: int) -> float:
        """Of the learning rates, after `done` iterations."""
        if self.decay == "linear":
            share = done / self.iterations
            return 1.0 if share < 0.5 else 1 - 0.98 * (2 * share - 1)
        return 0.98 ** (done / self.decay_every) if self.decay == "exponential" else 1.0
