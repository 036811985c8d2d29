"""What the runs of the Langevin autoencoder leave in the record, and the tables of its notebook.

Bounds are minus the ELBO (or minus the importance-weighted bound) per pixel, in nats, lower is
better, on all test images; `se` is the error of the draws of z, the images are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from statistics import fmean, median, stdev
from typing import Any

from lmcnb.lab.claims import compare

Result = dict[str, Any]
UNIT = "nats/dim"
DEAD = 0.01  # an acceptance below this counts as none
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


def record_conjugate(run: Any, seed: int, found: Sequence[Result]) -> None:
    """Enter the sweep over the width of the features."""
    for own in found:
        name = f"conjugate/d={own['width']}"
        ratios = own["trace_ratio"]
        for metric, value in (
            ("ratio_error", own["ratio_error"]),
            ("covariance_error", own["covariance_error"]),
            ("law_error", own["law_error"]),
            ("posterior_error", own["posterior_error"]),
            ("smallest_ratio", min(ratios)),
            ("largest_ratio", max(ratios)),
            ("outside", own["outside"]),
            ("acceptance", own["acceptance"]),
            ("smallest_eigenvalue", own["smallest"]),
            ("largest_eigenvalue", own["largest"]),
        ):
            run.metric(f"{name}/{metric}", value, seed=seed, unit="1")


def record_neural(run: Any, seed: int, found: Sequence[Result]) -> None:
    """Enter total variations (median and largest over points) and the gaps of VI."""
    distances: dict[str, list[float]] = {}
    gaps: dict[str, list[float]] = {}
    for own in found:
        for name, values in own["total_variation"].items():
            distances.setdefault(key(name), []).extend(values)
        for name, values in own["gap"].items():
            gaps.setdefault(key(name), []).extend(values)
    for name, values in distances.items():
        run.metric(f"neural/tv/{name}/median", median(values), seed=seed, n=len(values), unit="1")
        run.metric(f"neural/tv/{name}/largest", max(values), seed=seed, n=len(values), unit="1")
    for name, values in gaps.items():
        run.metric(f"neural/gap/{name}", fmean(values), seed=seed, n=len(values))
        wins = [a < b for a, b in zip(distances["ALD"], distances[name], strict=True)]
        run.metric(f"neural/share/{name}", fmean(wins), seed=seed, n=len(wins), unit="1")
    run.metric("neural/acceptance", fmean(o["acceptance"] for o in found), seed=seed, unit="1")


def key(name: str) -> str:
    """A name without blanks, for a metric."""
    return name.replace(",", "").replace(" ", "-")


def record_images(run: Any, results: Sequence[Result]) -> None:
    """Enter every trained cell: bounds, chain diagnostics, costs."""
    for result in results:
        name = f"{result['dataset']}/{result['arm']}"
        run.count("decoder calls", result["decoder_calls"])
        for own in result["seeds"]:
            _record_seed(run, name, own)
    _record_costs(run, results)
    _record_equal_time(run, results)
    _record_parity(run, results)


def record_refined(run: Any, found: Sequence[Result]) -> None:
    """Enter the bounds with posteriors fitted image by image."""
    for result in found:
        for own in result["seeds"]:
            bound = own["refined"] or {"value": None, "se": None, "n": None}
            run.metric(
                f"refined/{result['dataset']}/{result['arm']}",
                bound["value"],
                se=bound["se"],
                n=bound["n"],
                seed=own["seed"],
                unit=UNIT,
                estimator="importance-weighted, posteriors fitted image by image",
                split="test",
            )


def _record_seed(run: Any, name: str, own: Result) -> None:
    seed, lost = own["seed"], own["diverged_at"] is not None
    note = f"diverged at step {own['diverged_at']}" if lost else None

    def enter(metric: str, found: Result | None, estimator: str) -> None:
        found = found or {"value": None, "se": None, "n": None}
        run.metric(
            metric,
            found["value"],
            se=found["se"],
            n=found["n"],
            seed=seed,
            unit=UNIT,
            estimator=estimator,
            split="test",
            diverged=lost,
            note=note,
        )

    enter(f"nelbo/{name}", own["nelbo"], "-ELBO, two samples an image")
    enter(f"iw/{name}", own["weighted"], "importance-weighted, evenly spaced test images")
    for width, found in own["by_width"].items():
        enter(f"nelbo/{name}/width={width}", found, "-ELBO, two samples an image")
    for width, found in own["weighted_by_width"].items():
        enter(f"iw/{name}/width={width}", found, "importance-weighted")
    more: dict[str, Any] = {"seed": seed, "diverged": lost, "note": note}
    if own["weighted_width"] is not None:
        run.metric(f"iw_width/{name}", own["weighted_width"], unit="1", **more)
    run.metric(f"scale/{name}", own["scale"], unit="1", **more)
    run.metric(f"roughness/{name}", roughness(own), unit=UNIT, **more)
    if own["acceptance"] is None or name.split("/")[1] in STILL:
        return
    final = own["curve"][-1]
    if "unadjusted" not in name:
        rates = own["acceptance"]["mean"]
        tail = rates[-max(1, len(rates) // 10) :]
        about = note or "last tenth"
        run.metric(f"acceptance/{name}", fmean(tail), unit="1", **(more | {"note": about}))
        run.metric(f"acceptance/{name}/dead_share", dead_share(rates), unit="1", **more)
    for end in ("smallest", "largest"):
        run.metric(f"gram/{name}/{end}", final[end], unit="1", **more)
    run.metric(f"stability/{name}", final["stability"], unit="1", **more)


def chain_notes(run: Any, results: Sequence[Result]) -> list[str]:
    """What must be said of chains that stand still or points that share features; also noted."""
    lines = []
    for result in results:
        for own in result["seeds"]:
            name = f"{result['dataset']}, {result['arm']}, seed {own['seed']}"
            lines += _chain_notes(name, own, run.settings.images.batch)
    for line in lines:
        run.note(line)
    return lines


def _chain_notes(name: str, own: Result, batch: int) -> list[str]:
    final = own["curve"][-1]
    if own["acceptance"] is None or name.split(", ")[1] in STILL or own["diverged_at"] is not None:
        return []
    lines = []
    if final["rank"] < batch:
        lines.append(
            f"{name}: the features of {batch} images have rank {final['rank']}: theorem 1 does not "
            f"hold; use a smaller batch or wider features"
        )
    share = dead_share(own["acceptance"]["mean"])
    if "unadjusted" not in name and share > 0:
        at, product = round((1 - share) * final["step"]), final["stability"]
        bound = ", above 2" if product is not None and product > 2 else ""
        lines.append(
            f"{name}: from step {at:,} on nearly nothing is accepted: eta times the largest "
            f"curvature of V is {of(product)}{bound}, and K's largest eigenvalue is "
            f"{of(final['largest'])}; a smaller step_size, or LAE-healthy, keeps the chain alive"
        )
    return lines


def of(value: float | None) -> str:
    """Three digits, or words."""
    return "not a number" if value is None else f"{value:.3g}"


STILL = ("LAE-frozen", "LAE-gradient")  # arms whose head no chain moves


def roughness(own: Result) -> float | None:
    """By how much the test bound's learning curve rises above its lowest point so far, at most.

    Points after the first fifth of training count, evenly spaced ones (`curve`).
    """
    values = [p["nelbo"] for p in own["curve"]]
    late = values[len(values) // 5 :]
    if any(v is None for v in values):
        return None
    low, worst = late[0], 0.0
    for v in late:
        low = min(low, v)
        worst = max(worst, v - low)
    return worst


def dead_share(rates: Sequence[float]) -> float:
    """The share of training, at its end, through which the acceptance stays below DEAD."""
    alive = [i for i, rate in enumerate(rates) if rate >= DEAD]
    return 1 - (alive[-1] + 1 if alive else 0) / len(rates)


def _record_costs(run: Any, results: Sequence[Result]) -> None:
    """Processor time of a step over the VAE's and over Hoffman's, where both ran with a seed."""
    seconds = step_seconds(results)
    for (dataset, arm, seed), own in seconds.items():
        for other in ("VAE", "VAE-flow", "Hoffman-2"):
            base = seconds.get((dataset, other, seed))
            if base and arm != other and (arm == "LAE" or other == "VAE"):
                run.metric(f"cost/{dataset}/{arm}:{other}", own / base, seed=seed, unit="1")


def step_seconds(results: Sequence[Result]) -> dict[tuple[str, str, int], float]:
    """Seconds of a step by (data set, arm, seed)."""
    return {
        (r["dataset"], r["arm"], own["seed"]): own["seconds"] / r["iterations"]
        for r in results
        for own in r["seeds"]
        if r["iterations"]
    }


def _record_equal_time(run: Any, results: Sequence[Result]) -> None:
    """The monitored bound of each arm after the processor time of the VAE's whole run."""
    ends = {
        (r["dataset"], own["seed"]): own["curve"][-1]["seconds"]
        for r in results
        if r["arm"] == "VAE"
        for own in r["seeds"]
    }
    for r in results:
        for own in r["seeds"]:
            end = ends.get((r["dataset"], own["seed"]))
            if end is None or r["arm"] in ("VAE-float32", "LAE-float32"):
                continue
            run.metric(
                f"equal_time/{r['dataset']}/{r['arm']}",
                at_seconds(own["curve"], end),
                seed=own["seed"],
                unit=UNIT,
                diverged=own["diverged_at"] is not None,
                note="-ELBO of 1,000 test images after the VAE's processor time",
            )


def _record_parity(run: Any, results: Sequence[Result]) -> None:
    """By how much bfloat16 products change the bound, where a seed ran with both."""
    found = {
        (r["dataset"], r["arm"], own["seed"]): own
        for r in results
        for own in r["seeds"]
        if r["arm"] in ("VAE", "LAE", "VAE-float32", "LAE-float32")
    }
    for (dataset, arm, seed), own in found.items():
        exact = found.get((dataset, f"{arm}-float32", seed))
        if exact is None or run.settings.images.products == "float32":
            continue
        lost = own["nelbo"] is None or exact["nelbo"] is None
        run.metric(
            f"parity/{dataset}/{arm}",
            None if lost else own["nelbo"]["value"] - exact["nelbo"]["value"],
            seed=seed,
            unit=UNIT,
            diverged=lost,
            note="bfloat16 minus float32 products, same seed",
        )


def at_seconds(curve: Sequence[Result], seconds: float) -> float | None:
    """A learning curve's value at a processor time, by linear interpolation; its last beyond."""
    points = [(p["seconds"], p["nelbo"]) for p in curve if p["nelbo"] is not None]
    if len(points) < len(curve):
        return None
    for (a, u), (b, v) in itertools.pairwise(points):
        if a <= seconds <= b:
            return u + (v - u) * (seconds - a) / max(b - a, 1e-9)
    return points[-1][1]


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


def results_table(records: Sequence[dict[str, Any]], dataset: str) -> list[dict[str, Any]]:
    """The paper beside our recorded runs on one data set; rows by model."""
    table: dict[str, dict[str, Any]] = {}
    for metric, title in (("nelbo", "-ELBO"), ("iw", "weighted"), ("refined", "fitted")):
        for profile in ("laptop", "paper"):
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
                own = table.setdefault(arm, {"model": SHOWN.get(arm, arm), "paper": None})
                if row["paper"] is not None:
                    value, sd = row["paper"]
                    own["paper"] = f"{value:.3f} (sd {sd:.3f})"
                if row["ours"] is not None:
                    value, se = row["ours"]
                    text = "diverged" if value is None else f"{value:.4f}"
                    text += f" ± {se:.4f}" if se is not None and row["seeds"] > 1 else ""
                    text += f" ({row['diverged']} diverged)" if row["diverged"] else ""
                    own[f"{title}{on(seen)}, {profile} profile"] = text
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
