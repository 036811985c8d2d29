"""Figures of the illustration and of PPCA; each returns the figure and the arrays drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from lmcnb.experiments import unbiased_vae_illustration as one
from lmcnb.lab.figures import INTERVAL, MethodStyle

Arrays = dict[str, Any]
Result = Mapping[str, Any]
LOOKS = {
    "ELBO": MethodStyle("#777777", "s", ":"),
    "IWAE": MethodStyle("#000000", "D", "--"),
    "C-ISIR": MethodStyle("#0072B2", "^"),
    "C-ISIR-DISIR": MethodStyle("#D55E00", "o"),
    "average": MethodStyle("#E69F00", "v", "-."),
}
TRACES = {"ISIR": "#0072B2", "DISIR": "#D55E00", "ISIR-DISIR": "#D55E00"}
TARGET, PROPOSAL, WEIGHT = "#000000", "#009E73", "#CC79A7"
QUANTITIES = {"intercept": "one intercept", "weight": "one weight"}


def look(name: str) -> MethodStyle:
    """The style of an estimator; one with a beta of its own looks like its kind."""
    return LOOKS[name.partition(" beta=")[0]]


def illustration(found: Result, kernels: tuple[str, str] = ("ISIR", "DISIR")) -> tuple[Any, Arrays]:
    """Target, proposal and weight; traces and histograms of two kernels (figure 1)."""
    fig, axes = plt.subplots(
        1, 5, figsize=(10.4, 3.1), gridspec_kw={"width_ratios": [2.6, 2.2, 0.7, 2.2, 0.7]}
    )
    z = torch.linspace(-3.2, 2.6, 400, dtype=torch.float64)
    p, q = (f(z).exp().numpy() for f in (one.log_target, one.log_proposal))
    arrays: Arrays = {"z": z.numpy(), "target": p, "proposal": q, "weight": p / q}
    left = axes[0]
    left.plot(z, p, color=TARGET, label="target")
    left.plot(z, q, "--", color=PROPOSAL, label="proposal")
    left.set_xlabel("z")
    left.set_ylabel("density")
    left.set_ylim(0, 1.35)
    twin = left.twinx()
    twin.plot(z, p / q, ":", color=WEIGHT, label="weight (right axis)")
    twin.set_yscale("log")
    twin.set_ylim(1e-2, 1e3)
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    twin.tick_params(axis="y", colors=WEIGHT)
    at, most = found["largest_weight"]
    twin.annotate(f"{most:.0f}", (at, most), xytext=(0, 4), textcoords="offset points",
                  color=WEIGHT, fontsize=7, ha="center")  # fmt: skip
    lines = [h for ax in (left, twin) for h in ax.get_legend_handles_labels()[0]]
    left.legend(lines, [h.get_label() for h in lines], fontsize=7, loc="upper left")
    bins = len(found["masses"])
    width = (one.EDGES[1] - one.EDGES[0]) / bins
    for name, trace, side in zip(kernels, axes[1::2], axes[2::2], strict=True):
        own = found[name]
        trace.plot(own["trace"], color=TRACES[name], lw=0.6)
        trace.set_title(f"{name}: moves in {own['moves_right']:.0%} of its steps at z > 0")
        trace.title.set_fontsize(8)
        trace.set_xlabel("iteration")
        trace.set_ylabel("z")
        side.stairs(own["histogram"] / width, np.linspace(*one.EDGES, bins + 1), fill=True,
                    orientation="horizontal", color=TRACES[name], alpha=0.5)  # fmt: skip
        side.plot(p, z, color=TARGET)
        side.set_xlabel("density")
        side.set_yticklabels([])
        for ax in (trace, side):
            ax.set_ylim(-3.2, 2.6)
        arrays |= {f"{name}/trace": own["trace"], f"{name}/histogram": own["histogram"]}
    return fig, arrays


def boxes(result: Result, quantities: Sequence[str] = tuple(QUANTITIES)) -> tuple[Any, Arrays]:
    """Errors of every estimator (figures 2 and 5): boxes, and above them the means from nearby.

    The boxes hide what the paper is about, since the mean's error is far below an interquartile
    range; so the means have panels of their own, with 95 percent intervals, beside the zero line.
    Below the boxes stand the least and the largest error, which may lie outside of the panel.
    """
    estimators = result["estimators"]
    names, places = list(estimators), list(range(len(estimators)))
    width = 1.2 + max(4.1, 0.75 * len(names)) * len(quantities)
    fig, axes = plt.subplots(2, len(quantities), figsize=(width, 5.0), sharex=True, squeeze=False,
                             gridspec_kw={"height_ratios": [1, 1.5]})  # fmt: skip
    arrays: Arrays = {"estimator": np.array(names)}
    for (above, below), quantity in zip(axes.T, quantities, strict=True):
        for at, name in enumerate(names):
            own, style = estimators[name][quantity], look(name)
            errors = np.asarray(own["errors"])
            low, high = own["whisker_low"], own["whisker_high"]
            box = {"q1": own["q1"], "med": own["median"], "q3": own["q3"], "mean": own["mean"]}
            box |= {"whislo": low, "whishi": high}
            box |= {"fliers": errors[(errors < low) | (errors > high)][:300]}
            below.bxp(
                [box], positions=[at], widths=0.55, showmeans=True, patch_artist=True,
                boxprops={"facecolor": style.color, "alpha": 0.35, "edgecolor": style.color},
                medianprops={"color": style.color},
                whiskerprops={"color": style.color}, capprops={"color": style.color},
                meanprops={"marker": style.marker, "mfc": "white", "mec": style.color},
                flierprops={"marker": ".", "ms": 2, "mec": style.color, "alpha": 0.4},
            )  # fmt: skip
            for ax in (above, below):
                ax.errorbar(at, own["mean"], INTERVAL * own["se"], color=style.color,
                            marker=style.marker if ax is above else "")  # fmt: skip
            arrays |= {f"{quantity}/{name}/errors": errors}
            keys = ("mean", "se", "q1", "median", "q3", "min", "max")
            arrays |= {f"{quantity}/{name}/{k}": own[k] for k in keys}
        for ax in (above, below):
            ax.axhline(0, color="#000000", lw=0.8, ls=":", zorder=0)
        reach = 2 * max(
            abs(r[quantity][k])
            for r in estimators.values()
            for k in ("whisker_low", "whisker_high")
        )
        below.set_ylim(-1.25 * reach, reach)
        for at, r in zip(places, estimators.values(), strict=True):
            text = f"{r[quantity]['min']:.1f} …\n{r[quantity]['max']:.1f}"
            below.text(at, -1.23 * reach, text, fontsize=6.5, ha="center", va="bottom",
                       bbox={"facecolor": "white", "lw": 0, "pad": 1})  # fmt: skip
        n = next(iter(estimators.values()))["replicates"]
        above.set_title(f"{QUANTITIES[quantity]}, {n:,} replicates")
        short = [s.replace("C-ISIR-DISIR beta=", "…, β = ") for s in names]
        below.set_xticks(places, short, rotation=20)
    axes[0, 0].set_ylabel("mean error ± 1.96 s.e.")
    axes[1, 0].set_ylabel("estimate − exact gradient\n(numbers: least … largest)")
    return fig, arrays


def bias(result: Result, quantities: Sequence[str] = tuple(QUANTITIES)) -> tuple[Any, Arrays]:
    """Mean error of IWAE against K, beside that of the coupled estimators."""
    sizes = np.array([r["samples"] for r in result["bias"]])
    own = {n: r for n, r in result["estimators"].items() if look(n).line == "-"}
    panels = [*quantities, "rms"]
    fig, axes = plt.subplots(1, len(panels), figsize=(3.3 * len(panels), 3.1), squeeze=False)
    arrays: Arrays = {"K": sizes}
    for ax, quantity in zip(axes[0], panels, strict=True):
        mean, se = np.array([_bias(r, quantity) for r in result["bias"]]).T
        style = LOOKS["IWAE"]
        ax.errorbar(sizes, mean, INTERVAL * se, color=style.color, ls=style.line,
                    marker=style.marker, label="IWAE (K = 1: ELBO)")  # fmt: skip
        arrays |= {f"{quantity}/IWAE": mean, f"{quantity}/IWAE/se": se}
        for i, (name, r) in enumerate(own.items()):
            value, error = _bias(r, quantity)
            place = r["samples"] * 1.12 ** (i + 0.5 - len(own) / 2)  # side by side
            label = f"{name.replace(' beta=', ', β = ')}, K = {r['samples']}"
            face = look(name).color if name in LOOKS else "white"
            ax.errorbar(place, value, INTERVAL * error, color=look(name).color, ls="", label=label,
                        marker=look(name).marker, mfc=face)  # fmt: skip
            arrays |= {f"{quantity}/{name}": value, f"{quantity}/{name}/se": error}
        ax.axhline(0, color="#000000", lw=0.8, ls=":", zorder=0)
        ax.set_xscale("log")
        ax.set_xticks(sizes, [str(k) for k in sizes])
        ax.minorticks_off()
        ax.set_xlabel("importance samples K")
        ax.set_title(QUANTITIES.get(quantity, "all intercepts, root mean square"))
    axes[0, 0].set_ylabel("mean error ± 1.96 s.e.")
    axes[0, -1].set_ylabel("bias, its noise removed (bar: noise)")
    axes[0, 0].legend(fontsize=7)
    return fig, arrays


def _bias(r: Result, quantity: str) -> tuple[float, float]:
    """Mean error and standard error; over all intercepts the bias and the noise of its mean."""
    if quantity == "rms":
        return r["rms_bias"], r["rms_se"] / INTERVAL
    return r[quantity]["mean"], r[quantity]["se"]


def relative(result: Result) -> tuple[Any, Arrays]:
    """Relative absolute error over all intercepts (figure 6), read both ways."""
    estimators = result["estimators"]
    names, places = list(estimators), list(range(len(estimators)))
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.0))
    arrays: Arrays = {"estimator": np.array(names)}
    titles = {"of_each": "of each replicate, averaged", "of_mean": "of the replicates' mean"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        values = np.array([r["relative"][key] for r in estimators.values()])
        ax.bar(places, values, 0.6, color=[look(n).color for n in names], alpha=0.8)
        arrays[key] = values
        if key == "of_mean":
            floor = np.array([r["relative"]["of_mean_unbiased"] for r in estimators.values()])
            ax.plot(places, floor, "_", color="#CC79A7", ms=26, mew=2,
                    label="expected if unbiased")  # fmt: skip
            ax.legend(fontsize=7)
            arrays["of_mean_unbiased"] = floor
        ax.set_xticks(places, [s.replace(" beta=", "\nβ = ") for s in names], rotation=20)
        ax.set_title(title)
    axes[0].set_ylabel("relative absolute error")
    return fig, arrays
