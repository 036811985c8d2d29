"""What the command says: outcomes, papers, settings, and the claims after a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcnb.lab import checkout, claims, config, facts, fingerprint, records, report
from lmcnb.lab.execute import Outcome
from lmcnb.lab.plan import Plan

NOTES = 8  # remarks of a run that are shown after it


def outcome(
    decided: Plan,
    ended: Outcome,
    sets: Sequence[str] = (),
    max_seconds: float | None = None,
    out_dir: Path | None = None,
) -> str:
    """How a run ended, and where its results lie or how it goes on."""
    if ended.status == "paused":
        again = ["lmcnb", "run", decided.name, "--profile", decided.profile]
        again += ["--seed", str(decided.seed), "--device", decided.device]
        again += [part for item in sets for part in ("--set", item)]
        again += ["--max-seconds", f"{max_seconds:g}"] if max_seconds else []
        again += ["--out-dir", str(out_dir)] if out_dir else []
        return (
            f"  paused after {ended.seconds:.0f} s, everything is saved; to go on:\n"
            f"  {shlex.join(again)}"
        )
    lines = [f"  {ended.status} in {ended.seconds:.0f} s"]
    if ended.skipped:
        lines = ["  finished before, skipped (--force runs it again)"]
        if ended.changed:
            changed = ", ".join(ended.changed)
            lines.append(f"  the code changed since (--stale runs it again): {changed}")
    record = records.read(ended.directory / records.NAME)
    if not ended.skipped:
        lines += [f"  note: {note}" for note in record["notes"][:NOTES]]
        more = len(record["notes"]) - NOTES
        lines += [f"  and {more} more notes, in {records.NAME}"] if more > 0 else []
    if ended.status == "diverged":
        for metric, entries in record["metrics"].items():
            if all(entry["diverged"] for entry in entries):
                note = f" ({entries[0]['note']})" if entries[0]["note"] else ""
                lines.append(f"  diverged in every seed: {metric}{note}")
    return "\n".join([*lines, f"  results in {short(ended.directory)}"])


def summary(plans: Sequence[Plan]) -> str:
    """The claims, judged from the committed records and these runs; where the results lie."""
    standing = [p.directory / records.NAME for p in plans]
    own = [records.read(p) | {"file": short(p)} for p in standing if p.exists()]
    ids = {record["id"] for record in own}
    committed = claims.read_records([checkout.root() / "results"])
    evidence = [record for record in committed if record["id"] not in ids] + own
    known = facts.papers(facts_folder())
    rows = judge([p.name for p in plans if p.name in known], evidence)
    lines = ["", report.render(rows, "table"), ""]
    lines.append("Where the results lie (executed notebook, record.json, figures):")
    return "\n".join(lines + [f"  {p.name}: {short(p.directory)}" for p in plans])


def judge(names: Sequence[str], evidence: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts, with records of older code marked."""
    return claims.judge_all(names, evidence, changed=fingerprint.changed, root=facts_folder())


def facts_folder() -> Path:
    """Where the facts of the papers stand."""
    return checkout.root() / "lmcnb" / "papers"


def papers() -> str:
    """The papers, their titles and profiles."""
    existing = set(checkout.notebooks())
    lines = []
    for paper in checkout.papers():
        lines.append(paper if paper in existing else f"{paper} (no notebook yet)")
        title = checkout.facts(paper).get("citation", {}).get("title")
        lines += [f"    {title}"] if title else []
        for profile, values in checkout.profiles(paper).items():
            budget = f": {values['budget']}" if "budget" in values else ""
            lines.append(f"    --profile {profile}{budget}")
    return "\n".join([*lines, "", "`lmcnb list NAME` shows the settings of a paper."])


def settings(name: str, profile: str) -> str:
    """Every setting of a profile: its key, value, what it accepts, and what it means."""
    values = config.resolve(name, profile)
    lines = [f"Settings of {name} [{profile}], for --set KEY=VALUE:", ""]
    for key, kind, text in config.describe(type(values)):
        value = values
        for part in key.split("."):
            value = None if value is None else getattr(value, part)
        lines.append(f"{key} = {value}")
        lines.append(f"    {kind}" + (f"; {text}" if text else ""))
    return "\n".join(lines)


def short(path: Path) -> str:
    """A path as one types it here: relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
