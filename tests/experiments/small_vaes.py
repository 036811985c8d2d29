"""Settings and runs of tiny binary VAEs, and one whose evidence is known; tests share them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcnb.lab import config
from lmcnb.models.binary_vae import BinaryVAE

sys.path.append(str(Path(__file__).parent))
from entered import Entered

F64 = torch.float64
ARMS = ["IWAE", "C-ISIR-DISIR", "IWAE+IWAE", "IWAE+average", "IWAE+C-ISIR"]
TINY: dict[str, Any] = {
    "training.datasets": ["teacher"],
    "training.arms": {"default": ARMS},
    "training.latent": {"default": [2]},
    "training.hidden": {"default": [8]},
    "training.updates": {"default": 25},
    "training.more": {"default": 12},
    "training.samples": {"default": 3},
    "training.batch": 20,
    "training.learning_rate": {"default": 1e-2},
    "training.lag": 2,
    "training.cap": {"default": 3},
    "training.beta": 0.8,
    "training.test_images": 60,
    "training.bound_samples": 30,
    "training.annealing": {
        "images": 6,
        "arms": ["IWAE", "IWAE+IWAE"],
        "chains": 3,
        "temperatures": 4,
    },
    "meeting.datasets": ["teacher"],
    "meeting.images": 30,
    "meeting.cap": 5,
    "meeting.betas": [0.5],
}


def settings(**changed: Any) -> Any:
    """The quick profile made tiny; keys as in `TINY`, with `_` for the dot."""
    own = {k.replace("_", ".", 1): v for k, v in changed.items()}
    return config.resolve("unbiased_vae", "quick", TINY | own)


class FakeRun(Entered):
    """What the experiments need of a `lab.Run`."""

    def __init__(self, directory: Path, **changed: Any) -> None:
        about = {k: changed.pop(k) for k in ("deadline", "device", "seeds") if k in changed}
        super().__init__(
            **{"seeds": [3, 4], "device": torch.device("cpu"), "deadline": None} | about,
            directory=directory,
            settings=settings(**changed),
        )


def model_1d() -> tuple[BinaryVAE, dict[str, Tensor], Tensor]:
    """One latent, two runs, with an encoder that is no stranger to the posterior; 12 images."""
    model = BinaryVAE(6, 1, (5,), "tanh")
    p = model.initial([torch.Generator().manual_seed(i) for i in range(2)])
    p["decoder.W0"] = 3 * p["decoder.W0"]
    p["encoder.W1"] = 0.3 * p["encoder.W1"]
    p["encoder.b1"] = torch.tensor([[[0.2, 0.6]], [[0.0, 0.8]]])
    x = torch.rand(12, 6, generator=torch.Generator().manual_seed(5)) < 0.5
    return model, p, x.to(torch.uint8)


def evidence(model: BinaryVAE, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """log p(x) by quadrature, `(2, 12)`."""
    grid = torch.linspace(-9, 9, 4001, dtype=F64)
    own = {k: v.double() for k, v in p.items()}
    z = grid.view(1, 1, -1, 1).expand(2, len(x), -1, 1)
    seen = model.log_likelihood(own, x.double().expand(2, *x.shape), z)
    joint = seen - 0.5 * grid.square() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(joint, -1) + math.log(float(grid[1] - grid[0]))
