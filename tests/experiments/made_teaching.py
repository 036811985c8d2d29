"""Made-up results of MCMC teaching with distinct numbers, as cells leave them; tests share them."""

from __future__ import annotations

from typing import Any

Made = dict[str, Any]
SIDE = 4  # of a made-up picture of the density


def samples(mmd: float, **changed: Any) -> Made:
    """What is measured of samples in the plane."""
    own = {"mmd": mmd, "mmd_se": mmd / 10, "tv": 0.31, "within": 0.82, "modes": 8}
    return own | {"shares": [0.125] * 8} | changed


def look(iteration: int, mmd: float, **changed: Any) -> Made:
    own = {"iteration": iteration, "seconds": 1.0, "gap": 0.3, "mmd/revised": mmd}
    return own | {"mmd/initial": 2 * mmd, "mmd/chase": mmd / 2, "kl": 1 + mmd} | changed


def points(shift: float) -> list[list[float]]:
    return [[shift + 0.1 * i, -0.2 * i] for i in range(5)]


def cell(group: str, data: str, arm: str, seed: int) -> Made:
    """What results of both kinds hold."""
    return {
        "group": group,
        "data": data,
        "task": data if group == "digits" else "none",
        "arm": arm,
        "teacher": arm,
        "title": f"{group}/{data}/{arm}",
        "seed": seed,
        "iterations": 30,
        "steps": 20,
        "diverged_at": None,
        "seconds": 90.0,
        "gaps": {"every": 2, "mean": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 0.5]},
        "energy_gradients": 1000,
        "generator_updates": 60,
    }


def plane(
    arm: str, seed: int = 3, mmd: float = 0.01, data: str = "eight_gaussians", **changed: Any
) -> Made:
    """A finished cell of the plane."""
    own = cell("plane", data, arm, seed)
    own |= {
        "curve": [look(0, 0.5), look(10, 0.3), look(20, 0.2), look(30, 4 * mmd)],
        "initial": samples(3 * mmd, tv=0.61, within=0.42, modes=6),
        "revised": samples(mmd),
        "n": 4000,
        "floor": samples(1e-4, mmd_se=2e-4, tv=0.09),
        "shown": points(1.0),
        "shown_initial": points(-1.0),
        "density": {"kl": 40 * mmd, "total_variation": 0.23, "log_normalizer": 0.1},
        "picture": [-0.1 * i for i in range(SIDE * SIDE)],
        "by_steps": [
            samples(mmd * (k + 2), tv=0.7, within=0.6, modes=7)
            | {"steps": steps}
            | ({"shown": points(float(steps))} if steps != 100 else {})
            for k, steps in enumerate((0, 20, 100, 500))
        ],
    }
    return own | changed


def without(result: Made, *names: str) -> Made:
    return {k: v for k, v in result.items() if k not in names}


def vae(seed: int = 3, mmd: float = 0.02, **changed: Any) -> Made:
    """A finished VAE of the plane: no energy."""
    own = without(plane("VAE", seed, mmd), "density", "picture", "by_steps")
    own["curve"] = [without(p, "kl", "mmd/chase") for p in own["curve"]]
    return own | {"energy_gradients": 0} | changed


def persistent(seed: int = 3, mmd: float = 0.005, **changed: Any) -> Made:
    """Finished persistent chains in the plane: no start, no generator."""
    own = without(plane("persistent", seed, mmd), "initial", "shown_initial")
    own["curve"] = [without(p, "mmd/initial", "mmd/chase") for p in own["curve"]]
    return own | {"generator_updates": 0} | changed


def images(first: int, n: int = 10, pixels: int = 64) -> list[list[int]]:
    """Levels of images: the first so many of 0 ... 255, then on by one."""
    return [[(first + i) % 256] * pixels for i in range(n)]


def error(value: float) -> Made:
    return {"value": value, "se": value / 100, "n": 297}


def digits(arm: str, seed: int = 3, fcd: float = 10.0, data: str = "none", **changed: Any) -> Made:
    """A finished cell of digits without a condition."""
    own = cell("digits", data, arm, seed)
    own |= {
        "curve": [
            {"iteration": i, "seconds": 1.0, "fcd/revised": v, "fcd/initial": 2 * v, "mse": v / 100}
            for i, v in ((0, 400.0), (30, fcd))
        ],
        "frechet": {
            "initial": [fcd + 3, fcd + 5],
            "revised": [fcd - 1, fcd + 1],
            "floor": [1.0, 2.0],
            "ceiling": [500.0, 600.0],
            "accuracy": [0.95, 0.97],
        },
        "n": 2000,
        "classes": {"shares": [0.1] * 10, "entropy": 2.25},
        "pictures": {"initial": images(0, 17), "revised": images(20, 17)},
        "by_steps": [
            {"steps": steps, "frechet": [fcd + k, fcd + k + 2], "shown": images(40 + 20 * k, 17)}
            for k, steps in enumerate((0, 20, 200))
        ],
        "mse": {"decoded": error(0.05), "revised": error(0.04)},
        "reconstructed": {
            "test": images(100), "decoded": images(120), "revised": images(140)
        },
        "jump": {"straight": 1 / 16, "decoded": 0.15, "revised": 0.17},
        "paths": {
            kind: [images(first + 20 * i, 17) for i in range(3)]
            for kind, first in (("decoded", 10), ("revised", 90))
        },
    }  # fmt: skip
    return own | changed


def completed(
    arm: str, seed: int = 3, psnr: float = 15.0, data: str = "half", **changed: Any
) -> Made:
    """A finished completion of digits."""
    own = cell("digits", data, arm, seed)
    kinds = ("initial",) if arm in ("VAE", "regression") else ("initial", "revised")
    own |= {
        "curve": [{"iteration": i, "seconds": 1.0} for i in (0, 15, 30)],
        "psnr": {
            f"{kind}/{what}": error(psnr + 1.5 * (kind == "revised") + 2 * (what == "mean"))
            for kind in kinds
            for what in ("one", "mean")
        },
        "completed": {"test": images(0), "seen": images(50), "completed": images(200)},
    }
    if arm == "regression":
        own["psnr"] = {"initial/mean": error(psnr)}
        own = without(own, "curve", "seconds", "steps", "gaps", "energy_gradients",
                      "generator_updates")  # fmt: skip
    return own | changed


def lost(result: Made, at: int = 7) -> Made:
    """The same cell, diverged: no measures."""
    kept = ("group", "data", "task", "arm", "teacher", "title", "seed", "iterations", "steps",
            "seconds", "gaps", "energy_gradients", "generator_updates")  # fmt: skip
    own = {k: result[k] for k in kept if k in result}
    return own | {"curve": result["curve"][:1], "diverged_at": at}
