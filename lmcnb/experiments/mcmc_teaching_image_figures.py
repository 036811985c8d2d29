"""Figures of the notebook `mcmc_teaching` that show images; each with its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from lmcnb.experiments.mcmc_teaching_figures import (
    Arrays,
    Result,
    absent,
    first_seed,
    in_order,
    look,
    named,
    over_seeds,
)
from lmcnb.lab.figures import INTERVAL

COLUMNS = 10


def shape_of(pixels: int) -> tuple[int, ...]:
    """Of an image with so many values: three channels of 32 x 32, else one, square."""
    if pixels == 3 * 32 * 32:
        return (3, 32, 32)
    side = round(pixels**0.5)
    return (side, side)


def generated(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Of every arm: images of the start, the same revised, and after a long chain; first seed."""
    found = first_seed(results, data)
    rows = []
    for arm in in_order(arms, found):
        own = found[arm].get("pictures", {})
        rows += [(f"{arm}: {words}", own[k]) for k, words in
                 (("initial", "start"), ("revised", "revised")) if k in own]  # fmt: skip
        if steps := found[arm].get("by_steps"):
            rows.append((f"{arm}: {steps[-1]['steps']:,} steps", steps[-1]["shown"]))
    return _rows(rows, f"{data}: no arm of this figure was run to its end")


def reconstructed(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Test images, decoded and revised; first seed."""
    found = {a: r for a, r in first_seed(results, data).items() if "reconstructed" in r}
    rows: list[tuple[str, Any]] = []
    for arm in in_order(arms, found):
        own = found[arm]["reconstructed"]
        rows = rows or [("test images", own["test"])]
        rows += [(f"{arm}: {k}", own[k]) for k in ("decoded", "revised") if k in own]
    return _rows(rows, f"{data}: no arm of this figure has an encoder")


def interpolated(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Straight lines between two latents, decoded and revised; first seed."""
    found = {a: r for a, r in first_seed(results, data).items() if "paths" in r}
    rows = []
    for arm in in_order(arms, found):
        for kind, paths in found[arm]["paths"].items():
            rows += [(f"{arm}: {kind}" if i == 0 else "", p) for i, p in enumerate(paths[:2])]
    return _rows(rows, f"{data}: no arm of this figure has a generator", columns=17)


def completed(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Test images, what is seen of them, and one completion of every arm; first seed."""
    found = {a: r for a, r in first_seed(results, data).items() if "completed" in r}
    rows: list[tuple[str, Any]] = []
    for arm in in_order(arms, found):
        own = found[arm]["completed"]
        rows = rows or [("test images", own["test"]), ("what is seen", own["seen"])]
        rows.append((arm, own["completed"]))
    return _rows(rows, f"{data}: no arm of this figure was run to its end")


def by_steps(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """FCD of the same chains against the number of steps they are run at test time."""
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    arrays: Arrays = {}
    for arm in arms:
        own = [r for r in results
               if r["data"] == data and r["arm"] == arm and "by_steps" in r]  # fmt: skip
        curves = [[float(np.mean(p["frechet"])) for p in r["by_steps"]
                   if None not in p["frechet"]] for r in own]  # fmt: skip
        if not curves or not min(map(len, curves)):
            continue
        style = look(arm)
        at, mean, se = over_seeds([max(p["steps"], 1) for p in own[0]["by_steps"]], curves)
        ax.errorbar(at, mean, INTERVAL * se, color=style.color, marker=style.marker,
                    ls=style.line, label=named(arm, len(own)))  # fmt: skip
        arrays |= {f"{arm}/steps": at, f"{arm}/fcd": mean, f"{arm}/se": se}
    if not arrays:
        plt.close(fig)
        return absent(f"{data}: no arm of this figure was run to its end")
    own = next(r for r in results if r["data"] == data and "frechet" in r)["frechet"]
    floor = float(np.mean(own["floor"]))
    ax.axhline(floor, color="#777777", lw=0.8, ls=":")
    ax.text(1, floor, "test images", fontsize=7, va="bottom")
    arrays["floor"] = floor
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("Langevin steps at test time (0 drawn at 1)")
    ax.set_ylabel("FCD from the training images")
    ax.legend(fontsize=7)
    return fig, arrays


def _rows(rows: Sequence[tuple[str, Any]], why: str, columns: int = COLUMNS) -> tuple[Any, Arrays]:
    if not rows:
        return absent(why)
    shape = shape_of(len(rows[0][1][0]))
    fig, axes = plt.subplots(
        len(rows), columns, figsize=(0.5 * columns + 1.8, 0.53 * len(rows)), squeeze=False
    )
    arrays: Arrays = {}
    for i, (line, (label, images)) in enumerate(zip(axes, rows, strict=True)):
        stack = np.array(images[:columns], dtype=np.uint8).reshape(-1, *shape)
        arrays[f"{i} {label}".replace(":", "").strip()] = stack
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            for side in ax.spines.values():
                side.set_visible(False)
        for ax, image in zip(line, stack, strict=False):
            colour = {} if image.ndim == 3 else {"cmap": "gray", "vmin": 0, "vmax": 255}
            ax.imshow(image.transpose(1, 2, 0) if image.ndim == 3 else image,
                      interpolation="nearest", **colour)  # fmt: skip
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    return fig, arrays
