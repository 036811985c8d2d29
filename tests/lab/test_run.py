"""`lab.start` and the run: identity, metrics, sessions, and what is refused before it starts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmcnb import lab
from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.lab import files, fingerprint, plan, records, run


def identity(**changes: Any) -> str:
    return plan.make("toy", **{"device": "cpu", **changes}).id


def test_the_id_is_the_work_and_nothing_else(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = identity()
    assert identity(out_dir=tmp_path / "elsewhere") == first
    assert identity(overrides={"loop.steps": 5, "n_seeds": 1}) == first  # the profile's own values
    assert identity(device="auto" if not torch.cuda.is_available() else "cpu") == first
    monkeypatch.setenv("LMCNB_DEADLINE", "1")
    monkeypatch.setenv("LMCNB_PROGRESS", "x")
    monkeypatch.setenv("LMCNB_RUNS", str(tmp_path / "runs"))
    assert identity() == first
    others = [
        identity(seed=1),
        identity(profile="paper"),
        identity(overrides={"loop.steps": 6}),
        identity(overrides={"n_seeds": 2}),
        identity(overrides={"methods": ["LDVI"]}),
        plan.identity("toy", "quick", {}, (0,), "cpu", {}),
        plan.identity("toy", "quick", {}, (0,), "cuda:1", {}),
        plan.identity("toy", "quick", {}, (0,), "cpu", {"sonar": "abc"}),
        plan.identity("other", "quick", {}, (0,), "cpu", {}),
    ]
    assert len({first, *others}) == len(others) + 1
    one = plan.identity("toy", "quick", {}, (0,), "cuda:0", {})
    assert one == plan.identity("toy", "quick", {}, (0,), "cuda:1", {})  # the kind counts


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seed": -1}, "seed = -1: must be an integer"),
        ({"seed": 1.0}, "seed = 1.0: must be an integer"),
        ({"seed": True}, "seed = True: must be an integer"),
        ({"seed": "3"}, "seed = '3': must be an integer"),
        ({"device": "gpu"}, "device = 'gpu' is unknown; allowed: auto, cpu, cuda"),
        ({"device": "cpu:1"}, "device = 'cpu:1' is unknown"),
        ({"device": "cuda:x"}, "device = 'cuda:x' is unknown"),
        ({"device": None}, "device = None: must be a string"),
        ({"out_dir": 3}, "out_dir = 3"),
        ({"profile": "papr"}, "did you mean 'paper'"),
        ({"overrides": {"loop.steps": 0}}, "loop.steps = 0"),
        ({"name": "toi"}, "notebook 'toi' is unknown; did you mean 'toy'"),
    ],
)
def test_what_is_impossible_is_refused_before_anything_is_written(
    toy: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        lab.start(**{"name": "toy", **parameters})
    assert not (toy / "runs").exists()


def test_cuda_is_refused_where_it_is_absent(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"sees no CUDA device; allowed here: auto, cpu"):
        plan.make("toy", device="cuda")
    assert plan.make("toy", device="auto").device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert plan.make("toy", device="auto").device == "cuda"
    with pytest.raises(UsageError, match="cuda:3"):
        plan.make("toy", device="cuda:3")


def test_absent_data_is_refused_before_anything_is_written(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCNB_DATA", str(tmp_path))
    monkeypatch.setenv("LMCNB_CACHE", str(tmp_path))
    module = toy / "lmcnb" / "papers" / "toy.py"
    module.write_text(module.read_text().replace("return []", 'return ["sonar"]'))
    with pytest.raises(UserError, match="sonar"):
        lab.start("toy", device="cpu")
    assert not (toy / "runs").exists()


def test_a_run_from_start_to_finish(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = lab.start("toy", "paper", seed=4, device="cpu", overrides='{"loop.steps": 7}')
    assert (made.name, made.profile, made.seed, made.seeds) == ("toy", "paper", 4, [4, 5, 6])
    assert made.settings.loop.steps == 7 and made.device == torch.device("cpu")
    assert made.directory == toy / "runs" / "toy" / made.id
    assert made.deadline is None
    assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
    for seed in made.seeds:
        made.metric("b", torch.tensor(2.5), seed=seed, se=np.float32(0.5), n=np.int64(3))
    made.metric("b", 7, seed=5, unit="", note="replaced")
    made.metric("a", math.nan, seed=4)
    made.metric("a", 1.0, seed=5, diverged=True, note="step 3")
    made.metric("a", 0.0, seed=6, se=math.inf)
    made.count("gradients", 3)
    made.count("gradients", 4)
    made.note("23 test images are inexact")
    made.finish()
    assert capsys.readouterr().out == "toy [paper]: ok, 2 metrics, 3 seeds\n"
    record = records.read(made.directory / "record.json")
    assert [e["value"] for e in record["metrics"]["b"]] == [2.5, 7.0, 2.5]
    assert [e["value"] for e in record["metrics"]["a"]] == [None, None, 0.0]
    assert [e["diverged"] for e in record["metrics"]["a"]] == [True, True, False]
    assert record["metrics"]["a"][1]["note"] == "step 3"
    assert record["metrics"]["a"][2]["se"] is None
    assert record["counters"] == {"gradients": 7}
    assert record["overrides"] == {"loop.steps": 7}
    assert record["notes"] == ["23 test images are inexact"]
    with pytest.raises(UsageError, match=r"metric b: seed = 3 is not of this run; has \[4, 5, 6\]"):
        made.metric("b", 1.0, seed=3)


def test_a_metric_that_diverged_in_every_seed_makes_the_run_diverged(toy: Path) -> None:
    made = lab.start("toy", device="cpu", overrides={"n_seeds": 2})
    made.metric("fine", 1.0, seed=0)
    for seed in made.seeds:
        made.metric("lost", None, seed=seed, note="step 12")
    made.finish()
    assert records.read(made.directory / "record.json")["status"] == "diverged"


def test_out_dir_and_environment_say_where(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCNB_RUNS", str(tmp_path / "env"))
    monkeypatch.setenv("LMCNB_DEADLINE", "12.5")
    made = lab.start("toy", device="cpu")
    assert made.directory == tmp_path / "env" / "toy" / made.id and made.deadline == 12.5
    made = lab.start("toy", device="cpu", out_dir=str(tmp_path / "given"))
    assert made.directory == tmp_path / "given" / "toy" / made.id


def test_every_commit_that_took_part_is_listed(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "commit", lambda: {"commit": "a" * 40, "dirty": False})
    monkeypatch.setattr(fingerprint, "package", lambda: "first")
    lab.start("toy", device="cpu")  # and killed
    monkeypatch.setattr(fingerprint, "commit", lambda: {"commit": "b" * 40, "dirty": True})
    monkeypatch.setattr(fingerprint, "package", lambda: "second")
    made = lab.start("toy", device="cpu")
    made.finish()
    code = records.read(made.directory / "record.json")["code"]
    assert code["commits"] == ["a" * 40, "b" * 40]
    assert (code["commit"], code["dirty"], code["mixed"]) == ("b" * 40, True, True)


def test_a_finished_run_of_other_code_is_set_aside_with_its_checkpoints(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab.start("toy", device="cpu")
    files.save_checkpoint(made.directory / "c.pt", {"step": 1})
    made.finish()
    again = lab.start("toy", device="cpu")  # the same code goes on from the checkpoint
    assert (again.directory / "c.pt").exists()
    again.finish()
    notebook = toy / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("0.9 * x", "0.8 * x"))
    third = lab.start("toy", device="cpu")
    assert not (third.directory / "c.pt").exists()
    aside = [p for p in third.directory.parent.iterdir() if p != third.directory]
    assert len(aside) == 1 and (aside[0] / "c.pt").exists() and (aside[0] / "record.json").exists()


def test_an_unfinished_run_goes_on_also_with_other_code(toy: Path) -> None:
    made = lab.start("toy", device="cpu")
    files.save_checkpoint(made.directory / "c.pt", {"step": 1})
    made.write_record("paused")
    notebook = toy / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("0.9 * x", "0.8 * x"))
    again = lab.start("toy", device="cpu")
    assert (again.directory / "c.pt").exists()


def test_a_full_disk_loses_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    made = lab.start("toy", device="cpu")
    made.metric("walk/end", 1.0, seed=0)
    made.finish()
    before = (made.directory / "record.json").read_bytes()
    again = lab.start("toy", device="cpu")
    again.metric("walk/end", 2.0, seed=0)
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no room"):
            again.finish()
    assert (made.directory / "record.json").read_bytes() == before
    again.finish()  # some space was freed
    record = records.read(made.directory / "record.json")
    assert record["metrics"]["walk/end"][0]["value"] == 2.0


class Shell:
    """As much of IPython's shell as a run uses."""

    def __init__(self, *cells: str) -> None:
        self.user_ns = {"In": ["", *cells]}
        self.callbacks: dict[str, list[Any]] = {"post_run_cell": []}
        self.events = SimpleNamespace(
            callbacks=self.callbacks,
            register=lambda name, f: self.callbacks[name].append(f),
            unregister=lambda name, f: self.callbacks[name].remove(f),
        )

    def cell_raised(self, error: BaseException | None) -> None:
        for f in list(self.callbacks["post_run_cell"]):
            f(SimpleNamespace(error_in_exec=error, execution_count=4))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Paused("later"), "paused"),
        (ZeroDivisionError("division by zero"), "error"),
        (UserError("the file is broken"), "error"),
        (KeyboardInterrupt(), None),
        (None, None),
    ],
)
def test_a_cell_that_pauses_or_raises_leaves_a_record(
    toy: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: str | None
) -> None:
    shell = Shell()
    monkeypatch.setattr(run, "_shell", lambda: shell)
    lab.start("toy", device="cpu")
    made = lab.start("toy", device="cpu")  # the cell run twice
    assert len(shell.callbacks["post_run_cell"]) == 1
    shell.cell_raised(error)
    path = made.directory / "record.json"
    assert (records.read(path)["status"] if path.exists() else None) == status
    if status == "error":
        told = {"cell": 4, "type": type(error).__name__, "message": str(error)}
        assert records.read(path)["error"] == told
    made.finish()
    shell.cell_raised(ZeroDivisionError())  # a slip after the end changes nothing
    assert records.read(path)["status"] == "ok"


def test_a_parameter_that_papermill_only_warns_about_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_shell", lambda: Shell("seed = 0", "# Parameters\nsed = 3\n"))
    with pytest.raises(UsageError, match="parameter 'sed' is unknown; did you mean 'seed'"):
        lab.start("toy", device="cpu")
    monkeypatch.setattr(run, "_shell", lambda: Shell("sed = 0", "# Parameters\nseed = 3\n"))
    lab.start("toy", device="cpu")


def test_names_of_the_laboratory_are_functions_whatever_is_imported_first() -> None:
    import lmcnb.lab.display  # noqa: F401

    assert callable(lab.show) and callable(lab.progress) and callable(lab.start)
    assert lab.Paused is Paused
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = lab.nothing_here


def test_a_figure_is_saved_with_its_arrays_and_listed(toy: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = lab.start("toy", device="cpu")
    fig, ax = plt.subplots()
    ax.plot([1.0, 2.0])
    assert made.figure(fig, "walk", {"x": [1.0, 2.0]}, "a line") is None
    made.finish()
    (figure,) = records.read(made.directory / "record.json")["figures"]
    assert figure["name"] == "walk" and figure["alt"] == "a line"
    assert all((made.directory / place).is_file() for place in figure["files"])
    assert "figures/walk.npz" in figure["files"]
