"""Records as evidence: which entries may judge a cell of a claim.

- Records with status `ok` or `diverged` count; paused and failed runs do not.
- Records judge together when profile and settings agree, apart from the settings that a paper's
  facts list as `scope` (they say what is run, not how) and `n_seeds`. A record whose overrides
  change anything else is set aside: it is not that profile any more. Leaving out a part (`optional`
  in the facts, null or 0) is no such change, nor is a value that the profile itself has now.
- Records that agree but for parts that one of them left out judge together as well.
- A (settings, seed) pair in two records counts once, the newest.
- A cell is judged by one such group: the highest profile, at least the claim's, that has every
  metric of the cell with enough seeds; among several of that profile the newest. So a partial run
  of a higher profile takes over the cells that it has, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmcnb.errors import UserError
from lmcnb.lab import checkout, config
from lmcnb.lab import records as run_records
from lmcnb.lab.facts import PROFILES
from lmcnb.lab.rules import Entries

Record = Mapping[str, Any]


def read_records(folders: Iterable[str | Path] | None = None) -> list[dict[str, Any]]:
    """Read every record in folders like `results` (NAME/ID.json) or `runs` (NAME/ID/record.json).

    Without folders: the committed `results` of the checkout.

    Each gets the key `file`, its path from the folder's parent. A run that stands in two folders
    is taken once: the newest, and the first folder among equals.

    Raises:
        UserError: a file is not a whole record; it is named.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in map(Path, [checkout.root() / "results"] if folders is None else folders):
        paths = [*folder.glob("*/*.json"), *folder.glob(f"*/*/{run_records.NAME}")]
        for path in sorted(p for p in paths if p.parent.name != "benchmarks"):
            record = run_records.read(path)
            record["file"] = path.relative_to(folder.parent).as_posix()
            known = found.get(record["id"])
            if known is None or record["finished"] > known["finished"]:
                found[record["id"]] = record
    return sorted(found.values(), key=lambda r: (r["notebook"], r["finished"], r["id"]))


@dataclass
class _Group:
    """Records of one profile and one protocol: per metric and seed the newest entry."""

    parts: dict[str, Any] = field(default_factory=dict)
    """Settings of the optional parts that some record ran."""
    entries: dict[str, dict[int, tuple[Mapping[str, Any], Record]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What judges a cell: one list of entries for each metric, or the reason why nothing does."""

    samples: list[Entries]
    profile: str | None = None
    records: tuple[Record, ...] = ()
    reason: str = ""


class Evidence:
    """The records of one paper, arranged for judging."""

    def __init__(
        self,
        name: str,
        records: Iterable[Record],
        scope: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        self._groups: dict[str, list[_Group]] = {profile: [] for profile in PROFILES}
        protocols: dict[str, list[_Group]] = {}
        self.set_aside = 0
        """How many records changed settings outside the scope, and therefore do not judge."""
        own = [r for r in records if r["notebook"] == name and r["status"] in ("ok", "diverged")]
        for record in sorted(own, key=_age):
            if record["profile"] not in self._groups:
                continue
            overrides = {
                key: value
                for key, value in _leaves(record.get("overrides") or {}).items()
                if not _is_profiles(name, record, key)
            }
            if _changed(overrides, [*scope, "n_seeds"], optional):
                self.set_aside += 1
                continue
            settings = _without(record["settings"], [*scope, "n_seeds"])
            rest = _without(settings, optional)
            protocol = json.dumps([record["profile"], rest], sort_keys=True)
            parts = {key: part for key in optional if (part := _part(settings, key))}
            alike = protocols.setdefault(protocol, [])
            group = next((g for g in reversed(alike) if _agree(g.parts, parts)), None)
            if group is None:
                group = _Group()
                alike.append(group)
                self._groups[record["profile"]].append(group)
            group.parts |= parts
            for metric, entries in record["metrics"].items():
                for entry in entries:
                    group.entries.setdefault(metric, {})[entry["seed"]] = (entry, record)

    def choose(
        self, names: Sequence[str], profile: str, seeds: int, most: str = PROFILES[-1]
    ) -> Choice:
        """The entries that judge `names`: from `profile` to `most`, of at least `seeds` seeds."""
        allowed = PROFILES[PROFILES.index(profile) : PROFILES.index(most) + 1]
        for candidate in reversed(allowed):
            whole = [
                group
                for group in self._groups[candidate]
                if all(len(group.entries.get(name, ())) >= seeds for name in names)
            ]
            if whole:
                return max((_choice(g, names, candidate) for g in whole), key=_newest)
        return Choice([], reason=self._lacking(names, allowed, seeds))

    def latest(self, name: str) -> Choice:
        """The entries of one metric from the highest profile that has any."""
        return self.choose([name], PROFILES[0], 1)

    def _lacking(self, names: Sequence[str], allowed: Sequence[str], seeds: int) -> str:
        groups = [group for profile in allowed for group in self._groups[profile]]
        absent = [n for n in names if not any(n in group.entries for group in groups)]
        where = " or ".join(allowed)
        if absent:
            return f"no {where} record has {absent[0]}"
        most = max(min(len(group.entries.get(n, ())) for n in names) for group in groups)
        if most:
            return f"{most} of {seeds} seeds in a {where} record"
        return f"no {where} record has all of {', '.join(names)}"


def _choice(group: _Group, names: Sequence[str], profile: str) -> Choice:
    kept = [[group.entries[name][seed] for seed in sorted(group.entries[name])] for name in names]
    used = {record["id"]: record for pairs in kept for _, record in pairs}
    ordered = tuple(sorted(used.values(), key=_age))
    return Choice([[entry for entry, _ in pairs] for pairs in kept], profile, ordered)


def _newest(choice: Choice) -> tuple[str, str]:
    return _age(choice.records[-1])


def _age(record: Record) -> tuple[str, str]:
    return str(record["finished"]), str(record["id"])


def _changed(overrides: Mapping[str, Any], scope: Iterable[str], optional: Sequence[str]) -> bool:
    """Whether overrides change how something is run."""
    within = tuple(scope)
    return any(
        not any(key == name or key.startswith(name + ".") for name in within)
        and not (key in optional and not value)
        for key, value in overrides.items()
    )


def _leaves(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values that are no tables, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping) and value
        found |= _leaves(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def _is_profiles(name: str, record: Record, key: str) -> bool:
    """Whether the record has at a dotted key what the profile has now."""
    try:
        profile = config.resolve(name, record["profile"]).model_dump(mode="json")
    except (UserError, ImportError):
        return False  # no such notebook, or no such profile any more
    value = _part(record["settings"], key)
    return value is not None and value == _part(profile, key)


def _part(settings: Mapping[str, Any], key: str) -> Any:
    """The setting of a dotted key, or None."""
    found: Any = settings
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the parts that both ran have the same settings."""
    return all(a[key] == b[key] for key in a.keys() & b.keys())


def _without(settings: Mapping[str, Any], scope: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """The settings without the dotted keys of `scope`."""
    names = list(scope)
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix + key in names:
            continue
        nested = isinstance(value, Mapping)
        kept[key] = _without(value, names, f"{prefix}{key}.") if nested else value
    return kept
