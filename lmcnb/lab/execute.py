"""`lmcnb run`: execute a notebook with papermill, once everything about the run is checked."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import checkout, fingerprint, plan, records
from lmcnb.lab.lock import locked_by
from lmcnb.lab.plan import Plan

UNFINISHED = "unfinished.ipynb"
_SILENT = ("papermill", "asyncio")
"""Loggers: what went wrong is said here, and Ctrl-C needs no traceback."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ok, diverged or paused.
        skipped: a finished run was found, nothing was executed.
        directory: the record, the executed notebook and the figures.
        changed: for a skipped run, the code that differs now (empty: none).
        seconds: time spent now.
    """

    status: str
    skipped: bool
    directory: Path
    changed: tuple[str, ...] = ()
    seconds: float = 0.0


def execute(
    decided: Plan,
    *,
    max_seconds: float | None = None,
    force: bool = False,
    stale: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Execute the notebook of a plan, or skip it when its finished record stands.

    Args:
        decided: what to run, checked (`plan.make`).
        max_seconds: pause, with everything saved, after this time.
        force: run again; what stood there is moved aside.
        stale: run again when the code differs from that of the record.
        say: where the remarks go.

    Raises:
        UsageError: no such notebook, or it has no `parameters` cell.
        UserError: the notebook raised; its record has status `error`.
    """
    notebook = checkout.notebook_path(decided.name)
    _require_parameters_cell(notebook)
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max-seconds = {max_seconds}: must be greater than 0")
    if (holder := locked_by(decided.directory)) is not None:
        raise UserError(
            f"{decided.directory}: already running, or open in a notebook (process {holder})"
        )
    standing = _standing_record(decided, say)
    if standing is not None and standing["status"] == "ok" and not force:
        changed = tuple(fingerprint.changed(standing))
        if not (stale and changed):
            return Outcome("ok", True, decided.directory, changed)
        say(f"code changed ({', '.join(changed)}): the older run is kept aside")
        say(f"  in {plan.move_aside(decided.directory)}")
    elif force and decided.directory.exists():
        say(f"the earlier run is kept aside in {plan.move_aside(decided.directory)}")
    plan.set_aside_older(decided)
    return _execute(decided, notebook, max_seconds)


def _execute(decided: Plan, notebook: Path, max_seconds: float | None) -> Outcome:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    record_path = decided.directory / records.NAME
    before = _stamp(record_path)
    started = time.time()
    output = decided.directory / UNFINISHED
    finished = output.with_name(f"{decided.name}.ipynb")
    try:
        decided.directory.mkdir(parents=True, exist_ok=True)
        with _progress(decided) as (bar, environment):
            if max_seconds is not None:
                environment["LMCNB_DEADLINE"] = repr(started + max_seconds)
            papermill.execute_notebook(
                notebook,
                output,
                parameters=_parameters(decided),
                kernel_name="python3",
                language="python",
                progress_bar=bar,
                cwd=notebook.parent,
                kernel_manager_class=_kernel_manager(environment),
            )
        os.replace(output, finished)
    except PapermillExecutionError as error:
        if error.ename == "Paused":
            if _stamp(record_path) == before:
                _write_error(decided, started, None, "paused")
            return Outcome("paused", False, decided.directory, seconds=time.time() - started)
        what = {"cell": error.exec_count, "type": error.ename, "message": error.evalue}
        if _stamp(record_path) == before:
            _write_error(decided, started, what)
        raise _failure(decided, what, output) from None
    except DeadKernelError:
        what = {"cell": None, "type": "DeadKernelError", "message": "the process was killed"}
        _write_error(decided, started, what)
        raise UserError(
            f"{decided.name}: the process of the notebook was killed, perhaps for want of memory; "
            f"the same command goes on from its last checkpoint ({decided.directory})"
        ) from None
    except OSError as error:
        raise UserError(f"{decided.directory}: cannot be written ({error.strerror})") from error
    if _stamp(record_path) == before:
        _write_error(decided, started, {"cell": None, "type": "NoRecord", "message": "no finish"})
        raise UserError(f"{decided.name}: the notebook ended without run.finish(): no result")
    status = records.read(record_path)["status"]
    return Outcome(status, False, decided.directory, seconds=time.time() - started)


def _failure(decided: Plan, what: dict[str, Any], output: Path) -> UserError:
    """The error for the user: his own mistakes in one sentence, others with where to look."""
    if what["type"] == "UsageError":
        return UsageError(what["message"])
    if what["type"] == "UserError":
        return UserError(what["message"])
    return UserError(
        f"{decided.name}: cell {what['cell']} raised {what['type']}: {what['message']}\n"
        f"the notebook with the traceback: {output}"
    )


def _write_error(
    decided: Plan, started: float, error: dict[str, Any] | None, status: str = "error"
) -> None:
    """Write the record of a notebook that could not write its own, unless the run is another's."""
    from lmcnb.lab import run

    if locked_by(decided.directory) is not None:
        return

    begun = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
    session = {"started": begun, "seconds": round(time.time() - started, 3)}
    session |= {**fingerprint.commit(), "package": fingerprint.package()}
    record = run.base_record(decided, [*run.earlier_sessions(decided.directory), session], [])
    records.write(decided.directory / records.NAME, record | {"status": status, "error": error})


def _parameters(decided: Plan) -> dict[str, Any]:
    return {
        "profile": decided.profile,
        "seed": decided.seed,
        "device": decided.device,
        "overrides": decided.overrides,
        "out_dir": str(decided.directory.parents[1]),
    }


def _standing_record(decided: Plan, say: Callable[[str], None]) -> dict[str, Any] | None:
    path = decided.directory / records.NAME
    if not path.exists():
        return None
    try:
        return records.read(path)
    except UserError as error:
        say(f"{error}; kept aside in {plan.move_aside(decided.directory)}")
        return None


def _require_parameters_cell(notebook: Path) -> None:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{notebook}: not a notebook ({error})") from None
    if "parameters" not in tags:
        raise UserError(f"{notebook}: no cell is tagged `parameters`")


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _kernel_manager(environment: dict[str, str]) -> Any:
    """A kernel manager that starts this Python, whatever kernels are installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    paths = [str(checkout.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning that nobody needs
        **environment,
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = KernelSpec(
        argv=[*command, "--log-level=CRITICAL"],
        display_name="this Python",
        language="python",
        env={key: value.replace("$", "$$") for key, value in environment.items()},
    )

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return ThisPython


@contextlib.contextmanager
def _progress(decided: Plan) -> Iterator[tuple[Any, dict[str, str]]]:
    """Bars on a terminal: the cells, and below them what the notebook's loops report.

    In a log file a line a minute instead; nothing where CI is set.
    """
    if os.environ.get("CI"):
        yield False, {"CI": os.environ["CI"]}
        return
    terminal = sys.stderr.isatty()
    with tempfile.TemporaryDirectory(prefix="lmcnb-") as folder:
        feed = Path(folder) / "progress.json"
        done = threading.Event()
        target = _show_feed if terminal else _tell_feed
        thread = threading.Thread(target=target, args=(feed, done), daemon=True)
        thread.start()
        try:
            bar = {"desc": f"{decided.name} [{decided.profile}]", "position": 0}
            yield bar if terminal else False, {"LMCNB_PROGRESS": str(feed)}
        finally:
            done.set()
            thread.join(timeout=2)


def _read_feed(feed: Path) -> tuple[str, float, float | None] | None:
    """What the notebook's process is at: description, amount done, total."""
    try:
        now = json.loads(feed.read_text(encoding="utf-8"))
        total = now.get("total")
        return str(now.get("desc", "")), float(now["n"]), None if total is None else float(total)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell_feed(feed: Path, done: threading.Event, every: float = 60.0) -> None:
    """A line every so many seconds, for logs."""
    started = time.monotonic()
    while not done.wait(every):
        if (now := _read_feed(feed)) is None:
            continue
        desc, n, total = now
        share = f"{100 * n / total:.0f} %" if total else f"{n:g}"
        minutes = (time.monotonic() - started) / 60
        print(f"  {desc}: {share} ({minutes:.0f} min in all)", file=sys.stderr, flush=True)


def _show_feed(feed: Path, done: threading.Event) -> None:
    """Draw the inner bar from the file that `lab.progress` writes in the notebook's process."""
    from tqdm import tqdm

    bar: Any = None
    while not done.wait(0.3):
        if (now := _read_feed(feed)) is None:
            continue
        desc, n, total = now
        if bar is None or bar.desc != desc or bar.total != total or n < bar.n:
            if bar is not None:
                bar.close()
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if total else None
            bar = tqdm(total=total, position=1, leave=False, initial=n, bar_format=form)
            bar.set_description_str(desc)
        bar.n = n
        bar.refresh()
    if bar is not None:
        bar.close()
