"""What the runs of short-run inference leave in the record.

Squared errors are means over pixels on the [-1, 1] scale, of held-out images at the end of
training; J(s) is in nats an image, with all constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

Result = dict[str, Any]
SQUARE = "1"  # squared pixel value, [-1, 1] scale
UNSTABLE = 4.0  # a latent whose variance given the image exceeds the prior's this many times


def images(run: Any, results: Sequence[Result]) -> None:
    """Enter every cell: errors, distances, step sizes, curves J(s), latents, inpainting, costs.

    A cell that diverged enters every metric that its siblings of other seeds have, as diverged.
    """
    found = [{} if lost(r) else entries(r) for r in results]
    for r, own in zip(results, found, strict=True):
        name, seed = f"{r['dataset']}/{r['arm']}", r["seed"]
        run.count("gradient evaluations of U", r["gradients"])
        if not lost(r):
            for metric, entry in own.items():
                run.metric(metric, seed=seed, **entry)
            continue
        units = {f"mse/{name}/{kind}": SQUARE for kind in ("sampled", "mean")}
        units |= {f"frechet/{name}": "1", f"latents/{name}/explained": "1"}
        for r2, theirs in zip(results, found, strict=True):
            if (r2["dataset"], r2["arm"]) == (r["dataset"], r["arm"]):
                units |= {metric: entry["unit"] for metric, entry in theirs.items()}
        note = f"diverged at update {r['diverged_at']:,}"
        for metric, unit in units.items():
            run.metric(metric, None, seed=seed, unit=unit, diverged=True, note=note)
    floors = {(r["dataset"], r["seed"]): r["frechet"]["floor"] for r in results if "frechet" in r}
    for (dataset, seed), floor in floors.items():
        run.metric(f"frechet_floor/{dataset}", fmean(floor), seed=seed, unit="1")
    _pairs(run, results)


def lost(r: Result) -> bool:
    """Whether a cell diverged."""
    return r["diverged_at"] is not None


def entries(r: Result) -> dict[str, dict[str, Any]]:
    """All metrics of a cell that did not diverge, but those that need another cell."""
    name = f"{r['dataset']}/{r['arm']}"
    found: dict[str, dict[str, Any]] = {}
    for kind, e in r["mse"].items():
        found[f"mse/{name}/{kind}"] = {**e, "unit": SQUARE, "split": "test"}
    own = r["frechet"]
    about = {"unit": "1", "split": own["reference"], "n": own["n"][0]}
    value, kind = fmean(own["classifier"]), "features of classifiers"
    found[f"frechet/{name}"] = {"value": value, "estimator": kind, **about}
    found[f"frechet_pixels/{name}"] = {"value": own["pixels"], "estimator": "pixels", **about}
    found[f"seconds/{name}"] = {"value": r["seconds"], "unit": "s"}
    explained = max(r["latents"]["explained"])
    found[f"latents/{name}/explained"] = {"value": explained, "unit": "1"}
    collapsed = float(r["latents"]["collapsed"])
    found[f"latents/{name}/collapsed"] = {"value": collapsed, "unit": "1"}
    found |= _step_size(name, r)
    for mask, filled in r.get("inpainting", {}).items():
        for what, e in filled.items():
            found[f"inpainting/{name}/{mask}/{what}"] = {**e, "unit": SQUARE, "split": "test"}
    for attribute, shares in r.get("effects", {}).items():
        for layer, share in enumerate(shares, start=1):
            found[f"effect/{name}/{attribute}/layer={layer}"] = {"value": share, "unit": "1"}
    return found


def _step_size(name: str, r: Result) -> dict[str, dict[str, Any]]:
    """s at the end; where it was chosen also the first, and a mean of the last third of choices."""
    values: dict[str, float] = {}
    found: dict[str, dict[str, Any]] = {}
    if r["gradients"]:
        values[f"step_size/{name}/final"] = r["step_size"]
    chosen = [c["step_size"] for c in r["searches"] if c["step_size"] is not None]
    if chosen:
        late = fmean(chosen[-max(1, len(chosen) // 3) :])
        values[f"step_size/{name}/first"] = chosen[0]
        values[f"step_size/{name}/late"] = late
        values[f"step_size/{name}/kept"] = late / chosen[0]
    for point in r["curve"]:
        if "objective" in point:
            last = point is r["curve"][-1]
            share = 1.0 if last else point["epoch"] / r["curve"][-1]["epoch"]
            found |= _bowl(f"objective/{name}/share={share:.2f}", point["objective"])
    for kind in ("noisy", "noise_free", "marginal"):
        if f"sweep_{kind}" in r:
            found |= _bowl(f"objective/{name}/test/{kind}", r[f"sweep_{kind}"])
    errors = {s: e for s, e in r.get("error_by_step_size", {}).items() if e is not None}
    if errors:
        values[f"best_step_size/{name}/mse"] = float(min(errors, key=lambda s: errors[s]))
    return {k: {"value": v, "unit": "1"} for k, v in values.items()} | found


def _bowl(name: str, points: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Where J(s) is least among usable steps, and by how much both ends are above it.

    The ends are the least and the largest usable step size; of the marginal bound also its lower
    end at the minimizer, below which the divergence cannot lie.
    """
    usable = [p for p in points if p["value"] is not None]
    if not usable:
        return {}
    best = min(usable, key=lambda p: p["value"])
    nats = {"minimum": best["value"], "left": usable[0]["value"] - best["value"]}
    nats["right"] = usable[-1]["value"] - best["value"]
    if "lower" in best:
        nats["lower"] = best["lower"]
    found = {f"{name}/{k}": {"value": v, "unit": "nats"} for k, v in nats.items()}
    found[f"{name}/minimum"]["se"] = best["se"]
    steps = {"minimizer": best["s"], "largest_usable": usable[-1]["s"]}
    return found | {f"{name}/{k}": {"value": v, "unit": "1"} for k, v in steps.items()}


def _pairs(run: Any, results: Sequence[Result]) -> None:
    """Time of an update over the VAE's, and of the whole training over that of longer VAEs."""
    found = {(r["dataset"], r["arm"], r["seed"]): r for r in results if not lost(r)}
    for (dataset, arm, seed), r in found.items():
        base = found.get((dataset, "VAE", seed))
        if base is None or arm == "VAE":
            continue
        ratio = (r["seconds"] / r["updates"]) / (base["seconds"] / base["updates"])
        run.metric(f"cost/{dataset}/{arm}:VAE", ratio, seed=seed, unit="1")
        for long, other in found.items():
            same = long[0] == dataset and long[2] == seed and long[1] != arm
            if same and long[1].startswith("VAE-x"):
                run.metric(
                    f"time/{dataset}/{long[1]}:{arm}",
                    other["seconds"] / r["seconds"],
                    seed=seed,
                    unit="1",
                )


def _place(choice: Mapping[str, Any]) -> str:
    """Where on its grid a chosen step size lies, if not inside."""
    s = choice["step_size"]
    tried = [v[0] for v in choice["visited"]]
    if s in (min(tried), max(tried)):
        return "at an end of the grid"
    usable = [v[0] for v in choice["visited"] if v[1] is not None]
    return "the largest usable one: no minimum was seen" if s == max(usable) else ""


def chain_notes(run: Any, results: Sequence[Result]) -> list[str]:
    """What must be said of latents that collapsed, of chains that are unstable, of searches."""
    lines = []
    for r in results:
        name = f"{r['dataset']}, {r['arm']}, seed {r['seed']}"
        if r["diverged_at"] is not None:
            lines.append(f"{name}: diverged at update {r['diverged_at']:,}")
            continue
        own: Mapping[str, Any] = r["latents"]
        if own["collapsed"]:
            advice = "; a larger step_size or more steps reach further from the prior"
            lines.append(
                f"{name}: the latents have collapsed: the image explains at most "
                f"{max(own['explained']):.1%} of a latent's variance"
                + (advice if r["gradients"] else "")
            )
        if r["gradients"] and max(own["within"]) > UNSTABLE:
            lines.append(
                f"{name}: the chain is unstable: given the image a latent's variance is "
                f"{max(own['within']):.3g}, where the prior's is 1; take a smaller step_size"
            )
        at = [_place(c) for c in r["searches"] if c["step_size"] and "gradient" not in r["arm"]]
        lines += [
            f"{name}: {at.count(place)} of {len(at)} chosen step sizes are {place}"
            for place in sorted({*at} - {""})
        ]
        failed = [c["epoch"] for c in r["searches"] if c["step_size"] is None]
        if failed:
            lines.append(f"{name}: no step size of the grid was usable at epochs {failed}")
    for line in lines:
        run.note(line)
    return lines
