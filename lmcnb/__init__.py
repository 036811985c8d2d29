"""Langevin papers that anyone can run, check and trust: the shared package.

`from lmcnb import langevin_diffusion` gives the methods of a paper, `from lmcnb import lab` the
laboratory that the notebooks use. Submodules are imported when first used, so that the command
line starts without loading torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "lab": "lmcnb.lab",
    "langevin_diffusion": "lmcnb.methods.langevin_diffusion",
    "langevin_diffusion_training": "lmcnb.methods.langevin_diffusion_training",
    "langevin_autoencoder": "lmcnb.methods.langevin_autoencoder",
    "langevin_autoencoder_training": "lmcnb.methods.langevin_autoencoder_training",
    "langevin_autoencoder_bounds": "lmcnb.methods.langevin_autoencoder_bounds",
    "mcmc_teaching": "lmcnb.methods.mcmc_teaching",
    "mcmc_teaching_data": "lmcnb.methods.mcmc_teaching_data",
    "mcmc_teaching_settings": "lmcnb.methods.mcmc_teaching_settings",
    "mcmc_teaching_theory": "lmcnb.methods.mcmc_teaching_theory",
    "mcmc_teaching_training": "lmcnb.methods.mcmc_teaching_training",
    "short_run": "lmcnb.methods.short_run",
    "short_run_likelihood": "lmcnb.methods.short_run_likelihood",
    "short_run_marginal": "lmcnb.methods.short_run_marginal",
    "short_run_search": "lmcnb.methods.short_run_search",
    "short_run_theory": "lmcnb.methods.short_run_theory",
    "short_run_training": "lmcnb.methods.short_run_training",
    "unbiased": "lmcnb.methods.unbiased",
    "unbiased_vae": "lmcnb.methods.unbiased_vae",
    "unbiased_vae_ppca": "lmcnb.methods.unbiased_vae_ppca",
    "unbiased_vae_theory": "lmcnb.methods.unbiased_vae_theory",
    "unbiased_vae_training": "lmcnb.methods.unbiased_vae_training",
    "targets": "lmcnb.models.targets",
    "kernels": "lmcnb.kernels",
    "evaluation": "lmcnb.evaluation",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return importlib.import_module(_EXPORTS[name])
    raise AttributeError(f"module 'lmcnb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
