"""`lmcnb run` around a notebook: skips, errors, records of what failed, the kernel and the bars."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import execute, plan, records


def test_a_notebook_that_raises(toy: Path, capfd: Any) -> None:
    decided = plan.make("toy", device="cpu", overrides={"loop.fail": "bug"})
    with pytest.raises(UserError, match=r"toy: cell 5 raised ZeroDivisionError: division"):
        execute.execute(decided)
    record = records.read(decided.directory / "record.json")
    assert record["status"] == "error"
    told = {"cell": 5, "type": "ZeroDivisionError", "message": "division by zero"}
    assert record["error"] == told
    assert len(record["metrics"]["walk/end"]) == 1  # what was known stays
    executed = (decided.directory / execute.UNFINISHED).read_text()
    assert "papermill-error-cell" in executed and "ZeroDivisionError" in executed
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err and "Traceback" not in captured.out


class Failing:
    """Stands in for papermill: raises, or leaves a record of some status."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.calls = error, 0

    def __call__(self, notebook: Any, output: Path, **_: Any) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        output.write_text("{}")


@pytest.fixture
def papermill(monkeypatch: pytest.MonkeyPatch) -> Any:
    import papermill as module

    def stand_in(error: BaseException | None = None) -> Failing:
        failing = Failing(error)
        monkeypatch.setattr(module, "execute_notebook", failing)
        return failing

    return stand_in


def cell_error(name: str, message: str) -> Exception:
    from papermill.exceptions import PapermillExecutionError

    return PapermillExecutionError(2, 3, "source", name, message, [])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("UsageError", UsageError, "^steps = 0$"),
        ("UserError", UserError, "^steps = 0$"),
        ("ValueError", UserError, "^toy: cell 3 raised ValueError: steps = 0\nthe notebook with"),
    ],
)
def test_errors_before_the_run_has_started(
    toy: Path, papermill: Any, name: str, kind: type[UserError], message: str
) -> None:
    papermill(cell_error(name, "steps = 0"))
    decided = plan.make("toy", device="cpu")
    with pytest.raises(UserError, match=message) as caught:
        execute.execute(decided)
    assert type(caught.value) is kind
    record = records.read(decided.directory / "record.json")
    assert record["status"] == "error" and record["error"]["cell"] == 3


def test_a_killed_kernel_is_told_apart(toy: Path, papermill: Any) -> None:
    from nbclient.exceptions import DeadKernelError

    papermill(DeadKernelError("Kernel died"))
    decided = plan.make("toy", device="cpu")
    with pytest.raises(UserError, match="was killed, perhaps for want of memory"):
        execute.execute(decided)
    record = records.read(decided.directory / "record.json")
    assert record["error"]["type"] == "DeadKernelError"


def test_a_notebook_without_finish_is_no_result(toy: Path, papermill: Any) -> None:
    papermill()
    decided = plan.make("toy", device="cpu")
    with pytest.raises(UserError, match="ended without run.finish"):
        execute.execute(decided)
    assert records.read(decided.directory / "record.json")["status"] == "error"


def test_a_full_disk_while_the_notebook_is_saved(toy: Path, papermill: Any) -> None:
    papermill(OSError(28, "No space left on device"))
    with pytest.raises(UserError, match="cannot be written.*No space left"):
        execute.execute(plan.make("toy", device="cpu"))


def finished(decided: plan.Plan, status: str = "ok") -> Path:
    """A run of this plan, without executing its notebook."""
    from lmcnb.lab.run import Run

    made = Run(decided)
    made.metric("walk/end", 1.0, seed=0)
    made.write_record(status)
    (made.directory / "mark").write_text("mine")
    return made.directory


def test_a_finished_run_is_skipped_forced_or_stale(toy: Path, papermill: Any) -> None:
    stand_in = papermill(cell_error("Paused", ""))
    decided = plan.make("toy", device="cpu")
    directory = finished(decided)
    said: list[str] = []

    assert execute.execute(decided, stale=True).skipped  # nothing changed
    notebook = toy / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("0.9 * x", "0.8 * x"))
    assert execute.execute(decided).changed == ("notebook",)
    assert stand_in.calls == 0 and (directory / "mark").exists()

    assert not execute.execute(decided, stale=True, say=said.append).skipped
    assert stand_in.calls == 1
    aside = [p for p in directory.parent.iterdir() if ".old-" in p.name]
    assert len(aside) == 1 and (aside[0] / "mark").read_text() == "mine"
    assert str(aside[0]) in said[-1] and "notebook" in said[0]

    finished(decided)
    assert not execute.execute(decided, force=True, say=said.append).skipped
    aside = [p for p in directory.parent.iterdir() if ".old-" in p.name]
    assert len(aside) == 2 and "kept aside" in said[-1]


@pytest.mark.parametrize("status", ["paused", "error", "diverged"])
def test_a_run_that_is_not_ok_is_run_again(toy: Path, papermill: Any, status: str) -> None:
    stand_in = papermill(cell_error("Paused", ""))
    decided = plan.make("toy", device="cpu")
    directory = finished(decided, status)
    assert execute.execute(decided).status == "paused"
    assert stand_in.calls == 1 and (directory / "mark").exists()


def test_a_broken_record_is_kept_aside_and_said(toy: Path, papermill: Any) -> None:
    stand_in = papermill(cell_error("Paused", ""))
    decided = plan.make("toy", device="cpu")
    path = finished(decided) / "record.json"
    path.write_bytes(path.read_bytes()[:100])
    said: list[str] = []
    execute.execute(decided, say=said.append)
    assert stand_in.calls == 1 and "not a whole JSON file" in said[0] and ".old-" in said[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a notebook"), ('{"cells": []}', "no cell is tagged `parameters`")],
)
def test_what_is_no_notebook_of_ours_is_refused(
    toy: Path, papermill: Any, content: str, message: str
) -> None:
    stand_in = papermill()
    decided = plan.make("toy", device="cpu")
    (toy / "notebooks" / "toy.ipynb").write_text(content)
    with pytest.raises(UserError, match=message):
        execute.execute(decided)
    assert stand_in.calls == 0 and not decided.directory.exists()


def test_the_kernel_is_this_python_whatever_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/another/python"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    manager = execute._kernel_manager({"LMCNB_DEADLINE": "$12"})(kernel_name="python3")
    assert manager.kernel_spec.argv[0] == sys.executable
    assert manager.kernel_spec.env["LMCNB_DEADLINE"] == "$$12"


def test_a_log_has_a_line_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed, done = tmp_path / "progress.json", threading.Event()
    thread = threading.Thread(target=execute._tell_feed, args=(feed, done, 0.1))
    thread.start()
    time.sleep(0.25)
    assert capsys.readouterr().err == ""
    feed.write_text(json.dumps({"desc": "training", "n": 3, "total": 10, "t": 0}))
    time.sleep(0.25)
    done.set()
    thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {"  training: 30 % (0 min in all)"}


def test_the_bar_follows_what_the_notebook_reports(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided = plan.make("toy", device="cpu")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("CI", raising=False)
    with execute._progress(decided) as (bar, given):
        assert bar["desc"] == "toy [quick]"
        feed = Path(given["LMCNB_PROGRESS"])
        feed.write_text("{half")
        time.sleep(0.4)
        feed.write_text(json.dumps({"desc": "training", "n": 3, "total": 10, "t": 0}))
        time.sleep(0.7)
    assert not feed.exists()
    shown = capsys.readouterr().err
    assert "training:  30%" in shown
    monkeypatch.setenv("CI", "true")
    with execute._progress(decided) as (bar, given):
        assert bar is False and given == {"CI": "true"}
