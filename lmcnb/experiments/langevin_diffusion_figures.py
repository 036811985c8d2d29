"""Figures of the notebook `langevin_diffusion`; each returns the figure and the arrays drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lmcnb.experiments.langevin_diffusion import MEAN_FIELD, Cell, target
from lmcnb.experiments.langevin_diffusion_report import mean_elbo
from lmcnb.lab.figures import INTERVAL, curve, method_style
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
    fig, axes = _panels(len(grouped))
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
            start = ", Laplace start" if name == "lorenz" else ""
            ax.set_title(f"{name}{start}  (plain VI {floor[0]:.1f})")
            arrays[f"{name}/MF"] = floor[0]
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted({r["cell"]["bridges"] for r in cells}))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}")
        ax.set_xlabel("number of bridges K")
        ax.set_ylabel("ELBO (nats)")
    more = [Line2D([], [], marker="|", color="0.4", lw=0, ms=10, label="95 percent interval")]
    if any(f"elbo/{r['cell']['label']}/" in m for r in results for m in published or {}):
        hollow = Line2D([], [], marker="o", mfc="none", color="0.4", ms=8, lw=0)
        hollow.set_label("the paper's value")
        more.append(hollow)
    _legend_below(fig, axes.flat[0], more, 3)
    return fig, arrays


def training_curves(results: Sequence[Result], bridges: int) -> tuple[Any, Arrays]:
    """ELBO during training at one K: mean over seeds of the mean of blocks of iterations."""
    chosen = [r for r in results if r["cell"]["bridges"] == bridges]
    grouped = _by(chosen, "label")
    fig, axes = _panels(len(grouped))
    arrays: Arrays = {}
    seeds = max(len(r["seeds"]) for r in chosen)
    for ax, (name, cells) in zip(axes.flat, grouped.items(), strict=False):
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
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_xlabel("iteration")
        ax.set_ylabel("ELBO (nats)")
    more = [Patch(color="0.8", label="range over seeds")] if seeds > 1 else []
    _legend_below(fig, axes.flat[0], more)
    return fig, arrays


def gaps(values: Mapping[str, tuple[float, float]], log_z: float, title: str) -> tuple[Any, Arrays]:
    """Distance to log Z on a logarithmic axis, one dot a row, 95 percent intervals (nats)."""
    names, distance = list(values), np.array([log_z - v for v, _ in values.values()])
    errors = INTERVAL * np.array([se for _, se in values.values()])
    fig, ax = plt.subplots(figsize=(6.8, 0.33 * len(names) + 1.0))
    for row, (name, own, error) in enumerate(zip(names, distance, errors, strict=True)):
        look = method_style(name.split(",")[0])
        ax.errorbar(own, row, xerr=error, fmt=look.marker, color=look.color, ms=7, capsize=3)
        ax.annotate(
            f"{own:,.1f}", (own + error, row), (9, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(range(len(names)), names)
    ax.set_xscale("log")
    ax.set_xlim(float(distance.min()) / 1.5, float(distance.max()) * 3)
    ax.invert_yaxis()
    ax.set_xlabel("log Z - ELBO (nats, logarithmic; less is better)")
    ax.set_title(title)
    return fig, {"names": np.array(names), "gap": distance, "interval": errors}


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
    _legend_below(fig, axes.flat[0], columns=5)
    return fig, arrays


def _by(results: Sequence[Result], key: str) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        cell = result["cell"]
        groups.setdefault(cell.get(key, cell["target"]), []).append(result)
    return groups


def _panels(n: int) -> tuple[Any, Any]:
    """Axes of n panels, three a row."""
    columns = min(3, n)
    rows = math.ceil(n / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return fig, axes


def _legend_below(fig: Any, ax: Any, more: Sequence[Any] = (), columns: int = 5) -> None:
    handles = [*ax.get_legend_handles_labels()[0], *more]
    fig.legend(handles=handles, loc="outside lower center", ncol=columns)
