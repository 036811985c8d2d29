"""The settings of mcmc_teaching: names of arms, the profiles, and what is refused by its name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcnb.errors import UsageError
from lmcnb.experiments import mcmc_teaching_images as images
from lmcnb.experiments import mcmc_teaching_plane as plane
from lmcnb.experiments.mcmc_teaching_learning import LEARNED
from lmcnb.lab import checkout, config
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS
from lmcnb.papers.mcmc_teaching import Digits, ImageModel, Knobs, Plane, teaching_of
from lmcnb.papers.mcmc_teaching_arms import GRAMMAR, checked_arms, parse_arm
from lmcnb.papers.unbiased_vae import by_name

PROFILES = list(checkout.profiles("mcmc_teaching"))
KNOBS: dict[str, Any] = {
    "iterations": 11, "batch": 12, "chains": 13, "steps": 14, "step_size": 0.15, "reference": 1.6,
    "sigma": 0.17, "ancestral": True, "energy_rate": 0.18, "generator_rate": 0.19,
}  # fmt: skip
MODEL: dict[str, Any] = KNOBS | {"arms": ["variational"], "step_size": 0.001, "chains": 12}

# ---- names of arms

OPTIONS: dict[str, tuple[str, Any]] = {
    "-K5": ("steps", 5),
    "-s0.3": ("sigma", 0.3),
    "-d0.05": ("step_size", 0.05),
    "-v3": ("generator_steps", 3),
    "-e3e-4": ("energy_rate", 3e-4),
    "-g1.5e-3": ("generator_rate", 1.5e-3),
    "-L50": ("inference_steps", 50),
    "-means": ("ancestral", False),
    "-still": ("noisy", False),
}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_teacher_s_name_alone_changes_nothing(teacher: str) -> None:
    assert parse_arm(teacher) == (teacher, {})
    assert teacher in GRAMMAR


USEFUL = {"variational": "Ksdveg", "fast": "Ksdveg", "original": "KsdvegL", "short-run": "Kde",
          "persistent": "Kde", "VAE": "svg"}  # fmt: skip


def useful(teacher: str, option: str) -> bool:
    """Whether an option changes anything: written again."""
    if option in ("-means", "-draws"):
        return teacher in ("variational", "fast", "original")
    return teacher != "VAE" if option == "-still" else option[1] in USEFUL[teacher]


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("option", [*OPTIONS, "-draws"])
def test_options_without_effect_are_refused(teacher: str, option: str) -> None:
    if useful(teacher, option):
        parse_arm(teacher + option)
    else:
        with pytest.raises(ValueError, match=f"no effect on {teacher}"):
            parse_arm(teacher + option)


@given(st.sampled_from(list(TEACHERS)), st.permutations(list(OPTIONS)), st.integers(0, 9))
def test_options_stand_in_any_order(teacher: str, order: list[str], many: int) -> None:
    chosen = [option for option in order if useful(teacher, option)][:many]
    known = dict(OPTIONS[option] for option in chosen)
    found = parse_arm(teacher + "".join(chosen))
    assert found == (teacher, known)
    assert {k: type(v) for k, v in found[1].items()} == {k: type(v) for k, v in known.items()}


@given(
    st.sampled_from(["steps", "generator_steps", "inference_steps"]), st.integers(1, 10_000)
)  # fmt: skip
def test_counts_are_read_as_they_are_written(key: str, n: int) -> None:
    letter = {"steps": "K", "generator_steps": "v", "inference_steps": "L"}[key]
    assert parse_arm(f"original-{letter}{n}") == ("original", {key: n})


@given(st.floats(1e-9, 99, allow_nan=False), st.sampled_from("sdeg"))
def test_numbers_are_read_as_they_are_written(value: float, letter: str) -> None:
    name = {"s": "sigma", "d": "step_size", "e": "energy_rate", "g": "generator_rate"}[letter]
    text = f"{value:.3e}".replace("e+", "e-") if value < 1 else f"{value:.6f}"
    assert parse_arm(f"fast-{letter}{text}") == ("fast", {name: float(text)})


def test_every_option_is_explained() -> None:
    assert parse_arm("fast-draws") == ("fast", {"ancestral": True})
    for option in [*OPTIONS, "-draws"]:
        assert option.rstrip("0123456789.e-") in GRAMMAR


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no arm"),
        ("GAN", "no arm"),
        ("variational-", "no arm"),
        ("variational-K", "no arm"),
        ("variational-K-5", "no arm"),
        ("variational-K5x", "no arm"),
        ("variational-k5", "no arm"),
        ("variational K5", "no arm"),
        ("variational-s.3", "no arm"),
        ("variational-s3e4", "no arm"),
        ("variational-s1e+3", "no arm"),
        ("variational-noisy", "no arm"),
        ("variational-sinf", "no arm"),
        ("variational-K5\n", "no arm"),
        ("VARIATIONAL", "no arm"),
        ("vae", "no arm"),
        ("regression", "no arm"),
        ("shortrun", "no arm"),
        ("variational-K2.5", "-K takes a whole number"),
        ("fast-v1e-3", "-v takes a whole number"),
        ("original-L0.5", "-L takes a whole number"),
        ("variational-K5-K6", "steps is said twice"),
        ("fast-means-draws", "ancestral is said twice"),
        ("fast-still-still", "noisy is said twice"),
    ],
)
def test_names_outside_the_grammar_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_arm(name)
    assert repr(name) in str(error.value)


def test_lists_of_arms() -> None:
    assert checked_arms(["fast", "fast-K5"]) == ["fast", "fast-K5"]
    assert checked_arms(["VAE", "regression"], regression=True) == ["VAE", "regression"]
    for names, why in (
        ([], "at least one"), (["fast", "VAE", "fast"], "once"), (["regression"], "no arm")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            checked_arms(names)
    assert by_name({"default": 1, "fast": 2}, "fast") == 2
    assert by_name({"default": 1, "fast": 2}, "VAE") == 1


# ---- what an arm is trained with


def test_an_arm_is_trained_with_the_settings_but_for_its_own() -> None:
    knobs = Knobs(**KNOBS, noisy=True, pool=99, explosion=7.0, decay="none", data_noise=0.25,
                  inference_step_size=0.31, start="uniform", start_std=0.7, first_beta=0.4,
                  generator_steps=6, inference_steps=8, decay_every=5.0)  # fmt: skip
    plain = teaching_of("short-run", knobs)
    assert plain.teacher == "short-run"
    for key, value in knobs.model_dump().items():
        assert getattr(plain, key) == value, key
    for option, (key, value) in OPTIONS.items():
        own = teaching_of(f"original{option}", knobs)
        assert getattr(own, key) == value
        others = [k for k in knobs.model_dump() if k != key]
        assert all(getattr(own, k) == getattr(knobs, k) for k in others)
    assert teaching_of("regression", knobs).teacher == "VAE"


# ---- profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_its_cells_can_be_named(profile: str) -> None:
    own = config.resolve("mcmc_teaching", profile)
    seeds = list(range(own.n_seeds))
    run = SimpleNamespace(
        settings=own, seeds=seeds, directory=Path("x"), device="cpu", deadline=None
    )
    found = [*plane.cells_of(run), *images.digits_of(run), *images.images_of(run)]
    assert len({c.name for c in found}) == len(found) > 0
    assert all(c.work > 0 for c in found)
    known = ["digits", *({"mnist14": "mnist"}.get(d, d) for d in own.images.datasets)]
    assert own.datasets() == sorted(set(known))
    for group in (own.plane, own.digits, *own.images.models.values()):
        assert group.looks <= group.iterations
    for group in (own.digits, *own.images.models.values()):
        conditional = any(task != "none" for task in getattr(group, "tasks", ["none"]))
        assert not conditional or group.chains == group.batch
    if own.exact.learning_names is not None:
        assert set(own.exact.learning_names) <= set(LEARNED)
    assert set(own.digits.once) <= {a for arms in own.digits.arms.values() for a in arms}


def test_there_are_three_profiles() -> None:
    assert PROFILES == ["quick", "laptop", "paper"]


@pytest.mark.parametrize(
    ("datasets", "known"),
    [
        ([], ["digits"]),
        (["mnist14"], ["digits", "mnist"]),
        (["mnist", "mnist14", "cifar10"], ["cifar10", "digits", "mnist"]),
        (["fashion_mnist"], ["digits", "fashion_mnist"]),
        (["pairs"], ["digits"]),
    ],
)
def test_the_data_sets_that_a_run_reads(datasets: list[str], known: list[str]) -> None:
    models = {d: MODEL | ({"folder": "x"} if d == "pairs" else {}) for d in datasets}
    overrides = {"images.datasets": datasets, "images.models": models}
    assert config.resolve("mcmc_teaching", "quick", overrides).datasets() == known


# ---- what is refused

BAD: list[tuple[dict[str, Any], str]] = [
    ({"plane.stepsize": 1.0}, r"'plane\.stepsize' is unknown; did you mean 'plane\.step_size'"),
    ({"digit.width": 3}, r"'digit\.width' is unknown; did you mean 'digits\.width'"),
    ({"plane.chains": 0}, r"plane\.chains = 0: .*equal to 1"),
    ({"digits.chains": 0}, r"digits\.chains = 0"),
    ({"plane.steps": 2.5}, r"plane\.steps = 2\.5"),
    ({"plane.steps": "20"}, r"plane\.steps = '20'"),
    ({"plane.noisy": 1}, r"plane\.noisy = 1"),
    ({"plane.samples": 99}, r"plane\.samples = 99"),
    ({"plane.sigma": 0.0}, r"plane\.sigma = 0"),
    ({"plane.sigma": float("inf")}, r"plane\.sigma"),
    ({"plane.first_beta": 1.0}, r"plane\.first_beta = 1"),
    ({"digits.data_noise": -0.1}, r"digits\.data_noise = -0\.1"),
    ({"plane.decay": "cosine"}, r"plane\.decay = 'cosine'"),
    ({"plane.step_size": 0.4}, r"plane: step_size=0\.4 \(variational\): .*eight_gaussians"),
    ({"plane.arms.default": ["fast", "fast-d0.4"]}, r"step_size=0\.4 \(fast-d0\.4\)"),
    (
        {"plane.arms": {"default": ["fast"], "eight_gaussians": ["fast-d0.5-K2"]}},
        r"step_size=0\.5 \(fast-d0\.5-K2\): past the bound of stability .*step_size < 0\.4",
    ),
    ({"plane.reference": 0.075}, r"plane: step_size=0\.15, reference=0\.075.*< 2 reference"),
    ({"digits.step_size": 2.0}, r"digits: step_size=2\.0, reference=1\.0"),
    ({"plane.densities": []}, r"plane\.densities = \[\]: at least one"),
    ({"plane.densities": ["pinwheel", "pinwheel"]}, r"plane\.densities.*once"),
    ({"plane.densities": ["ring"]}, r"plane\.densities\.0 = 'ring'"),
    ({"plane.arms.default": ["fats"]}, r"plane\.arms: 'fats' is no arm: variational, fast"),
    ({"plane.arms.default": []}, r"plane\.arms: at least one"),
    ({"plane.arms.default": ["fast", "fast"]}, r"plane\.arms: each may stand there once"),
    ({"plane.arms.pinwhel": ["fast"]}, r"'pinwhel' is unknown; did you mean 'pinwheel'"),
    ({"plane.arms": {"pinwheel": ["fast"]}}, r"plane\.arms: .*needs the key 'default'"),
    ({"plane.arms.default": ["regression"]}, r"plane\.arms: 'regression' is no arm"),
    ({"digits.arms.default": ["regression"]}, r"digits\.arms: 'regression' is no arm"),
    ({"digits.arms.none": ["regression"]}, r"digits\.arms: 'regression' is no arm"),
    ({"digits.arms.label": ["regression"]}, r"digits\.arms: 'regression' is no arm"),
    ({"digits.arms.halves": ["fast"]}, r"'halves' is unknown; did you mean 'half'"),
    ({"digits.tasks": ["half", "half"]}, r"digits\.tasks.*once"),
    ({"digits.tasks": ["third"]}, r"digits\.tasks\.0 = 'third'"),
    ({"digits.once": ["fats"]}, r"digits\.once.*'fats' is no arm"),
    ({"digits.once": ["fast", "fast"]}, r"digits\.once.*once"),
    ({"images.datasets": ["mnist"]}, r"'mnist' has no settings in images\.models"),
    ({"images.datasets": ["svhn"]}, r"images\.datasets\.0 = 'svhn'"),
    (
        {"images.datasets": ["pairs"], "images.models": {"pairs": MODEL}},
        r"images\.models\.pairs\.folder: the folder of the images is needed",
    ),
    (
        {"images.datasets": ["pairs"],
         "images.models": {"pairs": MODEL | {"folder": "x", "task": "label"}}},
        r"images\.models\.pairs\.task='label'",
    ),
    (
        {"images.datasets": ["pairs"],
         "images.models": {"pairs": MODEL | {"folder": "x", "chains": 5}}},
        r"chains=5, batch=12",
    ),
    (
        {"images.datasets": ["pairs"],
         "images.models": {"pairs": MODEL | {"folder": "x", "arms": ["persistent"]}}},
        r"persist",
    ),
    ({"images.models": {"mnits": MODEL}}, r"images\.models\.mnits.*did you mean 'mnist'"),
    ({"images.models": {"mnist": MODEL | {"arms": ["regression"]}}}, r"'regression' is no arm"),
    ({"images.models": {"mnist": MODEL | {"task": "third"}}}, r"images\.models\.mnist\.task"),
    ({"images.models": {"mnist": MODEL | {"depth": 3}}}, r"images\.models\.mnist\.depth"),
    ({"images.models": {"mnist": MODEL | {"reference": 0.0005}}}, r"reference=0\.0005"),
    ({"exact.draws": 10}, r"exact\.draws = 10"),
    ({"n_seeds": 0}, r"n_seeds = 0"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "why"), BAD, ids=lambda v: str(v)[:50])
def test_bad_settings_are_refused_by_their_name(overrides: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        config.resolve("mcmc_teaching", "quick", overrides)


def test_what_decides_a_training_must_be_said() -> None:
    """No default stands in for these."""
    for name in KNOBS:
        with pytest.raises(ValidationError, match=name):
            Knobs(**{k: v for k, v in KNOBS.items() if k != name})


def test_the_largest_settings_below_the_bounds_are_taken() -> None:
    own = config.resolve(
        "mcmc_teaching",
        "quick",
        {
            "plane.step_size": 0.399,
            "plane.arms": {"default": ["fast-d0.399"], "pinwheel": ["fast-d0.5"]},
            "digits.arms.half": ["regression"],
            "digits.arms.occluded": ["VAE", "regression"],
            "digits.step_size": 1.999,
            "plane.reference": None,
        },
    )
    assert own.plane.step_size == 0.399
    assert own.plane.reference is None
    free = config.resolve(
        "mcmc_teaching", "quick", {"plane.step_size": 0.5, "plane.densities": ["pinwheel"]}
    )
    assert free.plane.step_size == 0.5  # eight Gaussians are not run


def test_groups_are_frozen_and_know_no_other_key() -> None:
    for group in (Knobs, Plane, Digits, ImageModel):
        assert group.model_config["frozen"]
        assert group.model_config["extra"] == "forbid"


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"plane.arms.default": ["fast-K0"]}, "fast-K0"),
    ({"plane.arms.default": ["fast-v0"]}, "fast-v0"),
    ({"plane.arms.default": ["original-L0"]}, "original-L0"),
    ({"digits.arms.default": ["variational-s0"]}, "variational-s0"),
    ({"digits.arms.default": ["variational-e0"]}, "variational-e0"),
    ({"digits.arms.default": ["variational-d2"]}, "variational-d2"),  # 2 reference
    ({"images.models": {"mnist": MODEL | {"arms": ["fast-d4"]}}}, "fast-d4"),
    ({"digits.arms.default": ["persistent"], "digits.pool": 3}, "pool"),
    ({"digits.arms.label": ["persistent"], "digits.tasks": ["label"]}, "persistent"),
    ({"digits.batch": 64, "digits.tasks": ["label"]}, "chains"),
    ({"exact.learning_names": ["variatonal"]}, "variatonal"),
    ({"digits.arms.default": ["fast-s0.3"]}, "no effect on fast teaching"),
    ({"plane.arms.default": ["persistent"], "plane.pool": 300}, "pool=300"),
    ({"images.models": {"mnist": MODEL | {"arms": ["persistent"], "task": "half"}}}, "persist"),
]


@pytest.mark.parametrize(("overrides", "why"), IMPOSSIBLE, ids=lambda v: str(v)[:50])
def test_what_cannot_be_trained_is_refused_with_the_settings(
    overrides: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        config.resolve("mcmc_teaching", "quick", overrides)


def test_one_setting_of_an_image_model_is_changed_and_its_neighbours_stay() -> None:
    plain = config.resolve("mcmc_teaching", "paper").images.models
    own = config.resolve(
        "mcmc_teaching",
        "paper",
        {"images.models.mnist.task": "half", "images.models.mnist.iterations": 7},
    ).images.models
    assert own["mnist"] == plain["mnist"].model_copy(update={"task": "half", "iterations": 7})
    assert own["cifar10"] == plain["cifar10"]
    for key, why in (
        ("images.models.mnits.task", r"'images\.models\.mnits' is unknown; did you mean"),
        ("images.models.mnist.taks", r"did you mean 'images\.models\.mnist\.task'"),
    ):
        with pytest.raises(UsageError, match=why):
            config.resolve("mcmc_teaching", "paper", {key: "half"})
