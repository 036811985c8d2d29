"""Named streams: the same everywhere, another for every name and seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lmcnb.lab.randomness import generator

# Seed and first integers of a stream. If these change, every recorded number changes with them.
GOLDEN = {
    (0, "train/sonar-LDVI-8/0.005"): (7609443257609187535, [2021026922, 1142153080, 1862303915]),
    (1, "train/sonar-LDVI-8/0.005"): (3063524574247567812, [1719422200, 1262355063, 1604953698]),
    (0, "data order"): (3665466205548291246, [1191597579, 331330188, 140512434]),
}


def normals(seed: int, component: str, n: int = 20_000) -> torch.Tensor:
    return torch.randn(n, generator=generator(seed, component), dtype=torch.float64)


@pytest.mark.parametrize(("seed", "component"), GOLDEN)
def test_the_streams_are_those_of_the_records(seed: int, component: str) -> None:
    stream = generator(seed, component)
    first = torch.randint(0, 2**31, (3,), generator=stream).tolist()
    assert (stream.initial_seed(), first) == GOLDEN[seed, component]


def test_drawing_from_one_stream_moves_no_other() -> None:
    alone = normals(0, "chains")
    other = generator(0, "data order")
    torch.randn(1000, generator=other)
    torch.randn(1000)  # the global generator
    assert torch.equal(normals(0, "chains"), alone)


def test_another_seed_or_name_is_another_independent_stream() -> None:
    names = ["train/a", "train/b", "train/a/0.01", "train/a/0.001", "evaluate/a", ""]
    streams = [normals(seed, name) for seed in (0, 1, 2) for name in names]
    correlation = np.corrcoef(torch.stack(streams).numpy())
    off = np.abs(correlation[~np.eye(len(streams), dtype=bool)])
    assert off.max() < 5 / np.sqrt(len(streams[0]))
    for one, other in itertools.combinations(streams, 2):
        assert not set(one[:50].tolist()) & set(other.tolist())


def test_seeds_of_many_streams_differ() -> None:
    components = [f"train/{i}" for i in range(500)]
    low = {generator(s, c).initial_seed() % 2**32 for s in range(4) for c in components}
    assert len(low) == 4 * 500  # the CPU's generator uses the lower half only
