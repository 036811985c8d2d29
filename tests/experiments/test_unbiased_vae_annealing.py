"""AIS of trained VAEs: the evidence where it is known, cells, pairs, and what is recorded."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmcnb.errors import Paused, UserError
from lmcnb.experiments import unbiased_vae_annealing as annealing
from lmcnb.experiments import unbiased_vae_cells as cells
from lmcnb.experiments import unbiased_vae_record as record
from lmcnb.experiments.unbiased_vae_annealing import AisCell, anneal, cells_of
from lmcnb.experiments.unbiased_vae_report import annealing_table
from lmcnb.lab import pool
from lmcnb.lab.files import load_checkpoint, save_checkpoint
from lmcnb.lab.randomness import generator

sys.path.append(str(Path(__file__).parent))
from small_vaes import FakeRun, evidence, model_1d

Result = dict[str, Any]


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "TEACHER", 400)


def models(directory: Path, **about: Any) -> list[cells.VaeCell]:
    """Cells with weights as they start and made-up bounds, no two the same."""
    run = FakeRun(directory, **about)
    found = cells.cells_of(run)
    for place, cell in enumerate(found):
        streams = [torch.Generator().manual_seed(10 * place + s) for s in cell.seeds]
        test = -torch.rand(len(cell.seeds), 60, generator=streams[0])
        save_checkpoint(cell.weights, {"parameters": cell.model.initial(streams), "test": test})
    return found


@pytest.fixture
def annealed(tmp_path: Path) -> Iterator[tuple[list[AisCell], list[Result]]]:
    found = cells_of(models(tmp_path))
    yield found, anneal(found, 1)


def direct(cell: AisCell) -> list[float]:
    """What the cell should find."""
    state = load_checkpoint(cell.source.weights)
    assert state is not None
    at = cell.source.seeds.index(cell.seed)
    p = {k: v[at : at + 1] for k, v in state["parameters"].items()}
    x = cells.spaced(cells.spaced(cells.images("teacher", "test"), 60), 6)
    stream = generator(cell.seed, "teacher/ais")
    found = annealing.annealed(cell.source.model, p, x, cell.settings, stream)
    return [float(v) for v in found.bound.value]


def test_annealing_reaches_the_evidence(tmp_path: Path) -> None:
    model, p, x = model_1d()
    (cell, *_) = models(tmp_path)
    a = cell.settings.annealing.model_copy(
        update={"chains": 16, "temperatures": 400, "leapfrogs": 3}
    )
    exact = evidence(model, p, x)
    for run in range(2):
        own = {k: v[run : run + 1] for k, v in p.items()}
        seen: list[int] = []
        found = annealing.annealed(
            model, own, x, a, torch.Generator().manual_seed(run), report=seen.append
        )
        error = found.bound.value - exact[run]
        assert float(error.abs().max()) < 0.1
        assert abs(float(error.mean())) < 0.02
        assert 0.3 < found.acceptance <= 1
        assert sum(seen) == 400


def test_cells_are_the_models_that_are_named(tmp_path: Path) -> None:
    found = cells_of(models(tmp_path))
    assert [(c.source.arm, c.seed) for c in found] == [
        ("IWAE", 3), ("IWAE", 4), ("IWAE+IWAE", 3), ("IWAE+IWAE", 4),
    ]  # fmt: skip
    assert [c.name for c in found][1] == "ais-teacher-D2-IWAE-4"
    assert len({c.result for c in found}) == 4
    none = {"images": 0, "arms": ["IWAE"], "chains": 3, "temperatures": 4}
    assert cells_of(models(tmp_path, training_annealing=none)) == []
    other = none | {"images": 6, "arms": ["ELBO"]}
    assert cells_of(models(tmp_path, training_annealing=other)) == []
    assert anneal([], 2) == []
    assert annealing_table([])[0]["gradient"].startswith("none: see training.annealing")


def test_what_a_cell_finds(annealed: tuple[list[AisCell], list[Result]]) -> None:
    found, results = annealed
    for cell, r in zip(found, results, strict=True):
        assert (r["arm"], r["seed"], r["title"]) == (cell.source.arm, cell.seed, cell.source.title)
        assert (r["dataset"], r["latent"]) == ("teacher", 2)
        assert r["value"] == pytest.approx(direct(cell), rel=1e-5)
        state = load_checkpoint(cell.source.weights)
        assert state is not None
        assert r["bound"] == pytest.approx(cells.spaced(state["test"][0], 6).tolist(), rel=1e-5)
        assert 0 < r["acceptance"] <= 1
    values = [tuple(r["value"]) for r in results]
    assert len(set(values)) == 4


def test_models_of_one_seed_share_their_draws(tmp_path: Path) -> None:
    """The same weights under another arm's name have the same values; another seed has not."""
    found = models(tmp_path)
    same = load_checkpoint(found[0].weights)
    assert same is not None
    for cell in found:
        save_checkpoint(cell.weights, same)
    results = {(r["arm"], r["seed"]): r["value"] for r in anneal(cells_of(found), 1)}
    assert results["IWAE", 3] == results["IWAE+IWAE", 3]
    assert results["IWAE", 3] != results["IWAE", 4]


def test_a_seed_s_model_is_found_in_a_group(tmp_path: Path) -> None:
    """On a GPU all seeds of a bound are one cell."""
    (group, *_) = models(tmp_path, device=torch.device("cuda"))
    assert group.seeds == (3, 4)
    state = load_checkpoint(group.weights)
    assert state is not None
    (alone, *_) = models(tmp_path / "alone", seeds=[4])
    own = {k: v[1:] for k, v in state["parameters"].items()}
    save_checkpoint(alone.weights, {"parameters": own, "test": state["test"][1:]})
    (known,) = [c for c in cells_of([alone]) if c.source is alone]
    found = next(c for c in cells_of([group]) if c.seed == 4)
    on_cpu = replace(found, device="cpu")
    a, b = annealing.anneal_cell(on_cpu), annealing.anneal_cell(known)
    assert a == b


def test_longer_cells_are_of_the_first_seed(tmp_path: Path) -> None:
    own = {"images": 6, "arms": ["IWAE"], "chains": 3, "temperatures": 40, "longer_images": 3}
    found = cells_of(models(tmp_path, training_annealing=own))
    (cell,) = longer = annealing.longer_cells(found)
    assert (cell.name, cell.source) == ("ais-teacher-D2-IWAE-3-longer", found[0].source)
    assert (cell.settings.images, cell.settings.temperatures, cell.settings.chains) == (3, 160, 3)
    assert cell.work == 2 * found[0].work  # half the images
    assert annealing.places_of(found[0], 60).tolist() == [0, 12, 24, 35, 47, 59]
    assert annealing.places_of(cell, 60).tolist() == [0, 24, 59]
    results, more = anneal(found, 1), anneal(longer, 1)
    assert more[0]["bound"] == [results[0]["bound"][i] for i in (0, 2, 5)]
    run = FakeRun(tmp_path, training_annealing=own)
    record.annealing(run, results, more)
    gap = [m - results[0]["value"][i] for m, i in zip(more[0]["value"], (0, 2, 5), strict=True)]
    entry = run.metrics["ais_longer/teacher/D=2/IWAE", 3]
    mean = sum(gap) / 3
    assert entry["value"] == pytest.approx(mean, abs=1e-6)
    assert entry["se"] == pytest.approx(math.sqrt(sum((g - mean) ** 2 for g in gap) / 6), rel=1e-4)
    assert (entry["n"], entry["diverged"]) == (3, False)
    assert ("ais_longer/teacher/D=2/IWAE", 4) not in run.metrics
    (row,) = annealing_table(results, more)
    key = "AIS with 4 times the temperatures less AIS, some images (nats)"
    assert row[key] == (entry["value"], entry["se"])
    assert annealing.longer_cells(cells_of(models(tmp_path / "none"))) == []
    few = own | {"longer_images": 99}
    (cell,) = annealing.longer_cells(cells_of(models(tmp_path / "all", training_annealing=few)))
    assert cell.settings.images == 6


def test_a_model_that_is_gone_is_said(tmp_path: Path) -> None:
    (cell, *_) = cells_of(models(tmp_path))
    cell.source.weights.unlink()
    with pytest.raises(UserError, match="missing or damaged; remove teacher-D2-IWAE-3.json"):
        annealing.anneal_cell(cell)


def test_finished_cells_are_read(
    annealed: tuple[list[AisCell], list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, results = annealed
    monkeypatch.setattr(annealing, "annealed", lambda *a, **k: pytest.fail("run again"))
    assert anneal(found, 1) == json.loads(json.dumps(results))


def test_a_cell_that_would_start_late_is_paused(
    tmp_path: Path, annealed: tuple[list[AisCell], list[Result]]
) -> None:
    found = cells_of(models(tmp_path / "late", deadline=1.0))
    with pytest.raises(Paused, match="ais-teacher-D2-IWAE-3: not started"):
        anneal(found, 1)
    assert not list((tmp_path / "late").glob("cells/ais*"))
    done = annealed[0][0]
    late = replace(done, deadline=1.0)
    assert annealing.anneal_cell(late) == annealed[1][0]  # what is finished is read


def test_the_bar_reaches_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cells_of(models(tmp_path))
    state = load_checkpoint(found[1].source.weights)
    assert state is not None
    state["parameters"]["decoder.b0"][0, 0] = math.nan
    save_checkpoint(found[1].source.weights, state)
    for cell in (found[0], found[0], found[1]):  # run, read, diverged
        seen: list[float] = []
        monkeypatch.setattr(annealing, "report", seen.append)
        annealing.anneal_cell(cell)
        assert sum(seen) == pytest.approx(cell.work)
    assert pool.report is not annealing.report


def test_denormal_numbers_are_zero_only_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushing() -> bool:
        return bool((torch.tensor([1e-40]) * 1).item() == 0)

    (cell, *_) = cells_of(models(tmp_path))
    seen = []
    monkeypatch.setattr(annealing, "rounded", lambda v: seen.append(flushing()) or v.tolist())
    annealing.anneal_cell(cell)
    assert seen and all(seen) and not flushing()


# ---- the record


def test_gains_by_ais_are_paired_by_image(annealed: tuple[list[AisCell], list[Result]]) -> None:
    run = FakeRun(Path("."))
    record.annealing(run, annealed[1])
    D = "teacher/D=2"
    arms = ("IWAE", "IWAE+IWAE")
    every = {f"{kind}/{D}/{arm}" for kind in ("ais", "ais_gap") for arm in arms}
    every |= {f"ais_gain/{D}/IWAE+IWAE:IWAE"}
    assert set(run.metrics) == {(name, seed) for name in every for seed in (3, 4)}
    of = {(r["arm"], r["seed"]): r for r in annealed[1]}
    for seed in (3, 4):
        own, base = (torch.tensor(of[arm, seed]["value"]).double() for arm in arms[::-1])
        bound = torch.tensor(of["IWAE+IWAE", seed]["bound"]).double()
        for name, v in (
            (f"ais/{D}/IWAE+IWAE", own),
            (f"ais_gap/{D}/IWAE+IWAE", own - bound),
            (f"ais_gain/{D}/IWAE+IWAE:IWAE", own - base),
        ):
            entry = run.metrics[name, seed]
            assert entry["value"] == pytest.approx(float(v.mean()), rel=1e-5)
            assert entry["se"] == pytest.approx(float(v.std()) / math.sqrt(6), rel=1e-5)
            assert (entry["n"], entry["split"], entry["diverged"]) == (6, "test", False)
            assert entry["estimator"].startswith("AIS, 3 chains, 4 temperatures")


def test_a_diverged_model_is_said_and_not_annealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = models(tmp_path)
    (lost,) = [c for c in found if (c.arm, c.seeds) == ("IWAE+IWAE", (4,))]
    state = load_checkpoint(lost.weights)
    assert state is not None
    state["parameters"]["decoder.b0"][0, 0] = math.nan
    save_checkpoint(lost.weights, state | {"test": torch.full((1, 60), math.nan)})
    few = annealing.annealed
    called: list[Any] = []
    monkeypatch.setattr(annealing, "annealed", lambda *a, **k: called.append(1) or few(*a, **k))
    results = anneal(cells_of(found), 1)
    assert len(called) == 3
    assert results[3]["value"] == [None] * 6 == results[3]["bound"]
    run = FakeRun(tmp_path)
    record.annealing(run, results)
    for name in ("ais/teacher/D=2/IWAE+IWAE", "ais_gap/teacher/D=2/IWAE+IWAE",
                 "ais_gain/teacher/D=2/IWAE+IWAE:IWAE"):  # fmt: skip
        assert run.metrics[name, 4]["diverged"] and run.metrics[name, 4]["value"] is None
        assert run.metrics[name, 3]["value"] is not None
    row = annealing_table(results)[1]
    assert (row["AIS (nats)"], row["seeds"]) == ("1 of 2 seeds diverged", 2)
    results[2]["bound"][1] = None  # finite parameters, and a bound that is not
    again = FakeRun(tmp_path)
    record.annealing(again, results)
    assert again.metrics["ais_gap/teacher/D=2/IWAE+IWAE", 3]["diverged"]
    assert not again.metrics["ais/teacher/D=2/IWAE+IWAE", 3]["diverged"]


def test_the_table() -> None:
    def made(seed: int, value: list[float], bound: list[float]) -> Result:
        about = {"dataset": "teacher", "latent": 2, "arm": "IWAE+average", "title": "t"}
        return about | {
            "seed": seed, "value": value, "bound": bound, "acceptance": 0.5 + 0.1 * seed,
        }  # fmt: skip

    (row,) = annealing_table([made(0, [-1.0, -3.0], [-2.0, -4.0]), made(1, [0.0, -2.0], [-6, -6])])
    assert row["gradient"] == "IWAE, then average, not coupled"
    assert row["AIS (nats)"] == pytest.approx((-1.5, 0.5))
    assert row["bound (nats)"] == pytest.approx((-4.5, 1.5))
    assert row["acceptance"] == pytest.approx(0.55)
    assert (row["images"], row["seeds"], row["D"], row["data set"]) == (2, 2, 2, "teacher")
