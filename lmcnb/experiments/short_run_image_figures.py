"""Figures of the notebook `short_run` that show images; each returns the figure and its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from lmcnb.experiments.short_run_cells import shape_of
from lmcnb.experiments.short_run_report import shown

Arrays = dict[str, Any]
Result = dict[str, Any]


def pictures(results: Sequence[Result], dataset: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Test images, reconstructions and generated images; first seed."""
    own = {r["arm"]: r for r in reversed(results) if r["dataset"] == dataset}
    shown_arms = [a for a in arms if a in own and "pictures" in own[a]]
    if not shown_arms:
        return absent(f"{dataset}: no arm of {', '.join(arms)} was run to its end")
    rows = [("test images", own[shown_arms[0]]["pictures"]["test"])]
    rows += [
        (f"{shown(a)}:\nreconstructed", own[a]["pictures"]["reconstructed"]) for a in shown_arms
    ]
    rows += [(f"{shown(a)}:\ngenerated", own[a]["pictures"]["generated"]) for a in shown_arms]
    return _rows(rows, dataset)


def inpainting(results: Sequence[Result], dataset: str, arm: str) -> tuple[Any, Arrays]:
    """Images, what is seen of them, and what the chain makes of it; first seed."""
    found = [r for r in results if (r["dataset"], r["arm"]) == (dataset, arm)]
    if not found or "inpainted" not in found[0]:
        return absent(f"{dataset}: {arm} was not run to its end")
    rows = []
    for name, part in found[0]["inpainted"].items():
        original, mask = np.array(part["original"]), np.array(part["mask"])
        rows += [
            ("original", original.tolist()),
            (f"{name} hidden", np.where(mask > 0, original, 128).tolist()),
            ("inpainted", part["inpainted"]),
        ]
    return _rows(rows, dataset)


def _rows(rows: Sequence[tuple[str, Any]], dataset: str) -> tuple[Any, Arrays]:
    shape = shape_of(dataset)
    columns = len(rows[0][1])
    fig, axes = plt.subplots(
        len(rows), columns, figsize=(0.62 * columns + 1.6, 0.66 * len(rows)), squeeze=False
    )
    arrays: Arrays = {}
    for i, (line, (label, images)) in enumerate(zip(axes, rows, strict=True)):
        stack = np.array(images, dtype=np.uint8).reshape(columns, *shape)
        arrays[f"{i} {label}".replace("\n", " ").replace(":", "")] = stack
        for ax, image in zip(line, stack, strict=True):
            _show(ax, image)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    return fig, arrays


def layers(results: Sequence[Result], arm: str) -> tuple[Any, Arrays]:
    """Coloured digits: in every row of a panel one layer's noise is drawn anew; first seed."""
    own = next(r for r in results if r["arm"] == arm and "layers" in r.get("pictures", {}))
    grids = own["pictures"]["layers"]
    shape = shape_of(own["dataset"])
    fig, axes = plt.subplots(1, len(grids), figsize=(3.4 * len(grids), 2.1))
    arrays: Arrays = {}
    for i, (ax, grid) in enumerate(zip(axes, grids, strict=True)):
        rows, columns = 4, 8
        stack = np.array(grid, dtype=np.uint8).reshape(rows, columns, *shape)
        tiles = stack.transpose(0, 3, 1, 4, 2).reshape(rows * shape[1], columns * shape[2], 3)
        ax.imshow(tiles, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"layer {i + 1} of {len(grids)} drawn anew", fontsize=8)
        arrays[f"layer={i + 1}"] = stack
    axes[0].set_ylabel("one base a row", fontsize=8)
    return fig, arrays


def absent(why: str) -> tuple[Any, Arrays]:
    """In the place of a figure whose arms this run does not have."""
    fig, ax = plt.subplots(figsize=(5.6, 0.6))
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"nothing to draw: {why}", ha="center", va="center", fontsize=8)
    return fig, {"absent": np.array([1])}


def _show(ax: Any, image: np.ndarray) -> None:
    if image.ndim == 3:
        ax.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    else:
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)
