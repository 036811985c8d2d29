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


def images(run: Any, results: Sequence[Result]) -> None:
    """Enter every cell: errors, distances, step sizes, curves J(s), latents, inpainting, costs."""
    for r in results:
        name, seed = f"{r['dataset']}/{r['arm']}", r["seed"]
        run.count("gradient evaluations of U", r["gradients"])
        lost = r["diverged_at"] is not None
        note = f"diverged at update {r['diverged_at']:,}" if lost else None
        about = {"seed": seed, "diverged": lost, "note": note}
        kinds = ["sampled", "mean"] + (["longer"] if r["arm"].startswith("ABP") else [])
        for kind in kinds:
            own = {} if lost else r["mse"][kind]
            run.metric(
                f"mse/{name}/{kind}",
                own.get("value"),
                se=own.get("se"),
                n=own.get("n"),
                unit=SQUARE,
                split="test",
                **about,
            )
        if lost:
            continue
        _synthesis(run, name, seed, r["frechet"])
        run.metric(f"seconds/{name}", r["seconds"], unit="s", **about)
        _latents(run, name, seed, r["latents"])
        _step_size(run, name, r)
        for mask, own in r.get("inpainting", {}).items():
            for what, e in own.items():
                run.metric(
                    f"inpainting/{name}/{mask}/{what}",
                    e["value"],
                    se=e["se"],
                    n=e["n"],
                    unit=SQUARE,
                    split="test",
                    **about,
                )
        for attribute, shares in r.get("effects", {}).items():
            for layer, share in enumerate(shares, start=1):
                run.metric(f"effect/{name}/{attribute}/layer={layer}", share, unit="1", seed=seed)
    floors = {(r["dataset"], r["seed"]): r["frechet"]["floor"] for r in results if "frechet" in r}
    for (dataset, seed), floor in floors.items():
        run.metric(f"frechet_floor/{dataset}", fmean(floor), seed=seed, unit="1")
    _pairs(run, results)


def _synthesis(run: Any, name: str, seed: int, own: Result) -> None:
    about = {"seed": seed, "unit": "1", "split": own["reference"], "n": own["n"][0]}
    run.metric(
        f"frechet/{name}", fmean(own["classifier"]), estimator="features of classifiers", **about
    )
    run.metric(f"frechet_pixels/{name}", own["pixels"], estimator="pixels", **about)


def _latents(run: Any, name: str, seed: int, own: Result) -> None:
    run.metric(f"latents/{name}/explained", max(own["explained"]), seed=seed, unit="1")
    run.metric(f"latents/{name}/collapsed", float(own["collapsed"]), seed=seed, unit="1")


def _step_size(run: Any, name: str, r: Result) -> None:
    """s at the end; where it was chosen also the first, and a mean of the last third of choices."""
    seed = r["seed"]
    if r["gradients"]:
        run.metric(f"step_size/{name}/final", r["step_size"], seed=seed, unit="1")
    chosen = [c["step_size"] for c in r["searches"] if c["step_size"] is not None]
    if chosen:
        last = chosen[-max(1, len(chosen) // 3) :]
        run.metric(f"step_size/{name}/first", chosen[0], seed=seed, unit="1")
        run.metric(f"step_size/{name}/late", fmean(last), seed=seed, unit="1")
    for point in r["curve"]:
        if "objective" in point:
            share = f"share={point['epoch'] / r['curve'][-1]['epoch']:.2f}"
            _bowl(run, f"objective/{name}/{share}", seed, point["objective"])
    for kind in ("noisy", "noise_free", "marginal"):
        if f"sweep_{kind}" in r:
            _bowl(run, f"objective/{name}/test/{kind}", seed, r[f"sweep_{kind}"])
    errors = r.get("error_by_step_size")
    if errors:
        best = min(errors, key=lambda s: errors[s])
        run.metric(f"best_step_size/{name}/mse", float(best), seed=seed, unit="1")


def _bowl(run: Any, name: str, seed: int, points: Sequence[Result]) -> None:
    """Where J(s) is least among usable steps, and by how much both ends are above it.

    The right end counts as above where larger steps are unusable: they are past injectivity.
    """
    usable = [p for p in points if p["value"] is not None]
    if not usable:
        return
    best = min(usable, key=lambda p: p["value"])
    run.metric(f"{name}/minimizer", best["s"], seed=seed, unit="1")
    run.metric(f"{name}/minimum", best["value"], se=best["se"], seed=seed, unit="nats")
    run.metric(f"{name}/left", usable[0]["value"] - best["value"], seed=seed, unit="nats")
    run.metric(f"{name}/right", usable[-1]["value"] - best["value"], seed=seed, unit="nats")
    run.metric(f"{name}/unusable", len(points) - len(usable), seed=seed, unit="1")


def _pairs(run: Any, results: Sequence[Result]) -> None:
    """Time of an update over the VAE's, and of the whole training over that of longer VAEs."""
    found = {(r["dataset"], r["arm"], r["seed"]): r for r in results if r["updates"]}
    for (dataset, arm, seed), r in found.items():
        base = found.get((dataset, "VAE", seed))
        if base is None or arm == "VAE":
            continue
        ratio = (r["seconds"] / r["updates"]) / (base["seconds"] / base["updates"])
        run.metric(f"cost/{dataset}/{arm}:VAE", ratio, seed=seed, unit="1")
        for long, other in found.items():
            if long[0] == dataset and long[2] == seed and long[1].startswith("VAE-x"):
                run.metric(
                    f"time/{dataset}/{long[1]}:{arm}",
                    other["seconds"] / r["seconds"],
                    seed=seed,
                    unit="1",
                )


def chain_notes(run: Any, results: Sequence[Result]) -> list[str]:
    """What must be said of latents that collapsed and of searches without a usable step size."""
    lines = []
    for r in results:
        name = f"{r['dataset']}, {r['arm']}, seed {r['seed']}"
        if r["diverged_at"] is not None:
            lines.append(f"{name}: diverged at update {r['diverged_at']:,}")
            continue
        own: Mapping[str, Any] = r["latents"]
        if own["collapsed"]:
            lines.append(
                f"{name}: the latents have collapsed: the image explains at most "
                f"{max(own['explained']):.1%} of a latent's variance; a larger step_size or more "
                "steps reach further from the prior"
            )
        failed = [c["epoch"] for c in r["searches"] if c["step_size"] is None]
        if failed:
            lines.append(f"{name}: no step size of the grid was usable at epochs {failed}")
    for line in lines:
        run.note(line)
    return lines
