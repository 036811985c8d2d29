"""Run records: one JSON file a run, with a schema, validated when written and when read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lmcnb.errors import UserError
from lmcnb.lab import files

SCHEMA = 1
NAME = "record.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Entry(_Strict):
    """One metric of one seed; the value is null when the seed diverged."""

    seed: int
    value: float | None
    se: float | None = None
    n: int | None = None
    unit: str = "nats"
    estimator: str | None = None
    split: str | None = None
    diverged: bool = False
    note: str | None = None

    @model_validator(mode="after")
    def _finite(self) -> Entry:
        if (self.value is None) != self.diverged:
            raise ValueError("value must be null exactly when the seed diverged")
        if any(v is not None and not math.isfinite(v) for v in (self.value, self.se)):
            raise ValueError("value and se must be finite")
        return self


class Session(_Strict):
    """One process that worked on the run."""

    started: str
    seconds: float | None = None
    commit: str | None
    dirty: bool | None
    package: str


class Code(_Strict):
    """The code behind the run: fingerprints, and every commit that took part."""

    fingerprint: str
    notebook: str | None
    modules: dict[str, str | None]
    commit: str | None
    dirty: bool | None
    commits: list[str | None]
    mixed: bool = False


class Record(_Strict):
    """What a run leaves behind."""

    schema_version: Literal[1]
    id: str
    notebook: str
    profile: str
    seed: int
    seeds: list[int]
    overrides: dict[str, Any] = {}
    settings: dict[str, Any]
    status: Literal["ok", "paused", "diverged", "error"]
    device: dict[str, Any]
    data: dict[str, str]
    code: Code
    versions: dict[str, str]
    machine: dict[str, Any]
    deterministic: str
    sessions: list[Session]
    started: str
    finished: str
    seconds: float
    peak_memory: dict[str, int]
    counters: dict[str, int]
    metrics: dict[str, list[Entry]]
    figures: list[dict[str, Any]]
    notes: list[str] = []
    error: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_entry_per_seed(self) -> Record:
        for name, entries in self.metrics.items():
            seeds = [entry.seed for entry in entries]
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"metric {name}: a seed stands twice")
            if not set(seeds) <= set(self.seeds):
                raise ValueError(f"metric {name}: seeds {seeds} are not of this run")
        return self


def write(path: str | Path, record: dict[str, Any]) -> Path:
    """Validate a record and write it, whole or not at all."""
    return files.write_json(path, validate(record, str(path)))


def read(path: str | Path) -> dict[str, Any]:
    """Read and validate a record.

    Raises:
        UserError: absent, broken, of an unknown schema, or not a record; the file is named.
    """
    return validate(files.read_json(path), str(path))


def validate(record: Any, source: str) -> dict[str, Any]:
    """The record with every field present; `source` names it in an error."""
    if not isinstance(record, dict) or "schema_version" not in record:
        raise UserError(f"{source}: not a run record (no schema_version)")
    if record["schema_version"] != SCHEMA:
        raise UserError(
            f"{source}: record of schema {record['schema_version']!r}, "
            f"this lmcnb reads schema {SCHEMA}"
        )
    try:
        return Record.model_validate(record).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise UserError(f"{source}: broken record ({where}: {first['msg']})") from None
