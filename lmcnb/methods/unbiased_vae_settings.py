"""What a training of binary VAEs is told, and what it keeps (2010.01845, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch

from lmcnb.errors import UsageError
from lmcnb.methods.unbiased_vae_kernels import Coupling

Method = Literal["ELBO", "IWAE", "average", "C-ISIR", "C-ISIR-DISIR"]


@dataclass(frozen=True)
class Training:
    """How one model is trained."""

    method: Method = "IWAE"
    """Which gradient of theta."""
    updates: int = 150_000
    """Of the whole run; 300 epochs of 50,000 images."""
    batch: int = 100
    """Images an update."""
    learning_rate: float = 5e-4
    """Of RMSProp."""
    samples: int = 10
    """K of the bounds: ELBO and IWAE, and of the encoder's gradient."""
    coupling: Coupling = field(default_factory=Coupling)
    """Settings of the chains."""
    beta: float = 0.9
    """Correlation at the start."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(f"method={self.method!r}: {', '.join(get_args(Method))} are known")
        for name in ("updates", "batch", "samples"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UsageError(f"{name}={value!r}: an integer of at least 1 is needed")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning_rate={self.learning_rate!r}: a positive number is needed")
        if not 0 <= self.beta < 1:
            raise UsageError(f"beta={self.beta!r}: a correlation in [0, 1) is needed")

    @property
    def chains(self) -> bool:
        """Whether theta's gradient takes chains."""
        return self.method not in ("ELBO", "IWAE")


class Streams(NamedTuple):
    """The random generators of one run."""

    start: torch.Generator  # initial parameters
    order: torch.Generator  # of the images, on the CPU
    noise: torch.Generator  # of the method, on the device


STATISTICS = (
    "joint_steps",  # mean over the batch, of chains that were coupled
    "longest",  # joint steps of the slowest row
    "capped",  # share of rows that reached the cap
    "effective",  # 1 / sum w~^2 over K, mean over the batch and the window
    "beta",  # mean over the batch
    "decodes",  # decoder evaluations inside the chains, an image
)
