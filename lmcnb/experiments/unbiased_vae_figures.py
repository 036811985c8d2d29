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


def gains(pairs: Sequence[Any], dataset: str, base: str) -> tuple[Any, Arrays]:
    """Gain of every switched arm in the test bound over the base, each seed a point.

    An arm's name says how many of its seeds have no point, since they or their base diverged.

    Args:
        pairs: from `unbiased_vae_record.gains`.
        dataset: which.
        base: the arm that the others are compared with.
    """
    own = [p for p in pairs if p[0][0] == dataset and p[0][3] == base]
    arms = list(dict.fromkeys(p[0][2] for p in own))
    fig, ax = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(arms)))
    arrays: Arrays = {}
    names = []
    for place, arm in enumerate(arms):
        every = [(gap, se) for key, gap, se, _ in own if key[2] == arm]
        some = [pair for pair in every if pair[0] is not None]
        lost = f" ({len(every) - len(some)} of {len(every)} diverged)"
        names.append(shown(arm) + (lost if len(some) < len(every) else ""))
        style = look(arm)
        for i, (gap, se) in enumerate(some):
            y = place + 0.12 * (i - (len(some) - 1) / 2)
            ax.errorbar(gap, y, xerr=INTERVAL * se, color=style.color, marker=style.marker)
        arrays[arm] = np.array(some)
    ax.axvline(0, color="#000000", lw=0.8, ls=":")
    ax.set_yticks(range(len(arms)), names)
    ax.invert_yaxis()
    ax.set_xlabel(f"test bound less that of \u201c{shown(base)}\u201d (nats; images paired)")
    return fig, arrays
