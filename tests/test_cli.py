"""The command: help everywhere, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from lmcnb.cli import main
from lmcnb.lab import checkout, execute, plan
from lmcnb.lab.run import Run

TOY = Path(__file__).resolve().parent / "toy"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy checkout of its own."""
    folder = tmp_path / "checkout"
    shutil.copytree(TOY, folder)
    (folder / "notebooks" / "toy.ipynb.json").rename(folder / "notebooks" / "toy.ipynb")
    monkeypatch.setenv("LMCNB_ROOT", str(folder))
    for name in ("LMCNB_RUNS", "LMCNB_DEADLINE", "LMCNB_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Put back what a run pins."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """Runs are made without a kernel; lists what would have been executed."""
    done: list[tuple[str, float | None]] = []

    def stand_in(decided: plan.Plan, _: Path, max_seconds: float | None) -> execute.Outcome:
        done.append((decided.id, max_seconds))
        if max_seconds:
            return execute.Outcome("paused", False, decided.directory)
        made = Run(decided)
        for seed in made.seeds:
            lost = decided.settings.loop.fail == "diverge"
            made.metric("walk/end", 1.0, seed=seed, diverged=lost, note="step 3" if lost else None)
        (made.directory / "figures").mkdir(exist_ok=True)
        (made.directory / "figures" / "walk.png").write_bytes(b"picture")
        made.finish()
        return execute.Outcome("diverged" if lost else "ok", False, decided.directory)

    monkeypatch.setattr(execute, "_execute", stand_in)
    return done


def lmcnb(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(*arguments: str) -> Result:
    return lmcnb("run", "toy", "--device", "cpu", *arguments)


COMMANDS = [
    [],
    ["run"],
    ["list"],
    ["claims"],
    ["cite"],
    ["keep"],
    ["data"],
    ["data", "list"],
    ["data", "fetch"],
    ["data", "verify"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_everywhere(command: list[str]) -> None:
    result = lmcnb(*command, "--help")
    assert result.exit_code == 0 and "Usage:" in result.output
    undocumented = [c for c in main.commands.values() if not c.help]
    assert not undocumented


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from lmcnb.cli import main\n"
        "try:\n"
        "    main(['run', '--help'])\n"
        "finally:\n"
        "    assert not {'torch', 'numpy', 'papermill'} & set(sys.modules)\n"
    )
    folder = checkout.PACKAGE.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "rn"),
        (["run"], "give one NAME, or --all; the notebooks are: toy"),
        (["run", "toy", "--all"], "give one NAME, or --all"),
        (["run", "tox"], "notebook 'tox' is unknown; did you mean 'toy'?"),
        (["run", "toy", "--profile", "papr"], "did you mean 'paper'?"),
        (["run", "toy", "--seed", "x"], "'x' is not a valid integer"),
        (["run", "toy", "--seed", "-1"], "seed = -1: must be an integer"),
        (["run", "toy", "--device", "gpu"], "device = 'gpu' is unknown"),
        (["run", "toy", "--set", "loop.stps=1"], "did you mean 'loop.steps'?"),
        (["run", "toy", "--set", "loop.steps=0"], "loop.steps = 0"),
        (["run", "toy", "--set", "loop.steps=-2"], "loop.steps = -2"),
        (["run", "toy", "--set", "loop.steps=many"], "loop.steps = 'many'"),
        (["run", "toy", "--set", "loop.steps"], "must be key=value"),
        (["run", "toy", "--max-seconds", "0"], "max-seconds 0: must be greater than 0"),
        (["run", "toy", "--max-seconds", "nan"], "max-seconds nan: must be greater than 0"),
        (["list", "tox"], "did you mean 'toy'?"),
        (["list", "toy", "--profile", "x"], "allowed: quick, paper"),
        (["claims", "tox"], "did you mean 'toy'?"),
        (["claims", "--format", "xml"], "'xml' is not one of"),
        (["claims", "--records", "nowhere"], "nowhere: no such folder"),
        (["claims", "toy", "--readme"], "leave NAME out"),
        (["cite", "tox"], "did you mean 'toy'?"),
        (["data", "fetch", "minst"], "did you mean 'mnist'?"),
        (["data", "verify", "minst"], "did you mean 'mnist'?"),
        (["keep", "toy"], "no finished run of toy"),
        (["keep", "tox"], "notebook 'tox' is unknown"),
    ],
)
def test_usage_errors_exit_with_2_before_anything_runs(
    toy: Path, executed: list[Any], arguments: list[str], message: str
) -> None:
    result = lmcnb(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert executed == [] and not (toy / "runs").exists()


def test_failures_exit_with_1(
    toy: Path, tmp_path: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    shutil.copytree(toy / "runs", toy / "results")
    (record,) = toy.glob("results/toy/*/record.json")
    record.write_bytes(record.read_bytes()[:50])
    result = lmcnb("claims", "--records", str(toy / "results"))
    assert result.exit_code == 1 and "record.json: not a whole JSON file" in result.stderr
    (toy / "notebooks" / "profiles" / "toy.toml").write_text("[quick")
    assert run().exit_code == 1
    monkeypatch.setenv("LMCNB_ROOT", str(tmp_path))
    for arguments in (["list"], ["run", "toy"], ["claims"], ["cite", "toy"]):
        result = lmcnb(*arguments)
        assert result.exit_code == 1 and "needs the lmcnb checkout" in result.stderr


def test_a_run_is_reported_and_then_skipped(toy: Path, executed: list[Any]) -> None:
    first = run("--set", "n_seeds=2")
    assert first.exit_code == 0 and "ok in" in first.stdout and "results in" in first.stdout
    second = run("--set", "n_seeds=2")
    assert second.exit_code == 0 and "skipped (--force runs it again)" in second.stdout
    assert len(executed) == 1
    notebook = toy / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("0.9 * x", "0.8 * x"))
    third = run("--set", "n_seeds=2")
    assert "the code changed since (--stale runs it again): notebook" in third.stdout
    assert len(executed) == 1
    assert run("--set", "n_seeds=2", "--stale").exit_code == 0 and len(executed) == 2
    forced = run("--set", "n_seeds=2", "--force")
    assert "kept aside" in forced.stdout and len(executed) == 3
    assert len(list((toy / "runs" / "toy").glob("*.old-*"))) == 2


def test_a_paused_run_says_how_to_go_on(toy: Path, executed: list[Any], tmp_path: Path) -> None:
    arguments = ["--set", 'iterations={"default": 3}', "--max-seconds", "2.5"]
    result = run(*arguments, "--out-dir", str(tmp_path / "o"))
    assert result.exit_code == 0 and "paused" in result.stdout
    again = result.stdout.strip().splitlines()[-1].strip()
    assert again == (
        "lmcnb run toy --profile quick --seed 0 --device cpu "
        f"--set 'iterations={{\"default\": 3}}' --max-seconds 2.5 --out-dir {tmp_path / 'o'}"
    )
    assert executed == [
        (plan.make("toy", device="cpu", overrides={"iterations.default": 3}).id, 2.5)
    ]


def test_a_diverged_run_says_what_and_where(toy: Path, executed: list[Any]) -> None:
    result = run("--set", "loop.fail=diverge")
    assert result.exit_code == 0
    assert "diverged in every seed: walk/end (step 3)" in result.stdout


def test_all_runs_every_notebook_and_ends_with_the_claims(toy: Path, executed: list[Any]) -> None:
    result = lmcnb("run", "--all", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "(1 of 1) toy [quick] on cpu" in result.stdout
    assert "the walk ends between -10 and 10" in result.stdout and "reproduced" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1].startswith("  toy: ")


def test_all_goes_on_after_a_failure_and_says_so(
    toy: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcnb.errors import UserError

    def fails(*_: Any) -> None:
        raise UserError("toy: cell 5 raised ZeroDivisionError")

    monkeypatch.setattr(execute, "_execute", fails)
    result = lmcnb("run", "--all", "--device", "cpu")
    assert result.exit_code == 1
    assert "failed: toy: cell 5 raised" in result.stderr and "1 of 1 failed: toy" in result.stderr
    assert "Where the results lie" in result.stdout


def test_list_shows_papers_profiles_and_settings(toy: Path) -> None:
    result = lmcnb("list")
    assert "toy\n    A toy\n    --profile quick: one second\n" in result.stdout
    result = lmcnb("list", "toy", "--profile", "paper")
    assert "n_seeds = 3\n    an integer, >= 1; seeds in one run\n" in result.stdout
    assert "loop.steps = 5" in result.stdout


def test_claims_in_every_format(toy: Path, executed: list[Any]) -> None:
    assert "not run" in lmcnb("claims").stdout
    run()
    table = lmcnb("claims", "toy", "--records", str(toy / "runs"))
    assert table.exit_code == 0 and "reproduced" in table.stdout
    rows = json.loads(lmcnb("claims", "--format", "json", "--records", str(toy / "runs")).stdout)
    assert [(r["paper"], r["id"], r["verdict"]) for r in rows] == [("toy", "walk", "reproduced")]
    assert "| walk |" in lmcnb("claims", "--format", "markdown").stdout
    missing = lmcnb("claims", "--readme")
    assert missing.exit_code == 1 and "README.md" in missing.stderr


def test_cite_prints_bibtex(toy: Path) -> None:
    assert lmcnb("cite", "toy").stdout == "@article{toy2024,\n  title = {A toy},\n}\n"


def test_data_list_and_verify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMCNB_DATA", str(tmp_path))
    monkeypatch.setenv("LMCNB_CACHE", str(tmp_path))
    monkeypatch.setenv("LMCNB_OFFLINE", "1")
    listed = lmcnb("data", "list").stdout
    assert "there   seeds" in listed and "absent  mnist" in listed
    assert lmcnb("data", "verify", "seeds").stdout == "ok      seeds\n"
    absent = lmcnb("data", "fetch", "sonar")
    assert absent.exit_code == 1 and "sonar" in absent.stderr


def test_keep_copies_once_and_refuses_to_overwrite(toy: Path, executed: list[Any]) -> None:
    run()
    (run_id,) = [p.name for p in (toy / "runs" / "toy").iterdir()]
    kept = lmcnb("keep", "toy")
    assert kept.exit_code == 0
    record = toy / "results" / "toy" / f"{run_id}.json"
    assert record.read_bytes() == (toy / "runs" / "toy" / run_id / "record.json").read_bytes()
    assert (toy / "figures" / "toy" / "quick" / "walk.png").read_bytes() == b"picture"
    assert "nothing changed" in lmcnb("keep", "toy", run_id).stdout
    picture = toy / "figures" / "toy" / "quick" / "walk.png"
    picture.write_bytes(b"another")
    refused = lmcnb("keep", "toy", run_id)
    assert refused.exit_code == 2 and "figures/toy/quick/walk.png" in refused.stderr
    assert picture.read_bytes() == b"another"
    record.unlink()
    assert lmcnb("keep", "toy", run_id, "--no-figures").exit_code == 0
    assert record.exists() and picture.read_bytes() == b"another"
    assert lmcnb("keep", "toy", run_id, "--force").exit_code == 0
    assert picture.read_bytes() == b"picture"
    unknown = lmcnb("keep", "toy", run_id[:-1])
    assert unknown.exit_code == 2 and f"did you mean '{run_id}'" in unknown.stderr
    Run(plan.make("toy", seed=5, device="cpu")).write_record("paused")
    paused = plan.make("toy", seed=5, device="cpu").id
    refused = lmcnb("keep", "toy", paused)
    assert refused.exit_code == 2 and "is paused" in refused.stderr
    assert "nothing changed" in lmcnb("keep", "toy").stdout  # the last finished one
