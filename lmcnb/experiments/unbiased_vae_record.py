"""What the runs of the unbiased-gradient notebook leave in the record.

Test values are in nats an image: bounds on log p(x), or AIS. A gain is the mean over test images of
the difference of two models' values, taken with the same random numbers. Its standard error is that
of the images, which all seeds share, not of training, and not of what bound or AIS fall short of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmcnb.experiments.unbiased_vae_annealing import LONGER
from lmcnb.experiments.unbiased_vae_cells import VaeCell, spaced
from lmcnb.lab.files import load_checkpoint

Result = dict[str, Any]
BASES = ("ELBO", "IWAE", "IWAE-K100", "IWAE-K240", "average", "C-ISIR")  # arms to compare with
Model = tuple[str, int, str, int]  # data set, D, arm, seed
Pair = tuple[tuple[str, int, str, str, int], float | None, float | None, int]
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
    _gains(run, "gain", gains(cells, results), "paired by image")
    _costs(run, results)


def annealing(run: Any, results: Sequence[Result], longer: Sequence[Result] = ()) -> None:
    """Enter AIS of every annealed model, its excess over the bound, and gains paired by image.

    Of longer cells: what AIS gains from more temperatures, on the same images.
    """
    a = run.settings.training.annealing
    how = f"AIS, {a.chains} chains, {a.temperatures:,} temperatures"

    def enter(name: str, seed: int, values: Tensor, estimator: str) -> None:
        finite = bool(torch.isfinite(values).all())
        mean, se = mean_se(values) if finite else (None, None)
        run.metric(name, mean, seed=seed, se=se, n=len(values), estimator=estimator, split="test",
                   diverged=not finite)  # fmt: skip

    for r in results:
        value, bound = _values(r)
        enter(f"ais/{r['title']}", r["seed"], value, how)
        enter(f"ais_gap/{r['title']}", r["seed"], value - bound, f"{how}, less the bound")
    more = f"AIS, {LONGER * a.temperatures:,} temperatures less {a.temperatures:,}"
    for cell, gap in longer_gaps(results, longer):
        enter(f"ais_longer/{cell['title']}", cell["seed"], gap, more)
    _gains(run, "ais_gain", annealed_gains(results), f"{how}, paired by image")


def longer_gaps(
    results: Sequence[Mapping[str, Any]], longer: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Tensor]]:
    """Every longer cell, with its AIS less that of the cell of the same model, by image."""
    known = {(r["title"], r["seed"]): r for r in results}
    found = []
    for r in longer:
        more, _ = _values(r)
        few, _ = _values(known[r["title"], r["seed"]])
        found.append((r, more - spaced(few, len(more))))
    return found


def annealed_gains(results: Sequence[Result]) -> list[Pair]:
    """Differences of AIS of two models of the same seed: see `paired`."""
    tests: dict[Model, Tensor | None] = {}
    for r in results:
        value, _ = _values(r)
        finite = bool(torch.isfinite(value).all())
        tests[r["dataset"], r["latent"], r["arm"], r["seed"]] = value if finite else None
    return paired(tests)


def _values(r: Mapping[str, Any]) -> list[Tensor]:
    """AIS and bound of every image, in float64."""
    return [
        torch.tensor([math.nan if v is None else v for v in r[what]], dtype=torch.float64)
        for what in ("value", "bound")
    ]


def _gains(run: Any, kind: str, pairs: Sequence[Pair], estimator: str) -> None:
    """Enter differences of two models."""
    for (dataset, latent, arm, base, seed), gap, se, n in pairs:
        name = f"{kind}/{dataset}/D={latent}/{arm}:{base}"
        run.metric(name, gap, seed=seed, se=se, n=n, estimator=estimator, split="test",
                   diverged=gap is None)  # fmt: skip


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
    return found


def gains(cells: Sequence[VaeCell], results: Sequence[Result]) -> list[Pair]:
    """Differences of the test bounds of two models of the same seed: see `paired`."""
    tests: dict[Model, Tensor | None] = {}
    for cell, r in zip(cells, results, strict=True):
        state = load_checkpoint(cell.weights)
        for at, seed in enumerate(r["seeds"]):
            gone = state is None or lost(r, at)
            key = (r["dataset"], r["latent"], r["arm"], seed)
            tests[key] = None if gone or state is None else state["test"][at]
    return paired(tests)


def paired(tests: Mapping[Model, Tensor | None]) -> list[Pair]:
    """Mean difference of the values of two models of the same seed, image by image.

    Entries of ((data set, D, arm, other arm, seed), mean, standard error, images); mean and error
    are None where either model diverged.

    Args:
        tests: values of the test images `(images)` in nats, by model; None: diverged.
    """
    found: list[Pair] = []
    for (dataset, latent, arm, seed), own in tests.items():
        prefix = "IWAE+" if arm.startswith("IWAE+") else ""
        bases = [prefix + name for name in BASES]
        for base in dict.fromkeys([*bases, "IWAE"]):
            if base == arm or (dataset, latent, base, seed) not in tests:
                continue
            other = tests[dataset, latent, base, seed]
            if own is None or other is None:
                found.append(((dataset, latent, arm, base, seed), None, None, 0))
                continue
            gap = (own - other).double()
            found.append(((dataset, latent, arm, base, seed), *mean_se(gap), len(gap)))
    return found


def mean_se(values: Tensor) -> tuple[float, float]:
    """Mean over images `(images)`, and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _costs(run: Any, results: Sequence[Result]) -> None:
    """Time of an update over IWAE's, of programs with as many runs."""

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
            if base is None or r["arm"] == "IWAE" or len(base["seeds"]) != len(r["seeds"]):
                continue
            if r["updates"] and base["updates"]:
                ratio = rate(r) / rate(base)
                run.metric(f"cost/{r['title']}:IWAE", ratio, seed=seed, unit="1")


def illustration(run: Any, found: Mapping[str, Any]) -> None:
    """Enter how ISIR and DISIR move in one dimension."""
    for name in ("ISIR", "DISIR", "ISIR-DISIR"):
        for what in ("moves_right", "right", "total_variation"):
            own, se = found[name][what], found[name].get(f"{what}_se")
            run.metric(f"illustration/{name}/{what}", own, seed=run.seed, se=se, unit="1")


def ppca(run: Any, results: Sequence[Result]) -> None:
    """Enter the gradient estimators on probabilistic PCA; sizes are IWAE with another K."""
    for r in results:
        seed, n = r["seed"], r["replicates"]
        if r["size"]:
            name = f"ppca/{r['study']}/sizes/K={r['samples']}"
            run.metric(f"{name}/rms_bias", r["rms_bias"], seed=seed, se=r["rms_se"], n=n, unit="1")
            continue
        name = f"ppca/{r['study']}/{r['estimator']}"
        for what in ("intercept", "weight"):
            own = r[what]
            run.metric(f"{name}/{what}", own["mean"], seed=seed, se=own["se"], n=n, unit="1")
            run.metric(f"{name}/{what}/sd", own["sd"], seed=seed, n=n, unit="1")
            run.metric(f"{name}/{what}/z", abs(own["z"]), seed=seed, n=n, unit="1")
        run.metric(f"{name}/rms_bias", r["rms_bias"], seed=seed, se=r["rms_se"], n=n, unit="1")
        for what in ("max_z", "joint_steps", "joint_steps_99", "capped", "evaluations", "seconds"):
            unit = {"seconds": "s", "joint_steps": "joint steps"}.get(what, "1")
            run.metric(f"{name}/{what}", r[what], seed=seed, n=n, unit=unit)
        each = r["relative"]
        se, bound = each["of_each_se"], each["of_mean_unbiased"] * math.sqrt(math.pi / 2)
        run.metric(f"{name}/relative/of_each", each["of_each"], seed=seed, se=se, unit="1")
        # the standard error if all pixels' errors moved as one: an upper bound
        run.metric(f"{name}/relative/of_mean", each["of_mean"], seed=seed, se=bound, unit="1")
        run.count("log weights of PPCA", round(r["evaluations"] * n))
    for study, seed in dict.fromkeys((r["study"], r["seed"]) for r in results):
        own = {r["estimator"]: r for r in results
               if (r["study"], r["seed"], r["size"]) == (study, seed, False)}  # fmt: skip
        about = next(iter(own.values()))["about"]
        run.metric(f"ppca/{study}/bounded", about["bounded"], seed=seed, unit="1")
        run.metric(f"ppca/{study}/beta", about["beta"], seed=seed, unit="1")
        for what in ("intercept", "weight"):
            ratio = (own["C-ISIR"][what]["sd"] / own["C-ISIR-DISIR"][what]["sd"]) ** 2
            run.metric(f"ppca/{study}/variance/{what}", ratio, seed=seed, unit="1")


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
        least = 2 if r["kernel"] == "C-ISIR" else 1  # joint steps to whole states
        first = sum(c for c, n in zip(r["counts"]["count"], r["counts"]["from"], strict=True)
                    if n <= least) / r["n"]  # fmt: skip
        se = math.sqrt(first * (1 - first) / r["n"])
        run.metric(f"{name}/first", first, seed=r["seed"], se=se, n=r["n"], unit="1", split="test")
        if r["beta"] is None:
            run.metric(f"{name}/beta", r["mean_beta"], seed=r["seed"], unit="1")


def meeting_name(r: Mapping[str, Any]) -> str:
    """Of a meeting cell's metrics."""
    kernel = r["kernel"]
    if kernel != "C-ISIR":
        kernel += f"/beta={'adapted' if r['beta'] is None else r['beta']}"
    return f"meeting/{r['dataset']}/D={r['latent']}/{kernel}/{r['rule']}"
