"""What the runs of MCMC teaching leave in the record.

Names: GROUP/DATA/ARM/WHAT, with what is `mmd`, `tv`, `within`, `modes` of samples in the plane (of
the generator's, before the revision, `initial/mmd`, ...), `kl` and `density_tv` of the learned
density (nats; in [0, 1]), `fcd` of images (mean over classifiers), `mse`, `jump`, `entropy` and
`accuracy` of classes, `psnr/one` and `psnr/mean` (dB), `gap` (nats, mean over the last quarter),
`long/...` of chains that run for long, `fall` (the last look's distance over the first's). The
floor of the FCD is that of the test images, which are fewer than the samples on digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from lmcnb.methods.mcmc_teaching_teachers import TEACHERS

Result = Mapping[str, Any]
Entry = dict[str, Any]
PLANE = ("mmd", "tv", "within", "modes")
LONG = ("mmd", "within", "modes")  # not tv, which depends on the number of samples


def enter(run: Any, results: Sequence[Result]) -> None:
    """Enter all cells of a group; one that diverged enters as diverged whatever it would have had.

    So does a single number of a finished cell that is none, such as the distance of samples that
    are not finite.
    """
    for r in results:
        run.count("gradients of the energy", r.get("energy_gradients", 0))
        run.count("updates of a generator", r.get("generator_updates", 0))
        if lost(r):
            note = f"diverged at iteration {r['diverged_at']:,}"
            found: dict[str, Entry] = {
                name: {"value": None, "diverged": True, "note": note} for name in expected(r)
            }
        else:
            found = dict(entries(r))
        for name, e in found.items():
            run.metric(f"{r['title']}/{name}", seed=r["seed"], unit=unit_of(name), **e)
    _limits(run, results)


def expected(r: Result) -> list[str]:
    """The metrics of a finished cell of this kind, but those by the number of steps."""
    teacher, task = r["teacher"], r["task"]
    who = TEACHERS.get(teacher, TEACHERS["VAE"])
    energy, starts = who.start is not None, who.start != "persistent"
    if r["group"] == "plane":
        names = [*PLANE, *(f"initial/{what}" for what in PLANE if starts)]
        names += ["kl", "density_tv", "gap"] if energy else []
        if energy:
            names += ["fall", *(f"long/{what}" for what in LONG)]
        return names + (["gain/mmd"] if starts else [])
    if task in ("half", "occluded") or r["data"] == "pairs":
        return [f"{where}psnr/{what}" for where in ("", "initial/") for what in ("one", "mean")]
    names = ["fcd", "entropy", *(["initial/fcd"] if starts else [])]
    names += ["gain/fcd"] if energy and starts else []
    if task == "label":
        return [*names, "accuracy"]
    names += ["long/fcd", "gap"] if energy else []
    kinds = ["decoded", *(["revised"] if energy else [])]
    names += [f"mse/{k}" for k in kinds] if who.latent == "encoder" else []
    return names + ([f"jump/{k}" for k in ("straight", *kinds)] if who.latent else [])


def lost(r: Result) -> bool:
    """Whether a cell diverged."""
    return r["diverged_at"] is not None


def unit_of(name: str) -> str:
    """Of a metric."""
    if "psnr/" in name:
        return "dB"
    return {"kl": "nats", "gap": "nats", "seconds": "s"}.get(name, "1")


def entries(r: Result) -> Iterator[tuple[str, Entry]]:
    """All metrics of a cell that did not diverge."""
    if "seconds" in r:
        yield "seconds", {"value": r["seconds"]}
    yield from _plane(r) if r["group"] == "plane" else _images(r)


def _plane(r: Result) -> Iterator[tuple[str, Entry]]:
    for kind, before in (("initial", "initial/"), ("revised", "")):
        if own := r.get(kind):
            yield f"{before}mmd", {"value": own["mmd"], "se": own["mmd_se"], "n": r["n"]}
            for what in PLANE[1:]:
                yield f"{before}{what}", {"value": own[what], "n": r["n"]}
    if "initial" in r:
        gain = difference(r["initial"]["mmd"], r["revised"]["mmd"])
        yield "gain/mmd", {"value": gain, "n": r["n"]}
    if density := r.get("density"):
        yield "kl", {"value": density["kl"]}
        yield "density_tv", {"value": density["total_variation"]}
        yield "gap", {"value": late(r["gaps"]["mean"])}
    if steps := r.get("by_steps"):
        for what in LONG:
            yield f"long/{what}", {"value": steps[-1][what]}
        first, last = (r["curve"][k].get("mmd/revised") for k in (0, -1))
        yield "fall", {"value": None if first is None or last is None else last / first}


def _images(r: Result) -> Iterator[tuple[str, Entry]]:
    about = {"estimator": "features of classifiers", "split": "train", "n": r.get("n")}
    if own := r.get("frechet"):
        initial, revised = (mean_of(own[k]) if k in own else None for k in ("initial", "revised"))
        yield "fcd", {"value": revised if "revised" in own else initial, **about}
        if "initial" in own:
            yield "initial/fcd", {"value": initial, **about}
        if "revised" in own and "initial" in own:
            yield "gain/fcd", {"value": difference(initial, revised), **about}
        yield "entropy", {"value": r["classes"]["entropy"], "n": r["n"]}
        if r["task"] == "label":
            yield "accuracy", {"value": r["classes"].get("accuracy"), "n": r["n"]}
    if steps := r.get("by_steps"):
        for p in steps:
            yield f"steps={p['steps']}/fcd", {"value": mean_of(p["frechet"]), **about}
        yield "long/fcd", {"value": mean_of(steps[-1]["frechet"]), **about}
        yield "gap", {"value": late(r["gaps"]["mean"])}
    for kind, e in r.get("mse", {}).items():
        yield f"mse/{kind}", {**e, "split": "test"}
    for kind, value in r.get("jump", {}).items():
        yield f"jump/{kind}", {"value": value}
    psnr = r.get("psnr", {})
    last = "revised" if any(k.startswith("revised") for k in psnr) else "initial"
    for kind, e in psnr.items():
        where, what = kind.split("/")
        if where == last:
            yield f"psnr/{what}", {**e, "split": "test"}
        if where == "initial":
            yield f"initial/psnr/{what}", {**e, "split": "test"}


def difference(a: float | None, b: float | None) -> float | None:
    """a - b; None where one is."""
    return None if a is None or b is None else a - b


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
                found[f"{name}/{key}", seed] = {"value": mean_of(own[kind])}
    for (name, seed), entry in found.items():
        run.metric(name, seed=seed, unit="1", **entry)
