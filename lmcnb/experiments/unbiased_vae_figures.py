"""Figures of the notebook `unbiased_vae`: meeting times and training; with the arrays drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from lmcnb.experiments.unbiased_vae_ppca_figures import LOOKS
from lmcnb.experiments.unbiased_vae_report import PAPER_MEETINGS, shown
from lmcnb.lab.figures import INTERVAL, MethodStyle
from lmcnb.papers.unbiased_vae import parse_arm

Arrays = dict[str, Any]
Result = Mapping[str, Any]
RULES = {"strict": "-", "index": "--"}
KERNELS = {"C-ISIR": "#0072B2", "C-ISIR-DISIR": "#D55E00"}


def look(arm: str) -> MethodStyle:
    """The style of an arm; the index rule has a colour of its own and a dashed line."""
    said = parse_arm(arm)
    own = LOOKS[said.model]
    return MethodStyle("#CC79A7", own.marker, "--") if said.rule == "index" else own


def survival(results: Sequence[Result], latent: int) -> tuple[Any, Arrays]:
    """P(more than n joint steps) against n, of every kernel and rule; the paper's three numbers."""
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    arrays: Arrays = {}
    for r in results:
        if r["latent"] != latent or (r["kernel"] != "C-ISIR" and r["beta"] is not None):
            continue
        counts, edges = np.array(r["counts"]["count"]), np.array(r["counts"]["from"])
        more = 1 - np.cumsum(counts)[:-1] / r["n"]
        at = edges[1 : len(more) + 1] - 1
        kept = at < r["cap"]
        kind = "β adapted" if r["kernel"] != "C-ISIR" else ""
        label = ", ".join(t for t in (r["kernel"], kind, f"{r['rule']} rule") if t)
        ax.plot(at[kept], more[kept], RULES[r["rule"]], color=KERNELS[r["kernel"]], label=label,
                drawstyle="steps-post")  # fmt: skip
        arrays |= {f"{r['kernel']}/{r['rule']}/n": at, f"{r['kernel']}/{r['rule']}/share": more}
    published = PAPER_MEETINGS if results[0]["dataset"] == "static_mnist" and latent == 20 else {}
    for name, (_, median, high, _) in published.items():
        ax.plot([median, high], [0.5, 0.01], "*", color=KERNELS[name], ms=9, mec="white",
                label=f"paper's {name}: median, 99 %")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 1.1)
    ax.set_xlabel("joint steps n")
    ax.set_ylabel("share of pairs that take more")
    ax.legend(fontsize=7, loc="lower right", bbox_to_anchor=(0.8, 0.0))
    return fig, arrays


def by_beta(results: Sequence[Result], latent: int) -> tuple[Any, Arrays]:
    """Mean joint steps and effective sample size against the correlation, by both rules."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.2))
    arrays: Arrays = {}
    own = [r for r in results if r["latent"] == latent]
    for rule, line in RULES.items():
        some = sorted((r for r in own if r["rule"] == rule and r["kernel"] != "C-ISIR"
                       and r["beta"] is not None), key=lambda r: r["beta"])  # fmt: skip
        beta = np.array([r["beta"] for r in some])
        mean, se = (np.array([r[k] for r in some]) for k in ("mean", "se"))
        left.errorbar(beta, mean, INTERVAL * se, ls=line, marker="o", color="#D55E00",
                      mfc="white" if rule == "index" else None,
                      label=f"C-ISIR-DISIR, {rule} rule")  # fmt: skip
        arrays |= {f"{rule}/beta": beta, f"{rule}/mean": mean, f"{rule}/se": se}
        if rule == "strict":
            share = np.array([r["effective"] for r in some])
            right.plot(beta, share, "o-", color="#D55E00")
            arrays["effective"] = share
    for r in own:
        if r["kernel"] == "C-ISIR":
            left.axhline(r["mean"], color=KERNELS["C-ISIR"], label="C-ISIR")
            arrays["C-ISIR"] = r["mean"]
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("mean joint steps, at most the cap")
    left.legend(fontsize=7)
    right.axhline(0.3, color="#777777", ls=":")
    right.set_ylabel("effective samples / K (dotted: target)")
    for ax in (left, right):
        ax.set_xlabel("correlation β")
    return fig, arrays


def gains(
    pairs: Sequence[Any], dataset: str, base: str, by_ais: Sequence[Any] = ()
) -> tuple[Any, Arrays]:
    """Gain of every switched arm over the base, each seed a point: of the test bound, and by AIS.

    An arm's name says how many of its seeds have no point, since they or their base diverged.

    Args:
        pairs: from `unbiased_vae_record.gains`.
        dataset: which.
        base: the arm that the others are compared with.
        by_ais: from `unbiased_vae_record.annealed_gains`; none: bounds alone.
    """
    own, others = ([p for p in some if p[0][0] == dataset and p[0][3] == base]
                   for some in (pairs, by_ais))  # fmt: skip
    arms = list(dict.fromkeys(p[0][2] for p in own))
    fig, ax = plt.subplots(figsize=(6.4, 1.0 + (0.62 if others else 0.42) * len(arms)))
    arrays: Arrays = {}
    names = []
    for place, arm in enumerate(arms):
        style = look(arm)
        lost = 0
        for part, shift in ((own, -0.2 if others else 0.0), (others, 0.2)):
            every = [(gap, se) for key, gap, se, _ in part if key[2] == arm]
            some = [pair for pair in every if pair[0] is not None]
            lost = max(lost, len(every) - len(some))
            for i, (gap, se) in enumerate(some):
                y = place + shift + 0.12 * (i - (len(some) - 1) / 2)
                ax.errorbar(gap, y, xerr=INTERVAL * se, color=style.color, marker=style.marker,
                            mfc="white" if part is others else None)  # fmt: skip
            if every:
                arrays[f"{arm}, AIS" if part is others else arm] = np.array(some)
        seeds = sum(key[2] == arm for key, *_ in own)
        names.append(shown(arm) + (f" ({lost} of {seeds} diverged)" if lost else ""))
    ax.axvline(0, color="#000000", lw=0.8, ls=":")
    ax.set_yticks(range(len(arms)), names)
    ax.invert_yaxis()
    word = "log likelihood" if others else "test bound"
    ax.set_xlabel(f"{word} less that of \u201c{shown(base)}\u201d (nats; images paired)")
    if others:
        for part, name, fill in ((own, "test bound", "#555555"), (others, "AIS", "white")):
            label = f"{name}, {max(p[3] for p in part):,} images"
            ax.plot([], [], "o", color="#555555", mfc=fill, label=label)
        ax.legend(fontsize=7)
    return fig, arrays
