"""Figures of the notebook `mcmc_teaching`, one dimension and the plane; each with its arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullFormatter

from lmcnb.experiments import mcmc_teaching_learning as learning
from lmcnb.lab.figures import INTERVAL, MethodStyle, method_style
from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.papers.mcmc_teaching_arms import parse_arm

Arrays = dict[str, Any]
Result = Mapping[str, Any]
LIMIT = 3.2  # of a picture of the plane


def look(arm: str) -> MethodStyle:
    """The teacher's style; with other settings dashed."""
    teacher, changed = parse_arm(arm)
    own = method_style(teacher)
    return own if not changed else MethodStyle(own.color, own.marker, "--")


def fixed_points(learned: Sequence[Result]) -> tuple[Any, Arrays]:
    """1 / l and m at the fixed points against K, in closed form, and what was learned at K = 10."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6))
    K = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 22, 30, 45, 60])
    arrays: Arrays = {"K": K}
    for name, (teacher, ancestral) in learning.LEARNED.items():
        points = [
            theory.fixed_point(
                teacher, learning.MU, learning.VARIANCE, learning.STEP_SIZE, int(k),
                sigma=learning.SIGMA, ancestral=ancestral,
            )
            for k in K
        ]  # fmt: skip
        own = method_style(teacher)
        line = own.line if ancestral else "--"
        variance = np.array([p.variance for p in points])
        mean = np.array([p.mean for p in points])
        for ax, values in ((left, variance), (right, mean)):
            ax.plot(K, np.where(np.isfinite(values), values, np.nan), line, color=own.color,
                    label=name)  # fmt: skip
        arrays |= {f"{name}/variance": variance, f"{name}/mean": mean}
        for row in learned:
            if row["teacher"] == name:
                fill = own.color if ancestral else "white"
                style = {"color": own.color, "marker": own.marker, "mfc": fill, "ls": ""}
                left.plot(learning.STEPS, row["variance"], **style)
                right.plot(learning.STEPS, row["mean"], **style)
                arrays[f"{name}/learned"] = np.array([row["variance"], row["mean"]])
    left.axhline(learning.VARIANCE, color="#777777", lw=0.8, ls=":")
    right.axhline(learning.MU, color="#777777", lw=0.8, ls=":")
    left.set_ylim(0, 0.5)
    left.set_ylabel("variance 1/l of the learned density")
    right.set_ylabel("mean m of the learned density")
    left.text(60, learning.VARIANCE, " data", fontsize=7, va="bottom", ha="right")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("Langevin steps K (marks: learned by the trainer at K = 10)")
    right.legend(fontsize=7)
    return fig, arrays


def first_seed(results: Sequence[Result], data: str) -> dict[str, Result]:
    """The first seed's cell of every arm, without those that diverged."""
    return {
        r["arm"]: r for r in reversed(results) if r["data"] == data and r["diverged_at"] is None
    }


def in_order(arms: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """Of the arms those that are there."""
    return [a for a in arms if a in found]


def samples(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """A column an arm: the chains' start, the revised samples, the learned density, long chains."""
    found = first_seed(results, data)
    arms = in_order(arms, found)
    if not arms:
        return absent(f"{data}: no arm of this figure was run to its end")
    rows = ("start", "revised", "density", "long")
    fig, axes = plt.subplots(4, len(arms), figsize=(1.55 * len(arms) + 0.5, 6.4), squeeze=False)
    arrays: Arrays = {}
    for column, arm in zip(axes.T, arms, strict=True):
        r, color = found[arm], look(arm).color
        steps = {p["steps"]: p for p in r.get("by_steps", []) if "shown" in p}
        parts = {"start": r.get("shown_initial"), "revised": r.get("shown")}
        if steps:
            parts["long"] = steps[max(steps)]["shown"]
        for ax, row in zip(column, rows, strict=True):
            bare(ax)
            if row == "density" and "picture" in r:
                side = round(len(r["picture"]) ** 0.5)
                values = np.array(r["picture"], dtype=float).reshape(side, side)
                ax.imshow(np.exp(values.T), origin="lower", extent=(-LIMIT, LIMIT, -LIMIT, LIMIT),
                          cmap="magma")  # fmt: skip
                arrays[f"{arm}/density"] = values
            elif parts.get(row):
                x = np.array(parts[row], dtype=float)
                ax.scatter(*x.T, s=1.2, color=color, linewidths=0)
                arrays[f"{arm}/{row}"] = x
            else:
                ax.text(0, 0, "–", ha="center", va="center", color="#777777")
        column[0].set_title(arm, fontsize=8)
    longest = max((p["steps"] for r in found.values() for p in r.get("by_steps", [])), default=0)
    names = ("chains' start", "revised, K steps", "exp(f) p0", f"{longest:,} steps")
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=8)
    return fig, arrays


def revision(results: Sequence[Result], data: str, arm: str) -> tuple[Any, Arrays]:
    """The same chains after more and more steps, over the learned density."""
    found = first_seed(results, data)
    if arm not in found or "by_steps" not in found[arm]:
        return absent(f"{data}: {arm} was not run to its end, or has no energy")
    r = found[arm]
    points = [p for p in r["by_steps"] if "shown" in p]
    fig, axes = plt.subplots(1, len(points), figsize=(1.75 * len(points), 2.0), squeeze=False)
    side = round(len(r["picture"]) ** 0.5)
    values = np.array(r["picture"], dtype=float).reshape(side, side)
    arrays: Arrays = {"density": values}
    for ax, p in zip(axes[0], points, strict=True):
        bare(ax)
        ax.imshow(np.exp(values.T), origin="lower", extent=(-LIMIT, LIMIT, -LIMIT, LIMIT),
                  cmap="Greys", alpha=0.6)  # fmt: skip
        x = np.array(p["shown"], dtype=float)
        ax.scatter(*x.T, s=1.2, color=look(arm).color, linewidths=0)
        ax.set_title(f"{p['steps']:,} steps\nMMD² {1e3 * p['mmd']:.1f}e-3", fontsize=8)
        arrays[f"steps={p['steps']}"] = x
    return fig, arrays


def chase(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """The energy's samples follow the data, the generator follows them, and the gap stays small."""
    panels = (
        ("mmd/revised", "MMD² of revised and data"),
        ("mmd/chase", "MMD² of start and revised"),
        ("kl", "KL(data, EBM) (nats)"),
    )
    fig, axes = plt.subplots(1, 4, figsize=(12.4, 3.0))
    arrays: Arrays = {}
    for arm in dict.fromkeys(arms):
        own = [r for r in results if r["data"] == data and r["arm"] == arm and len(r["curve"]) > 1]
        if not own:
            continue
        style = look(arm)
        label = named(arm, len(own))
        for ax, (key, _) in zip(axes, panels, strict=False):
            curves = [[p.get(key) for p in r["curve"]] for r in own]
            if any(v is None for c in curves for v in c):
                continue
            at, mean, se = over_seeds([p["iteration"] for p in own[0]["curve"]], curves)
            ax.plot(at, mean, style.line, color=style.color, label=label)
            ax.fill_between(at, mean - INTERVAL * se, mean + INTERVAL * se, color=style.color,
                            alpha=0.2, linewidth=0)  # fmt: skip
            arrays |= {f"{arm}/{key}": mean, f"{arm}/{key}/se": se, f"{arm}/iteration": at}
        if own[0].get("energy_gradients"):
            gap = own[0]["gaps"]
            at = (np.arange(len(gap["mean"])) + 0.5) * gap["every"]
            axes[3].plot(
                at, np.array(gap["mean"], dtype=float), style.line, color=style.color, lw=0.8
            )
            arrays[f"{arm}/gap"] = np.array(gap["mean"], dtype=float)
    if not arrays:
        plt.close(fig)
        return absent(f"{data}: no arm of this figure was run")
    for ax, (_, title) in zip(axes, panels, strict=False):
        ax.set_yscale("symlog", linthresh=1e-3) if "MMD" in title else ax.set_ylim(0, 2.2)
        ax.set_ylabel(title)
    axes[3].axhline(0, color="#777777", lw=0.8, ls=":")
    axes[3].set_ylabel("gap of energies (nats), first seed")
    for ax in axes:
        ax.set_xlabel("iteration")
    axes[0].legend(fontsize=7)
    return fig, arrays


def over_seeds(
    at: Sequence[float], curves: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, mean and standard error over seeds of curves, cut to the shortest."""
    n = min(map(len, curves))
    values = np.array([c[:n] for c in curves], dtype=float)
    se = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros(n)
    return np.array(at[:n]), values.mean(0), se


def sweep(results: Sequence[Result], data: str) -> tuple[Any, Arrays]:
    """Samples and density against K: variational and short-run teaching, all seeds."""
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.4))
    panels = (
        (("revised", "mmd"), "MMD² of revised samples"),
        (("density", "kl"), "KL(data, EBM) (nats)"),
    )
    arrays: Arrays = {}
    drawn = False
    for teacher in ("variational", "short-run"):
        known: dict[int, list[Result]] = {}
        for r in results:
            if r["data"] == data and r["diverged_at"] is None:
                name, changed = parse_arm(r["arm"])
                if name == teacher and set(changed) <= {"steps"}:
                    known.setdefault(r["steps"], []).append(r)
        if len(known) < 2:
            continue
        drawn, style = True, method_style(teacher)
        K = sorted(known)
        for ax, ((part, what), _) in zip(axes, panels, strict=True):
            values = [[r[part][what] for r in known[k]] for k in K]
            mean = np.array([fmean(v) for v in values])
            se = np.array([stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values])
            seeds = min(map(len, values))
            ax.errorbar(K, mean, INTERVAL * se, color=style.color, marker=style.marker,
                        label=named(teacher, seeds))  # fmt: skip
            arrays |= {f"{teacher}/K": np.array(K), f"{teacher}/{what}": mean,
                       f"{teacher}/{what}/se": se}  # fmt: skip
    if not drawn:
        plt.close(fig)
        return absent(f"{data}: no arm with another number of Langevin steps was run")
    for ax, (_, title) in zip(axes, panels, strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("Langevin steps K in training and test")
        ax.set_ylabel(title)
    axes[0].legend(fontsize=7)
    return fig, arrays


def by_steps(results: Sequence[Result], data: str, arms: Sequence[str]) -> tuple[Any, Arrays]:
    """MMD^2 of the same chains against the number of steps they are run at test time."""
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    arrays: Arrays = {}
    for arm in arms:
        own = [
            r for r in results
            if r["data"] == data and r["arm"] == arm and "by_steps" in r
        ]  # fmt: skip
        if not own:
            continue
        style = look(arm)
        curves = [[p["mmd"] for p in r["by_steps"]] for r in own]
        if any(v is None for c in curves for v in c):
            continue
        at, mean, se = over_seeds([max(p["steps"], 0.5) for p in own[0]["by_steps"]], curves)
        ax.errorbar(at, mean, INTERVAL * se, color=style.color, marker=style.marker,
                    ls=style.line, label=named(arm, len(own)))  # fmt: skip
        arrays |= {f"{arm}/steps": at, f"{arm}/mmd": mean, f"{arm}/se": se}
    if not arrays:
        plt.close(fig)
        return absent(f"{data}: no arm of this figure was run to its end")
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_ylim(bottom=-5e-4)
    ax.set_xlabel("Langevin steps at test time (0 drawn at 0.5)")
    ax.set_ylabel("MMD² of samples and data")
    ax.legend(fontsize=7)
    return fig, arrays


def named(arm: str, seeds: int) -> str:
    """For a legend."""
    return f"{arm} ({seeds} seed{'s' * (seeds != 1)})"


def bare(ax: Any) -> None:
    """Axes of a picture of the plane."""
    ax.set_xlim(-LIMIT, LIMIT)
    ax.set_ylim(-LIMIT, LIMIT)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal")


def absent(why: str) -> tuple[Any, Arrays]:
    """In the place of a figure whose arms this run does not have."""
    fig, ax = plt.subplots(figsize=(6.4, 0.6))
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"nothing to draw: {why}", ha="center", va="center", fontsize=8)
    return fig, {"absent": np.array([1])}
