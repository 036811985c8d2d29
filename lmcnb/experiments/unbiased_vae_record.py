"""What the runs of the unbiased-gradient notebook leave in the record.

Test values are bounds on log p(x) in nats an image. A gain is the mean over test images of the
difference of two models' bounds, taken with the same random numbers: its standard error is that of
the images, not of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lmcnb.experiments.unbiased_vae_cells import VaeCell
from lmcnb.lab.files import load_checkpoint

Result = dict[str, Any]
CHAIN_UNITS = {"decodes": "evaluations an image"}


def lost(r: Result, at: int) -> bool:
    """Whether a run of a cell diverged."""
    return r["diverged_at"][at] is not None or r["test"]["value"][at] is None


def training(run: Any, cells: Sequence[VaeCell], results: Sequence[Result]) -> None:
    """Enter every cell: test bounds, gains, chains, costs."""
    for r in results:
        for at, seed in enumerate(r["seeds"]):
            own = entries(r, at)
            if lost(r, at):
                step = r["diverged_at"][at]
                note = "diverged" if step is None else f"diverged at update {step:,}"
                for name, e in own.items():
                    unit = e.get("unit", "nats")
                    run.metric(name, None, seed=seed, unit=unit, diverged=True, note=note)
                continue
            for name, e in own.items():
                run.metric(name, seed=seed, **e)
            if "chains" in r:
                spent = (r["chains"]["decodes"]["mean"][at] or 0.0) * cells[0].settings.batch
                run.count("decoder evaluations in chains", round(spent * r["updates"]))
    _gains(run, cells, results)
    _costs(run, results)


def entries(r: Result, at: int) -> dict[str, dict[str, Any]]:
    """All metrics of one run that need no other."""
    title, test = r["title"], r["test"]
    found: dict[str, dict[str, Any]] = {
        f"ll/{title}": {
            "value": test["value"][at],
            "se": test["se"][at],
            "n": test["n"],
            "estimator": f"importance-weighted bound, {test['samples']:,} samples",
            "split": "test",
        },
        f"seconds/{title}": {"value": r["seconds"] / len(r["seeds"]), "unit": "s"},
    }
    for name, chain in r.get("chains", {}).items():
        if chain["mean"][at] is not None:
            unit = CHAIN_UNITS.get(name, "1")
            found[f"chains/{title}/{name}"] = {"value": chain["mean"][at], "unit": unit}
    if r.get("cut") and r["cut"][at] is not None:
        found[f"chains/{title}/cut"] = {"value": r["cut"][at], "unit": "1"}
    if "ais" in r:
        a = r["ais"]
        about = {"n": a["n"], "split": "test"}
        found[f"ais/{title}"] = {"value": a["value"][at], "estimator": "AIS", **about}
        gap = a["value"][at] - a["bound"][at]
        found[f"ais_gap/{title}"] = {"value": gap, "se": a["gap_se"][at], **about}
    return found


def _gains(run: Any, cells: Sequence[VaeCell], results: Sequence[Result]) -> None:
    """Mean difference of the test bounds of two models of the same seed, image by image."""
    tests: dict[tuple[str, int, str, int], Tensor] = {}
    for cell, r in zip(cells, results, strict=True):
        state = load_checkpoint(cell.weights)
        for at, seed in enumerate(r["seeds"]):
            if state is not None and not lost(r, at):
                tests[r["dataset"], r["latent"], r["arm"], seed] = state["test"][at]
    for (dataset, latent, arm, seed), own in tests.items():
        prefix = "IWAE+" if arm.startswith("IWAE+") else ""
        for base in [prefix + name for name in ("ELBO", "IWAE", "average", "C-ISIR")] + ["IWAE"]:
            other = tests.get((dataset, latent, base, seed))
            if other is None or base == arm:
                continue
            gap = (own - other).double()
            run.metric(
                f"gain/{dataset}/D={latent}/{arm}:{base}",
                float(gap.mean()),
                seed=seed,
                se=float(gap.std()) / math.sqrt(len(gap)),
                n=len(gap),
                estimator="paired by image",
                split="test",
            )


def _costs(run: Any, results: Sequence[Result]) -> None:
    """Time of an update over IWAE's."""

    def rate(r: Result) -> float:
        return r["seconds"] / r["updates"] / len(r["seeds"])

    bases = {
        (r["dataset"], r["latent"], seed): r
        for r in results
        if r["arm"] == "IWAE"
        for seed in r["seeds"]
    }
    for r in results:
        for seed in r["seeds"]:
            base = bases.get((r["dataset"], r["latent"], seed))
            if base is not None and r["arm"] != "IWAE" and r["updates"] and base["updates"]:
                ratio = rate(r) / rate(base)
                run.metric(f"cost/{r['title']}:IWAE", ratio, seed=seed, unit="1")


def meetings(run: Any, results: Sequence[Mapping[str, Any]]) -> None:
    """Enter meeting times: joint steps from independent starts, over test images."""
    for r in results:
        name = meeting_name(r)
        for what in ("mean", "median", "q90", "q99", "largest", "capped", "effective"):
            unit = {"capped": "1", "effective": "1"}.get(what, "joint steps")
            se = r["se"] if what == "mean" else None
            run.metric(
                f"{name}/{what}", r[what], seed=r["seed"], se=se, n=r["n"], unit=unit, split="test"
            )
        if r["beta"] is None:
            run.metric(f"{name}/beta", r["mean_beta"], seed=r["seed"], unit="1")


def meeting_name(r: Mapping[str, Any]) -> str:
    """Of a meeting cell's metrics."""
    kernel = r["kernel"]
    if kernel != "C-ISIR":
        kernel += f"/beta={'adapted' if r['beta'] is None else r['beta']}"
    return f"meeting/{r['dataset']}/D={r['latent']}/{kernel}/{r['rule']}"
