"""A tiny grid from end to end: results, resuming, divergence, selection, settings."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lmcnb.errors import Paused, UserError
from lmcnb.experiments import langevin_diffusion as experiments
from lmcnb.experiments import langevin_diffusion_report as report
from lmcnb.lab.files import load_checkpoint, save_checkpoint
from lmcnb.lab.training import fit
from lmcnb.methods.langevin_diffusion_training import Training
from lmcnb.models.targets import make_target
from lmcnb.papers.langevin_diffusion import by_cell

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from cells_killed import run, settings, train
from killed import run_script

NAMES = ["mixture-MF-0", "mixture-LDVI-2"]


def finished(directory: Path) -> dict[str, Any]:
    """The results on the disk, but for the time they took."""
    results = {p.stem: json.loads(p.read_text()) for p in (directory / "cells").glob("*.json")}
    for result in results.values():
        assert result.pop("seconds") > 0
    return results


def refuse_to_train(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests only read it."""
    directory = tmp_path_factory.mktemp("run")
    train(run(directory))
    return directory


# -------------------------------------------------------------------------------------- results


def test_a_finished_run_is_complete(undisturbed: Path) -> None:
    results = finished(undisturbed)
    assert sorted(results) == sorted(NAMES)
    assert sorted(p.name for p in undisturbed.rglob("*.pt")) == sorted(f"{n}.pt" for n in NAMES)
    cell = results["mixture-LDVI-2"]
    assert cell["cell"] == {
        "label": "mixture",
        "target": "mixture",
        "method": "LDVI",
        "bridges": 2,
        "seeds": [3, 4],
        "learning_rates": [0.01, 0.001],
    }
    assert cell["score_evaluations"] == 60 * 4 * 4 * 3  # iterations, rows, chains, K + 1
    assert list(cell["selection"]) == ["0.01", "0.001"]
    best = max(cell["selection"], key=lambda lr: cell["selection"][lr]["elbo"])
    assert repr(cell["learning_rate"]) == best
    for i, own in enumerate(cell["seeds"]):
        assert own["seed"] == [3, 4][i]
        assert own["diverged_at"] is None
        assert own["elbo"]["n"] == own["log_z"]["n"] == 400
        assert own["elbo"]["value"] < own["log_z"]["value"] < 1.3 + 4 * own["log_z"]["se"]
        assert own["elbo"]["se"] > 0
        assert 1 < own["effective_sample_size"] <= 400
        assert own["curve"]["every"] == 1
        assert len(own["curve"]["elbo"]) == 60
        assert sum(own["curve"]["elbo"]) / 60 == pytest.approx(own["last_500_losses"], abs=1e-3)
        assert own["step_size"] > 1e-5
        assert own["damping"] == pytest.approx(2.5, abs=1)
    assert cell["seeds"][0]["elbo"] != cell["seeds"][1]["elbo"]
    mean_field = results["mixture-MF-0"]
    assert mean_field["selection"] == {}
    assert "step_size" not in mean_field["seeds"][0]


def test_parameters_kept_are_those_of_the_chosen_rate_and_start_from_the_mean_field(
    undisturbed: Path,
) -> None:
    mean_field = load_checkpoint(undisturbed / "cells" / "mixture-MF-0.pt")
    kept = load_checkpoint(undisturbed / "cells" / "mixture-LDVI-2.pt")
    result = finished(undisturbed)["mixture-LDVI-2"]
    for i, own in enumerate(result["seeds"]):
        assert float(kept["step_size"][i]) == pytest.approx(own["step_size"])
    assert not torch.equal(mean_field["mu"][0], mean_field["mu"][1])
    cell = experiments.grid_cells(settings({}).tables, run(undisturbed))[0]
    for i, seed in enumerate((3, 4)):
        start = experiments.start(cell, seed)
        assert torch.equal(start["mu"], mean_field["mu"][i])
        assert torch.equal(start["log_sigma"], mean_field["log_sigma"][i])
        assert (start["damping"], start["step_size"]) == (2.5, 1e-5)
        travelled = (kept["mu"][i] - mean_field["mu"][i]).abs().max()
        assert 0 < travelled < 60 * result["learning_rate"]


def test_a_finished_cell_is_read_and_not_trained(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "fit", refuse_to_train)
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    results = train(run(undisturbed))
    assert [r["cell"]["method"] for r in results] == ["MF", "LDVI"]
    assert results[1] == json.loads((undisturbed / "cells" / "mixture-LDVI-2.json").read_text())
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()} == before


def test_the_mean_field_comes_first(tmp_path: Path) -> None:
    cells = experiments.grid_cells(settings({}).tables, run(tmp_path))
    with pytest.raises(UserError, match="mean field of mixture: train it first"):
        experiments.train_cell(cells[0])


@pytest.mark.parametrize("lost", [(4,), (3, 4)])
def test_what_starts_at_a_diverged_mean_field_diverges_and_is_recorded(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    own = run(tmp_path)
    experiments.train(
        experiments.mean_field_cells(["mixture"], own.settings.pretrain, own), 1, "mean field"
    )
    path = tmp_path / "cells" / "mixture-MF-0.pt"
    trained = load_checkpoint(path)
    for seed in lost:
        trained["mu"][seed - 3] = math.nan
    save_checkpoint(path, trained)
    cell = train(own)[1]
    for seed in cell["seeds"]:
        assert seed["diverged_at"] == (1 if seed["seed"] in lost else None)
        assert (seed["elbo"] is None) == (seed["seed"] in lost)


def test_a_laplace_start_needs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "fit", refuse_to_train)
    bar = tmp_path / "bar.json"
    monkeypatch.setenv("LMCNB_PROGRESS", str(bar))
    own = run(tmp_path)
    pretrain = own.settings.pretrain.model_copy(update={"laplace": ["gaussian"]})
    cells = experiments.mean_field_cells(["gaussian"], pretrain, own)
    (result,) = experiments.train(cells, 1, "mean field")
    kept = load_checkpoint(tmp_path / "cells" / "gaussian-MF-0.pt")
    target = make_target("gaussian", torch.float64)
    for row in range(2):
        torch.testing.assert_close(kept["mu"][row].double(), target.mean, rtol=1e-5, atol=1e-5)
        variance = 1 / torch.linalg.inv(target.covariance).diagonal()
        found = kept["log_sigma"][row].double().exp() ** 2
        torch.testing.assert_close(found, variance, rtol=1e-5, atol=0)
    assert result["seeds"][0]["last_500_losses"] is None
    assert result["seeds"][0]["curve"]["elbo"] == []
    state = json.loads(bar.read_text())
    assert state["n"] == state["total"]


def test_the_picture_starts_from_the_standard_normal_and_needs_no_mean_field(
    tmp_path: Path,
) -> None:
    cell = experiments.picture_cell(run(tmp_path))
    few = dataclasses.replace(cell, training=Training(20, 4), evaluation_chains=100)
    assert set(experiments.start(few, 3)) == {"damping", "step_size"}
    (result,) = experiments.train([few], 1, "picture")
    assert [seed["seed"] for seed in result["seeds"]] == [3]
    assert (tmp_path / "cells" / "picture-LDVI-12.pt").exists()


def test_lorenz_from_the_published_start_has_another_name(tmp_path: Path) -> None:
    own = run(tmp_path)
    pretrain = own.settings.pretrain
    laplace = pretrain.model_copy(update={"laplace": ["lorenz"]})
    names = [experiments.mean_field_cells(["lorenz", "seeds"], p, own) for p in (pretrain, laplace)]
    assert [[cell.name for cell in cells] for cells in names] == [
        ["lorenz_published-MF-0", "seeds-MF-0"],
        ["lorenz-MF-0", "seeds-MF-0"],
    ]
    assert [cells[0].start for cells in names] == ["standard", "laplace"]


# ------------------------------------------------------------------------------ kills and pauses


def test_killed_in_mid_cell_it_ends_with_the_same_results(
    tmp_path: Path, undisturbed: Path
) -> None:
    seed = time.time_ns() % 1000
    script = Path(__file__).with_name("cells_killed.py")
    killed = int(run_script(script, tmp_path, 6, seed))
    assert killed >= 4, f"killed only {killed} times, seed {seed}"
    assert finished(tmp_path) == finished(undisturbed)
    for name in NAMES:
        one, other = (load_checkpoint(d / "cells" / f"{name}.pt") for d in (tmp_path, undisturbed))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not list((tmp_path / "checkpoints").glob("*.pt*"))


def test_a_pause_keeps_the_state_and_the_end_is_the_same(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_in_pieces(*args: Any, **kwargs: Any) -> None:
        fit(*args, **kwargs, check_every=25)

    monkeypatch.setattr(experiments, "fit", fit_in_pieces)
    pauses = 0
    while True:
        try:
            train(run(tmp_path, deadline=time.time() - 1))
            break
        except Paused:
            pauses += 1
            assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1
    assert pauses == 4  # after 25 and 50 of 60 iterations, twice
    assert finished(tmp_path) == finished(undisturbed)


# ------------------------------------------------------------------- divergence and the selection


RING: dict[str, Any] = {  # a step size of 0.5 throws ULA off the quartic ring
    "targets": ["ring"],
    "methods": ["ULA"],
    "bridges": [6],
}


def test_a_diverging_rate_is_on_record_and_loses(tmp_path: Path) -> None:
    own = run(tmp_path, **RING, learning_rates={"default": [1.0, 1e-3]})
    result = train(own)[1]
    assert result["learning_rate"] == 1e-3
    lost = result["selection"]["1.0"]
    assert lost["elbo"] is None
    assert all(1 < step <= 60 for step in lost["diverged_at"])
    assert math.isfinite(result["selection"]["0.001"]["elbo"])
    assert result["selection"]["0.001"]["diverged_at"] == [None, None]
    assert all(seed["diverged_at"] is None for seed in result["seeds"])
    assert all(seed["elbo"] is not None for seed in result["seeds"])


def test_diverged_seeds_are_told_in_the_tables(undisturbed: Path) -> None:
    cell = json.loads((undisturbed / "cells" / "mixture-LDVI-2.json").read_text())
    (row,) = report.summary([cell])
    assert math.isfinite(row["LDVI"][0])
    cell["seeds"][0]["elbo"] = None
    (row,) = report.summary([cell])
    assert row["LDVI"] == "1 of 2 seeds diverged"


def test_when_every_rate_diverges_the_step_is_recorded(tmp_path: Path) -> None:
    own = run(tmp_path, **RING, learning_rates={"default": [1.0]}, iterations={"default": 400})
    result = train(own)[1]
    curve_of = {seed["seed"]: seed["curve"] for seed in result["seeds"]}
    for seed in result["seeds"]:
        step = seed["diverged_at"]
        assert 1 < step <= 60
        assert seed["elbo"] is seed["log_z"] is seed["step_size"] is None
        curve = curve_of[seed["seed"]]
        assert curve["every"] == 1  # stopped at the first look, after 200 iterations
        assert len(curve["elbo"]) == 200
        assert curve["elbo"].index(None) == step - 1
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    counted: dict[str, int] = {}
    own.metric = lambda name, value, *, seed, **rest: entries.update(
        {(name, seed): {"value": value, **rest}}
    )
    own.count = lambda name, n: counted.update({name: n})
    report.record(own, [result])
    assert set(entries) == {(f"{m}/ring/K=6/ULA", s) for m in ("elbo", "log_z") for s in (3, 4)}
    for (_, seed), entry in entries.items():
        assert entry["diverged"] is True
        assert entry["value"] is None
        step = result["seeds"][seed - 3]["diverged_at"]
        assert entry["note"] == f"diverged at iteration {step}, learning rate 1.0"
    assert counted == {"score evaluations": 200 * 2 * 4 * 7}


def test_training_selection_and_evaluation_draw_from_streams_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What chooses a learning rate is not what is reported, for no seed and no rate."""
    drawn: dict[str, list[bytes]] = {"train": [], "fresh": []}

    def note(key: str, generators: Any) -> None:
        drawn[key] += [bytes(g.get_state().numpy().tobytes()) for g in generators]

    class Spy(experiments.Trainer):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            note("train", arguments[6])
            super().__init__(*arguments, **more)

    real = experiments.log_weights

    def spied(m: Any, density: Any, parameters: Any, generators: Any, *rest: Any) -> Any:
        note("fresh", generators)
        return real(m, density, parameters, generators, *rest)

    own = run(tmp_path)
    experiments.train(
        experiments.mean_field_cells(["mixture"], own.settings.pretrain, own), 1, "mean field"
    )
    monkeypatch.setattr(experiments, "Trainer", Spy)
    monkeypatch.setattr(experiments, "log_weights", spied)
    experiments.train_cell(experiments.grid_cells(own.settings.tables, own)[0])
    assert len(drawn["train"]) == 4  # two seeds, two learning rates
    assert len(drawn["fresh"]) == 4 + 2  # all rows to select, then the seeds of the best rate
    everything = drawn["train"] + drawn["fresh"]
    assert len(set(everything)) == len(everything)


def test_one_diverged_seed_makes_its_rate_lose(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = finished(undisturbed)["mixture-LDVI-2"]["learning_rate"]
    real = experiments.Trainer.diverged_at

    def one_more(self: Any) -> list[int | None]:  # the second seed of the best rate
        rates = [0.01, 0.01, 0.001, 0.001]
        found = real(self)
        if len(found) == 4 and self.done == 60:
            found[rates.index(best) + 1] = 17
        return found

    monkeypatch.setattr(experiments.Trainer, "diverged_at", one_more)
    result = train(run(tmp_path))[1]
    assert result["learning_rate"] != best
    before = finished(undisturbed)["mixture-LDVI-2"]["selection"][repr(best)]["elbo"]
    lost = result["selection"][repr(best)]
    assert lost["diverged_at"] == [None, 17]
    assert lost["elbo"] != before  # of the seed that is left
    assert math.isfinite(lost["elbo"])


def test_when_every_rate_loses_a_seed_the_best_of_the_others_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = experiments.Trainer.diverged_at

    def second_seed(self: Any) -> list[int | None]:
        found = real(self)
        return [17, None, None, 18] if len(found) == 4 and self.done == 60 else found

    monkeypatch.setattr(experiments.Trainer, "diverged_at", second_seed)
    result = train(run(tmp_path))[1]
    elbos = {lr: score["elbo"] for lr, score in result["selection"].items()}
    assert repr(result["learning_rate"]) == max(elbos, key=elbos.__getitem__)
    lost = [seed["diverged_at"] for seed in result["seeds"]]
    assert lost == ([17, None] if result["learning_rate"] == 0.01 else [None, 18])
    assert [seed["elbo"] is None for seed in result["seeds"]] == [step is not None for step in lost]


@pytest.mark.parametrize("bad", [-math.inf, math.inf, math.nan])
def test_a_rate_whose_fresh_chains_overflow_loses_and_is_no_error(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    best = finished(undisturbed)["mixture-LDVI-2"]["learning_rate"]
    real = experiments.log_weights

    def overflow(*args: Any, **kwargs: Any) -> torch.Tensor:
        w = real(*args, **kwargs).clone()
        if len(w) == 4:  # the selection: rows (0.01, 3), (0.01, 4), (0.001, 3), (0.001, 4)
            w[0 if best == 0.01 else 2, 5] = bad
        return w

    monkeypatch.setattr(experiments, "log_weights", overflow)
    result = train(run(tmp_path))[1]
    assert result["learning_rate"] != best
    assert result["selection"][repr(best)]["diverged_at"] == [None, None]  # in training
    assert finished(tmp_path)["mixture-LDVI-2"]["learning_rate"] != best


def test_fresh_chains_that_overflow_count_as_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = experiments.log_weights

    def overflow(*args: Any, **kwargs: Any) -> torch.Tensor:
        w = real(*args, **kwargs).clone()
        w[-1, 5] = -math.inf
        return w

    monkeypatch.setattr(experiments, "log_weights", overflow)
    own = run(tmp_path)
    cells = experiments.mean_field_cells(["mixture"], own.settings.pretrain, own)
    (result,) = experiments.train(cells, 1, "mean field")
    assert [seed["diverged_at"] for seed in result["seeds"]] == [None, 60]
    assert result["seeds"][1]["elbo"] is None


# --------------------------------------------------------------------------- a record of results


def test_results_enter_the_record(undisturbed: Path) -> None:
    own, entries, counted = run(undisturbed), {}, []
    own.metric = lambda name, value, *, seed, **rest: entries.update(
        {(name, seed): (value, *map(rest.get, ("se", "n", "diverged", "note")))}
    )
    own.count = lambda name, n: counted.append(n)
    results = train(own)
    report.record(own, results)
    labels = ("MF", "K=2/LDVI")
    assert set(entries) == {
        (f"{metric}/mixture/{label}", seed)
        for metric in ("elbo", "log_z", "last_500")
        for label in labels
        for seed in (3, 4)
    }
    last = results[1]["seeds"][0]["last_500_losses"]
    assert entries["last_500/mixture/K=2/LDVI", 3] == (last, None, None, None, None)
    first = results[1]["seeds"][0]["elbo"]
    expected = (first["value"], first["se"], 400, False, None)
    assert entries["elbo/mixture/K=2/LDVI", 3] == expected
    assert counted == [60 * 2 * 8, 60 * 4 * 4 * 3]


# ------------------------------------------------------------------------------------- settings


def test_cells_of_a_grid_take_the_most_specific_values(tmp_path: Path) -> None:
    grid = {
        "targets": ["mixture", "ring"],
        "methods": ["ULA", "LDVI"],
        "bridges": [2, 4],
        "iterations": {"default": 1, "LDVI": 2, "ring": 3, "ring/ULA": 4, "ring/ULA/4": 5, "4": 6},
        "damping": {"default": 10.0, "mixture/LDVI/2": 3.0},
    }
    own = run(tmp_path, **grid)
    cells = {c.name: c for c in experiments.grid_cells(own.settings.tables, own)}
    assert {name: cell.training.iterations for name, cell in cells.items()} == {
        "mixture-ULA-2": 1,
        "mixture-ULA-4": 6,
        "mixture-LDVI-2": 2,
        "mixture-LDVI-4": 2,
        "ring-ULA-2": 4,
        "ring-ULA-4": 5,
        "ring-LDVI-2": 3,
        "ring-LDVI-4": 3,
    }
    assert [name for name, cell in cells.items() if cell.damping == 3.0] == ["mixture-LDVI-2"]
    assert len({cell.result for cell in cells.values()}) == 8
    assert all(cell.seeds == (3, 4) for cell in cells.values())


def test_by_cell_precedence() -> None:
    order = [
        "sonar/LDVI/8",
        "sonar/LDVI",
        "sonar/8",
        "LDVI/8",
        "sonar",
        "LDVI",
        "8",
        "default",
    ]
    others = {"seeds": "wrong", "ULA": "wrong", "16": "wrong", "sonar/ULA": "wrong"}
    for i, winner in enumerate(order):
        assert by_cell(others | {key: key for key in order[i:]}, "sonar", "LDVI", 8) == winner


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"iterations": {"sonar": 10}}, ["tables.iterations", "'default'"]),
        ({"iterations": {"default": 0}}, ["tables.iterations.default", "greater than or equal"]),
        ({"chains": {"default": 1.5}}, ["tables.chains.default", "integer"]),
        ({"iterations": {"default": 1, "sonnar/ULA": 2}}, ["'sonnar/ULA'", "no target"]),
        ({"learning_rates": {"default": []}}, ["tables.learning_rates", "empty"]),
        ({"learning_rates": {"default": [0.1, 1e-1]}}, ["tables.learning_rates", "twice"]),
        ({"learning_rates": {"default": [0.0]}}, ["tables.learning_rates.default.0"]),
        ({"learning_rates": {"default": [2.0]}}, ["less than or equal to 1"]),
        ({"methods": ["HMC"]}, ["tables.methods.0", "'LDVI'"]),
        ({"targets": ["sonarr"]}, ["tables.targets.0", "'sonar'"]),
        ({"bridges": [0]}, ["tables.bridges.0"]),
        ({"step_size": {"default": 0.6}}, ["tables.step_size.default"]),
        ({"damping": {"default": 0.0}}, ["tables.damping.default"]),
        ({"decay": 1.5}, ["tables.decay"]),
        ({"bridge": [8]}, ["tables.bridge", "Extra inputs"]),
    ],
)
def test_impossible_settings_are_refused_by_name(grid: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        settings(grid)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_other_groups_are_checked_too_and_data_sets_are_named() -> None:
    for name, value in (("evaluation", {"chains": 99}), ("n_seeds", 0), ("schemes", {"x": 1})):
        with pytest.raises(ValidationError, match=name):
            settings({}, **{name: value})
    assert settings({}).datasets() == []
    assert settings({"targets": ["sonar", "ring", "seeds"]}).datasets() == ["seeds", "sonar"]
    lorenz = {"particles": 10, "stall_iterations": 0}
    assert settings({}, lorenz=lorenz).datasets() == ["lorenz"]
