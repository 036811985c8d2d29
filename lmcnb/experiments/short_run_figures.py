"""Figures of the notebook `short_run`; each returns the figure and the arrays drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.experiments.short_run_cells import shape_of
from lmcnb.experiments.short_run_image_figures import absent, layers, pictures
from lmcnb.experiments.short_run_record import lost
from lmcnb.experiments.short_run_report import by_arm, shown
from lmcnb.lab.figures import method_style
from lmcnb.methods import short_run_theory as theory

Arrays = dict[str, Any]
Result = dict[str, Any]
SHOWN = ["VAE", "LVAE-L3", "SRI", "SRI-marginal", "SRI-s0.2", "SRI-s0.1", "SRI-L3", "ABP-s0.1"]
SHOWN_CONV = ["VAE", "LVAE-L5", "SRI-s0.05", "SRI-L5-s0.05", "SRI-L5"]  # of the released network
STEP_SIZES = ("SRI", "SRI-gradient", "SRI-marginal", "SRI-L3", "SRI-L3-marginal", "SRI-L5")
CURVES = {
    "frozen": ("J(s): noise taken as given", "#D55E00", "-"),
    "noise_free": ("noise-free chain", "#0072B2", "--"),
    "marginal": ("the noisy chain's marginal law", "#009E73", "-"),
}


def arms_of(dataset: str) -> list[str]:
    """The models of the figures of a data set, where they were run."""
    return SHOWN_CONV if shape_of(dataset) == (3, 32, 32) else SHOWN


def fixed_arm(results: Sequence[Result], dataset: str) -> str:
    """The model with a fixed step size whose chains are looked at closely."""
    run = {r["arm"] for r in results if r["dataset"] == dataset}
    return next((a for a in ("SRI-s0.2", "SRI-s0.1", "SRI-L5-s0.05") if a in run), "SRI-s0.2")


def three_curves(frozen_1d: dict[float, tuple[float, float]]) -> tuple[Any, Arrays]:
    """The divergences of a linear-Gaussian and of a curved posterior against the step size.

    Args:
        frozen_1d: for some step sizes, J + log p(x) of the curved case and its standard error.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5))
    arrays: Arrays = {}
    lam, mean = torch.tensor(exact.PRECISION), torch.tensor(exact.MEAN)
    s = np.linspace(0.02, 0.44, 120)
    found = [theory.divergences(lam, mean, float(v), exact.STEPS) for v in s]
    arrays["gaussian/s"] = s
    for name, (label, color, line) in CURVES.items():
        values = np.array([getattr(d, name) for d in found])
        arrays[f"gaussian/{name}"] = values
        left.plot(s, values, line, color=color, label=label)
        at = theory.minimizer(name, lam, mean, exact.STEPS, exact.STEEP)
        left.plot(*at, "o", color=color)
        left.annotate(f"{at[0]:.3f}", at, xytext=(0, 7), textcoords="offset points", fontsize=7,
                      color=color, ha="center")  # fmt: skip
    left.set_title("linear-Gaussian, $\\lambda$ = (2, 10), K = 10")
    left.set_ylim(0, 3)
    t = np.linspace(0.03, 0.4, 38)
    one = [quadrature.one_dimensional(float(v), 1201) for v in t]
    arrays["curved/s"] = t
    for name in ("noise_free", "marginal"):
        label, color, line = CURVES[name]
        values = np.array([getattr(d, name) for d in one])
        if name == "noise_free":
            values[[not d.injective for d in one]] = np.nan
        arrays[f"curved/{name}"] = values
        right.plot(t, values, line, color=color)
    places = np.array(sorted(frozen_1d))
    values, errors = (np.array([frozen_1d[float(v)][i] for v in places]) for i in (0, 1))
    arrays |= {"curved/frozen_s": places, "curved/frozen": values, "curved/frozen_se": errors}
    right.errorbar(
        places, values, 1.96 * errors, fmt="-", marker="o", ms=3, color=CURVES["frozen"][1]
    )
    right.set_title("one dimension, not linear, K = 10")
    right.set_ylim(0, 4.5)
    for ax in (left, right):
        ax.set_xlabel("step size s")
        ax.set_ylabel("divergence from the posterior (nats)")
    left.legend(fontsize=7)
    return fig, arrays


def learning_map() -> tuple[Any, Arrays]:
    """The map of the learned weight, with noise and without, and its fixed points."""
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.4))
    arrays: Arrays = {}
    settings = [(0.1, 25), (0.2, 25), (0.3, 25), (0.1, 400)]
    colors = ["#000000", "#0072B2", "#D55E00", "#009E73"]
    for ax, noisy, most in ((axes[0], True, 2.0), (axes[1], False, 15.0)):
        w = np.linspace(1e-3, most, 300)
        ax.plot(w, w, color="#AAAAAA", lw=1)
        for (s, steps), color in zip(settings, colors, strict=True):
            edge = math.sqrt(exact.NOISE * (4 / s**2 - 1))
            inside = w[w < 0.999 * edge]
            values = np.array(
                [
                    theory.learning_map(float(v), exact.DATA, exact.NOISE, s, steps, noisy)
                    for v in inside
                ]
            )
            label = f"s = {s}, K = {steps}"
            ax.plot(inside, values, color=color, label=label)
            name = f"{'noisy' if noisy else 'noise_free'}/s={s}/K={steps}"
            arrays |= {f"{name}/w": inside, f"{name}/next": values}
            for root, stable in theory.fixed_points(exact.DATA, exact.NOISE, s, steps, noisy):
                if root < most:
                    face = color if stable else "white"
                    ax.plot(root, root, "o", color=color, mfc=face)
        ax.axvline(math.sqrt(exact.DATA - exact.NOISE), color="#AAAAAA", ls=":", lw=1)
        ax.set_xlabel("weight w")
        ax.set_title("with noise" if noisy else "without noise")
        ax.set_ylim(0, most)
    axes[0].set_ylabel("weight after one update")
    axes[0].legend(fontsize=7)
    return fig, arrays


def objective_by_epoch(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """J(s) on 64 training images during training, one panel an arm, first seed."""
    own = [r for r in results if r["dataset"] == dataset and r["seed"] == results[0]["seed"]]
    own = [r for r in own if any("objective" in p for p in r["curve"])]
    if not own:
        return absent(f"{dataset}: no arm of images.curves was run")
    fig, axes = plt.subplots(1, len(own), figsize=(4.6 * len(own), 3.5), squeeze=False)
    arrays: Arrays = {}
    for ax, r in zip(axes[0], own, strict=True):
        points = [p for p in r["curve"] if "objective" in p]
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(points)))
        for p, color in zip(points, colors, strict=True):
            usable = [o for o in p["objective"] if o["value"] is not None]
            s, values, errors = (np.array([o[k] for o in usable]) for k in ("s", "value", "se"))
            epoch = f"{p['epoch']:.0f}"
            ax.errorbar(s, values, 1.96 * errors, color=color, marker="o", ms=3,
                        label=f"epoch {epoch}")  # fmt: skip
            if len(usable):
                best = int(values.argmin())
                ax.plot(s[best], values[best], "*", color=color, ms=11)
            name = f"{r['arm']}/epoch={epoch}"
            arrays |= {f"{name}/s": s, f"{name}/J": values, f"{name}/se": errors}
        ax.set_title(shown(r["arm"]), fontsize=9)
        ax.set_xlabel("step size s")
        ax.set_ylabel("J(s) (nats an image)")
        ax.legend(fontsize=7)
    return fig, arrays


def step_size(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """The chosen step size during training, by every way of choosing it, every seed."""
    own = [r for r in results if r["dataset"] == dataset and r["arm"] in STEP_SIZES]
    if not any(r["searches"] for r in own):
        return absent(f"{dataset}: no arm of {', '.join(STEP_SIZES)} was run")
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    arrays: Arrays = {}
    for (_, arm), own in by_arm([r for r in results if r["dataset"] == dataset]).items():
        if not any(r["searches"] for r in own) or arm not in STEP_SIZES:
            continue
        look = method_style(arm)
        for i, r in enumerate(own):
            chosen = [c for c in r["searches"] if c["step_size"] is not None]
            epochs = np.array([c["epoch"] for c in chosen])
            s = np.array([c["step_size"] for c in chosen])
            label = f"{shown(arm)} ({len(own)} seed{'s' * (len(own) > 1)})" if i == 0 else None
            ax.plot(epochs, s, look.line, color=look.color, marker=look.marker, ms=3, label=label)
            arrays |= {f"{arm}/{r['seed']}/epoch": epochs, f"{arm}/{r['seed']}/s": s}
    ax.set_xlabel("epoch")
    ax.set_ylabel("chosen step size s")
    ax.set_ylim(0)
    ax.legend(fontsize=7)
    return fig, arrays


def learning_curves(
    results: Sequence[Result], dataset: str, arms: Sequence[str]
) -> tuple[Any, Arrays]:
    """Test error against epochs and against processor time; bands: the range over seeds."""
    grouped = by_arm([r for r in results if r["dataset"] == dataset and not lost(r)])
    if not any((dataset, arm) in grouped for arm in arms):
        return absent(f"{dataset}: no arm of {', '.join(arms)} was run to its end")
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.4), sharey=True)
    arrays: Arrays = {}
    for arm in arms:
        own = grouped.get((dataset, arm), [])
        if not own:
            continue
        look = method_style(arm)
        mse = np.array([[p["mse"] for p in r["curve"]] for r in own])
        seconds = np.array([[p["seconds"] for p in r["curve"]] for r in own]).mean(0)
        epoch = np.array([p["epoch"] for p in own[0]["curve"]])
        label = f"{shown(arm)} ({len(own)} seed{'s' * (len(own) > 1)})"
        for ax, x, of in ((left, epoch, mse), (right, seconds[1:], mse[:, 1:])):  # log axis
            ax.plot(
                x, of.mean(0), look.line, color=look.color, marker=look.marker, ms=3, label=label
            )
            ax.fill_between(x, of.min(0), of.max(0), color=look.color, alpha=0.2, lw=0)
        arrays |= {f"{arm}/epoch": epoch, f"{arm}/seconds": seconds, f"{arm}/mse": mse}
    left.set_xlabel("epoch")
    right.set_xlabel("processor time (s)")
    right.set_xscale("log")
    left.set_ylabel("test error a pixel, one sample")
    left.set_yscale("log")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig, arrays


def objective_and_error(results: Sequence[Result], dataset: str, arm: str) -> tuple[Any, Arrays]:
    """The objectives of a trained model beside the test error of its chains; first seed."""
    found = [r for r in results if (r["dataset"], r["arm"]) == (dataset, arm)]
    if not found or "sweep_noisy" not in found[0]:
        return absent(f"{dataset}: {arm} was not run as one of images.curves")
    own = found[0]
    fig, ax = plt.subplots(figsize=(5.6, 3.5))
    arrays: Arrays = {}
    kinds = [("noisy", "frozen"), ("noise_free", "noise_free"), ("marginal", "marginal")]
    for kind, name in kinds:
        usable = [p for p in own.get(f"sweep_{kind}", []) if p["value"] is not None]
        s, values, errors = (np.array([p[k] for p in usable]) for k in ("s", "value", "se"))
        label, color, line = CURVES[name]
        label += ", upper bound" if kind == "marginal" else ""
        ax.errorbar(
            s, values, 1.96 * errors, color=color, linestyle=line, marker="o", ms=3, label=label
        )
        arrays |= {f"{kind}/s": s, f"{kind}/J": values, f"{kind}/se": errors}
    ax.set_xlabel("step size s")
    ax.set_ylabel("J(s) (nats an image)")
    twin = ax.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    errors_by_s = own["error_by_step_size"]
    s = np.array([float(v) for v in errors_by_s])
    mse = np.array(list(errors_by_s.values()))
    twin.plot(s, mse, color="#777777", marker="s", ms=3, label="test error (right axis)")
    twin.set_ylabel("test error a pixel")
    arrays |= {"error/s": s, "error/mse": mse}
    handles = [h for a in (ax, twin) for h in a.get_legend_handles_labels()[0]]
    ax.legend(handles, [str(h.get_label()) for h in handles], fontsize=7)
    ax.set_title(f"{dataset}: {shown(arm)}", fontsize=9)
    return fig, arrays


def by_steps(results: Sequence[Result], dataset: str) -> dict[int, list[Result]]:
    """Cells of one layer with s chosen by grid, by the number of steps K."""
    found = {}
    for (_, arm), own in by_arm([r for r in results if r["dataset"] == dataset]).items():
        if arm == "SRI" or (arm.startswith("SRI-K") and arm[5:].isdigit()):
            found[25 if arm == "SRI" else int(arm[5:])] = own
    return found


def ablation(results: Sequence[Result], dataset: str) -> tuple[Any, Arrays]:
    """Test error, Frechet distance and chosen s against the number of steps K."""
    found = by_steps(results, dataset)
    steps = np.array(sorted(found))
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.1))
    arrays: Arrays = {"K": steps}
    getters = {
        "test error, one sample": lambda r: r["mse"]["sampled"]["value"],
        "Fréchet distance, classifier": lambda r: float(np.mean(r["frechet"]["classifier"])),
        "chosen s at the end": lambda r: r["step_size"],
    }
    look = method_style("SRI")
    for ax, (label, get) in zip(axes, getters.items(), strict=True):
        values = [[get(r) for r in found[k] if r["diverged_at"] is None] for k in steps]
        mean = np.array([np.mean(v) for v in values])
        se = np.array([np.std(v, ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values])
        ax.errorbar(steps, mean, 1.96 * se, color=look.color, marker=look.marker)
        ax.set_xscale("log")
        ax.set_xticks(steps, [str(k) for k in steps])
        ax.minorticks_off()
        ax.set_xlabel("chain steps K")
        ax.set_ylabel(label)
        arrays |= {f"{label}/mean": mean, f"{label}/se": se}
    return fig, arrays


class Drawn(NamedTuple):
    """A figure with its name, arrays and alternative text."""

    name: str
    figure: Any
    arrays: Arrays
    alt: str


def of_longer_profiles(results: Sequence[Result], first: str) -> Iterator[Drawn]:
    """What there is beyond the quick profile: K, layers drawn anew, data sets after the first."""
    if len(by_steps(results, first)) > 1:
        alt = "Test error, Fréchet distance and the chosen step size against the number of steps K."
        yield Drawn("ablation", *ablation(results, first), alt)
    for arm in sorted({r["arm"] for r in results if "layers" in r.get("pictures", {})}):
        alt = "Generated coloured digits; in every row of a panel one layer's noise is drawn anew: "
        alt += shown(arm)
        yield Drawn(f"layers_{arm}", *layers(results, arm), alt)
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        if dataset in (first, "coloured_digits"):
            continue
        alt = f"{dataset}: test error of every model against epochs, and against processor time."
        drawn = learning_curves(results, dataset, arms_of(dataset))
        yield Drawn(f"learning_curves_{dataset}", *drawn, alt)
        if any("objective" in p for r in results if r["dataset"] == dataset for p in r["curve"]):
            alt = f"{dataset}: J(s) at several epochs of training."
            drawn = objective_by_epoch(results, dataset)
            yield Drawn(f"objective_by_epoch_{dataset}", *drawn, alt)
        if any(r["searches"] for r in results if r["dataset"] == dataset):
            alt = f"{dataset}: the chosen step size against the epoch."
            yield Drawn(f"step_size_{dataset}", *step_size(results, dataset), alt)
        alt = f"{dataset}: test images, reconstructions and generated images."
        yield Drawn(f"pictures_{dataset}", *pictures(results, dataset, arms_of(dataset)), alt)
