"""What the runs of MCMC teaching leave in the record.

Names: GROUP/DATA/ARM/WHAT, with what is `mmd`, `tv`, `within`, `modes` of samples in the plane (of
the generator's, before the revision, `initial/mmd`, ...), `kl` and `density_tv` of the learned
density (nats; in [0, 1]), `fcd` of images (mean over classifiers), `mse`, `jump`, `entropy` and
`accuracy` of classes, `psnr/one` and `psnr/mean` (dB), `gap` (nats, mean over the last quarter),
`long/...` of chains that run for long, `fall` (the last look's distance over the first's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

Result = Mapping[str, Any]
Entry = dict[str, Any]
UNITS = {"kl": "nats", "gap": "nats", "psnr/one": "dB", "psnr/mean": "dB", "seconds": "s"}
PLANE = ("mmd", "tv", "within", "modes")
LOST = {  # what a diverged cell lacks at least
    "plane": ("mmd", "tv", "within", "modes"),
    "digits": ("fcd",),
    "images": ("fcd",),
}


def enter(run: Any, results: Sequence[Result]) -> None:
    """Enter all cells of a group.

    A cell that diverged enters every metric that its siblings of other seeds have, as diverged.
    """
    found = [{} if lost(r) else dict(entries(r)) for r in results]
    for r, own in zip(results, found, strict=True):
        run.count("gradients of the energy", r.get("energy_gradients", 0))
        run.count("updates of a generator", r.get("generator_updates", 0))
        if not lost(r):
            for name, entry in own.items():
                run.metric(f"{r['title']}/{name}", seed=r["seed"], **entry)
            continue
        siblings = [e for r2, e in zip(results, found, strict=True) if r2["title"] == r["title"]]
        names = {name for e in siblings for name in e} or set(LOST[r["group"]])
        note = f"diverged at iteration {r['diverged_at']:,}"
        for name in sorted(names):
            unit = unit_of(name)
            run.metric(f"{r['title']}/{name}", None, seed=r["seed"], unit=unit, diverged=True,
                       note=note)  # fmt: skip
    _limits(run, results)


def lost(r: Result) -> bool:
    """Whether a cell diverged."""
    return r["diverged_at"] is not None


def unit_of(name: str) -> str:
    """Of a metric, by the last parts of its name."""
    return UNITS.get(name, UNITS.get(name.rsplit("/", 1)[-1], "1"))


def entries(r: Result) -> Iterator[tuple[str, Entry]]:
    """All metrics of a cell that did not diverge."""

    def entry(name: str, value: Any, **more: Any) -> tuple[str, Entry]:
        return name, {"value": value, "unit": unit_of(name), **more}

    if "seconds" in r:
        yield entry("seconds", r["seconds"])
    for kind, before in (("initial", "initial/"), ("revised", "")):
        if own := r.get(kind):
            yield entry(f"{before}mmd", own["mmd"], se=own["mmd_se"], n=r["n"])
            for what in PLANE[1:]:
                yield entry(f"{before}{what}", own[what], n=r["n"])
    if density := r.get("density"):
        yield entry("kl", density["kl"])
        yield entry("density_tv", density["tv"])
        yield entry("gap", late(r["gaps"]["mean"]))
    if "revised" in r and "initial" in r:
        yield entry("gain/mmd", r["initial"]["mmd"] - r["revised"]["mmd"])
    if "revised" in r and "by_steps" in r:
        long = r["by_steps"][-1]
        for what in PLANE:
            yield entry(f"long/{what}", long[what])
        watched = [p["mmd/revised"] for p in r["curve"] if "mmd/revised" in p]
        yield entry("fall", watched[-1] / watched[0])
    if own := r.get("frechet"):
        about = {"estimator": "features of classifiers", "split": "train", "n": r["n"]}
        for kind, name in (("initial", "initial/fcd"), ("revised", "fcd")):
            if kind in own:
                yield entry(name, fmean(own[kind]), **about)
        if "revised" not in own:  # a generator alone is judged by its own samples
            yield entry("fcd", fmean(own["initial"]), **about)
        if "revised" in own and "initial" in own:
            yield entry("gain/fcd", fmean(own["initial"]) - fmean(own["revised"]), **about)
        yield entry("entropy", r["classes"]["entropy"])
        if "accuracy" in r["classes"]:
            yield entry("accuracy", r["classes"]["accuracy"], n=r["n"])
    if (steps := r.get("by_steps")) and "frechet" in steps[-1]:
        for p in steps:
            yield entry(f"steps={p['steps']}/fcd", mean_of(p["frechet"]))
        yield entry("long/fcd", mean_of(steps[-1]["frechet"]))
        yield entry("gap", late(r["gaps"]["mean"]))
    for kind, own in r.get("mse", {}).items():
        yield entry(f"mse/{kind}", own["value"], se=own["se"], n=own["n"], split="test")
    for kind, value in r.get("jump", {}).items():
        yield entry(f"jump/{kind}", value)
    for kind, own in r.get("psnr", {}).items():
        where, what = kind.split("/")
        last = "revised" if any(k.startswith("revised") for k in r["psnr"]) else "initial"
        more = {"se": own["se"], "n": own["n"], "split": "test"}
        if where == last:
            yield entry(f"psnr/{what}", own["value"], **more)
        if where == "initial":
            yield entry(f"initial/psnr/{what}", own["value"], **more)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean over classifiers; None where a sample was no number."""
    kept = [v for v in values if v is not None]
    return fmean(kept) if len(kept) == len(values) else None


def late(values: Sequence[float | None]) -> float | None:
    """Mean of the last quarter of a curve."""
    kept = [v for v in values[-max(1, len(values) // 4) :] if v is not None]
    return fmean(kept) if kept else None


def _limits(run: Any, results: Sequence[Result]) -> None:
    """Floors and ceilings, once for every data set and seed."""
    found: dict[tuple[str, int], Entry] = {}
    for r in results:
        name, seed = f"{r['group']}/{r['data']}", r["seed"]
        if floor := r.get("floor"):
            found[f"{name}/floor/mmd", seed] = {"value": floor["mmd"], "se": floor["mmd_se"]}
            found[f"{name}/floor/tv", seed] = {"value": floor["tv"]}
        if own := r.get("frechet"):
            for key, kind in (("floor/fcd", "floor"), ("ceiling/fcd", "ceiling"),
                              ("accuracy", "accuracy")):  # fmt: skip
                found[f"{name}/{key}", seed] = {"value": fmean(own[kind])}
    for (name, seed), entry in found.items():
        run.metric(name, seed=seed, unit="1", **entry)
