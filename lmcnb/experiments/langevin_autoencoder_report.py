"""The tables of the Langevin autoencoder's notebook, from results as they are recorded.

Bounds as in `langevin_autoencoder_record`: nats per pixel, lower is better.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean, stdev
from typing import Any

from lmcnb.experiments.langevin_autoencoder_record import STILL, Result, step_seconds
from lmcnb.lab.claims import compare

SHOWN = {
    "VAE": "VAE",
    "VAE-flow": "VAE with 3 planar flows",
    "Hoffman-2": "Hoffman (2017), T = 2",
    "Hoffman-10": "Hoffman (2017), T = 10",
    "LAE": "LAE, T = 2",
    "LAE-frozen": "control: head frozen",
    "LAE-gradient": "control: head trained",
    "LAE-healthy": "LAE, acceptance held at 0.75",
    "LAE-1": "LAE, T = 1",
    "LAE-5": "LAE, T = 5",
    "LAE-unadjusted": "LAE, T = 2, no accept test",
    "LAE-1-unadjusted": "LAE, T = 1, no accept test",
    "LAE-5-unadjusted": "LAE, T = 5, no accept test",
    "VAE-long": "VAE, 2.24 times the epochs",
    "LAE-float32": "LAE, float32 products",
    "VAE-float32": "VAE, float32 products",
}


def seed_mean(values: Sequence[float | None]) -> Any:
    """Mean over seeds and its standard error; words where a seed diverged."""
    kept = [v for v in values if v is not None]
    if len(kept) < len(values):
        return f"{len(values) - len(kept)} of {len(values)} seeds diverged"
    return (fmean(kept), stdev(kept) / len(kept) ** 0.5) if len(kept) > 1 else (kept[0], None)


def conjugate_table(found: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a width: predicted and sampled trace ratios, errors, eigenvalues, acceptance."""
    return [
        {
            "features d": own["width"],
            "H_ii (predicted)": numbers(own["hat"]),
            "trace of Cov(z_i) over the posterior's": numbers(own["trace_ratio"]),
            "|E z - H M|": own["law_error"],
            "|E z - posterior mean|": own["posterior_error"],
            "eigenvalues of K": f"{own['smallest']:.2g} to {own['largest']:.3g}",
            "acceptance": own["acceptance"],
        }
        for own in found
    ]


def numbers(values: Sequence[float], digits: int = 2) -> str:
    """A list as text."""
    return ", ".join(f"{v:.{digits}f}" for v in values)


def neural_table(found: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a network and point: total variation of each method, gaps of VI."""
    rows = []
    for own in found:
        for i in range(len(own["log_normalizer"])):
            row = {"network": own["network"], "point": i}
            row |= {f"TV: {name}": values[i] for name, values in own["total_variation"].items()}
            row |= {f"log Z - ELBO (nats): {k}": values[i] for k, values in own["gap"].items()}
            rows.append(row)
    return rows


def images_table(results: Sequence[Result], refined: Sequence[Result] = ()) -> list[dict[str, Any]]:
    """One row an arm: bounds, acceptance, cost."""
    fitted = {(r["dataset"], r["arm"]): r["seeds"] for r in results_by_arm(refined)}
    seconds = step_seconds(results)
    rows = []
    few = {s["weighted"]["n"] for r in results for s in r["seeds"] if s["weighted"]}
    fewer = {s["refined"]["n"] for r in refined for s in r["seeds"] if s["refined"]}
    for r in results_by_arm(results):
        own = r["seeds"]
        ratios = [
            seconds[mine] / seconds[base]
            for s in own
            if (mine := (r["dataset"], r["arm"], s["seed"])) in seconds
            and (base := (r["dataset"], "VAE", s["seed"])) in seconds
        ]
        rates = [s["acceptance"]["mean"] for s in own if s["acceptance"]]
        moves = rates and r["arm"] not in STILL and not r["arm"].endswith("unadjusted")
        rows.append(
            {
                "data": r["dataset"],
                "model": SHOWN.get(r["arm"], r["arm"]),
                "-ELBO (nats/dim)": seed_mean([s["nelbo"] and s["nelbo"]["value"] for s in own]),
                f"importance-weighted{on(few)}": seed_mean(
                    [s["weighted"] and s["weighted"]["value"] for s in own]
                ),
                f"posteriors fitted{on(fewer)}": seed_mean(
                    [s["refined"] and s["refined"]["value"] for s in fitted[r["dataset"], r["arm"]]]
                )
                if (r["dataset"], r["arm"]) in fitted
                else None,
                "acceptance, start": fmean(v[0] for v in rates) if moves else None,
                "end": fmean(v[-1] for v in rates) if moves else None,
                "time of a step / VAE": fmean(ratios) if ratios else None,
                "seeds": len(own),
            }
        )
    return rows


def on(numbers: Collection[int]) -> str:
    """For a heading: of how many images a bound is the mean."""
    return " (" + " or ".join(f"{n:,}" for n in sorted(numbers)) + " images)" if numbers else ""


def results_by_arm(results: Sequence[Result]) -> list[Result]:
    """Cells of one data set and arm as one, their seeds together."""
    joined: dict[tuple[str, str], Result] = {}
    for r in results:
        pair = (r["dataset"], r["arm"])
        if pair in joined:
            joined[pair]["seeds"] = [*joined[pair]["seeds"], *r["seeds"]]
        else:
            joined[pair] = dict(r)
    return list(joined.values())


def widths_table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The Langevin autoencoders' bounds by the width sigma of the posterior they are given."""
    rows = []
    for r in results_by_arm(results):
        own = r["seeds"]
        if not own[0]["by_width"]:
            continue
        for label, kind in (("-ELBO", "by_width"), ("importance-weighted", "weighted_by_width")):
            row = {"data": r["dataset"], "model": SHOWN.get(r["arm"], r["arm"]), "bound": label}
            row |= {
                f"sigma = {w}": seed_mean([s[kind].get(w, {}).get("value") for s in own])
                for w in sorted(own[0][kind], key=float)
            }
            rows.append(row)
    return rows


def results_table(
    records: Sequence[dict[str, Any]], dataset: str, profile: str
) -> list[dict[str, Any]]:
    """The paper beside our recorded runs of a profile on one data set; rows by model."""
    head = f"{dataset}, {profile} profile"
    table: dict[str, dict[str, Any]] = {}
    for metric, title in (("nelbo", "-ELBO"), ("iw", "weighted"), ("refined", "fitted")):
        prefix = f"{metric}/{dataset}/"
        seen = {
            entry["n"]
            for r in records
            if r["notebook"] == "langevin_autoencoder" and r["profile"] == profile
            for name, entries in r["metrics"].items()
            if name.startswith(prefix)
            for entry in entries
            if entry.get("n")
        }
        for row in compare("langevin_autoencoder", records, prefix, profile=profile):
            arm = row["metric"].removeprefix(prefix)
            if "/" in arm:
                continue
            own = table.setdefault(arm, {head: SHOWN.get(arm, arm), "paper": None})
            if row["paper"] is not None:
                value, sd = row["paper"]
                own["paper"] = f"{value:.3f} (sd {sd:.3f})"
            if row["ours"] is not None:
                value, se = row["ours"]
                text = "diverged" if value is None else f"{value:.4f}"
                text += f" ± {se:.4f}" if se is not None and row["seeds"] > 1 else ""
                text += f" ({row['diverged']} diverged)" if row["diverged"] else ""
                own[f"{title}{on(seen)}"] = text
                own["seeds"] = max(own.get("seeds", 0), row["seeds"])
    heads = list(dict.fromkeys(head for row in table.values() for head in row))
    order = [*SHOWN, *(arm for arm in table if arm not in SHOWN)]
    return [{h: table[arm].get(h) for h in heads} for arm in order if arm in table]


def sanity(conjugate: Sequence[Result], images: Sequence[Result]) -> list[str]:
    """Statements that hold at any scale, with their verdicts."""
    conditioned = [r for r in conjugate if r["smallest"] > 1 or r["rank"] < 3]
    law = all(r["ratio_error"] < 0.1 and r["law_error"] < 0.1 for r in conditioned)
    confined = all(r["outside"] < 1e-10 for r in conjugate)
    rows = [
        f"conjugate Gaussian: closed form met at every width that mixes: {yes(law)}",
        f"conjugate Gaussian: no sample ever leaves the features' column space: {yes(confined)}",
    ]
    order = [
        s["weighted"]["value"] < s["nelbo"]["value"]
        for r in images
        for s in r["seeds"]
        if s["nelbo"] and s["weighted"]["n"] == s["nelbo"]["n"]
    ]
    rows.append(
        f"importance-weighted bound tighter than the ELBO, on the same images: {yes(all(order))}"
    )
    better = [
        s["curve"][-1]["nelbo"] < s["curve"][0]["nelbo"]
        for r in images
        for s in r["seeds"]
        if s["nelbo"]
    ]
    rows.append(f"every model ends below its start: {yes(all(better))}")
    lost = sum(s["nelbo"] is None for r in images for s in r["seeds"])
    return [*rows, f"diverged runs: {lost}"]


def yes(holds: bool) -> str:
    """A verdict."""
    return "yes" if holds else "NO"
