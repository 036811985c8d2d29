"""Short-run cells, what is measured of them, what they leave in the record, and their figures."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lmcnb.errors import Paused, UsageError
from lmcnb.experiments import short_run_evaluation as measure
from lmcnb.experiments import short_run_figures as figures
from lmcnb.experiments import short_run_hierarchy as hierarchy
from lmcnb.experiments import short_run_image_figures as image_figures
from lmcnb.experiments import short_run_images as images
from lmcnb.experiments import short_run_record as record
from lmcnb.experiments import short_run_report as report
from lmcnb.experiments.short_run_cells import cells_of, coloured, read, training_of
from lmcnb.lab import config
from lmcnb.lab.files import load_checkpoint
from lmcnb.lab.training import fit
from lmcnb.methods import short_run as sri
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import Streams, Trainer
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown
from lmcnb.papers.short_run import Settings, parse_arm

sys.path.append(str(Path(__file__).parent))
from entered import Entered

matplotlib.use("Agg")

IMAGES: dict[str, Any] = {
    "datasets": ["digits"],
    "arms": {"default": ["VAE", "SRI", "SRI-marginal", "SRI-s0.2", "ABP-s0.1", "SRI-K3", "VAE-x2"]},
    "epochs": {"default": 3},
    "width": {"default": 16},
    "latent": {"1": [3], "3": [2, 2, 2]},
    "steps": 5,
    "step_size": {"default": 0.2},
    "grid": {"default": [0.05, 0.1, 0.2, 0.4]},
    "search_from": {"default": 1},
    "search_every": {"default": 1},
    "search_images": 8,
    "search_chains": 6,
    "curves": ["SRI", "SRI-s0.2"],
    "samples": 1500,
    "classifiers": 1,
}


def settings(**changed: Any) -> Settings:
    return Settings.model_validate(
        {"n_seeds": 2, "exact": {"draws": 1000, "updates": 30}, "images": IMAGES | changed}
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


# ---- names and settings


def test_an_arm_s_name_means_what_it_says() -> None:
    base = settings().images
    t = training_of("SRI-L3-K7-s0.15-noisefree-wide-x4", "digits", base)
    assert (t.method, t.latent, t.steps, t.step_size) == ("SRI", (2, 2, 2), 7, 0.15)
    assert (t.noisy, t.variant, t.epochs, t.search) == (False, "wide", 12, "none")
    plain = training_of("SRI", "digits", base)
    assert (plain.search, plain.step_size, plain.steps, plain.noisy) == ("grid", 0.2, 5, True)
    assert training_of("SRI-gradient", "digits", base).search == "gradient"
    own = training_of("SRI-marginal", "digits", base)
    assert (own.search, own.search_chains) == ("marginal", 6)
    assert training_of("VAE", "digits", base).search == "none"
    assert training_of("SRI-L3-s0.2-ladder", "digits", base).variant == "ladder"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("GAN", "no arm"),
        ("SRI-s", "no arm"),
        ("SRI-s0.1-gradient", "no arm"),
        ("SRI-s0", "positive"),
        ("SRI-x0", "positive"),
        ("SRI-gradient-marginal", "no arm"),
        ("SRI-marginal-noisefree", "needs a chain with noise"),
        ("VAE-marginal", "no chain"),
        ("VAE-K5", "no chain"),
        ("LVAE-L3-gradient", "no chain"),
        ("LVAE-L3-ladder", "density"),
        ("ABP", "fixed step size"),
        ("ABP-gradient", "fixed step size"),
    ],
)
def test_arms_that_mean_nothing_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_arm(name)
    with pytest.raises(ValidationError, match=why):
        settings(arms={"default": [name]})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"epochs": {"digits": 1}}, "'default'"),
        ({"width": {"default": 16, "mnits": 8}}, "did you mean 'mnist'"),
        ({"latent": {"1": [3], "3": [2, 2]}}, "has 2 dimensions"),
        ({"arms": {"default": ["SRI-L5"]}}, "5 layers"),
        ({"arms": {"default": ["SRI", "VAE", "SRI"]}}, "'SRI' stands there more than once"),
        ({"arms": {"default": ["SRI-K10-L3"]}}, "in this order"),
        ({"arms": {"default": []}}, "at least one arm"),
        ({"curves": ["SIR"]}, "'SIR' is no arm"),
        ({"network": {"default": "mlp", "digits": "conv"}}, "digits is 'conv'"),
        ({"datasets": []}, "at least one"),
        ({"sigma": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings(**changed)


@pytest.mark.parametrize("profile", ["quick", "laptop", "paper"])
def test_every_profile_is_valid_and_its_cells_can_be_named(profile: str) -> None:
    own = config.resolve("short_run", profile)
    run = SimpleNamespace(settings=own, seeds=[0], directory=Path("x"), device="cpu", deadline=None)
    found = cells_of(run)
    assert len({c.name for c in found}) == len(found)
    assert all(c.work > 0 and c.updates > 0 for c in found)


# ---- cells


def test_cells_are_kept_and_not_trained_again(
    finished: tuple[FakeRun, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = finished
    monkeypatch.setattr(images, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = images.train(cells_of(run), 1, "test")
    assert again == json.loads(json.dumps(results))
    kept = {c.name: load_checkpoint(c.weights) for c in cells_of(run)}
    assert all(state is not None and "out.weight" in state for state in kept.values())


def test_results_do_not_depend_on_the_other_cells(
    finished: tuple[FakeRun, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, results = finished
    alone = images.train(cells_of(FakeRun(tmp_path, arms={"default": ["SRI"]})), 1, "test")
    (known,) = [r for r in results if r["arm"] == "SRI" and r["seed"] == 3]
    for name in ("mse", "searches", "frechet", "inpainting", "sweep_noisy", "loss"):
        assert alone[0][name] == known[name], name


def test_a_paused_cell_goes_on(
    finished: tuple[FakeRun, list[dict[str, Any]]], tmp_path: Path
) -> None:
    arms = {"default": ["SRI-s0.2"]}
    with pytest.raises(Paused):
        images.train(cells_of(FakeRun(tmp_path, deadline=0.0, arms=arms)), 1, "test")
    assert list((tmp_path / "checkpoints").iterdir())
    resumed = images.train(cells_of(FakeRun(tmp_path, arms=arms)), 1, "test")
    (known,) = [r for r in finished[1] if r["arm"] == "SRI-s0.2" and r["seed"] == 3]
    assert resumed[0]["mse"] == known["mse"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, train_images={"default": 50})
    with pytest.raises(UsageError, match=r"images.batch=100: digits has 50"):
        images.train(cells_of(run), 1, "test")


# ---- what is measured


def small(latent: tuple[int, ...] = (3,), **more: Any) -> Trainer:
    t = Training(latent=latent, width=16, epochs=1, steps=5, **more)
    seeds = Streams(*(torch.Generator().manual_seed(i) for i in range(4)))
    return Trainer(t, read("digits")[0].images, seeds)


def trained() -> Trainer:
    t = Training(latent=(3,), width=32, epochs=8, steps=25, step_size=0.2)
    seeds = Streams(*(torch.Generator().manual_seed(i) for i in range(4)))
    trainer = Trainer(t, read("digits")[0].images, seeds)
    fit(trainer, trainer.iterations)
    return trainer


def test_inpainting_does_not_look_at_hidden_pixels_and_keeps_the_seen() -> None:
    trainer = small()
    x = read("digits")[1].images[:6]
    mask = measure.masks(6, (8, 8), torch.Generator().manual_seed(0))["block"]
    z, noise = sri.draw((6, 3), 5, torch.Generator().manual_seed(1), torch.float32)
    found = measure.inpaint(trainer.generator, x, mask, 0.3, 0.1, z, noise)
    spoiled = torch.where(mask > 0, x, torch.full_like(x, math.nan))
    again = measure.inpaint(trainer.generator, spoiled, mask, 0.3, 0.1, z, noise)
    assert torch.equal(found, again)
    assert torch.equal(found[mask > 0], x[mask > 0])
    whole = measure.inpaint(trainer.generator, x, torch.ones(64), 0.3, 0.1, z, noise)
    assert torch.equal(whole, x)


def test_bad_masks_are_refused() -> None:
    trainer = small()
    x = read("digits")[1].images[:3]
    z, noise = sri.draw((3, 3), 5, torch.Generator(), torch.float32)

    def attempt(mask: torch.Tensor) -> None:
        measure.inpaint(trainer.generator, x, mask, 0.3, 0.1, z, noise)

    with pytest.raises(UsageError, match="mask of shape"):
        attempt(torch.ones(8, 8))
    with pytest.raises(UsageError, match="values 0"):
        attempt(torch.full((64,), 2.0))
    blind = torch.ones(3, 64)
    blind[1] = 0
    with pytest.raises(UsageError, match=r"images \[1\] have no observed pixel"):
        attempt(blind)


def test_masks_hide_what_they_say() -> None:
    found = measure.masks(400, (3, 8, 8), torch.Generator().manual_seed(0))
    scattered = found["scattered"].view(400, 3, 64)
    assert abs(float(1 - scattered.mean()) - 0.3) < 0.02
    assert torch.equal(scattered[:, 0], scattered[:, 2])
    block = 1 - found["block"].view(400, 3, 8, 8)
    assert bool((block.sum((-1, -2)) == 16).all())
    assert bool((block.amax(-1).sum(-1) == 4).all())


def test_fills() -> None:
    train = torch.tensor([[0.0, 0.0, 9.0], [1.0, 1.0, 5.0]])
    x, mask = torch.tensor([[0.9, 1.2, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    found = measure.fills(train, x, mask)
    assert found["nearest"].tolist() == [[1.0, 1.0, 5.0]]
    assert found["mean"].tolist() == [[0.5, 0.5, 7.0]]
    twice = measure.hidden_error(found["nearest"].repeat(2, 1), x.repeat(2, 1), mask.repeat(2, 1))
    assert twice["value"] == 36.0


def test_latents_of_a_generator_that_ignores_them_have_collapsed() -> None:
    trainer = small(step_size=0.2)
    x = read("digits")[1].images[:100]
    with torch.no_grad():
        for p in trainer.generator.project.parameters():
            p.zero_()
    found = measure.latents(trainer, x, torch.Generator().manual_seed(0))
    assert found["collapsed"]
    assert max(found["explained"]) < 0.1
    for within in found["within"]:
        assert abs(within / found["prior"] - 1) < 0.2
    learned = trained()
    alive = measure.latents(learned, x, torch.Generator().manual_seed(0))
    assert not alive["collapsed"]
    assert max(alive["explained"]) > 0.5


def test_prior_variance_is_the_chains() -> None:
    z, noise = sri.draw((40_000, 1), 30, torch.Generator().manual_seed(0), torch.float64)
    target = LogJoint(lambda u: 0 * u, torch.zeros(1, 1, dtype=torch.float64), 1.0)
    for given, noisy in ((noise, True), (None, False)):
        end = sri.short_run(target, z, 0.4, 30, given)
        assert abs(float(end.var()) / measure.prior_variance(0.4, 30, noisy) - 1) < 0.03


def test_curves_stop_where_steps_are_past_injectivity() -> None:
    trainer = small()
    x = read("digits")[1].images[:4]
    stream = torch.Generator().manual_seed(0)
    found = measure.curve(trainer, x, [0.1, 5.0, 6.0], stream, noisy=True)
    assert len(found) == 2
    assert found[0].value is not None
    assert found[1].value is None


def test_the_watched_curve_is_the_objective(
    finished: tuple[FakeRun, list[dict[str, Any]]],
) -> None:
    run, results = finished
    (own,) = [r for r in results if r["arm"] == "SRI-s0.2" and r["seed"] == 3]
    (cell,) = [c for c in cells_of(run) if c.name == "digits-SRI-s0.2-3"]
    network = TopDown((3,), 64, 16, torch.Generator())
    network.load_state_dict(load_checkpoint(cell.weights))  # type: ignore[arg-type]
    network = network.double().requires_grad_(False)
    train, _ = read("digits")
    x = images.spaced(train.images, images.JUDGED).double()
    stream = images.generator(3, "digits/curve")
    z, noise = sri.draw((len(x), 3), 5, stream, torch.float64)
    known = sri.objective(log_joint(network, x, 0.3), z, 0.1, 5, noise)
    last = [p for p in own["curve"] if "objective" in p][-1]["objective"]
    assert [p["s"] for p in last][:2] == [0.05, 0.1]
    assert abs(last[1]["value"] - known.value) < 1e-9 * abs(known.value or 1)


# ---- layers


def test_coloured_digits() -> None:
    ink = read("digits")[0].images[:300]
    found, ground, colour = coloured(ink, torch.Generator().manual_seed(0))
    assert found.shape == (300, 192)
    assert float(found.abs().max()) <= 1
    assert float((ground - colour).abs().amax(-1).min()) >= 1
    assert float((hierarchy.ground(found) - ground).abs().mean()) < 0.05
    full = ink == 1
    for c in range(3):
        plane = found.view(300, 3, 64)[:, c]
        assert torch.allclose(plane[full], colour[:, c : c + 1].expand(300, 64)[full], atol=1e-6)
    a, b = (read("coloured_digits")[0].images for _ in range(2))
    assert torch.equal(a, b)


def test_only_the_named_layer_is_drawn_anew() -> None:
    network = TopDown((2, 2, 2), 192, 16, torch.Generator().manual_seed(0))
    stream = torch.Generator().manual_seed(1)
    found = hierarchy.resampled(network, 1, 3, 4, stream)
    assert found.shape == (3, 4, 192)
    assert float(found.var(1).amax()) > 0

    class Probe(TopDown):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z

    probe = Probe((2, 2, 2), 192, 16, torch.Generator().manual_seed(0))
    z = hierarchy.resampled(probe, 1, 3, 4, stream)
    assert bool((z[..., [0, 1, 4, 5]] == z[:, :1, [0, 1, 4, 5]]).all())
    assert bool((z[..., [2, 3]].var(1) > 0).all())


def test_total_effects_of_known_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 1 alone moves the ground, layers 1 and 3 the label, layer 2 nothing."""

    class Known(TopDown):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            flat = torch.zeros(*z.shape[:-1], 3, 64)
            flat[..., :] = 0.3 * z[..., :1, None]
            flat[..., 0, 30] = (z[..., 0] + z[..., 4]) / 4
            return flat.flatten(-2)

    class Fake:
        def probabilities(self, flat: torch.Tensor) -> torch.Tensor:
            return flat[:, 30:31].double()

    monkeypatch.setattr(hierarchy, "classifiers", lambda *a: [Fake()])
    network = Known((2, 2, 2), 192, 8, torch.Generator())
    found = hierarchy.effects(network, "coloured_digits", torch.Generator().manual_seed(0))
    assert found["ground"] == pytest.approx([1, 0, 0], abs=0.1)
    assert found["label"] == pytest.approx([0.5, 0, 0.5], abs=0.1)


# ---- record, tables, figures


def test_what_is_entered(finished: tuple[FakeRun, list[dict[str, Any]]]) -> None:
    run, results = finished
    run.metrics.clear()
    record.images(run, results)
    by_arm = {(r["arm"], r["seed"]): r for r in results}
    for arm in IMAGES["arms"]["default"]:
        for kind in ("sampled", "mean"):
            own = run.metrics[f"mse/digits/{arm}/{kind}", 4]
            assert own["value"] == by_arm[arm, 4]["mse"][kind]["value"]
            assert own["n"] == 297
    assert ("mse/digits/ABP-s0.1/longer", 3) in run.metrics
    chosen = [s["step_size"] for s in by_arm["SRI", 3]["searches"]]
    assert run.metrics["step_size/digits/SRI/first", 3]["value"] == chosen[0]
    assert run.metrics["step_size/digits/SRI/final", 3]["value"] == chosen[-1]
    ratio = run.metrics["cost/digits/SRI:VAE", 3]["value"]
    a, b = by_arm["SRI", 3], by_arm["VAE", 3]
    assert ratio == pytest.approx(a["seconds"] / a["updates"] / (b["seconds"] / b["updates"]))
    assert ("time/digits/VAE-x2:SRI", 3) in run.metrics
    assert run.counters["gradient evaluations of U"] == sum(r["gradients"] for r in results)
    assert by_arm["SRI-K3", 3]["gradients"] == 45 * 100 * 3
    points = by_arm["SRI", 3]["sweep_noisy"]
    usable = {p["s"]: p["value"] for p in points if p["value"] is not None}
    least = min(usable, key=lambda s: usable[s])
    name = "objective/digits/SRI/test/noisy"
    assert run.metrics[f"{name}/minimizer", 3]["value"] == least
    assert run.metrics[f"{name}/left", 3]["value"] == usable[0.05] - usable[least]
    points = by_arm["SRI", 3]["sweep_marginal"]
    assert [p["s"] for p in points] == [0.1, 0.2, 0.4, 0.8]
    least = min((p["value"], p["s"]) for p in points if p["value"] is not None)[1]
    assert run.metrics["objective/digits/SRI/test/marginal/minimizer", 3]["value"] == least
    assert list(by_arm["SRI", 3]["error_by_step_size"]) == ["0.05", "0.1", "0.2", "0.4", "0.8"]
    assert ("inpainting/digits/SRI/block/nearest", 3) in run.metrics
    assert ("frechet/digits/VAE", 3) in run.metrics


def test_diverged_cells_leave_their_mark(finished: tuple[FakeRun, list[dict[str, Any]]]) -> None:
    run, results = finished
    lost = {**results[0], "diverged_at": 7}
    for key in ("mse", "frechet", "latents", "pictures"):
        lost.pop(key)
    chain = {**next(r for r in results if r["arm"] == "SRI"), "diverged_at": 9}
    own = FakeRun(run.directory)
    record.images(own, [lost, chain, *[r for r in results if r["seed"] == 4]])
    for name in ("mse/digits/VAE/sampled", "frechet/digits/VAE", "latents/digits/VAE/explained"):
        entry = own.metrics[name, 3]
        assert entry["diverged"]
        assert entry["value"] is None
    alike = {name for name, seed in own.metrics if seed == 4 and "/SRI/" in name}
    assert "step_size/digits/SRI/late" in alike
    assert all(own.metrics[name, 3]["diverged"] for name in alike)
    assert not [n for n, seed in own.metrics if n.startswith(("cost/", "time/")) and seed == 3]
    assert record.chain_notes(own, [lost]) == ["digits, VAE, seed 3: diverged at update 7"]
    row = report.images_table([lost], "digits")[0]
    assert row["test error, sampled"] == "1 of 1 seeds diverged"


def test_collapse_and_failed_searches_are_said(
    finished: tuple[FakeRun, list[dict[str, Any]]],
) -> None:
    run, results = finished
    (own,) = [r for r in results if r["arm"] == "SRI" and r["seed"] == 3]
    bad = {
        **own,
        "latents": {"explained": [0.01], "collapsed": True, "within": [0.5, 7.0]},
        "searches": [
            {"epoch": 2.0, "step_size": None, "visited": [[0.1, None, 0.5]]},
            {"epoch": 3.0, "step_size": 0.3, "visited": [[0.1, 5, 0], [0.2, 4, 0], [0.3, 3, 0]]},
            {"epoch": 4.0, "step_size": 0.2, "visited": [[0.1, 5, 0], [0.2, 2, 0], [0.3, 3, 0]]},
            {"epoch": 5.0, "step_size": 0.2, "visited": [[0.1, 5, 0], [0.2, 2, 0], [0.3, None, 1]]},
        ],
    }
    lines = record.chain_notes(FakeRun(run.directory), [bad])
    assert "collapsed" in lines[0]
    assert "1.0%" in lines[0]
    assert "unstable" in lines[1]
    assert "variance is 7" in lines[1]
    assert "1 of 3 chosen step sizes are at an end of the grid" in lines[2]
    assert "1 of 3 chosen step sizes are the largest usable one" in lines[3]
    assert "epochs [2.0]" in lines[4]
    vae = {**bad, "arm": "VAE", "gradients": 0, "searches": []}
    (line,) = record.chain_notes(FakeRun(run.directory), [vae])
    assert "collapsed" in line
    assert "step_size" not in line
    fine = {**bad, "latents": {"explained": [0.6], "collapsed": False, "within": [0.5, 1.1]}}
    assert record.chain_notes(FakeRun(run.directory), [{**fine, "searches": []}]) == []


def test_tables_and_sanity(finished: tuple[FakeRun, list[dict[str, Any]]]) -> None:
    _, results = finished
    rows = report.images_table(results, "digits")
    assert [r["model"] for r in rows][:3] == [
        "VAE",
        "short-run, s by grid",
        "short-run, s by the marginal bound",
    ]
    assert rows[0]["time / VAE"] == 1
    assert rows[1]["seeds"] == 2
    assert {r["hidden"] for r in report.inpainting_table(results, "digits")} == {
        "scattered",
        "block",
    }
    swept = report.objective_table(results, "SRI-s0.2", "digits")
    assert [r["s"] for r in swept] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert swept[0]["marginal bound"] is None
    assert swept[4]["J, noise given"] is None
    assert all(r["test error"] for r in swept)
    assert report.sanity(results)[-1] == "diverged runs: 0"
    assert report.paper_table()[0]["svhn: error"] == 0.019
    assert "no record" in next(iter(report.recorded_table([], "digits", "laptop")[0].values()))


def test_figures_draw_what_they_are_given(
    finished: tuple[FakeRun, list[dict[str, Any]]],
) -> None:
    _, results = finished
    drawn = [
        figures.three_curves({0.1: (2.0, 0.01), 0.2: (1.5, 0.01)}),
        figures.learning_map(),
        figures.objective_by_epoch(results, "digits"),
        figures.step_size(results, "digits"),
        figures.learning_curves(results, "digits", ["VAE", "SRI", "SRI-L3"]),
        figures.objective_and_error(results, "digits", "SRI-s0.2"),
        image_figures.pictures(results, "digits", ["VAE", "SRI"]),
        image_figures.inpainting(results, "digits", "SRI"),
        figures.ablation(results, "digits"),
    ]
    for fig, arrays in drawn:
        assert arrays
        assert all(np.asarray(a).dtype.kind in "biuf" for a in arrays.values())
        fig.savefig(Path("/dev/null"), format="png")
        matplotlib.pyplot.close(fig)
    assert drawn[-1][1]["K"].tolist() == [3, 25]
    (own,) = [r for r in results if r["arm"] == "SRI" and r["seed"] == 3]
    assert drawn[3][1]["SRI/3/s"].tolist() == [s["step_size"] for s in own["searches"]]


def test_figures_of_arms_that_were_not_run_say_so(
    finished: tuple[FakeRun, list[dict[str, Any]]],
) -> None:
    few = [r for r in finished[1] if r["arm"] == "VAE-x2"]
    drawn = [
        figures.objective_by_epoch(few, "digits"),
        figures.step_size(few, "digits"),
        figures.learning_curves(few, "digits", figures.SHOWN),
        figures.objective_and_error(few, "digits", "SRI-s0.2"),
        image_figures.pictures(few, "digits", ["VAE", "SRI"]),
        image_figures.inpainting(few, "digits", "SRI-s0.2"),
    ]
    for fig, arrays in drawn:
        assert list(arrays) == ["absent"]
        assert "nothing to draw: digits" in fig.axes[0].texts[0].get_text()
        matplotlib.pyplot.close(fig)
    assert list(figures.of_longer_profiles(few, "digits")) == []
    assert report.objective_table(few, "SRI-s0.2", "digits") == []
    assert report.inpainting_table(few, "digits") == []


def test_figures_show_the_models_of_their_data_set() -> None:
    for dataset in ("digits", "mnist", "coloured_digits"):
        assert figures.arms_of(dataset) == figures.SHOWN
    assert figures.arms_of("cifar10") == figures.arms_of("svhn") == figures.SHOWN_CONV
    arms = {"digits": ["VAE", "SRI-s0.1", "SRI-s0.2"], "mnist": ["SRI-s0.1"], "svhn": ["VAE"]}
    results = [{"dataset": d, "arm": a} for d, own in arms.items() for a in own]
    found = [figures.fixed_arm(results, dataset) for dataset in arms]
    assert found == ["SRI-s0.2", "SRI-s0.1", "SRI-s0.2"]


def test_longer_profiles_draw_more(finished: tuple[FakeRun, list[dict[str, Any]]]) -> None:
    other = [{**r, "dataset": "mnist"} for r in finished[1] if r["arm"] in ("SRI", "VAE")]
    for r in other:
        pad = [[0] * 784] * 8
        r["pictures"] = {"test": pad, "reconstructed": pad, "generated": pad}
    found = {}
    for drawn in figures.of_longer_profiles([*finished[1], *other], "digits"):
        found[drawn.name] = drawn.arrays
        assert drawn.alt
        matplotlib.pyplot.close(drawn.figure)
    kinds = ("learning_curves", "objective_by_epoch", "step_size", "pictures")
    assert set(found) == {"ablation", *(f"{kind}_mnist" for kind in kinds)}
    assert "absent" not in {name for arrays in found.values() for name in arrays}


def test_layers_of_coloured_digits_from_cell_to_figure(tmp_path: Path) -> None:
    run = FakeRun(
        tmp_path,
        datasets=["coloured_digits"],
        arms={"default": ["SRI-L3-s0.1-ladder"]},
        epochs={"default": 0.2},
        curves=[],
    )
    results = images.train(cells_of(run), 1, "test")
    assert [len(results[0]["effects"][k]) for k in ("ground", "label")] == [3, 3]
    record.images(run, results)
    assert ("effect/coloured_digits/SRI-L3-s0.1-ladder/label/layer=3", 3) in run.metrics
    rows = report.effects_table(results)
    assert [r["layer"] for r in rows] == ["1 (top)", "2 (middle)", "3 (bottom)"]
    fig, arrays = figures.layers(results, "SRI-L3-s0.1-ladder")
    assert arrays["layer=2"].shape == (4, 8, 3, 8, 8)
    matplotlib.pyplot.close(fig)
