"""What each layer decides: one layer's noise drawn anew, the others kept (1912.01909, SVHN figure).

The share of the variance of an attribute that is left when all other layers are fixed,

    T_l = E Var(a | z of the other layers) / Var(a),

is the total-effect index of layer l (Homma and Saltelli 1996): 0 where the layer does not matter,
1 where nothing else does. The T_l of all layers add up to at least 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmcnb.experiments.short_run_evaluation import classifiers
from lmcnb.models.top_down import TopDown
from lmcnb.models.top_down_fast import slices

BASES, REDRAWS = 400, 16  # images, and new draws of one layer for each
CORNERS = (0, 7, 56, 63)  # pixels of an 8 x 8 image where there is hardly ever ink


def ground(images: Tensor) -> Tensor:
    """The colour of the ground of coloured digits `(n, 3 * 64)`: mean of the corners, `(n, 3)`."""
    return images.unflatten(-1, (3, 64))[..., CORNERS].mean(-1)


def resampled(
    network: TopDown, layer: int, bases: int, redraws: int, stream: torch.Generator
) -> Tensor:
    """Images `(bases, redraws, pixels)` that share all noise of a base but that of `layer`."""
    where = slices(network.latent)[layer]
    z = torch.randn(bases, 1, network.dim, generator=stream).repeat(1, redraws, 1)
    z[..., where] = torch.randn(bases, redraws, where.stop - where.start, generator=stream)
    with torch.no_grad():
        return network(z)


def effects(network: TopDown, dataset: str, stream: torch.Generator) -> dict[str, Any]:
    """T_l of the ground's colour and of the classifier's label, layer by layer from the top."""
    classifier = classifiers(dataset, 1)[0]

    def attributes(images: Tensor) -> dict[str, Tensor]:
        flat = images.flatten(0, 1)
        label = classifier.probabilities(flat)
        parts = {"ground": ground(flat), "label": label}
        return {k: v.double().unflatten(0, images.shape[:2]) for k, v in parts.items()}

    found: dict[str, list[float]] = {"ground": [], "label": []}
    for layer in range(len(network.latent)):
        for name, a in attributes(resampled(network, layer, BASES, REDRAWS, stream)).items():
            left = a.var(1).mean(0).sum()  # unbiased within a base
            total = a.flatten(0, 1).var(0).sum()
            found[name].append(float(left / total))
    return found


def grids(network: TopDown, stream: torch.Generator, rows: int = 4, columns: int = 8) -> list[Any]:
    """For every layer `rows` bases, each with `columns` new draws of that layer; as 0 ... 255."""
    pictures = [
        resampled(network, layer, rows, columns, stream) for layer in range(len(network.latent))
    ]
    return [as_levels(p.flatten(0, 1)) for p in pictures]


def as_levels(images: Tensor) -> list[list[int]]:
    """Images in [-1, 1] as 0 ... 255."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().tolist()
