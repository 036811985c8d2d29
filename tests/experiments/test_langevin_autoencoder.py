"""Image cells, the synthetic experiments, what they leave in the record, and their figures."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.experiments import langevin_autoencoder_checks as checks
from lmcnb.experiments import langevin_autoencoder_figures as figures
from lmcnb.experiments import langevin_autoencoder_images as images
from lmcnb.experiments import langevin_autoencoder_record as record
from lmcnb.experiments import langevin_autoencoder_report as report
from lmcnb.experiments import langevin_autoencoder_toys as toys
from lmcnb.experiments.langevin_autoencoder_cells import (
    Cell,
    cells_of,
    read_images,
    spaced,
    steps_of,
    training_of,
)
from lmcnb.lab import config
from lmcnb.lab.data import load
from lmcnb.lab.files import load_checkpoint
from lmcnb.lab.randomness import generator
from lmcnb.methods.langevin_autoencoder import latent
from lmcnb.methods.langevin_autoencoder_bounds import (
    importance_weighted,
    negative_elbo,
    refined,
)
from lmcnb.methods.langevin_autoencoder_fast import part
from lmcnb.methods.langevin_autoencoder_model import Model
from lmcnb.models.discretized_logistic import to_grid
from lmcnb.papers.langevin_autoencoder import Conjugate, Images, Neural, Settings, by_name

sys.path.append(str(Path(__file__).parent))
from entered import Entered

matplotlib.use("Agg")
SPLITS = ("train", "test")

IMAGES = {
    "datasets": ["digits"],
    "arms": ["VAE", "LAE", "LAE-frozen"],
    "epochs": {"default": 1},
    "width": 16,
    "latent": {"default": 3},
    "batch": 100,
    "learning_rate": 1e-3,
    "importance_samples": 4,
    "posterior_widths": [0.05, 0.2],
    "importance_images": {"default": 40},
    "refined_images": {"default": 6},
}


def settings(**changed: Any) -> Settings:
    return Settings.model_validate(
        {
            "n_seeds": 2,
            "exact": {"draws": 1000},
            "conjugate": {"widths": [2, 8], "display_moves": 30, "moves": 100},
            "neural": {"networks": 1, "display_moves": 30, "moves": 30, "vi_iterations": 5},
            "images": IMAGES | changed,
        }
    )


class FakeRun(Entered):
    """What the experiments need of a `lab.Run`."""

    def __init__(self, directory: Path, deadline: float | None = None, **changed: Any) -> None:
        super().__init__(
            settings=settings(**changed),
            seeds=[3, 4],
            directory=directory,
            device=torch.device("cpu"),
            deadline=deadline,
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRun, list[dict[str, Any]]]:
    run = FakeRun(tmp_path_factory.mktemp("run"))
    return run, images.train(cells_of(run), 1, "test")


def test_every_arm_s_name_means_what_it_says() -> None:
    base = settings().images
    seen = {
        arm: training_of(arm, "digits", base, 17)
        for arm in Images.model_fields["arms"].annotation.__args__[0].__args__  # type: ignore[union-attr]
    }
    assert {a: t.method for a, t in seen.items() if not a.startswith("LAE")} == {
        "VAE": "VAE",
        "VAE-flow": "VAE-flow",
        "Hoffman-2": "Hoffman",
        "Hoffman-10": "Hoffman",
        "VAE-long": "VAE",
        "VAE-float32": "VAE",
    }
    assert (seen["Hoffman-2"].refinements, seen["Hoffman-10"].refinements) == (2, 10)
    assert math.isclose(seen["VAE-long"].epochs, 2.24)
    moves = {a: (t.langevin.moves, t.langevin.adjusted) for a, t in seen.items()}
    assert moves["LAE"] == (2, True)
    assert moves["LAE-1"] == (1, True)
    assert moves["LAE-5-unadjusted"] == (5, False)
    assert moves["LAE-frozen"][0] == moves["LAE-gradient"][0] == 0
    assert seen["LAE-gradient"].langevin.gradient
    assert not seen["LAE-frozen"].langevin.gradient
    assert seen["LAE-healthy"].langevin.target_acceptance == 0.75
    changed = base.model_copy(update={"extra_step": False, "step_size": 0.5, "batch": 7})
    other = training_of("LAE", "digits", changed, 17)
    assert (other.langevin.total, other.langevin.step_size, other.batch) == (2, 0.5, 7)
    assert (other.levels, other.width, other.latent) == (17, 16, 3)
    assert training_of("LAE", "mnist", changed, 256).levels == 256
    half = base.model_copy(update={"products": "bfloat16"})
    assert training_of("LAE", "digits", half, 17).products == "bfloat16"
    assert training_of("LAE-float32", "digits", half, 17).products == "float32"


def test_cells_of_a_run() -> None:
    run = FakeRun(Path("x"), seeds={"default": 2, "VAE": 1}, latent={"default": 3, "digits": 5})
    found = cells_of(run)
    assert [c.name for c in found] == [
        "digits-VAE-3",
        "digits-LAE-3",
        "digits-LAE-4",
        "digits-LAE-frozen-3",
        "digits-LAE-frozen-4",
    ]
    assert all(c.training.latent == 5 and c.training.levels == 17 for c in found)
    run.device = torch.device("cuda")
    assert [c.name for c in cells_of(run)][1] == "digits-LAE-3_4"
    assert steps_of(found[0]) == 15


def test_a_cell_has_all_that_is_reported(finished: Any) -> None:
    run, results = finished
    assert [(r["arm"], r["seeds"][0]["seed"]) for r in results] == [
        (arm, seed) for arm in IMAGES["arms"] for seed in (3, 4)
    ]
    for r in results:
        own = r["seeds"][0]
        assert own["diverged_at"] is None
        assert r["iterations"] == 15
        assert own["nelbo"]["n"] == 297
        assert own["weighted"]["n"] == 40
        assert 0 < own["nelbo"]["se"] < 0.05
        assert [p["step"] for p in own["curve"]] == list(range(16))
        assert len(own["pictures"]) == 8
        assert json.loads(json.dumps(r)) == r
        if r["arm"].startswith("LAE"):
            assert set(own["by_width"]) == {"0.05", "0.2"}
            assert own["weighted_width"] in (0.05, 0.2)
            assert own["by_width"]["0.05"] == own["nelbo"]
            assert len(own["acceptance"]["mean"]) == 15
            assert all(0 < p["rank"] <= 16 for p in own["curve"])  # 100 points, 16 features
            assert own["curve"][0]["stability"] > 0
    assert not list((run.directory / "checkpoints").glob("*.pt"))


def test_seeds_are_paired_across_arms(finished: Any) -> None:
    """The same start and the same images: the controls share their first loss exactly."""
    _, results = finished
    first = {(r["arm"], r["seeds"][0]["seed"]): r["seeds"][0]["loss"]["mean"][0] for r in results}
    assert math.isclose(first["LAE", 3], first["LAE-frozen", 3], rel_tol=1e-2)
    assert first["LAE", 3] != first["LAE", 4]
    starts = {(r["arm"], r["seeds"][0]["seed"]): r["seeds"][0]["curve"][0] for r in results}
    assert starts["LAE", 3]["largest"] == starts["LAE-frozen", 3]["largest"]
    assert starts["LAE", 3]["nelbo"] == starts["LAE-frozen", 3]["nelbo"]
    assert starts["LAE", 3]["largest"] != starts["LAE", 4]["largest"]


def test_streams_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start and order are the seed's, for all arms; noise is the arm's, for all products."""
    found: dict[tuple[str, int], Any] = {}

    def keep(cell: Cell) -> None:
        def trainer(_t: Any, _images: Any, streams: Any, *_: Any) -> None:
            found[cell.arm, cell.seeds[0]] = [g.initial_seed() for g in streams[0]]
            raise StopIteration

        monkeypatch.setattr(images, "Trainer", trainer)
        with pytest.raises(StopIteration):
            images.train_cell(cell)

    for cell in cells_of(FakeRun(tmp_path, arms=["VAE", "LAE", "LAE-float32"])):
        keep(cell)
    for i, (name, across_arms) in enumerate((("start", 1), ("order", 1), ("noise", 2))):
        for seed in (3, 4):
            own = {arm: found[arm, seed][i] for arm in ("VAE", "LAE", "LAE-float32")}
            assert len(set(own.values())) == across_arms, name
            assert own["LAE"] == own["LAE-float32"]
        assert found["LAE", 3][i] != found["LAE", 4][i], name


def test_a_finished_cell_is_read_and_not_trained(finished: Any, monkeypatch: Any) -> None:
    run, results = finished
    monkeypatch.setattr(images, "Trainer", None)
    assert images.train(cells_of(run), 1, "again") == results


def test_seeds_in_one_program_are_those_of_single_ones(tmp_path: Path, finished: Any) -> None:
    """As on a GPU: a cell of two seeds, rows of one trainer."""
    run, results = finished
    for arm in ("VAE", "LAE"):
        alone = [c for c in cells_of(run) if c.arm == arm]
        both = replace(alone[0], seeds=(3, 4), directory=tmp_path)
        joined = images.train_cell(both)["seeds"]
        single = [r["seeds"][0] for r in results if r["arm"] == arm]
        for a, b in zip(joined, single, strict=True):
            assert a["seed"] == b["seed"]
            for name in ("nelbo", "weighted"):
                assert math.isclose(a[name]["value"], b[name]["value"], rel_tol=1e-4)
            ends = [s["curve"][-1]["nelbo"] for s in (a, b)]
            assert math.isclose(*ends, rel_tol=1e-4)
            off = np.abs(np.array(a["pictures"], float) - np.array(b["pictures"], float))
            assert off.max() <= 1  # a level, where rounding differs
        assert joined[0]["pictures"] != joined[1]["pictures"]
        assert math.isclose(joined[0]["seconds"], joined[1]["seconds"])


def test_a_limit_on_the_training_images_is_kept(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, arms=["VAE"], train_images={"default": 200}, epochs={"default": 2})
    assert images.train_cell(cells_of(run)[0])["iterations"] == 4
    train, test = read_images("digits", 200)
    assert (len(train), len(test)) == (200, 297)


def test_a_batch_that_no_images_fill_is_refused_by_name(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, batch=5000)
    with pytest.raises(UsageError, match="images.batch=5000: digits has 1500 training images"):
        images.train_cell(cells_of(run)[0])


def test_a_pause_keeps_the_state_and_the_end_is_the_same(tmp_path: Path) -> None:
    paused = FakeRun(tmp_path, deadline=0.0, epochs={"default": 7}, arms=["LAE"])
    with pytest.raises(Paused):
        images.train(cells_of(paused), 1, "paused")
    assert list((tmp_path / "checkpoints").glob("digits-LAE-*.pt"))
    again = FakeRun(tmp_path, epochs={"default": 7}, arms=["LAE"])
    whole = FakeRun(tmp_path / "whole", epochs={"default": 7}, arms=["LAE"])
    for a, b in zip(
        images.train(cells_of(again), 1, "a"),
        images.train(cells_of(whole), 1, "b"),
        strict=True,
    ):
        for key in ("nelbo", "weighted", "loss", "acceptance", "pictures"):
            assert a["seeds"][0][key] == b["seeds"][0][key]


def test_a_diverged_seed_is_recorded(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, learning_rate=1e9, arms=["VAE", "LAE"])
    results = images.train(cells_of(run), 1, "diverges")
    record.images(run, results)
    entry = run.metrics["nelbo/digits/VAE", 3]
    assert entry["diverged"]
    assert entry["value"] is None
    assert "diverged at step" in entry["note"]
    assert "2 of 2 seeds diverged" in str(report.images_table(results))
    for name in ("acceptance", "acceptance/dead_share", "stability", "gram/smallest", "equal_time"):
        kind, _, end = name.partition("/")
        metric = "/".join([kind, "digits/LAE", *([end] if end else [])])
        assert run.metrics[metric, 3]["diverged"], metric
    figures.learning_curves(results, ["VAE", "LAE"])


def test_images_enter_the_record(finished: Any) -> None:
    run, results = finished
    record.images(run, results)
    names = {name for name, _ in run.metrics}
    assert {
        "nelbo/digits/VAE",
        "nelbo/digits/LAE/width=0.2",
        "iw/digits/LAE/width=0.05",
        "acceptance/digits/LAE",
        "acceptance/digits/LAE/dead_share",
        "gram/digits/LAE/largest",
        "stability/digits/LAE",
        "cost/digits/LAE:VAE",
        "equal_time/digits/LAE",
        "roughness/digits/LAE-frozen",
    } <= names
    assert "acceptance/digits/LAE-frozen" not in names
    assert all(v["value"] is not None for v in run.metrics.values())
    assert run.counters["decoder calls"] == 15 * 100 * 2 * (1 + 4 + 1)
    rows = report.images_table(results)
    assert [row["model"] for row in rows] == ["VAE", "LAE, T = 2", "control: head frozen"]
    assert len(report.widths_table(results)) == 4


def test_a_chain_that_stands_still_is_told_with_the_eigenvalue(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, arms=["LAE", "LAE-frozen"], step_size=1e3, width=128)
    results = images.train(cells_of(run), 1, "dead")
    lines = record.chain_notes(run, results)
    assert len(lines) == 2
    assert run.notes == lines
    pattern = (
        r"digits, LAE, seed 3: from step 0 on nearly nothing is accepted: .* is [\de.+]+, above 2"
    )
    assert re.match(pattern, lines[0]), lines[0]
    record.images(run, results)
    assert run.metrics["acceptance/digits/LAE/dead_share", 3]["value"] == 1


def test_too_few_features_are_told(finished: Any) -> None:
    run, results = finished
    lines = record.chain_notes(run, results)
    assert any("have rank" in line and "theorem 1 does not" in line for line in lines)
    assert not any("frozen" in line for line in lines)


def test_what_is_evaluated_and_on_which_images(finished: Any) -> None:
    """Everything of one cell once more, from its stored parameters."""
    run, results = finished
    cell = next(c for c in cells_of(run) if c.name == "digits-LAE-3")
    own = next(r for r in results if r["arm"] == "LAE")["seeds"][0]
    p = load_checkpoint(cell.result.with_suffix(".pt"))
    model = Model(cell.training, 64)
    train, test = (torch.from_numpy(load("digits", s)["images"]).flatten(1) for s in SPLITS)
    assert (len(train), len(test)) == (1500, 297)

    def fresh(what: str) -> list[torch.Generator]:
        return [generator(3, f"digits/{what}")]

    for width in (0.05, 0.2):
        a, b = (negative_elbo(model, p, test, fresh(f"elbo/{i}"), width)[0] for i in (0, 1))
        found = own["by_width"][str(width)]
        assert math.isclose(found["value"], float((a + b).mean()) / 128, rel_tol=1e-9)
        known = float(((a - b) / 128).square().sum().sqrt()) / 297
        assert math.isclose(found["se"], known, rel_tol=1e-9)
        spread = float((a - b).std()) / 64 / math.sqrt(2) / math.sqrt(2) / math.sqrt(297)
        assert math.isclose(found["se"], spread, rel_tol=0.05)  # of the mean of two draws
    places = [round(i * 296 / 39) for i in range(40)]
    some = test[places]
    scores = {}
    for width in (0.05, 0.2):
        bound = importance_weighted(model, p, some, fresh("weighted"), 4, width)
        found = own["weighted_by_width"][str(width)]
        assert math.isclose(found["value"], float(bound.value.mean()) / 64, rel_tol=1e-9)
        known = float(bound.se.square().sum().sqrt()) / 64 / 40
        assert math.isclose(found["se"], known, rel_tol=1e-9)
        chooser = spaced(train, 10)
        scores[width] = float(
            importance_weighted(model, p, chooser, fresh("choose"), 4, width).value.mean()
        )
    assert own["weighted_width"] == min(scores, key=scores.__getitem__)
    seen = negative_elbo(model, p, test, fresh("monitor"), 0.05)  # all 297, they are fewer
    last = own["curve"][-1]
    assert math.isclose(last["nelbo"], float(seen.mean()) / 64, rel_tol=1e-5)
    x = to_grid(spaced(train, 100), 17)[None]
    with torch.no_grad():
        h = model.body.forward(part(p, "body"), x)[0].double()
    values = torch.linalg.eigvalsh(h @ h.T)
    assert math.isclose(last["largest"], float(values[-1]), rel_tol=1e-4)
    assert own["weighted"] == own["weighted_by_width"][str(own["weighted_width"])]


def test_the_width_of_the_weighted_bound_is_chosen_on_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training images (10 of them) call for the wide posterior, test images (40) for the narrow."""

    def bound(_m: Any, _p: Any, seen: torch.Tensor, *rest: Any) -> Any:
        value = rest[-1] if len(seen) == 40 else -rest[-1]
        values = torch.full((1, len(seen)), 64.0 * value)
        return SimpleNamespace(value=values, se=torch.zeros_like(values))

    monkeypatch.setattr(images, "importance_weighted", bound)
    run = FakeRun(tmp_path, arms=["LAE"], epochs={"default": 0.1})
    own = images.train_cell(cells_of(run)[0])["seeds"][0]
    assert own["weighted_width"] == 0.2
    assert math.isclose(own["weighted"]["value"], 0.2, rel_tol=1e-6)


def test_the_largest_curvature_is_an_eigenvalue_of_the_hessian(finished: Any) -> None:
    """Power iteration against the whole Hessian of V in Phi, and eta times it in the curve."""
    run, results = finished
    cell = next(c for c in cells_of(run) if c.name == "digits-LAE-3")
    p = {k: v.double() for k, v in load_checkpoint(cell.result.with_suffix(".pt")).items()}
    model = Model(cell.training, 64)
    train = torch.from_numpy(load("digits")["images"]).flatten(1)
    x = to_grid(spaced(train, 100), 17).double()
    with torch.no_grad():
        h = model.body.forward(part(p, "body"), x[None])

    def energy(phi: torch.Tensor) -> torch.Tensor:
        z = latent(phi, h[0])[None]
        return -(model.log_likelihood(p, x[None], z) - 0.5 * z.square().sum(-1)).sum()

    hessian = torch.autograd.functional.hessian(energy, p["phi"][0])
    known = float(torch.linalg.eigvalsh(hessian).abs().max())
    found = float(images.largest_curvature(model, p, x, h)[0])
    assert math.isclose(found, known, rel_tol=0.05)
    own = next(r for r in results if r["arm"] == "LAE")["seeds"][0]["curve"][-1]
    assert math.isclose(own["step_size"], 1e-4 / 100, rel_tol=1e-5)
    assert math.isclose(own["stability"], known * 1e-6, rel_tol=0.05)


def test_evenly_spaced_images_reach_from_the_first_to_the_last() -> None:
    x = torch.arange(10)[:, None]
    assert spaced(x, 4)[:, 0].tolist() == [0, 3, 6, 9]
    assert spaced(x, 20) is x


def test_costs_and_equal_times() -> None:
    """LAE takes twice as long a step, and after the VAE's time it is 0.05 better."""

    def result(arm: str, seconds: float, *bounds: float) -> dict[str, Any]:
        times = [seconds * i / (len(bounds) - 1) for i in range(len(bounds))]
        curve = [
            {"step": i, "seconds": t, "nelbo": v}
            for i, (t, v) in enumerate(zip(times, bounds, strict=True))
        ]
        own = {"seed": 3, "seconds": seconds, "curve": curve, "diverged_at": None}
        return {"dataset": "digits", "arm": arm, "iterations": 10, "seeds": [own]}

    run = FakeRun(Path("x"))
    results = [result("VAE", 5.0, 2.0, 1.4, 1.2), result("LAE", 10.0, 2.0, 1.15, 1.0)]
    record._costs(run, results)
    record._equal_time(run, results)
    assert run.metrics["cost/digits/LAE:VAE", 3]["value"] == 2.0
    assert run.metrics["equal_time/digits/VAE", 3]["value"] == 1.2
    assert math.isclose(run.metrics["equal_time/digits/LAE", 3]["value"], 1.15)


def test_refining_reads_the_parameters_and_is_done_once(finished: Any, monkeypatch: Any) -> None:
    run, results = finished
    cells = cells_of(run)
    found = images.refine(cells, 1, "refine")
    assert [(r["arm"], r["seeds"][0]["seed"]) for r in found] == [
        (r["arm"], r["seeds"][0]["seed"]) for r in results
    ]
    assert all(f["seeds"][0]["refined"]["n"] == 6 for f in found)
    cell, own = cells[2], found[2]["seeds"][0]["refined"]  # once more, from the parameters
    p = load_checkpoint(cell.result.with_suffix(".pt"))
    test = torch.from_numpy(load("digits", "test")["images"]).flatten(1)[
        [0, 59, 118, 178, 237, 296]
    ]
    stream = [generator(cell.seeds[0], "digits/refined")]
    bound = refined(Model(cell.training, 64), p, test, stream, 4)
    assert math.isclose(own["value"], float(bound.value.mean()) / 64, rel_tol=1e-6)
    for r, f in zip(results, found, strict=True):
        assert f["seeds"][0]["refined"]["value"] < r["seeds"][0]["nelbo"]["value"] + 0.1
    monkeypatch.setattr(images, "refined", None)
    assert images.refine(cells, 1, "again") == found
    record.refined(run, found)
    assert run.metrics["refined/digits/LAE", 3]["value"] is not None
    assert all("posteriors fitted (6 images)" in row for row in report.images_table(results, found))
    kept = cells[0].result.with_suffix(".pt")
    kept.rename(kept.with_suffix(".away"))
    cells[0].result.with_name(f"{cells[0].name}-refined.json").unlink()
    with pytest.raises(UserError, match="its parameters are not there"):
        images.refine(cells, 1, "lost")
    kept.with_suffix(".away").rename(kept)


def test_derived_numbers() -> None:
    def curve(*values: float) -> dict[str, Any]:
        return {"curve": [{"nelbo": v, "seconds": float(i)} for i, v in enumerate(values)]}

    assert record.roughness(curve(3, 2, 1, 1.5, 0.9)) == 0.5
    assert record.roughness(curve(3, 2, 1, 0.9, 0.8)) == 0
    early = curve(1, 9, 1, 1, 1, 1, 1, 1, 1.25, 1)  # a setback in the first fifth does not count
    assert record.roughness(early) == 0.25
    assert record.dead_share([0.9, 0.5, 0.0, 0.0]) == 0.5
    assert record.dead_share([0.0, 0.0]) == 1
    assert record.dead_share([0.0, 0.5]) == 0
    assert record.at_seconds(curve(3, 2, 1)["curve"], 1.5) == 1.5
    assert record.at_seconds(curve(3, 2, 1)["curve"], 9.0) == 1


def test_the_synthetic_experiments_and_their_figures(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    sweep = toys.conjugate(run.settings.conjugate, 3)
    record.conjugate(run, 3, sweep)
    assert run.metrics["conjugate/d=2/outside", 3]["value"] < 1e-10
    assert math.isclose(sum(sweep[0]["hat"]), 2, rel_tol=1e-6)
    network = toys.neural(run.settings.neural, 3)
    record.neural(run, 3, network)
    assert 0 <= run.metrics["neural/tv/VI-full/median", 3]["value"] <= 1
    assert 0 <= run.metrics["neural/share/VI-diagonal", 3]["value"] <= 1
    assert math.isclose(float(network[0]["truth"].sum()), 3, rel_tol=1e-9)
    kept = (network[0]["shares"]["ALD"] * 6 * 64).double()  # 30 moves, every fifth, 64 chains
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-6)
    assert min(network[0]["gap"]["VI, full"]) > 0
    for fig, arrays in (
        figures.conjugate(sweep),
        figures.shrinkage(sweep),
        figures.neural(network),
    ):
        assert fig.axes
        assert all(np.asarray(a).size for a in arrays.values())
    fig, arrays = figures.neural(network)
    truth = np.asarray(fig.axes[0].images[0].get_array())  # rows of the picture are z_2
    np.testing.assert_allclose(truth, network[0]["truth"][0].numpy().T)
    assert len(report.neural_table(network)) == 3
    assert len(report.conjugate_table(sweep)) == 2
    assert "yes" in report.sanity(sweep, [])[1]


def test_shares_count_the_points_at_which_ald_is_nearer() -> None:
    run = FakeRun(Path("x"))
    found = {
        "total_variation": {"ALD": [0.1, 0.2, 0.9, 0.1], "VI, full": [0.5, 0.5, 0.5, 0.5]},
        "gap": {"VI, full": [1.0, 2.0, 3.0, 4.0]},
        "acceptance": 0.5,
    }
    record.neural(run, 3, [found])
    assert run.metrics["neural/share/VI-full", 3]["value"] == 0.75
    assert run.metrics["neural/gap/VI-full", 3]["value"] == 2.5
    assert run.metrics["neural/tv/ALD/largest", 3]["value"] == 0.9


def test_the_trace_ratios_are_the_hat_matrix_s() -> None:
    found = toys.conjugate(Conjugate(widths=[1], display_moves=300, moves=2000), 0)[0]
    off = [abs(r - h) for r, h in zip(found["trace_ratio"], found["hat"], strict=True)]
    assert max(off) < 0.1
    assert math.isclose(found["ratio_error"], max(off), rel_tol=1e-9)
    assert 0.2 < max(found["hat"]) < 1
    assert 1e-6 < found["law_error"] < 0.1
    law = torch.tensor(found["law_mean"], dtype=torch.float64)
    shift = float((law - found["means"]).abs().max())  # one feature cannot reach all means
    assert shift > 0.5
    assert abs(found["posterior_error"] - shift) <= found["law_error"] + 1e-9
    assert abs(found["covariance_error"] - (1 - min(found["hat"]))) < 0.1


def test_the_judged_samples_follow_the_display_chain_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shown chain is burn-in: what it gives is drawn, what comes after it is judged."""
    real = toys.run_chains

    def marked(*a: Any, **k: Any) -> toys.Chains:
        ran = real(*a, **k)
        return ran._replace(z=torch.zeros_like(ran.z)) if k.get("drop") else ran

    monkeypatch.setattr(toys, "run_chains", marked)
    found = toys.conjugate(Conjugate(widths=[2], display_moves=30, moves=100), 0)[0]
    assert not found["samples"].any()
    assert min(found["trace_ratio"]) > 0


def test_covariances_are_per_point() -> None:
    z = torch.randn(50_000, 2, 2, generator=generator(0, "z"), dtype=torch.float64)
    z[:, 1] = z[:, 1] @ torch.tensor([[1.0, 0.8], [0.0, 0.6]], dtype=torch.float64)
    known = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.8], [0.8, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(toys.covariances(z), known, rtol=0, atol=0.03)


def test_the_conjugate_problem_is_the_paper_s() -> None:
    """The sheet's posterior covariances for both readings of the misprint."""
    known = {
        "symmetric": [[0.3333, 0.2222], [0.2222, 0.3704]],
        "lower triangle": [[0.2996, 0.2724], [0.2724, 0.3385]],
    }
    for choice, covariance in known.items():
        s = Conjugate(widths=[3], moves=100, covariance=choice)
        x, means, found = toys.conjugate_problem(s, 0)
        wanted = torch.tensor(covariance, dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-5)
        noise = torch.tensor(toys.COVARIANCE[choice], dtype=torch.float64)
        torch.testing.assert_close(means, x @ (found @ torch.linalg.inv(noise)).mT)


def test_image_figures(finished: Any) -> None:
    _, results = finished
    for fig, arrays in (
        figures.learning_curves(results, ["VAE", "LAE"]),
        figures.is_it_sampling(results, "digits"),
        figures.accept_test(results, "digits"),
        figures.reconstructions(results, "digits"),
    ):
        assert fig.axes
        assert arrays
    fig, _ = figures.learning_curves(results, ["VAE"])
    points = results[0]["seeds"][0]["curve"], results[1]["seeds"][0]["curve"]
    for ax, key, unit in zip(fig.axes, ("step", "seconds"), (1, 60), strict=True):
        known = [(a[key] + b[key]) / 2 / unit for a, b in zip(*points, strict=True)]
        np.testing.assert_allclose(ax.lines[0].get_xdata(), known)
    tested = [r for r in results if r["arm"] == "LAE"]
    untested = [r | {"arm": "LAE-unadjusted"} for r in results if r["arm"] == "LAE-frozen"]
    fig, _ = figures.accept_test([*tested, *untested], "digits")
    for ax, own in zip(fig.axes, (tested, untested), strict=True):
        known = np.mean([[p["nelbo"] for p in r["seeds"][0]["curve"]] for r in own], 0)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), known)
    fig, arrays = figures.reconstructions(results, "digits")
    test = load("digits", "test")["images"].reshape(-1, 64)
    places = [0, 42, 85, 127, 169, 211, 254, 296]
    np.testing.assert_array_equal(arrays["test images"], test[places])
    np.testing.assert_array_equal(arrays["LAE, T = 2"], tested[0]["seeds"][0]["pictures"])
    alone = [r | {"arm": "LAE-1"} for r in results if r["arm"] == "LAE"]  # none of the usual arms
    lost = [r | {"seeds": [s | {"pictures": None} for s in r["seeds"]]} for r in alone]
    for fig, arrays in (
        figures.learning_curves(alone, ["VAE", "LAE"]),
        figures.is_it_sampling(alone, "digits"),
        figures.accept_test(alone, "mnist"),
        figures.reconstructions(lost, "digits"),
    ):
        assert fig.axes
        assert arrays
    assert figures._strip(np.zeros((2, 3 * 4 * 4))).shape == (4, 8, 3)
    assert figures._strip(np.zeros((2, 9))).shape == (3, 6)


def test_checks_enter_the_record_and_hold(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    rows = checks.exact_answers(run)
    assert all(row["holds"] for row in rows), [row for row in rows if not row["holds"]]
    assert ("exact/step/published", 3) in run.metrics
    assert len(rows) == 20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arms": ["VAE", "VAE"]}, "each may stand there once"),
        ({"arms": ["GAN"]}, "arms"),
        ({"epochs": {"mnist": 3}}, "needs the key 'default'"),
        ({"epochs": {"default": 3, "digit": 3}}, "'digit' is none of .*; did you mean 'digits'"),
        ({"seeds": {"default": 3, "LAEX": 1}}, "'LAEX' is none of .*; did you mean 'LAE'"),
        ({"datasets": []}, "at least one is needed"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"products": "int8"}, "products"),
        ({"healthy_acceptance": 1.5}, "less than 1"),
        ({"colour": 1}, "colour"),
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(**change)


def test_profiles_are_complete() -> None:
    for profile in ("quick", "laptop", "paper"):
        s = config.resolve("langevin_autoencoder", profile)
        assert s.n_seeds == (1 if profile == "quick" else 3)
        assert s.datasets() == (["digits"] if profile == "quick" else ["mnist"])
    paper = s.images
    assert (paper.width, paper.learning_rate, paper.batch) == (1024, 1e-4, 100)
    assert (paper.step_size, paper.posterior_width) == (1e-4, 0.05)
    sizes = [by_name(paper.latent, d) for d in ("mnist", "svhn", "cifar10", "celeba32")]
    assert sizes == [8, 16, 32, 32]
    epochs = [by_name(paper.epochs, d) for d in ("mnist", "svhn", "cifar10", "celeba32")]
    assert epochs == [50, 50, 50, 20]
    assert (paper.products, by_name(paper.train_images, "mnist")) == ("bfloat16", 0)
    once = {arm for arm in paper.arms if by_name(paper.seeds, arm) < 3}
    assert not once & {"VAE", "VAE-flow", "Hoffman-2", "LAE", "LAE-frozen"}
    reduced = config.resolve("langevin_autoencoder", "laptop").images  # the sheet's reduced plan
    assert (reduced.width, reduced.learning_rate, reduced.batch) == (256, 1e-3, 100)
    assert (reduced.products, by_name(reduced.train_images, "mnist")) == ("float32", 10_000)
    assert (by_name(reduced.epochs, "mnist"), by_name(reduced.latent, "mnist")) == (30, 8)
    assert {by_name(reduced.seeds, arm) for arm in reduced.arms} == {100}
    assert by_name({"default": 1, "mnist": 2}, "mnist") == 2
    assert by_name({"default": 1, "mnist": 2}, "svhn") == 1


def test_both_readings_of_the_misprinted_covariance_are_covariances() -> None:
    for choice in ("symmetric", "lower triangle"):
        s = Conjugate(widths=[3], moves=100, covariance=choice)
        _, _, covariance = toys.conjugate_problem(s, 0)
        assert float(torch.linalg.eigvalsh(covariance)[0]) > 0
    assert Neural(networks=1, moves=30).points == 3
