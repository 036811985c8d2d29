"""Figures of the notebook `langevin_diffusion`; each returns the figure and the arrays drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from lmcnb.experiments.langevin_diffusion import MEAN_FIELD, Cell, target
from lmcnb.experiments.langevin_diffusion_report import mean_elbo
from lmcnb.lab.figures import curve, method_style
from lmcnb.lab.files import load_checkpoint
from lmcnb.lab.randomness import generator
from lmcnb.methods.langevin_diffusion import METHODS, temperatures
from lmcnb.methods.langevin_diffusion_fast import Engine

Arrays = dict[str, Any]
Result = dict[str, Any]


def elbo_against_bridges(
    results: Sequence[Result],
    mean_field: Sequence[Result],
    log_z: Mapping[str, float],
    published: Mapping[str, float] | None = None,
) -> tuple[Any, Arrays]:
    """One panel a target: ELBO of each method against K, log Z as the ceiling.

    Args:
        results: trained cells.
        mean_field: cells with K = 0, the floor.
        log_z: by target; a target without one has no ceiling.
        published: paper values by metric name, drawn as hollow markers.
    """
    grouped = _by(results, "label")
    floors = {r["cell"]["label"]: mean_elbo(r) for r in mean_field}
    columns = min(3, len(grouped))
    rows = math.ceil(len(grouped) / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    arrays: Arrays = {}
    for ax, (name, cells) in zip(axes.flat, grouped.items(), strict=False):
        lowest = []
        for method, own in _by(cells, "method").items():
            points = [(r["cell"]["bridges"], *value) for r in own if (value := mean_elbo(r))]
            if not points:
                continue
            K, mean, se = (np.array(c) for c in zip(*sorted(points), strict=True))
            curve(ax, K, mean, se, seeds=len(own[0]["seeds"]), method=method)
            arrays |= {f"{name}/{method}/K": K, f"{name}/{method}/elbo": mean}
            arrays[f"{name}/{method}/se"] = se
            lowest.append(mean.min())
            known = [(k, (published or {}).get(f"elbo/{name}/K={k}/{method}")) for k in K]
            known = [(k, v) for k, v in known if v is not None]
            if known:
                style = method_style(method)
                ax.plot(*zip(*known, strict=True), "o", mfc="none", color=style.color, ms=8, lw=0)
        if name in log_z:
            ax.axhline(log_z[name], color="black", ls="--", lw=1)
            ax.annotate(
                "log Z",
                (0.02, log_z[name]),
                xytext=(0, -2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="top",
                fontsize=8,
            )
            arrays[f"{name}/log_z"] = log_z[name]
        floor = floors.get(name)
        if floor is not None and lowest:
            ax.set_title(f"{name}  (plain VI {floor[0]:.1f})")
            arrays[f"{name}/MF"] = floor[0]
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted({r["cell"]["bridges"] for r in cells}))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}")
        ax.set_xlabel("number of bridges K")
        ax.set_ylabel("ELBO (nats)")
    for ax in axes.flat[len(grouped) :]:
        ax.set_axis_off()
    _legend_below(fig, axes.flat[0])
    return fig, arrays


def training_curves(results: Sequence[Result], bridges: int) -> tuple[Any, Arrays]:
    """ELBO during training at one K: mean over seeds of the mean of blocks of iterations."""
    chosen = [r for r in results if r["cell"]["bridges"] == bridges]
    grouped = _by(chosen, "label")
    columns = len(grouped)
    fig, axes = plt.subplots(1, columns, figsize=(3.0 * columns, 2.6), squeeze=False)
    arrays: Arrays = {}
    for ax, (name, cells) in zip(axes.flat, grouped.items(), strict=True):
        tails = []
        for result in cells:
            method = result["cell"]["method"]
            curves = [own["curve"]["elbo"] for own in result["seeds"]]
            values = np.array([[np.nan if v is None else v for v in c] for c in curves], float)
            blocks = max(1, values.shape[1] // 40)  # 40 points a curve
            values = values[:, values.shape[1] % blocks :].reshape(len(values), -1, blocks).mean(2)
            every = result["seeds"][0]["curve"]["every"] * blocks
            steps = every * (np.arange(values.shape[1]) + 1)
            style = method_style(method)
            ax.plot(steps, values.mean(0), color=style.color, lw=1.2, label=method)
            if len(curves) > 1:
                low, high = values.min(0), values.max(0)
                ax.fill_between(steps, low, high, color=style.color, alpha=0.2, lw=0)
            arrays |= {f"{name}/{method}/steps": steps, f"{name}/{method}/elbo": values}
            tails.append(values[:, values.shape[1] // 4 :])
        shown = np.concatenate([t.ravel() for t in tails])
        shown = shown[np.isfinite(shown)]
        if len(shown):
            low, high = np.quantile(shown, [0.02, 1.0])
            ax.set_ylim(low - 0.3 * (high - low), high + 0.1 * (high - low))
        ax.set_title(f"{name}, K = {bridges}")
        ax.set_xlabel("iteration")
        ax.set_ylabel("ELBO (nats)")
    _legend_below(fig, axes.flat[0])
    return fig, arrays


def gaps(values: Mapping[str, float], log_z: float, title: str) -> tuple[Any, Arrays]:
    """Distance to log Z on a logarithmic axis, one bar a row (nats)."""
    names, distance = list(values), np.array([log_z - v for v in values.values()])
    fig, ax = plt.subplots(figsize=(6.5, 0.33 * len(names) + 1.0))
    colors = [method_style(n.split()[0]).color for n in names]
    ax.barh(names, distance, color=colors)
    ax.set_xscale("log")
    ax.set_xlim(right=float(distance.max()) * 3)
    for row, own in enumerate(distance):
        ax.annotate(f" {own:,.1f}", (own, row), va="center")
    ax.invert_yaxis()
    ax.set_xlabel("log Z - ELBO (nats, logarithmic)")
    ax.set_title(title)
    return fig, {"names": np.array(names), "gap": distance}


def chain(cell: Cell, chains: int = 400) -> tuple[Any, Arrays]:
    """States of a trained chain on a target in the plane, from q to the target."""
    density = target(cell.target)
    p = load_checkpoint(cell.result.with_suffix(".pt"))
    if p is None or density.dim != 2:
        raise ValueError(f"{cell.name}: a trained cell with a target in the plane is needed")
    p = {k: v[:1] for k, v in p.items()}
    engine = Engine(METHODS[cell.method], density, 2, cell.bridges, 1, chains)
    noise = torch.randn(
        1, cell.bridges + 2, chains, 2, generator=generator(cell.seeds[0], f"picture/{cell.name}")
    )
    with torch.inference_mode():
        engine.forward(p, noise)
    shown = [0, cell.bridges // 3, 2 * cell.bridges // 3, cell.bridges]
    states = engine.z.all[shown, 0].numpy()
    grid = np.linspace(-4, 4, 161)
    x, y = np.meshgrid(grid, grid)
    points = torch.tensor(np.stack([x, y], -1), dtype=torch.float32)
    height = torch.exp(density(points)).numpy()
    betas = [0.0, *temperatures(p["knots"][0], cell.bridges).tolist()]
    fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.7), sharex=True, sharey=True)
    levels = height.max() * np.array([0.02, 0.1, 0.3, 0.6, 0.9])
    for ax, k, state in zip(axes, shown, states, strict=True):
        ax.contour(x, y, height, levels, colors="0.6", linewidths=0.8)
        ax.plot(*state.T, ".", ms=3, color=method_style(cell.method).color, alpha=0.6)
        ax.set_title(
            "k = 0, drawn from q" if k == 0 else f"k = {k}, " + rf"$\beta$ = {betas[k]:.2f}"
        )
        ax.set_aspect("equal")
        ax.set_xlabel("$z_1$")
    axes[0].set_ylabel("$z_2$")
    return fig, {"states": states, "k": np.array(shown), "density": height, "grid": grid}


def schemes(results: Sequence[Result], reference: str = "LDVI") -> tuple[Any, Arrays]:
    """ELBO of every scheme minus that of `reference`, against K, one panel a target."""
    grouped = _by([r for r in results if r["cell"]["method"] != MEAN_FIELD], "label")
    fig, axes = plt.subplots(1, len(grouped), figsize=(4.4 * len(grouped), 3.2), squeeze=False)
    arrays: Arrays = {}
    for ax, (name, cells) in zip(axes.flat, grouped.items(), strict=True):
        base = {
            r["cell"]["bridges"]: mean_elbo(r) for r in cells if r["cell"]["method"] == reference
        }
        for method, own in _by(cells, "method").items():
            points = []
            for r in own:
                K = r["cell"]["bridges"]
                value, known = mean_elbo(r), base.get(K)
                if value and known:
                    points.append((K, value[0] - known[0], math.hypot(value[1], known[1])))
            if not points:
                continue
            K, mean, se = (np.array(c) for c in zip(*sorted(points), strict=True))
            curve(ax, K, mean, se, seeds=len(own[0]["seeds"]), method=method)
            arrays |= {f"{name}/{method}/K": K, f"{name}/{method}/difference": mean}
            arrays[f"{name}/{method}/se"] = se
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted(base))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}")
        ax.set_title(name)
        ax.set_xlabel("number of bridges K")
        ax.set_ylabel(f"ELBO - ELBO of {reference} (nats)")
    _legend_below(fig, axes.flat[0], 5)
    return fig, arrays


def _by(results: Sequence[Result], key: str) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        cell = result["cell"]
        groups.setdefault(cell.get(key, cell["target"]), []).append(result)
    return groups


def _legend_below(fig: Any, ax: Any, columns: int = 4) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncol=columns)
