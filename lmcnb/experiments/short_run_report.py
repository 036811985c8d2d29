"""The tables of the short-run notebook, from results as they are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from lmcnb.experiments.short_run_record import Result
from lmcnb.lab import facts
from lmcnb.lab.claims import compare
from lmcnb.papers.short_run import parse_arm


def shown(arm: str) -> str:
    """An arm in words."""
    said = parse_arm(arm)
    words = {
        "SRI": "short-run",
        "ABP": "persistent chains (ABP)",
        "VAE": "VAE",
        "LVAE": "ladder VAE",
    }[said.model]
    if said.layers > 1:
        words += f", {said.layers} layers"
    if said.model in ("SRI", "ABP"):
        how = {
            "grid": "s by grid",
            "gradient": "s by gradient",
            "marginal": "s by the marginal bound",
            "none": f"s = {said.step_size}",
        }
        words += f", {how[said.search]}"
        words += f", K = {said.steps}" if said.steps else ""
    words += "" if said.noisy else ", no noise"
    words += "" if said.variant == "gaussian" else f", {said.variant} layers"
    return words + (f", {said.times:g} x the updates" if said.times != 1 else "")


def seed_mean(values: Sequence[float | None]) -> Any:
    """Mean over seeds and its standard error; words where a seed diverged."""
    kept = [v for v in values if v is not None]
    if len(kept) < len(values):
        return f"{len(values) - len(kept)} of {len(values)} seeds diverged"
    return (fmean(kept), stdev(kept) / len(kept) ** 0.5) if len(kept) > 1 else (kept[0], None)


def by_arm(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Cells of one data set and arm together, in the order they came."""
    found: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        found.setdefault((r["dataset"], r["arm"]), []).append(r)
    return found


def images_table(results: Sequence[Result], dataset: str) -> list[dict[str, Any]]:
    """One row an arm: errors, Frechet distance, step size, time."""
    grouped = by_arm([r for r in results if r["dataset"] == dataset])
    rows = []
    for (_, arm), own in grouped.items():
        ok = [r for r in own if r["diverged_at"] is None]

        def of(*path: str, own: list[Result] = own) -> Any:
            values: list[float | None] = []
            for r in own:
                at: Any = None if r["diverged_at"] is not None else r
                for key in path:
                    at = None if at is None else at.get(key)
                values.append(fmean(at) if isinstance(at, list) else at)
            return seed_mean(values)

        base = grouped.get((dataset, "VAE"))
        chain = bool(own[0]["gradients"])
        rows.append(
            {
                "model": shown(arm),
                "test error, sampled": of("mse", "sampled", "value"),
                "mean or noise-free": of("mse", "mean", "value"),
                "Fréchet, classifier": of("frechet", "classifier"),
                "Fréchet, pixels": of("frechet", "pixels"),
                "s at the end": of("step_size") if chain else None,
                "latent variance explained": fmean(max(r["latents"]["explained"]) for r in ok)
                if ok
                else None,
                "updates": own[0]["updates"],
                "time / VAE": fmean(r["seconds"] for r in own) / fmean(r["seconds"] for r in base)
                if base
                else None,
                "seeds": len(own),
            }
        )
    return rows


def inpainting_table(results: Sequence[Result], dataset: str) -> list[dict[str, Any]]:
    """One row an arm and mask: error of hidden pixels beside what it must beat."""
    rows = []
    for (_, arm), own in by_arm([r for r in results if r["dataset"] == dataset]).items():
        for mask in own[0].get("inpainting", {}):
            kinds = {"SRI": "inpainted", "mean": "training mean", "nearest": "nearest image"}
            rows.append(
                {"model": shown(arm), "hidden": mask}
                | {
                    title: seed_mean([r["inpainting"][mask][what]["value"] for r in own])
                    for what, title in kinds.items()
                }
            )
    return rows


def effects_table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a layer: its total effect on the ground's colour and on the label."""
    rows = []
    for (_, arm), own in by_arm([r for r in results if "effects" in r]).items():
        layers = len(own[0]["effects"]["ground"])
        for layer in range(layers):
            place = "top" if layer == 0 else "bottom" if layer == layers - 1 else "middle"
            rows.append(
                {"model": shown(arm), "layer": f"{layer + 1} ({place})"}
                | {
                    f"total effect on the {name}": seed_mean(
                        [r["effects"][what][layer] for r in own]
                    )
                    for what, name in (("ground", "ground's colour"), ("label", "label"))
                }
            )
    return rows


def objective_table(results: Sequence[Result], arm: str, dataset: str) -> list[dict[str, Any]]:
    """One row a step size: the objectives, eigenvalues, and the test error; the first seed."""
    own = [r for r in results if (r["dataset"], r["arm"]) == (dataset, arm) and "sweep_noisy" in r]
    if not own:
        return []
    given, free, marginal = (
        {round(p["s"], 9): p for p in own[0].get(f"sweep_{kind}", [])}
        for kind in ("noisy", "noise_free", "marginal")
    )
    errors = {round(float(s), 9): error for s, error in own[0]["error_by_step_size"].items()}

    def value(points: dict[float, Result], s: float) -> Any:
        if s not in points:
            return None
        point = points[s]
        return "unusable" if point["value"] is None else (point["value"], point["se"])

    return [
        {
            "s": s,
            "J, noise given": value(given, s),
            "J, noise-free chain": value(free, s),
            "marginal bound": value(marginal, s),
            "smallest eigenvalue": given.get(s, {}).get("smallest"),
            "largest": given.get(s, {}).get("largest"),
            "negative (%)": 100 * given[s]["negative"] if s in given else None,
            "test error": errors.get(s),
        }
        for s in sorted(given.keys() | marginal.keys())
    ]


def sanity(results: Sequence[Result]) -> list[str]:
    """Statements that hold at any scale, with their verdicts."""
    good = [r for r in results if r["diverged_at"] is None]
    better = [r["curve"][-1]["mse"] < r["curve"][0]["mse"] for r in good]
    bowls = [
        0 < values.index(min(values)) < len(values) - 1
        for r in good
        if (values := [p["value"] for p in r.get("sweep_noisy", []) if p["value"] is not None])
    ]
    filled = [
        own["SRI"]["value"] < own["mean"]["value"]
        for r in good
        for own in r.get("inpainting", {}).values()
        if not r["latents"]["collapsed"]
    ]
    return [
        f"every model ends below its start: {yes(all(better))}",
        f"J(s) is least at an interior step size: {yes(all(bowls)) if bowls else 'not run'}",
        f"inpainting beats the training mean: {yes(all(filled)) if filled else 'not run'}",
        f"diverged runs: {len(results) - len(good)}",
    ]


def yes(holds: bool) -> str:
    """A verdict."""
    return "yes" if holds else "NO"


def paper_table() -> list[dict[str, Any]]:
    """What the authors print: errors and FID by model and data set."""
    tables = {t.id: t.entries for t in facts.load("short_run").table}
    rows = []
    for arm in ("VAE", "LVAE-L5", "SRI", "SRI-L5"):
        row: dict[str, Any] = {"paper": arm_words(arm)}
        for data in ("svhn", "celeba64"):
            row[f"{data}: error"] = (
                tables["paper"].get(f"mse/{data}/{arm}/sampled", {}).get("value")
            )
            fid = tables["paper_fid"].get(f"fid/{data}/{arm}", {}).get("value")
            row[f"{data}: FID"] = None if fid is None else f"{fid:.2f}"
        rows.append(row)
    return rows


def arm_words(arm: str) -> str:
    """An arm of the paper, whose step size is not stated."""
    return shown(arm).replace(", s by grid", "")


def recorded_table(records: Sequence[Result], dataset: str, profile: str) -> list[dict[str, Any]]:
    """Our recorded runs of a profile on a data set, by model."""
    head = f"{dataset}, {profile} profile"
    columns = {
        "mse/{}/sampled": "error, sampled",
        "mse/{}/mean": "mean or noise-free",
        "frechet/{}": "Fréchet, classifier",
        "step_size/{}/final": "s at the end",
        "latents/{}/explained": "latent variance explained",
        "cost/{}:VAE": "time of an update / VAE",
    }
    table: dict[str, dict[str, Any]] = {}
    for template, title in columns.items():
        before, after = template.format(f"{dataset}/\n").split("\n")
        for row in compare("short_run", records, before, profile=profile):
            arm = row["metric"].removeprefix(before).removesuffix(after)
            if not row["metric"].endswith(after) or "/" in arm or row["ours"] is None:
                continue
            value, se = row["ours"]
            digits = 4 if template.startswith("mse") else 2
            text = "diverged" if value is None else f"{value:.{digits}f}"
            text += f" ± {se:.{digits}f}" if se is not None and row["seeds"] > 1 else ""
            text += f" ({row['diverged']} diverged)" if row["diverged"] else ""
            own = table.setdefault(arm, {head: shown(arm)})
            own[title] = text
            own["seeds"] = max(own.get("seeds", 0), row["seeds"])
    heads = [head, *columns.values(), "seeds"]
    in_order = sorted(table, key=lambda arm: (parse_arm(arm).model.startswith("SRI"), arm))
    return [{h: table[arm].get(h) for h in heads} for arm in in_order] or [
        {head: "no record of this profile yet"}
    ]
