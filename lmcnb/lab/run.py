"""`lab.start`, the second cell of every notebook, and the run that it returns."""

from __future__ import annotations

import ast
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.lab import checkout, config, fingerprint, lock, machine, plan, records
from lmcnb.lab.files import read_json, write_json
from lmcnb.lab.plan import Plan

PARAMETERS = ("profile", "seed", "device", "overrides", "out_dir")


def start(
    name: str,
    profile: str = "quick",
    seed: int = 0,
    device: str = "auto",
    overrides: config.Overrides = None,
    out_dir: str | Path | None = None,
) -> Run:
    """Check the parameters, pin threads and determinism, and open the run.

    Args:
        name: the notebook.
        profile: quick, laptop or paper.
        seed: the first seed; the run covers `seed … seed + n_seeds - 1`.
        device: auto, cpu, cuda or cuda:N.
        overrides: dotted keys and values that change the profile's settings, or a JSON string.
        out_dir: where runs are written; default `$LMCNB_RUNS`, else `runs/` of the checkout.

    Raises:
        UsageError: a parameter is unknown or impossible; it is named with what is allowed.
        UserError: a data set is absent, or the folder cannot be written.
    """
    _refuse_unknown_parameters()
    decided = plan.make(name, profile, seed, device, overrides, out_dir)
    run = Run(decided)
    _watch_cells(run)
    return run


class Run:
    """An open run: where to write, what to run, and what came out.

    Attributes:
        name, profile, seed, seeds, settings: as resolved.
        id: the run id.
        device: the `torch.device`.
        directory: checkpoints, figures and the record of this run.
        deadline: Unix time at which to pause, or None (`lmcnb run --max-seconds`).
    """

    def __init__(self, decided: Plan) -> None:
        self.plan = decided
        self.name, self.profile, self.id = decided.name, decided.profile, decided.id
        self.seed, self.seeds = decided.seed, list(decided.seeds)
        self.settings = decided.settings
        self.directory = decided.directory
        limit = os.environ.get("LMCNB_DEADLINE")
        self.deadline = float(limit) if limit else None
        self.finished = False
        self._metrics: dict[str, dict[int, dict[str, Any]]] = {}
        self._counters: dict[str, int] = {}
        self._figures: dict[str, dict[str, Any]] = {}
        self._notes: list[str] = []
        self._clock = time.monotonic()
        self._deterministic = machine.pin(decided.device, getattr(self.settings, "threads", 1))

        import torch

        self.device = torch.device(decided.device)
        lock.hold(decided.directory)
        if plan.set_aside_older(decided):  # with the lock in it
            lock.hold(decided.directory)
        self._sessions = earlier_sessions(self.directory)
        self._sessions.append(
            {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": None,
                **fingerprint.commit(),
                "package": fingerprint.package(),
            }
        )
        write_json(self.directory / "sessions.json", self._sessions)

    def metric(
        self,
        name: str,
        value: Any,
        *,
        seed: int,
        se: Any = None,
        n: int | None = None,
        unit: str = "nats",
        estimator: str | None = None,
        split: str | None = None,
        diverged: bool = False,
        note: str | None = None,
    ) -> None:
        """Put one number into the record; the same name and seed again replaces it.

        Args:
            name: such as `elbo/sonar/K=8/LDVI`.
            value: the number; None, NaN or infinity means that this seed diverged.
            seed: one of `run.seeds`.
            se: its standard error.
            n: the number of chains or examples behind it.
            unit: the unit of `value` and `se`.
            estimator: how it was estimated.
            split: the data split.
            diverged: this seed diverged; the value is dropped.
            note: such as the step and settings of a divergence.
        """
        if int(seed) not in self.seeds:
            raise UsageError(f"metric {name}: seed = {seed} is not of this run; has {self.seeds}")
        number, error = _number(value), _number(se)
        lost = diverged or number is None
        self._metrics.setdefault(name, {})[int(seed)] = {
            "seed": int(seed),
            "value": None if lost else number,
            "se": None if lost else error,
            "n": None if n is None else int(n),
            "unit": unit,
            "estimator": estimator,
            "split": split,
            "diverged": lost,
            "note": note,
        }

    def count(self, name: str, n: int) -> None:
        """Add `n` to the counter `name` (gradient evaluations, decoder calls)."""
        self._counters[name] = self._counters.get(name, 0) + int(n)

    def note(self, text: str) -> None:
        """Put a remark into the record, once (`Data.note`: what is inexact about the data)."""
        if text not in self._notes:
            self._notes.append(text)

    def figure(self, fig: Any, name: str, arrays: Any, alt: str) -> None:
        """Save a figure with the arrays that drew it, list it in the record, and show it."""
        from lmcnb.lab import figures

        saved = figures.save_figure(fig, name, arrays, alt, self.directory / "figures")
        places = [path.relative_to(self.directory).as_posix() for path in saved]
        self._figures[name] = {"name": name, "alt": alt, "files": places}

    def finish(self) -> None:
        """Write the record and print one line that is the same wherever the run is repeated."""
        lost = any(
            all(e["diverged"] for e in entries.values()) for entries in self._metrics.values()
        )
        status = "diverged" if lost else "ok"
        self.write_record(status)
        self.finished = True
        lock.release(self.directory)
        seeds = f"{len(self.seeds)} seed" + "s" * (len(self.seeds) != 1)
        print(f"{self.name} [{self.profile}]: {status}, {len(self._metrics)} metrics, {seeds}")

    def write_record(self, status: str, error: dict[str, Any] | None = None) -> Path:
        """Write `record.json` with what is known now."""
        self._sessions[-1]["seconds"] = round(time.monotonic() - self._clock, 3)
        write_json(self.directory / "sessions.json", self._sessions)
        record = base_record(self.plan, self._sessions, fingerprint.modules())
        record |= {
            "status": status,
            "deterministic": self._deterministic,
            "peak_memory": machine.peak_memory(self.plan.device),
            "counters": self._counters,
            "metrics": {k: [v[s] for s in sorted(v)] for k, v in sorted(self._metrics.items())},
            "figures": list(self._figures.values()),
            "notes": self._notes,
            "error": error,
        }
        return records.write(self.directory / records.NAME, record)


def base_record(
    decided: Plan, sessions: list[dict[str, Any]], modules: list[str]
) -> dict[str, Any]:
    """A record of `decided` with nothing measured yet."""
    commits = list(dict.fromkeys(s["commit"] for s in sessions))
    packages = {s["package"] for s in sessions}
    code = fingerprint.current(decided.name, modules)
    code |= {key: sessions[-1][key] for key in ("commit", "dirty")}
    return {
        "schema_version": records.SCHEMA,
        "id": decided.id,
        "notebook": decided.name,
        "profile": decided.profile,
        "seed": decided.seed,
        "seeds": list(decided.seeds),
        "overrides": decided.overrides,
        "settings": decided.settings.model_dump(mode="json"),
        "status": "error",
        "device": machine.device(decided.device),
        "data": decided.data,
        "code": code | {"commits": commits, "mixed": len(packages) > 1},
        "versions": machine.versions(),
        "machine": machine.describe(),
        "deterministic": "unknown",
        "sessions": sessions,
        "started": sessions[0]["started"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(s["seconds"] or 0.0 for s in sessions), 3),
        "peak_memory": {},
        "counters": {},
        "metrics": {},
        "figures": [],
        "notes": [],
        "error": None,
    }


def earlier_sessions(directory: Path) -> list[dict[str, Any]]:
    """The sessions that worked on the run before, whose checkpoints this one goes on from."""
    try:
        sessions = read_json(directory / "sessions.json")
        return [records.Session.model_validate(s).model_dump() for s in sessions]
    except (UserError, ValueError, TypeError):
        return []


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _shell() -> Any:
    """The IPython shell of a notebook, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _refuse_unknown_parameters() -> None:
    """Refuse a papermill parameter that no notebook has; papermill itself only warns."""
    shell = _shell()
    if shell is None:
        return
    for source in shell.user_ns.get("In", []):
        if not source.startswith("# Parameters"):  # the cell that papermill injects
            continue
        for node in ast.parse(source).body:
            for target in getattr(node, "targets", []):
                if isinstance(target, ast.Name) and target.id not in PARAMETERS:
                    raise UsageError(checkout.unknown("parameter", target.id, PARAMETERS))


def _watch_cells(run: Run) -> None:
    """Write the record of a run that pauses or fails in a later cell of its notebook."""
    shell = _shell()
    if shell is None:
        return
    for old in [f for f in shell.events.callbacks["post_run_cell"] if hasattr(f, "lmcnb_run")]:
        shell.events.unregister("post_run_cell", old)

    def after_cell(result: Any) -> None:
        error = result.error_in_exec
        if error is None or run.finished or isinstance(error, KeyboardInterrupt):
            return
        if isinstance(error, Paused):
            run.write_record("paused")
        else:
            what = {"type": type(error).__name__, "message": str(error)}
            run.write_record("error", {"cell": result.execution_count, **what})

    after_cell.lmcnb_run = True  # type: ignore[attr-defined]
    shell.events.register("post_run_cell", after_cell)
