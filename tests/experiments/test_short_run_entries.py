"""What is entered into the record of made-up results, and the training an arm's name stands for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lmcnb.experiments import short_run_record as record
from lmcnb.experiments.short_run_cells import training_of
from lmcnb.papers.short_run import Images

sys.path.append(str(Path(__file__).parent))
from entered import Entered


def error(value: float) -> dict[str, Any]:
    return {"value": value, "se": value / 100, "n": round(1000 * value)}


def point(s: float, value: float | None) -> dict[str, Any]:
    return {"s": s, "value": value, "se": None if value is None else value / 100}


BOWL = [(0.1, 9.0), (0.2, 5.0), (0.3, 6.5), (0.4, 8.25), (0.5, None)]  # least at 0.2


def result(arm: str, **changed: Any) -> dict[str, Any]:
    """A result with distinct numbers."""
    own = {
        "dataset": "digits",
        "arm": arm,
        "seed": 3,
        "updates": 40,
        "diverged_at": None,
        "seconds": 12.0,
        "search_seconds": 2.0,
        "parameters": 77,
        "step_size": 0.17,
        "searches": [],
        "curve": [],
        "loss": [0.9, 0.8],
        "gradients": 123,
        "mse": {"sampled": error(0.31), "mean": error(0.29), "longer": error(0.23)},
        "latents": {"explained": [0.4, 0.7, 0.2], "collapsed": False, "within": [0.6, 0.3, 0.8]},
        "frechet": {
            "classifier": [3.0, 6.0],
            "floor": [0.5, 1.5],
            "pixels": 11.0,
            "pixels_floor": 2.0,
            "n": [1500, 1400],
            "reference": "train",
            "accuracy": [0.9, 0.8],
        },
    }
    return own | changed


def entered(*results: dict[str, Any]) -> dict[str, Any]:
    """Values by name, of seed 3."""
    run = Entered()
    record.images(run, results)
    return {name: entry["value"] for (name, seed), entry in run.metrics.items() if seed == 3}


def test_errors_and_distances_are_entered_under_their_names() -> None:
    run = Entered()
    record.images(run, [result("ABP-s0.1")])
    for kind, value in (("sampled", 0.31), ("mean", 0.29), ("longer", 0.23)):
        own = run.metrics[f"mse/digits/ABP-s0.1/{kind}", 3]
        assert own["value"] == value
        assert own["se"] == value / 100
        assert own["n"] == round(1000 * value)
    distance = run.metrics["frechet/digits/ABP-s0.1", 3]
    assert (distance["value"], distance["n"], distance["split"]) == (4.5, 1500, "train")
    assert run.metrics["frechet_pixels/digits/ABP-s0.1", 3]["value"] == 11
    assert run.metrics["frechet_floor/digits", 3]["value"] == 1
    assert run.metrics["seconds/digits/ABP-s0.1", 3]["value"] == 12
    assert run.counters["gradient evaluations of U"] == 123


def test_of_the_latents_the_best_explained_and_the_collapse_are_entered() -> None:
    found = entered(result("SRI"))
    assert found["latents/digits/SRI/explained"] == 0.7
    assert found["latents/digits/SRI/collapsed"] == 0
    lost = {"explained": [0.02, 0.05], "collapsed": True, "within": [1.0, 1.0]}
    assert entered(result("SRI", latents=lost))["latents/digits/SRI/collapsed"] == 1


@pytest.mark.parametrize(
    ("chosen", "first", "late"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.7], 0.1, 0.6),
        ([0.1, 0.2, 0.3, 0.4, 0.6], 0.1, 0.6),
        ([None, 0.2, 0.3, 0.9, None], 0.2, 0.9),
        ([0.4], 0.4, 0.4),
    ],
)
def test_the_first_choice_of_a_step_size_and_the_mean_of_the_last_third(
    chosen: list[float | None], first: float, late: float
) -> None:
    searches = [{"epoch": float(i), "step_size": s} for i, s in enumerate(chosen)]
    found = entered(result("SRI", searches=searches))
    assert found["step_size/digits/SRI/first"] == first
    assert found["step_size/digits/SRI/late"] == pytest.approx(late)
    assert found["step_size/digits/SRI/final"] == 0.17


@pytest.mark.parametrize("kind", ["noisy", "noise_free", "marginal"])
def test_a_curve_is_entered_by_its_minimum_and_how_far_above_it_its_ends_lie(kind: str) -> None:
    found = entered(result("SRI", **{f"sweep_{kind}": [point(*p) for p in BOWL]}))
    name = f"objective/digits/SRI/test/{kind}"
    usable = [s for s, value, *_ in BOWL if value is not None]
    known = {"minimizer": 0.2, "minimum": 5.0, "left": 4.0, "right": 3.25}
    known |= {"largest_usable": usable[-1]}
    assert {part: found[f"{name}/{part}"] for part in known} == known
    others = {"noisy", "noise_free", "marginal"} - {kind}
    assert not any(n.startswith(f"objective/digits/SRI/test/{o}/") for n in found for o in others)


def test_a_curve_during_training_is_entered_by_its_share_of_training() -> None:
    curve = [
        {"epoch": 3.0, "mse": 0.8, "objective": [point(*p) for p in BOWL]},
        {"epoch": 6.0, "mse": 0.7},
        {"epoch": 12.0, "mse": 0.6, "objective": [point(0.1, 4.0), point(0.2, 7.0)]},
    ]
    found = entered(result("SRI", curve=curve))
    assert found["objective/digits/SRI/share=0.25/minimizer"] == 0.2
    assert found["objective/digits/SRI/share=0.25/right"] == 3.25
    assert found["objective/digits/SRI/share=1.00/minimizer"] == 0.1
    assert found["objective/digits/SRI/share=1.00/left"] == 0
    assert found["objective/digits/SRI/share=1.00/right"] == 3


def test_a_curve_without_a_usable_value_is_not_entered() -> None:
    found = entered(result("SRI", sweep_noisy=[point(0.1, None), point(0.2, None)]))
    assert not any(name.startswith("objective/") for name in found)


def test_the_best_step_size_has_the_least_error() -> None:
    errors = {"0.1": 0.5, "0.2": 0.3, "0.4": 0.2, "0.8": 0.9}
    found = entered(result("SRI", error_by_step_size=errors))
    assert found["best_step_size/digits/SRI/mse"] == 0.4


def test_inpainting_and_effects_are_entered_under_their_names() -> None:
    inpainting = {
        "block": {"SRI": error(0.4), "mean": error(0.5), "nearest": error(0.6)},
        "scattered": {"SRI": error(0.1), "mean": error(0.2), "nearest": error(0.3)},
    }
    effects = {"ground": [0.9, 0.2], "label": [0.3, 0.8]}
    found = entered(result("SRI", inpainting=inpainting, effects=effects))
    for mask, own in inpainting.items():
        for what, score in own.items():
            assert found[f"inpainting/digits/SRI/{mask}/{what}"] == score["value"]
    for attribute, shares in effects.items():
        for layer in (1, 2):
            name = f"effect/digits/SRI/{attribute}/layer={layer}"
            assert found[name] == shares[layer - 1]


def test_costs_are_of_an_update_and_times_of_a_whole_training() -> None:
    """An update: SRI 12 s / 40, VAE 5 s / 50; the whole training: VAE-x2 9 s, SRI 12 s."""
    found = entered(
        result("SRI"),
        result("VAE", seconds=5.0, updates=50, gradients=0),
        result("VAE-x2", seconds=9.0, updates=100, gradients=0),
        result("VAE", seed=4, seconds=1000.0, updates=1),
    )
    assert found["cost/digits/SRI:VAE"] == pytest.approx(3)
    assert found["cost/digits/VAE-x2:VAE"] == pytest.approx(0.9)
    assert found["time/digits/VAE-x2:SRI"] == pytest.approx(0.75)
    assert "cost/digits/VAE:VAE" not in found
    assert "step_size/digits/VAE/final" not in found


# ---- the training of an arm

IMAGES = Images.model_validate(
    {
        "datasets": ["digits", "mnist"],
        "arms": {"default": ["SRI"]},
        "epochs": {"default": 7, "mnist": 3},
        "width": {"default": 24, "mnist": 40},
        "latent": {"1": [5], "2": [2, 4]},
        "sigma": 0.45,
        "batch": 55,
        "learning_rate": 0.004,
        "decay": [(0.35, 0.7), (0.95, 0.02)],
        "steps": 13,
        "step_size": {"default": 0.21, "mnist": 0.23},
        "grid": {"default": [0.07, 0.11, 0.19], "mnist": [0.03, 0.05]},
        "search_from": {"default": 1.5, "mnist": 2.5},
        "search_every": {"default": 0.5, "mnist": 0.25},
        "search_images": 17,
        "search_chains": 9,
        "curves": [],
    }
)


def test_an_arm_is_trained_with_the_settings_of_its_data_set() -> None:
    t = training_of("SRI-gradient", "digits", IMAGES)
    assert (t.method, t.latent, t.width, t.network) == ("SRI", (5,), 24, "mlp")
    assert (t.sigma, t.batch, t.learning_rate, t.epochs) == (0.45, 55, 0.004, 7)
    assert t.decay == ((0.35, 0.7), (0.95, 0.02))
    assert (t.steps, t.step_size, t.noisy) == (13, 0.21, True)
    assert (t.search, t.search_from, t.search_every) == ("gradient", 1.5, 0.5)
    assert (t.search_images, t.search_chains) == (17, 9)
    assert t.grid == (0.07, 0.11, 0.19)
    assert t.search_start == 0.07
    other = training_of("SRI", "mnist", IMAGES)
    assert (other.width, other.epochs, other.step_size) == (40, 3, 0.23)
    assert (other.search_from, other.search_every) == (2.5, 0.25)
    assert (other.grid, other.search_start) == ((0.03, 0.05), 0.03)


@pytest.mark.parametrize("arm", ["VAE", "LVAE-L2", "ABP-s0.1", "SRI-L2-K3-s0.4-x2"])
def test_every_arm_has_the_noise_width_and_the_learning_rates_of_the_settings(arm: str) -> None:
    t = training_of(arm, "digits", IMAGES)
    assert (t.sigma, t.learning_rate, t.batch) == (0.45, 0.004, 55)
    assert t.decay == ((0.35, 0.7), (0.95, 0.02))
    assert t.latent == ((2, 4) if "L2" in arm else (5,))
    assert t.epochs == (14 if "x2" in arm else 7)
