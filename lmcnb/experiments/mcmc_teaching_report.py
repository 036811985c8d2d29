"""The tables of the notebook of MCMC teaching, from results as they are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from lmcnb.experiments.mcmc_teaching_record import entries, lost
from lmcnb.lab.claims import compare

Result = Mapping[str, Any]
Row = dict[str, Any]
PLANE = {
    "mmd": "MMD² × 1e3",
    "initial/mmd": "of the start",
    "tv": "TV, histogram",
    "within": "within the modes",
    "modes": "modes",
    "kl": "KL(data, EBM)",
    "density_tv": "TV of the EBM",
    "long/mmd": "MMD² × 1e3, long chains",
}
IMAGES = {
    "initial/fcd": "FCD of the start",
    "fcd": "FCD",
    "long/fcd": "FCD, long chains",
    "mse/decoded": "test error, decoded",
    "mse/revised": "revised",
    "jump/decoded": "largest jump, decoded",
    "jump/revised": "revised path",
    "entropy": "entropy of classes",
    "accuracy": "right class",
}
COMPLETION = {
    "initial/psnr/one": "PSNR of the start",
    "psnr/one": "PSNR, one sample",
    "psnr/mean": "mean of 16",
}
SCALE = {"mmd": 1e3, "initial/mmd": 1e3, "long/mmd": 1e3}


def over_seeds(values: Sequence[float | None]) -> Any:
    """Mean over seeds and its standard error; words where a seed diverged."""
    kept = [v for v in values if v is not None]
    if len(kept) < len(values):
        return f"{len(values) - len(kept)} of {len(values)} seeds diverged"
    return (fmean(kept), stdev(kept) / len(kept) ** 0.5) if len(kept) > 1 else (kept[0], None)


def table(results: Sequence[Result], data: str, columns: Mapping[str, str]) -> list[Row]:
    """One row an arm of a density, task or set: the means over seeds of the columns' metrics."""
    grouped: dict[str, list[Result]] = {}
    for r in results:
        if r["data"] == data:
            grouped.setdefault(r["arm"], []).append(r)
    rows = []
    for arm, own in grouped.items():
        found = [{} if lost(r) else dict(entries(r)) for r in own]
        row: Row = {"method": arm}
        for name, title in columns.items():
            if not any(name in f for f in found) and not all(map(lost, own)):
                row[title] = None
                continue
            values = [f[name]["value"] if name in f else None for f in found]
            scale = SCALE.get(name, 1.0)
            row[title] = over_seeds([v if v is None else scale * v for v in values])
        row["minutes"] = fmean(r.get("seconds", 0.0) for r in own) / 60
        row["seeds"] = len(own)
        rows.append(row)
    return [{k: v for k, v in row.items() if any(r[k] is not None for r in rows)} for row in rows]


def learning_table(learned: Sequence[Row]) -> list[Row]:
    """What the trainer's loop arrived at in one dimension, beside the closed form."""
    return [
        {
            "teacher": row["teacher"],
            "1 / l, learned": row["variance"],
            "exact": row["exact variance"],
            "m, learned": row["mean"],
            "exact m": row["exact mean"],
            "w, learned": row["weight"],
            "exact w": row["exact weight"] if row["weight"] is not None else None,
        }
        for row in learned
    ]


def sanity(answers: Sequence[Row], plane: Sequence[Result], images: Sequence[Result]) -> list[str]:
    """Statements that hold at any scale, with their verdicts."""

    def every(what: str, values: Sequence[bool]) -> str:
        return f"{what}: {'not run' if not values else 'yes' if all(values) else 'NO'}"

    good = [r for r in [*plane, *images] if not lost(r)]
    generators = [r for r in good if "initial" in r and "revised" in r]
    ours = [r for r in generators if r["arm"] == "variational"]
    chased = [r for r in good if r["arm"] == "variational" and len(r["curve"]) > 1]
    return [
        every("exact answers hold", [row["holds"] for row in answers]),
        every("revision improves the samples of variational teaching (plane)",
              [(r["initial"]["mmd"] or 0) > (r["revised"]["mmd"] or 1) for r in ours]),
        every("its samples end closer to the data than they began",
              [last < 0.5 * first for first, last in map(ends, chased) if first is not None]),
        every("its samples cover all modes",
              [r["revised"]["modes"] == 8 for r in ours if r["data"] == "eight_gaussians"]),
        f"diverged runs: {len(plane) + len(images) - len(good)}",
    ]  # fmt: skip


def limits(results: Sequence[Result]) -> list[str]:
    """Floor and ceiling of the FCD, and the classifiers' accuracy, in words."""
    own = next((r["frechet"] for r in results if "frechet" in r), None)
    if own is None:
        return []
    floor, ceiling, accuracy = (fmean(own[k]) for k in ("floor", "ceiling", "accuracy"))
    return [
        f"FCD of test images {floor:.1f}, of uniform noise {ceiling:.0f}; "
        f"{len(own['floor'])} classifiers, test accuracy {accuracy:.3f}"
    ]


def ends(r: Result) -> tuple[float | None, float]:
    """First and last distance of the revised samples from the data; None where there is none."""
    for key in ("mmd/revised", "fcd/revised"):
        if r["curve"][0].get(key) is not None:
            last = r["curve"][-1].get(key)
            return r["curve"][0][key], float("inf") if last is None else last
    return None, 0.0


def recorded(
    records: Sequence[Result], name: str, profile: str, columns: Mapping[str, str]
) -> list[Row]:
    """Our recorded runs of a profile: `name` is a density, task or set with its group before it."""
    head = f"{name}, {profile} profile"
    rows: dict[str, Row] = {}
    for row in compare("mcmc_teaching", records, f"{name}/", profile=profile):
        arm, _, what = row["metric"].removeprefix(f"{name}/").partition("/")
        if what not in columns or row["ours"] is None or arm in ("floor", "ceiling"):
            continue
        value, se = row["ours"]
        scale, digits = SCALE.get(what, 1.0), 0 if what == "modes" else 3
        digits = 1 if what.endswith(("fcd", "mmd")) else 2 if "psnr" in what else digits
        text = "diverged" if value is None else f"{scale * value:.{digits}f}"
        text += f" ± {scale * se:.{digits}f}" if se is not None and row["seeds"] > 1 else ""
        text += f" ({row['diverged']} diverged)" if row["diverged"] else ""
        own = rows.setdefault(arm, {head: arm})
        own[columns[what]] = text
        own["seeds"] = max(own.get("seeds", 0), row["seeds"])
    heads = [head, *columns.values(), "seeds"]
    kept = [h for h in heads if any(h in row for row in rows.values())]
    return [{h: row.get(h) for h in kept} for row in rows.values()] or [
        {head: "no record of this profile yet"}
    ]
