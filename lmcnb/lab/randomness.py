"""Random generators for the components of a run, split from one root seed.

Every component (`"train/sonar/LDVI"`, `"data order"`) gets its own stream, derived from the root
seed and its name by numpy's SeedSequence, so that adding a chain does not shift the data order.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator(seed: int, component: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of `component` under root `seed`; the same names give the same stream."""
    key = int.from_bytes(hashlib.sha256(component.encode()).digest()[:4], "big")
    state = np.random.SeedSequence(seed, spawn_key=(key,)).generate_state(2, np.uint32)
    return torch.Generator(device=device).manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
