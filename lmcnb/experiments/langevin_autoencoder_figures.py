"""Figures of the notebook `langevin_autoencoder`; each returns the figure and the arrays drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from lmcnb.experiments.langevin_autoencoder_cells import read_images, spaced
from lmcnb.experiments.langevin_autoencoder_report import SHOWN, results_by_arm
from lmcnb.lab.figures import method_style

Arrays = dict[str, Any]
Result = dict[str, Any]
POINT_COLORS = ("#0072B2", "#D55E00", "#009E73")
NEURAL_COLUMNS = ("truth", "VI, diagonal", "VI, full", "ALD, one chain", "ALD")


def conjugate(found: Sequence[Result]) -> tuple[Any, Arrays]:
    """Samples of one chain over the posteriors' ellipses, one panel a number of features."""
    fig, axes = plt.subplots(
        1, len(found), figsize=(2.5 * len(found), 3.1), sharex=True, sharey=True
    )
    arrays: Arrays = {}
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for ax, own in zip(np.atleast_1d(axes), found, strict=True):
        root = torch.linalg.cholesky(own["covariance"]).numpy()
        z = own["samples"][::8].numpy()
        for i, color in enumerate(POINT_COLORS):
            ax.plot(z[:, i, 0], z[:, i, 1], ".", ms=2, color=color, alpha=0.5, zorder=1)
            ax.text(0.04 + 0.32 * i, 0.03, f"{own['hat'][i]:.2f}", color=color, fontsize=9,
                    fontweight="bold", transform=ax.transAxes)  # fmt: skip
            for radius in (1, 2):
                ring = own["means"][i].numpy()[:, None] + radius * root @ circle
                ax.plot(*ring, color="black", lw=0.8, zorder=2)
        d = own["width"]
        ax.set_title(f"d = {d}", fontsize=9)
        ax.set_xlabel("$z_1$")
        ax.set_aspect("equal", adjustable="box")
        arrays[f"d={d}/samples"] = z.astype(np.float32)
        arrays[f"d={d}/hat"] = np.array(own["hat"])
    np.atleast_1d(axes)[0].set_ylabel("$z_2$")
    arrays |= {"means": found[0]["means"].numpy(), "covariance": found[0]["covariance"].numpy()}
    return fig, arrays


def shrinkage(found: Sequence[Result]) -> tuple[Any, Arrays]:
    """Variance of every point's samples against the number of features, and the closed form."""
    fig, ax = plt.subplots(figsize=(5.5, 3.4))
    place = np.arange(len(found))
    ratios = np.array([own["trace_ratio"] for own in found])
    hats = np.array([own["hat"] for own in found])
    for i, color in enumerate(POINT_COLORS):
        ax.plot(place + 0.12 * (i - 1), ratios[:, i], "o", color=color, label=f"point {i + 1}")
        ax.plot(place + 0.12 * (i - 1), hats[:, i], "_", color="black", ms=14, mew=1.5)
    ax.plot([], [], "_", color="black", ms=14, mew=1.5, label="$H_{ii}$, closed form")
    ax.set_xticks(place, [str(own["width"]) for own in found])
    ax.set_xlabel("features d (3 points)")
    ax.set_ylabel("variance / posterior variance")
    ax.set_ylim(0, 1.3)
    ax.legend(fontsize=8, ncol=2, loc="lower right")
    widths = np.array([own["width"] for own in found])
    return fig, {"width": widths, "trace_ratio": ratios, "hat": hats}


def neural(found: Sequence[Result], most: int = 3) -> tuple[Any, Arrays]:
    """Posteriors under random networks: truth, two kinds of VI, one chain, many chains."""
    shown = [(own, i) for own in found for i in range(len(own["log_normalizer"]))][:most]
    fig, axes = plt.subplots(
        len(shown), len(NEURAL_COLUMNS), figsize=(11, 2.35 * len(shown)), squeeze=False
    )
    arrays: Arrays = {}
    for row, (own, i) in zip(axes, shown, strict=True):
        truth = own["truth"][i].numpy()
        for ax, name in zip(row, NEURAL_COLUMNS, strict=True):
            p = truth if name == "truth" else own["shares"][name][i].numpy()
            ax.imshow(
                p.T, origin="lower", extent=(-4, 4, -4, 4), cmap="viridis", vmax=truth.max(), vmin=0
            )
            distance = own["total_variation"].get(name)
            label = "grid truth" if distance is None else f"{name}\nTV {distance[i]:.2f}"
            ax.set_title(label, fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
            arrays[f"network={own['network']}/point={i}/{name}"] = p.astype(np.float32)
        row[0].set_ylabel(f"network {own['network']}, point {i}", fontsize=8)
    return fig, arrays


def learning_curves(results: Sequence[Result], arms: Sequence[str]) -> tuple[Any, Arrays]:
    """Test bound against epoch and against processor time, one row a data set."""
    grouped = _by_dataset(results, arms) or _by_dataset(results, [r["arm"] for r in results])
    fig, axes = plt.subplots(len(grouped), 2, figsize=(9.4, 2.9 * len(grouped)), squeeze=False)
    arrays: Arrays = {}
    for (left, right), (dataset, cells) in zip(axes, grouped.items(), strict=True):
        for r in cells:
            step, bound = _curve(r, "step"), _curve(r, "nelbo")
            seconds = _curve(r, "seconds")
            name = f"{dataset}/{r['arm']}"
            arrays |= {f"{name}/step": step[0], f"{name}/seconds": seconds, f"{name}/nelbo": bound}
            _band(left, step[0], bound, r["arm"])
            _band(right, seconds.mean(0) / 60, bound, r["arm"])
        for ax, label in ((left, "training step"), (right, "processor time (minutes)")):
            ax.set_xlabel(label)
            ax.set_ylabel(bound_label(dataset))
            _focus(ax, [_curve(r, "nelbo") for r in cells], room=0.6, typical=True)
        left.set_title(dataset)
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig, arrays


def is_it_sampling(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """Acceptance, stability, Gram eigenvalues and the bound: LAE beside its controls."""
    arms = ("LAE", "LAE-healthy", "LAE-frozen", "LAE-gradient", "VAE")
    cells = _by_dataset(results, arms).get(dataset, [])
    fig, axes = plt.subplots(2, 2, figsize=(8.6, 5.6))
    (rate, stable), (eigen, bound) = axes
    arrays: Arrays = {"arms": np.array([r["arm"] for r in cells])}
    for r in cells:
        arm = r["arm"]
        color = method_style(arm).color
        step, curve = _curve(r, "step")[0], _curve(r, "nelbo")
        if arm in ("LAE", "LAE-healthy"):
            values = np.array([s["acceptance"]["mean"] for s in r["seeds"]])
            every = r["seeds"][0]["acceptance"]["every"]
            n = -(-values.shape[1] // 60)  # 60 points are enough to look at
            values = values[:, : values.shape[1] // n * n].reshape(len(values), -1, n).mean(2)
            at = every * n * (np.arange(values.shape[1]) + 0.5)
            _band(rate, at, values, arm)
            arrays |= {f"{arm}/acceptance_step": at, f"{arm}/acceptance": values}
            product = _curve(r, "stability")
            _band(stable, step, product, arm)
            arrays[f"{arm}/stability"] = product
        if arm.startswith("LAE"):
            for key, line in (("largest", "-"), ("smallest", ":")):
                values = np.maximum(_curve(r, key), 1e-6)
                eigen.plot(step, values.mean(0), line, color=color)
                arrays[f"{arm}/{key}"] = values
        _band(bound, step, curve, arm)
        arrays |= {f"{arm}/step": step, f"{arm}/nelbo": curve}
    stable.axhline(2, color="black", ls="--", lw=1)
    stable.annotate("stable below 2", (0.98, 1.7), xycoords=("axes fraction", "data"), ha="right",
                    va="top", fontsize=8, bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
    eigen.plot([], [], "-", color="0.4", label="largest")
    eigen.plot([], [], ":", color="0.4", label="smallest")
    eigen.legend(fontsize=8, loc="center right")
    rate.set_ylabel("acceptance rate")
    rate.set_ylim(-0.03, 1.03)
    stable.set_ylabel(r"$\eta\times$ largest curvature of $V(\Phi)$")
    stable.set_yscale("log")
    eigen.set_ylabel("eigenvalue of $K$ (100 images)")
    eigen.set_yscale("log")
    bound.set_ylabel(bound_label(dataset))
    _focus(bound, [_curve(r, "nelbo") for r in cells])
    for ax in axes.flat:
        ax.set_xlabel("training step")
    handles, labels = bound.get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncol=3, fontsize=8)
    fig.suptitle(f"{dataset}: is it Langevin sampling that helps?", fontsize=11)
    return fig, arrays


def accept_test(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """Figure 4: test bound during training for T = 1, 2, 5, with and without the accept test."""
    names = {"with the accept test": "", "without": "-unadjusted"}
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    arrays: Arrays = {"dataset": np.array([dataset])}
    drawn = []
    for ax, (title, suffix) in zip(axes, names.items(), strict=True):
        arms = [f"LAE-1{suffix}", f"LAE{suffix}", f"LAE-5{suffix}"]
        for r in _by_dataset(results, arms).get(dataset, []):
            step, curve = _curve(r, "step")[0], _curve(r, "nelbo")
            _band(ax, step, curve, r["arm"])
            arrays |= {f"{r['arm']}/step": step, f"{r['arm']}/nelbo": curve}
            drawn.append(curve)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("training step")
        if ax.lines:
            ax.legend(fontsize=8)
        else:
            ax.text(0.5, 0.5, "not in this run", transform=ax.transAxes, ha="center")
    axes[0].set_ylabel(bound_label(dataset))
    _focus(axes[0], drawn, room=0.5)
    return fig, arrays


def reconstructions(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """Eight test images and the decoder's means, one row a model (first seed)."""
    cells = [r for r in results_by_arm(results) if r["dataset"] == dataset]
    cells = [r for r in cells if r["seeds"][0]["pictures"]]
    images = spaced(read_images(dataset)[1], 8).numpy()
    rows = [("test images", images)]
    rows += [(_name(r["arm"]), np.array(r["seeds"][0]["pictures"])) for r in cells]
    fig, axes = plt.subplots(len(rows), 1, figsize=(7, 0.8 * len(rows)), squeeze=False)
    for ax, (label, pixels) in zip(axes[:, 0], rows, strict=True):
        ax.imshow(_strip(pixels), cmap="gray", vmin=0, vmax=16 if dataset == "digits" else 255)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    return fig, {label: pixels.astype(np.uint8) for label, pixels in rows}


def _strip(pixels: np.ndarray) -> np.ndarray:
    """Images `(n, pixels)` side by side; colour where there are three channels."""
    n, size = pixels.shape
    side = round((size / 3) ** 0.5)
    if 3 * side * side == size:
        return pixels.reshape(n, 3, side, side).transpose(2, 0, 3, 1).reshape(side, n * side, 3)
    side = round(size**0.5)
    return pixels.reshape(n, side, side).transpose(1, 0, 2).reshape(side, n * side)


def _by_dataset(results: Sequence[Result], arms: Sequence[str]) -> dict[str, list[Result]]:
    joined: dict[str, list[Result]] = {}
    for r in results_by_arm(results):
        if r["arm"] in arms:
            joined.setdefault(r["dataset"], []).append(r)
    return joined


def _curve(r: Result, key: str) -> np.ndarray:
    """`(seeds, points)` of a learning curve; NaN where there is no number."""
    rows = [[np.nan if p[key] is None else p[key] for p in s["curve"]] for s in r["seeds"]]
    return np.array(rows, float)


def bound_label(dataset: str) -> str:
    """Of learning curves; they are drawn on 1,000 test images, digits has no more than 297."""
    return "test -ELBO (nats/dim)" + ("" if dataset == "digits" else "\n1,000 images")


def _name(arm: str) -> str:
    return SHOWN.get(arm, arm)


def _band(ax: Any, x: np.ndarray, values: np.ndarray, arm: str) -> None:
    """Mean over seeds; the band is their range."""
    look, n = method_style(arm), len(values)
    label = f"{_name(arm)} ({n} seed{'s' * (n != 1)})"
    ax.plot(x, values.mean(0), look.line, color=look.color, lw=1.4, label=label)
    if n > 1:
        ax.fill_between(x, values.min(0), values.max(0), color=look.color, alpha=0.2, lw=0)


def _focus(
    ax: Any, curves: Sequence[np.ndarray], room: float = 0.25, typical: bool = False
) -> None:
    """Leave the steep start out of the axis: up to a bit above the highest later value.

    With `typical` up to a bit above the highest median of a curve: peaks then leave the axis.
    """
    late = [c[:, c.shape[1] // 5 :] for c in curves]
    values = np.concatenate([c[np.isfinite(c)] for c in late]) if late else np.array([])
    if not values.size:
        return
    medians = [np.median(c[np.isfinite(c)]) for c in late if np.isfinite(c).any()]
    low, high = values.min(), max(medians) if typical else values.max()
    span = max(high - low, 1e-3)
    ax.set_ylim(low - 0.05 * span, high + room * span)
