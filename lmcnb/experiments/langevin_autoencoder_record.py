"""What the runs of the Langevin autoencoder leave in the record.

Bounds are minus the ELBO (or minus the importance-weighted bound) per pixel, in nats, lower is
better, on all test images; `se` is the error of the draws of z, the images are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

Result = dict[str, Any]
UNIT = "nats/dim"
DEAD = 0.01  # an acceptance below this counts as none
STILL = ("LAE-frozen", "LAE-gradient")  # arms whose head no chain moves


def conjugate(run: Any, seed: int, found: Sequence[Result]) -> None:
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


def neural(run: Any, seed: int, found: Sequence[Result]) -> None:
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


def images(run: Any, results: Sequence[Result]) -> None:
    """Enter every trained cell: bounds, chain diagnostics, costs."""
    for result in results:
        name = f"{result['dataset']}/{result['arm']}"
        run.count("decoder calls", result["decoder_calls"])
        for own in result["seeds"]:
            _seed(run, name, own)
    _costs(run, results)
    _equal_time(run, results)
    _parity(run, results)


def refined(run: Any, found: Sequence[Result]) -> None:
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


def _seed(run: Any, name: str, own: Result) -> None:
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


def _costs(run: Any, results: Sequence[Result]) -> None:
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


def _equal_time(run: Any, results: Sequence[Result]) -> None:
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


def _parity(run: Any, results: Sequence[Result]) -> None:
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
