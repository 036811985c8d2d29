"""What the tests of short-run training start from: random streams and images."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcnb.lab.data import load
from lmcnb.methods.short_run_training import Streams


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(seed: int = 0) -> Streams:
    return Streams(*(generator(10 * seed + i) for i in range(4)))


def digits(n: int = 100) -> Tensor:
    images = torch.from_numpy(load("digits", "train")["images"]).flatten(1)
    return images[:n].float() / 8 - 1
