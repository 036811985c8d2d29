"""From claims and records to verdicts: a pure function.

`judge_all(names, records)` gives one row a claim. A claim over a grid has a verdict in every cell:

- `reproduced`: every cell is.
- `direction only`: at least the claim's `share` of the cells (0.9 unless it says otherwise) hold at
  least in direction.
- `not reproduced`: too many cells fail, also when some others were not run.
- `not run`: some cells have no evidence (least profile, least seeds); the reason says which hold.
- `not testable here`: the facts say why.

Cells that the paper itself excepts are shown and do not count.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcnb.lab import facts
from lmcnb.lab.compare import compare
from lmcnb.lab.evidence import Choice, Evidence, Record, read_records
from lmcnb.lab.facts import Claim, Facts
from lmcnb.lab.rules import (
    DIRECTION_ONLY,
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    RULES,
    Outcome,
    Samples,
)

__all__ = ["compare", "judge", "judge_all", "load_claims", "read_records", "summary"]

Row = dict[str, Any]
Changed = Callable[[Record], Sequence[str]]


def load_claims(name: str, root: str | Path | None = None) -> list[Claim]:
    """The claims of a paper, in the order of its facts."""
    return facts.load(name, root).claim


def judge_all(
    names: Iterable[str],
    records: Iterable[Record],
    *,
    changed: Changed | None = None,
    root: str | Path | None = None,
) -> list[Row]:
    """Judge every claim of the papers `names` by the records.

    Args:
        names: papers (`facts.papers()` lists them).
        records: as `read_records` gives them.
        changed: what of the code behind a record has changed since (`fingerprint.changed`); a
            record with any change stays evidence, marked older code. Default: not looked at.
        root: the folder of the facts; default the package's.

    Returns:
        Rows with `paper`, `id`, `kind`, `where`, `statement`, `paper_value`, `ours` (value,
        standard_error, seeds, how many of them diverged, profile, the number that it is held
        against if any, and, where a claim has several cells, the one that decides: the worst
        verdict, then the tightest),
        `verdict`, `evidence` (record files), `older_code` (those of them with changed code),
        `several_commits` (those whose run was continued after the code had changed),
        `reason`, `cells`.
    """
    everything = list(records)
    return [
        row for name in names for row in judge(facts.load(name, root), everything, changed=changed)
    ]


def judge(paper: Facts, records: Iterable[Record], *, changed: Changed | None = None) -> list[Row]:
    """Judge the claims of one paper whose facts are loaded (see `judge_all`)."""
    evidence = Evidence(paper.name, records, paper.scope, paper.optional)
    return [_judge(paper, claim, evidence, changed) for claim in paper.claim]


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """How often each verdict was given, per paper."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["paper"], Counter())[row["verdict"]] += 1
    return counts


def _judge(paper: Facts, claim: Claim, evidence: Evidence, changed: Changed | None) -> Row:
    row: Row = {
        "paper": paper.name,
        "id": claim.id,
        "kind": claim.kind,
        "where": claim.where,
        "statement": claim.statement,
        "paper_value": claim.paper_value,
        "ours": None,
        "verdict": NOT_TESTABLE,
        "evidence": [],
        "older_code": [],
        "several_commits": [],
        "reason": claim.not_testable or "",
        "cells": [],
    }
    if claim.not_testable:
        return row
    used: dict[str, Record] = {}
    cells = []
    for at in claim.cells():
        choice = evidence.choose(claim.names(at), claim.profile, claim.seeds, claim.most)
        cells.append(_cell(paper, claim, at, choice))
        used |= {r["id"]: r for r in choice.records}
    older = {r["id"]: list(changed(r)) for r in used.values()} if changed else {}
    row["cells"] = cells
    if row["paper_value"] is None:
        row["paper_value"] = _paper_value(claim, cells)
    row["evidence"] = sorted(_file(r) for r in used.values())
    row["older_code"] = sorted(_file(used[i]) for i, names in older.items() if names)
    row["several_commits"] = sorted(_file(r) for r in used.values() if _mixed(r))
    row["verdict"], reasons = _combine(claim, cells)
    if evidence.set_aside and row["verdict"] == NOT_RUN:
        n = evidence.set_aside
        what = "1 record that changes" if n == 1 else f"{n} records that change"
        reasons.append(f"{what} settings outside of the facts' `scope` set aside")
    if row["older_code"]:
        names = sorted({name for changes in older.values() for name in changes})
        reasons.append(
            f"older code: {', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed"
        )
    row["reason"] = "; ".join(reasons)
    counted = [c for c in cells if c["ours"] and not c["excepted"]]
    if counted:
        decides = min(counted, key=_severity)
        row["ours"] = dict(decides["ours"])
        if len(cells) > 1:
            row["ours"]["cell"] = decides["cell"]
    return row


def _mixed(record: Record) -> bool:
    return bool(record.get("code", {}).get("mixed"))


def _severity(cell: Row) -> tuple[int, float]:
    rank = (NOT_REPRODUCED, DIRECTION_ONLY, REPRODUCED).index(cell["verdict"])
    return rank, -math.inf if cell["slack"] is None else cell["slack"]


def _cell(paper: Facts, claim: Claim, at: Mapping[str, Any], choice: Choice) -> Row:
    names = claim.names(at)
    printed = _outcome(paper, claim, at, _printed(paper, names))
    cell: Row = {
        "cell": dict(at),
        "excepted": claim.exception(at),
        "paper": None if printed is None else printed.ours.value,
        "paper_verdict": None if printed is None else printed.verdict,
        "ours": None,
        "verdict": NOT_RUN,
        "slack": None,
        "reason": choice.reason,
        "evidence": sorted(_file(r) for r in choice.records),
    }
    outcome = _outcome(paper, claim, at, choice.samples or None)
    if outcome is not None:
        ours = outcome.ours
        cell |= {
            "verdict": outcome.verdict,
            "slack": outcome.slack if math.isfinite(outcome.slack) else None,
            "reason": outcome.note,
            "ours": {
                "value": ours.value,
                "standard_error": ours.standard_error,
                "seeds": ours.seeds,
                "diverged": ours.diverged,
                "against": _parameters(paper, claim, at).get("value"),
                "profile": choice.profile,
            },
        }
    return cell


def _outcome(
    paper: Facts, claim: Claim, at: Mapping[str, Any], samples: Samples | None
) -> Outcome | None:
    """The rule on some samples."""
    if samples is None:
        return None
    return RULES[str(claim.rule)](samples, **_parameters(paper, claim, at))


def _parameters(paper: Facts, claim: Claim, at: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's parameters, those that name a table's number looked up."""
    parameters = claim.parameters
    for key in ("value", "offset"):
        if isinstance(parameters.get(key), str):
            parameters[key] = paper.lookup(parameters[key], claim.names(at), at)
    if "x" in inspect.signature(RULES[str(claim.rule)]).parameters:
        parameters["x"] = next(iter(claim.along.values()))
    return parameters


def _printed(paper: Facts, names: Sequence[str]) -> Samples | None:
    """The paper's own numbers as samples; their error is the printed sd over its seeds."""
    samples = []
    for name in names:
        tables = [t for t in paper.table if t.role == "paper" and name in t.entries]
        if not tables:
            return None
        entry = tables[0].entries[name]
        sd, seeds = entry["sd"] or 0.0, tables[0].seeds or 1
        samples.append([{"seed": 0, "value": entry["value"], "se": sd / math.sqrt(seeds)}])
    return samples


def _paper_value(claim: Claim, cells: Sequence[Row]) -> str | float | None:
    known = [c for c in cells if c["paper"] is not None and not c["excepted"]]
    if not known or (len(cells) > 1 and claim.kind in ("check", "finding")):
        return None
    if len(cells) == 1:
        return round(float(known[0]["paper"]), 6)
    if claim.kind == "value":
        return f"{len(known)} numbers"
    holds = sum(c["paper_verdict"] != NOT_REPRODUCED for c in known)
    return f"holds in {holds} of {len(known)} cells of its tables"


def _combine(claim: Claim, cells: Sequence[Row]) -> tuple[str, list[str]]:
    """The claim's verdict from its cells', and the reasons."""
    counted = [c for c in cells if not c["excepted"]]
    by = {v: [c for c in counted if c["verdict"] == v] for v in _CELL_VERDICTS}
    reasons = []
    if len(cells) > 1:
        parts = [f"{len(found)} {verdict}" for verdict, found in by.items() if found]
        reasons.append(f"{len(counted)} cells: {', '.join(parts)}")
        profiles = Counter(c["ours"]["profile"] for c in counted if c["ours"])
        if len(profiles) > 1:
            reasons.append("judged by " + ", ".join(f"{p} ({n})" for p, n in profiles.items()))
        reasons += [_list(verdict, by[verdict]) for verdict in _WORTH_LISTING if by[verdict]]
    elif counted and counted[0]["reason"]:
        reasons.append(counted[0]["reason"])
    if len(cells) > 1 and by[NOT_RUN]:
        reasons.append(by[NOT_RUN][0]["reason"])
    excepted = [c for c in cells if c["excepted"]]
    if excepted:
        reasons.append(f"{len(excepted)} excepted by the paper")
    allowed = math.floor((1.0 - claim.share) * len(counted) + 1e-9)
    if len(by[NOT_REPRODUCED]) > allowed:
        return NOT_REPRODUCED, reasons
    if by[NOT_RUN] or not counted:
        return NOT_RUN, reasons
    whole = len(by[REPRODUCED]) == len(counted)
    return (REPRODUCED if whole else DIRECTION_ONLY), reasons


_WORTH_LISTING = (NOT_REPRODUCED, DIRECTION_ONLY)
_CELL_VERDICTS = (REPRODUCED, DIRECTION_ONLY, NOT_REPRODUCED, NOT_RUN)


def _list(verdict: str, cells: Sequence[Row], most: int = 3) -> str:
    named = []
    for cell in cells[:most]:
        at = " ".join(f"{k}={v}" for k, v in cell["cell"].items())
        value, error = cell["ours"]["value"], cell["ours"]["standard_error"]
        shown = "diverged" if value is None else f"{value:+.3g}"
        shown += f" ± {error:.2g}" if value is not None and error is not None else ""
        named.append(f"{at} ({shown})")
    rest = f" and {len(cells) - most} more" if len(cells) > most else ""
    return f"{verdict}: {', '.join(named)}{rest}"


def _file(record: Record) -> str:
    return str(record.get("file") or record["id"])
