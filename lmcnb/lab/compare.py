"""The tables of a paper beside our records, without a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmcnb.lab import facts
from lmcnb.lab.evidence import Evidence, Record
from lmcnb.lab.rules import estimate

Row = dict[str, Any]


def compare(
    name: str,
    records: Iterable[Record],
    prefix: str,
    *,
    profile: str | None = None,
    root: str | Path | None = None,
) -> list[Row]:
    """The tables beside our records: one row for each metric that starts with `prefix`.

    Args:
        name: the paper.
        records: as `read_records` gives them.
        prefix: such as `elbo/sonar/`.
        profile: only records of this profile; default: the highest that has the metric.
        root: the folder of the facts.

    Returns:
        Rows with `metric`, a column for each table (value and sd), `ours` (value and standard
        error), `seeds`, `diverged` (how many of them), `values` (of the others) and `profile`.
    """
    paper = facts.load(name, root)
    kept = [r for r in records if profile is None or r["profile"] == profile]
    evidence = Evidence(name, kept, paper.scope, paper.optional)
    tables = {t.id: t.entries for t in paper.table}
    metrics = dict.fromkeys(m for entries in tables.values() for m in entries)
    metrics |= dict.fromkeys(m for r in kept if r["notebook"] == name for m in r["metrics"])
    rows = []
    for metric in (m for m in metrics if m.startswith(prefix)):
        row: Row = {"metric": metric}
        for table, entries in tables.items():
            found = entries.get(metric)
            row[table] = None if found is None else (found["value"], found["sd"])
        choice = evidence.latest(metric)
        ours = estimate(choice.samples[0]) if choice.profile else None
        row["ours"] = None if ours is None else (ours.value, ours.standard_error)
        row |= {"seeds": ours.seeds if ours else None, "profile": choice.profile}
        row["diverged"] = ours.diverged if ours else 0
        alive = [e["value"] for e in choice.samples[0] if not e.get("diverged")] if ours else []
        row["values"] = [v for v in alive if v is not None]
        rows.append(row)
    return rows
