"""MCMC teaching of images: cells of every task, the released networks, regression, the price."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from lmcnb.errors import Paused, UsageError
from lmcnb.experiments import mcmc_teaching_evaluation as measure
from lmcnb.experiments import mcmc_teaching_image_figures as pictures
from lmcnb.experiments import mcmc_teaching_images as images
from lmcnb.experiments import mcmc_teaching_record as record
from lmcnb.experiments import mcmc_teaching_sets as sets
from lmcnb.experiments import mcmc_teaching_tasks as tasks
from lmcnb.experiments.mcmc_teaching_cells import TeachingCell
from lmcnb.lab.files import load_checkpoint, read_json
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.coop_networks import ConvEnergy
from lmcnb.models.energy import EnergyMLP

sys.path.append(str(Path(__file__).parent))
from small_classifiers import forget, small_measures
from small_teaching import IMAGES, FakeRun, same, without_time

Result = dict[str, Any]
TASKS = ["none", "label", "half", "occluded"]
ARMS = {
    "default": ["variational", "VAE"],
    "none": ["variational", "fast", "short-run", "persistent", "VAE"],
    "half": ["variational"],
}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_measures() as patch:
        patch.setattr(images, "WATCHED", 30)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRun, dict[Any, Result]]:
    """A run of all tasks, and its results by task, arm and seed."""
    run = FakeRun(
        tmp_path_factory.mktemp("run"),
        digits__tasks=TASKS,
        digits__arms=ARMS,
        digits__once=["fast", "short-run", "persistent"],
    )
    found = images.study(images.digits_of(run), 1, "digits")
    return run, {(r["data"], r["arm"], r["seed"]): r for r in found}


def one(
    directory: Path, task: str, arm: str, deadline: float | None = None, **changed: Any
) -> TeachingCell:
    """The cell of a task, an arm and seed 3."""
    own = {"digits__tasks": [task], "digits__arms": {"default": ["VAE"], task: [arm]}}
    return images.digits_of(FakeRun(directory, deadline, **own, **changed))[0]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that are made from now on."""
    made: list[Trainer] = []

    def kept(*args: Any) -> Trainer:
        made.append(Trainer(*args))
        return made[-1]

    monkeypatch.setattr(images, "Trainer", kept)
    return made


# ---- cells


def test_cells_come_in_the_order_of_the_settings(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    """Some arms with the first seed alone."""
    run, results = finished
    known = [(*key, seed) for key in (("none", "variational"),) for seed in (3, 4)]
    known += [("none", arm, 3) for arm in ("fast", "short-run", "persistent")]
    known += [("none", "VAE", 3), ("none", "VAE", 4)]
    for task, arms in (
        ("label", ARMS["default"]), ("half", ARMS["half"]), ("occluded", ARMS["default"])
    ):  # fmt: skip
        known += [(task, arm, seed) for arm in arms for seed in (3, 4)]
    assert list(results) == known
    other = {"default": ["VAE"], "half": ["VAE", "regression"]}
    more = images.digits_of(FakeRun(digits__tasks=["half", "label"], digits__arms=other))
    assert [(c.data, c.arm) for c in more[::2]] == [
        ("half", "VAE"), ("half", "regression"), ("label", "VAE")
    ]  # fmt: skip
    assert [(c.data, c.arm, c.seed) for c in images.digits_of(run)] == known
    cell = images.digits_of(run)[2]
    assert (cell.group, cell.title) == ("digits", "digits/none/fast")
    assert (cell.teaching.teacher, cell.teaching.data_noise, cell.teaching.start) == (
        "fast", 0.1, "uniform"
    )  # fmt: skip


def test_other_sets_have_settings_of_their_own(tmp_path: Path) -> None:
    models = {
        "mnist14": IMAGES | {"arms": ["fast-K2", "VAE"], "sigma": 0.5},
        "mnist": IMAGES,
        "cifar10": IMAGES | {"batch": 7, "chains": 9},
    }
    run = FakeRun(tmp_path, images={"datasets": ["cifar10", "mnist14"], "models": models})
    found = images.images_of(run)
    assert [c.name for c in found] == [
        f"images-{name}-{seed}"
        for name in ("cifar10-variational", "mnist14-fast-K2", "mnist14-VAE")
        for seed in (3, 4)
    ]
    assert (found[0].teaching.batch, found[0].teaching.chains) == (7, 9)
    assert (found[2].teaching.sigma, found[2].teaching.steps) == (0.5, 2)
    assert found[2].settings is run.settings.images.models["mnist14"]
    assert found[0].title == "images/cifar10/variational"


def test_with_a_gpu_one_cell_is_trained_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.setattr(
        images, "map_cells", lambda f, c, *, workers, work, desc: asked.append((workers, desc))
    )
    found = images.digits_of(FakeRun(tmp_path))
    images.study(found, 5, "a")
    images.study([replace(c, device="cuda:0") for c in found], 5, "b")
    assert asked == [(5, "a"), (1, "b")]


# ---- pairing


def test_arms_of_a_seed_begin_with_the_same_networks(tmp_path: Path) -> None:
    def drawn(arm: str, task: str = "none", seed: int = 3) -> Any:
        cell = replace(one(tmp_path, task, arm), seed=seed)
        return images.networks(cell, images.arranged(cell)[0])

    own, other, next_seed = drawn("variational"), drawn("VAE"), drawn("variational", seed=4)
    for a, b, c in zip(own, other, next_seed, strict=True):
        assert same(a.state_dict(), b.state_dict())
        assert not same(a.state_dict(), c.state_dict())
    assert own.decoder.bounded
    assert own.decoder.latent == 3
    assert isinstance(own.energy, EnergyMLP)
    for task, condition, dim in (("none", 0, 64), ("label", 10, 64), ("half", 32, 32),
                                 ("occluded", 128, 64)):  # fmt: skip
        made = drawn("fast", task)
        assert (made.energy.dim, made.energy.condition) == (dim, condition)
        assert made.encoder.condition == made.decoder.condition == condition
        assert made.decoder.net.layers[-1].out_features == dim


def test_arms_of_a_seed_see_the_same_images_and_blocks(tmp_path: Path) -> None:
    a, b = (images.arranged(one(tmp_path, "occluded", arm)) for arm in ("variational", "VAE"))
    other = images.arranged(replace(one(tmp_path, "occluded", "VAE"), seed=4))
    for split in (0, 1):
        for first, second in zip(a[split][:3], b[split][:3], strict=True):
            assert first is not None and second is not None
            assert torch.equal(first, second)
        own, next_seed = a[split].hidden, other[split].hidden
        assert own is not None and next_seed is not None
        assert not torch.equal(own, next_seed)
        assert len(own.unique(dim=0)) == 25
    cells = [one(tmp_path, "label", arm) for arm in ("fast", "VAE")]
    drawn = [
        images.on_device(c, images.arranged(c)[0])(20, c.streams().data) for c in cells
    ]  # fmt: skip
    assert torch.equal(drawn[0].x, drawn[1].x)
    assert torch.equal(drawn[0].c, drawn[1].c)
    own_images = images.arranged(cells[0])[0]
    assert own_images.c is not None
    rows = torch.cdist(drawn[0].x, own_images.x).argmin(1)
    assert torch.equal(own_images.x[rows], drawn[0].x)
    assert torch.equal(own_images.c[rows], drawn[0].c)  # each with its own condition


def test_only_the_first_training_images_are_taken(tmp_path: Path) -> None:
    whole, _ = images.arranged(one(tmp_path, "label", "VAE"))
    own, test = images.arranged(one(tmp_path, "label", "VAE", digits__train_images=40))
    assert whole.c is not None and own.c is not None and test.c is not None
    assert len(whole.x) == 1500 and len(test.x) == len(test.c) == 297
    assert torch.equal(own.x, whole.x[:40]) and torch.equal(own.c, whole.c[:40])


@pytest.mark.parametrize("arm", ["variational", "persistent"])
def test_looks_leave_the_training_alone(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for name, looks in (("every", 12), ("some", 2), ("none", 1)):
        with monkeypatch.context() as patch:
            if name == "none":
                patch.setattr(images, "Trainer", lambda *a: Trainer(*a[:4]))
            cell = one(tmp_path / name, "none", arm, digits__looks=looks)
            result = images.train_cell(cell)
        curve = result.pop("curve")
        assert [p["iteration"] for p in curve] == {
            "every": list(range(13)), "some": [0, 6, 12], "none": []
        }[name]  # fmt: skip
        ends.append((without_time(result), load_checkpoint(cell.weights)))
    for result, weights in ends[1:]:
        assert result == ends[0][0]
        assert same(weights, ends[0][1])


# ---- results


def test_what_results_of_every_task_hold(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    _, results = finished
    for (task, arm, seed), r in results.items():
        assert (r["group"], r["data"], r["arm"], r["seed"]) == ("digits", task, arm, seed)
        assert (r["title"], r["diverged_at"]) == (f"digits/{task}/{arm}", None)
        energy = arm != "VAE"
        generator = arm in ("variational", "fast", "VAE")
        assert (r["iterations"], r["steps"]) == (12, 2)
        assert r["energy_gradients"] == energy * 12 * 16 * 2
        assert r["generator_updates"] == generator * 12
        restores = task in ("half", "occluded")
        assert ("frechet" in r, "classes" in r, "psnr" in r, "completed" in r) == (
            not restores, not restores, restores, restores
        )  # fmt: skip
        free = task == "none"
        assert ("by_steps" in r) == (free and energy)
        assert ("mse" in r) == (free and arm in ("variational", "VAE"))
        assert ("jump" in r) == (free and generator)
        kinds = {"VAE": ["initial"], "persistent": ["revised"]}.get(arm, ["initial", "revised"])
        if not restores:
            limits = ["floor", "ceiling", "accuracy"]
            assert list(r["frechet"]) == [*kinds, *limits]
            assert list(r["pictures"]) == kinds
            assert {k: r["frechet"][k] for k in limits} == measure.limits("digits", 100, 1)
            assert all(len(v) == 1 for v in r["frechet"].values())
            assert r["n"] == 100
            assert ("accuracy" in r["classes"]) == (task == "label")
            point = {f"fcd/{k}" for k in kinds}
        else:
            assert list(r["psnr"]) == [f"{k}/{w}" for k in kinds for w in ("one", "mean")]
            assert {p["n"] for p in r["psnr"].values()} == {297}
            assert {len(x) for x in r["completed"].values()} == {10}
            assert {len(x[0]) for x in r["completed"].values()} == {64}
            point = set()
        if free and arm in ("variational", "VAE"):
            point |= {"mse"}
        assert [p["iteration"] for p in r["curve"]] == [0, 6, 12]
        assert all(set(p) == {"iteration", "seconds", *point} for p in r["curve"])


def test_a_result_s_numbers_are_of_the_trained_model(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    """Measured again by a trainer with the weights that were kept."""
    run, results = finished
    for task in reversed(TASKS):
        title = f"digits/{task}/variational"
        (cell,) = [c for c in images.digits_of(run) if (c.title, c.seed) == (title, 3)]
        r = results[task, "variational", 3]
        own, test = images.arranged(cell)
        trainer = Trainer(
            cell.teaching, images.networks(cell, own), images.on_device(cell, own), cell.streams()
        )
        state = load_checkpoint(cell.weights)
        assert state is not None
        for name in ("energy", "encoder", "decoder"):
            head = f"{name}."
            of = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
            getattr(trainer, name).load_state_dict(of)
        found = measure.evaluate(cell, trainer, test, "digits", [2, 4, 20, 30])
        for key, value in json.loads(json.dumps(found)).items():
            assert r[key] == value, key
    with torch.no_grad():  # of the last, without a condition
        decoded = trainer.decoder(trainer.encoder(test.x)[0])  # type: ignore[misc]
    error = (decoded.clamp(-1, 1) - test.x).square().mean()
    assert r["mse"]["decoded"]["value"] == pytest.approx(float(error), rel=1e-5)
    assert [p["steps"] for p in r["by_steps"]] == [0, 2, 4, 20, 30]
    assert len(r["reconstructed"]["test"]) == 10
    few = (decoded.clamp(-1, 1) - test.x)[:30].square().mean()
    assert r["curve"][-1]["mse"] == pytest.approx(float(few), rel=1e-4)


def test_cells_are_kept_and_not_trained_again(
    finished: tuple[FakeRun, dict[Any, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = finished
    monkeypatch.setattr(images, "train", lambda *a: pytest.fail("trained again"))
    for cell in images.digits_of(run):
        known = results[cell.data, cell.arm, cell.seed]
        assert images.train_cell(cell) == read_json(cell.result) == json.loads(json.dumps(known))
    assert not list(run.directory.glob("checkpoints/*"))


def test_a_paused_cell_goes_on_to_the_same_bits(
    finished: tuple[FakeRun, dict[Any, Result]], tmp_path: Path
) -> None:
    run, results = finished
    for task, arm in (("none", "persistent"), ("occluded", "variational")):
        for done in (5, 10):
            with pytest.raises(Paused, match=f"iteration {done} of 12"):
                images.train_cell(one(tmp_path, task, arm, 0.0))
        resumed = images.train_cell(one(tmp_path, task, arm, 0.0))
        assert without_time(resumed) == without_time(results[task, arm, 3])
        known = next(c for c in images.digits_of(run) if c.title == f"digits/{task}/{arm}")
        a, b = (load_checkpoint(c.weights) for c in (one(tmp_path, task, arm), known))
        assert same(a, b)


def test_a_diverged_cell_would_have_had_the_metrics_of_a_finished_one(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    """Of every task and teacher, but those by the number of steps."""
    _, results = finished
    for r in results.values():
        own = {name for name, _ in record.entries(r) if not name.startswith("steps=")}
        assert set(record.expected(r)) == own - {"seconds"}, r["title"]


def test_a_diverged_cell_has_no_measures(tmp_path: Path) -> None:
    r = images.train_cell(one(tmp_path, "half", "variational-e1000"))
    assert r["diverged_at"] == 2
    assert r["iterations"] == 5
    assert not {"psnr", "completed", "frechet"} & set(r)


def test_training_learns_something(tmp_path: Path) -> None:
    """A VAE of digits comes closer to them, and its test error falls."""
    cell = one(tmp_path, "none", "VAE", digits__iterations=150, digits__width=32)
    curve = images.train_cell(cell)["curve"]
    assert curve[-1]["mse"] < 0.8 * curve[0]["mse"]
    assert curve[-1]["fcd/initial"] < 0.8 * curve[0]["fcd/initial"]


# ---- the regression


def test_the_regression_beats_the_mean_of_the_training_images(tmp_path: Path) -> None:
    cell = one(tmp_path, "half", "regression", digits__width=32, digits__train_images=500)
    r = images.train_cell(cell)
    own, test = images.arranged(cell)
    assert test.hidden is not None
    mean, _ = tasks.psnr(own.x.mean(0).expand_as(test.x), test.x, test.hidden)
    assert r["psnr"]["initial/mean"]["value"] > mean + 1
    assert list(r["psnr"]) == ["initial/mean"]
    assert r["psnr"]["initial/mean"]["n"] == 297
    assert (r["group"], r["data"], r["arm"], r["title"], r["seed"], r["diverged_at"]) == (
        "digits", "half", "regression", "digits/half/regression", 3, None
    )  # fmt: skip
    assert 1 < r["iterations"] <= 300
    assert read_json(cell.result) == json.loads(json.dumps(r))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "regression", lambda *a: pytest.fail("fitted again"))
        assert images.train_cell(cell) == r
    again = images.train_cell(replace(cell, directory=tmp_path / "again"))
    assert again == r
    other = images.train_cell(replace(cell, directory=tmp_path / "other", seed=4))
    assert other["psnr"] != r["psnr"]


def test_the_regression_sees_the_condition_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is fitted to and asked for; its answers are clipped."""
    given: list[Any] = []

    class Fake:
        n_iter_ = 7

        def __init__(self, *, hidden_layer_sizes: Any, random_state: int, **more: Any) -> None:
            given.append((list(hidden_layer_sizes), random_state))

        def fit(self, c: Any, x: Any) -> None:
            given.extend([c, x])

        def predict(self, c: Any) -> Any:
            given.append(c)
            return np.full((len(c), 32), 3.0)

    monkeypatch.setattr(images, "MLPRegressor", Fake)
    cell = one(tmp_path, "half", "regression")
    r = images.train_cell(cell)
    own, test = images.arranged(cell)
    assert given[0] == ([8, 8], 3)
    for found, known in zip(given[1:], (own.c, own.x, test.c), strict=True):
        assert known is not None
        assert torch.equal(torch.from_numpy(found).float(), known)
    assert test.hidden is not None
    known_psnr, _ = tasks.psnr(torch.ones_like(test.x), test.x, test.hidden)
    assert r["psnr"]["initial/mean"]["value"] == pytest.approx(known_psnr)
    assert r["iterations"] == 7
    assert {v for x in r["completed"]["completed"] for v in x[32:]} == {255}


# ---- the released networks


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """60 training and 20 test images: a bright square in a place of its class."""

    def load(name: str, split: str) -> dict[str, np.ndarray]:
        assert name in ("mnist", "fashion_mnist")
        n = {"train": 60, "test": 20}[split]
        rng = np.random.default_rng(n)
        made, labels = rng.integers(0, 60, (n, 28, 28)), np.arange(n) % 10
        for image, label in zip(made, labels, strict=True):
            image[2 * label : 2 * label + 8, 4:20] += 180
        return {"images": made.astype(np.uint8), "labels": labels}

    forget()
    monkeypatch.setattr(sets, "load", load)
    yield
    forget()


def conv(directory: Path, dataset: str, **changed: Any) -> list[TeachingCell]:
    own = IMAGES | changed
    return images.images_of(
        FakeRun(directory, images={"datasets": [dataset], "models": {dataset: own}})
    )


@pytest.mark.usefixtures("tiny_mnist")
def test_the_released_networks_go_through_a_cell(tmp_path: Path) -> None:
    arms = ["variational", "short-run", "VAE"]
    cells = conv(tmp_path, "mnist14", arms=arms)[::2]
    results = dict(zip(arms, images.study(cells, 1, "images"), strict=True))
    for arm, r in results.items():
        assert (r["title"], r["diverged_at"]) == (f"images/mnist14/{arm}", None)
        assert (r["iterations"], r["n"], r["steps"]) == (2, 100, 1)
        assert {len(x[0]) for x in r["pictures"].values()} == {196}
        assert ("mse" in r, "by_steps" in r) == (arm != "short-run", arm != "VAE")
    assert [p["steps"] for p in results["variational"]["by_steps"]] == [0, 1, 2, 3, 10]
    assert results["variational"]["mse"]["decoded"]["n"] == 20
    state = load_checkpoint(cells[0].weights)
    assert state is not None
    assert {k.split(".")[0] for k in state} == {"energy", "encoder", "decoder"}
    begun = images.networks(cells[0], images.arranged(cells[0])[0])
    assert not same(
        {k.removeprefix("energy."): v for k, v in state.items() if k.startswith("energy.")},
        begun.energy.state_dict(),  # type: ignore[union-attr]
    )


@pytest.mark.usefixtures("tiny_mnist")
@pytest.mark.parametrize(("task", "condition"), [("label", (10,)), ("half", (2, 14, 14)),
                                                 ("occluded", (2, 14, 14))])  # fmt: skip
def test_their_conditions(task: str, condition: tuple[int, ...], tmp_path: Path) -> None:
    cell = conv(tmp_path, "mnist14", task=task, iterations=1)[0]
    own, test = images.arranged(cell)
    made = images.networks(cell, own)
    assert isinstance(made.energy, ConvEnergy)
    assert made.energy.features.condition == condition
    assert own.x.shape == (60, 196)  # the whole image in the task half, too
    r = images.train_cell(cell)
    assert ("psnr" in r, "accuracy" in r.get("classes", {})) == (task != "label", task == "label")
    if task == "half":
        assert test.hidden is not None
        assert bool((test.hidden[:, :98] == 0).all()) and bool((test.hidden[:, 98:] == 1).all())


@pytest.mark.usefixtures("tiny_mnist")
def test_which_networks_a_set_has(tmp_path: Path) -> None:
    def drawn(dataset: str, **changed: Any) -> Any:
        cell = conv(tmp_path, dataset, **changed)[0]
        return images.networks(cell, images.arranged(cell)[0])

    for dataset, energy in (("fashion_mnist", 1_625_188), ("mnist", 1_625_188)):
        made = drawn(dataset)
        assert sum(p.numel() for p in made.energy.parameters()) == energy
        assert made.decoder.latent == 5
    wide = drawn("mnist14", conv_std=0.5).energy.last.weight
    assert float(wide.detach().std()) == pytest.approx(0.5, rel=0.1)
    again = drawn("mnist14", arms=["VAE"])
    for a, b in zip(drawn("mnist14"), again, strict=True):
        assert same(a.state_dict(), b.state_dict())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """22 pairs of random images."""
    rng = np.random.default_rng(0)
    where = tmp_path / "pairs"
    where.mkdir()
    for i in range(22):
        Image.fromarray(rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)).save(where / f"{i:02}.png")
    return where


def test_paired_images_from_the_folder_to_the_psnr(folder: Path, tmp_path: Path) -> None:
    (cell, _) = conv(tmp_path, "pairs", folder=str(folder), iterations=1, chains=2, batch=2)
    own, test = images.arranged(cell)
    assert own.x.shape == (20, 3072) and test.x.shape == (2, 3072)
    made = images.networks(cell, own)
    assert made.energy.features.condition == (3, 32, 32)  # type: ignore[union-attr]
    r = images.train_cell(cell)
    assert (r["title"], r["diverged_at"]) == ("images/pairs/variational", None)
    assert list(r["psnr"]) == ["initial/one", "initial/mean", "revised/one", "revised/mean"]
    assert {p["n"] for p in r["psnr"].values()} == {2}


def test_pictures_of_paired_images(folder: Path) -> None:
    test = sets.pairs(str(folder), 32)[1]
    assert test.c is not None
    found = measure.pictured(test, torch.zeros_like(test.x))
    assert found["test"] == measure.shown(test.x)
    assert found["seen"] == measure.shown(test.c)
    assert found["completed"] == measure.shown(torch.zeros_like(test.x))
    r = {"arm": "variational", "data": "pairs", "diverged_at": None, "completed": found}
    _, arrays = pictures.completed([r], "pairs", ["variational"])
    assert arrays["2 variational"].shape == (2, 3, 32, 32)


def test_interpolations_are_by_batches_of_chains(
    finished: tuple[FakeRun, dict[Any, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's batch normalization makes an image depend on its batch."""
    run, _ = finished
    cell = images.digits_of(run)[0]
    own, _ = images.arranged(cell)
    trainer = Trainer(
        cell.teaching, images.networks(cell, own), images.on_device(cell, own), cell.streams()
    )
    sizes: list[int] = []
    assert trainer.decoder is not None
    trainer.decoder.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    measure.interpolation(trainer)
    assert set(sizes) == {16}


# ---- the price


def test_the_price_is_consistent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 7 seconds of a made-up clock; the first is not counted."""
    clock = [100.0]
    steps: list[Trainer] = []

    def step(self: Trainer) -> None:
        clock[0] += 7 if steps else 1000
        steps.append(self)

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    cell = one(tmp_path, "label", "variational")
    found = images.price(cell, 5)
    assert len(steps) == 6
    assert found["cell"] == "digits/label/variational"
    assert found["seconds an iteration"] == pytest.approx(7)
    assert found["iterations an epoch"] == pytest.approx(1500 / 16)
    assert found["minutes an epoch"] == pytest.approx(7 * 1500 / 16 / 60)
    assert found["epochs"] == pytest.approx(12 * 16 / 1500)
    assert found["hours in all"] == pytest.approx(7 * 12 / 3600)
    assert not list(tmp_path.iterdir())


def test_the_price_of_a_real_step(tmp_path: Path) -> None:
    found = images.price(one(tmp_path, "none", "variational"))
    assert 0 < found["seconds an iteration"] < 5
    assert math.isfinite(found["hours in all"])


def test_the_price_of_a_training_of_few_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def step(self: Trainer) -> None:
        clock[0] += 7

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for iterations in (1, 3):
        cell = one(tmp_path, "none", "VAE", digits__iterations=iterations)
        assert images.price(cell, 5)["seconds an iteration"] == pytest.approx(7)


# ---- what cannot be


@pytest.mark.parametrize("task", ["label", "half"])
def test_persistent_chains_with_conditions_are_refused(task: str, tmp_path: Path) -> None:
    """A pool has no conditions: every iteration gives a chain another one."""
    with pytest.raises((UsageError, ValidationError), match=r"persist.*condition"):
        images.train_cell(one(tmp_path, task, "persistent"))


def test_the_noise_of_a_look_is_the_same_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a curve shows the training and not the noise."""
    starts: list[Tensor] = []
    own = measure.samples

    def kept(trainer: Trainer, n: int, c: Tensor | None = None) -> dict[str, Tensor]:
        made = own(trainer, n, c)
        if n == 30:
            starts.append(made["initial"])
        return made

    monkeypatch.setattr(measure, "samples", kept)
    images.train_cell(one(tmp_path, "none", "short-run"))
    assert len(starts) == 3
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
