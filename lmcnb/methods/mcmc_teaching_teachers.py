"""How six ways to teach an energy-based model differ (2012.14936, figure 1, and its baselines)."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Teacher(NamedTuple):
    """What tells one method from another."""

    start: Literal["generator", "noise", "persistent"] | None
    """Where the chains in x begin; None: no energy and no chains."""
    latent: Literal["encoder", "same", "langevin"] | None
    """The latents with which the generator is updated; None: there is no generator."""
    learns_from: Literal["revised", "data"] = "revised"
    """What the generator is fitted to."""


TEACHERS = {
    # method                chains start from   latents of the generator's update
    "variational": Teacher("generator", "encoder"),  # the paper's: an encoder infers z from x~
    "fast": Teacher("generator", "same"),  # no inference: the z that gave x_0
    "original": Teacher("generator", "langevin"),  # MCMC inference: L steps on log p(z | x~)
    "short-run": Teacher("noise", None),  # non-convergent learning (Nijkamp et al. 2019)
    "persistent": Teacher("persistent", None),  # persistent contrastive divergence
    "VAE": Teacher(None, "encoder", "data"),  # no energy: the same autoencoder, on data
}
