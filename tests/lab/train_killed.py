"""Train a small LDVI run in processes that are killed; started by test_training.py.

Usage: python train_killed.py CHECKPOINT KILLS SEED
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from lmcnb.lab.randomness import generator
from lmcnb.lab.training import fit
from lmcnb.methods.langevin_diffusion import METHODS
from lmcnb.methods.langevin_diffusion_training import Trainer, Training
from lmcnb.models.targets import make_target

ITERATIONS = 240


def make_trainer() -> Trainer:
    """Two rows of LDVI on the mixture."""
    return Trainer(
        METHODS["LDVI"],
        make_target("mixture"),
        2,
        3,
        Training(ITERATIONS, chains=4, decay=0.5),
        [1e-2, 3e-3],
        [generator(seed, "train") for seed in (0, 1)],
        [{"step_size": 0.05, "damping": 2.0}] * 2,
    )


def train(checkpoint: Path | None, tick: Callable[[], None] = lambda: None) -> Trainer:
    """Train to the end, from the checkpoint where there is one, saving as often as possible."""
    trainer = make_trainer()
    fit(
        trainer,
        ITERATIONS,
        checkpoint,
        save_every=0.0,
        check_every=10,
        report=lambda n: tick(),
    )
    return trainer


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from killed import run_killed

    torch.set_num_threads(1)
    path, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(run_killed(lambda tick: train(path, tick) and None, kills, seed))
