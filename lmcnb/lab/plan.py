"""What a run will be, decided and checked before anything runs: settings, device, data, id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import checkout, config, fingerprint, records


@dataclass(frozen=True)
class Plan:
    """A run that passed every check.

    Attributes:
        name: the notebook.
        profile: quick, laptop or paper.
        seed: the first seed.
        seeds: `seed … seed + n_seeds - 1`.
        overrides: what changed the profile's settings.
        settings: the typed settings.
        device: `cpu`, `cuda` or `cuda:N`.
        data: the sha256 of every data set that the run reads.
        id: the run id; the same for the same work, wherever it is written.
        directory: where the record, checkpoints and figures go.
    """

    name: str
    profile: str
    seed: int
    seeds: tuple[int, ...]
    overrides: dict[str, Any]
    settings: Any
    device: str
    data: dict[str, str]
    id: str
    directory: Path


def make(
    name: str,
    profile: str = "quick",
    seed: int = 0,
    device: str = "auto",
    overrides: config.Overrides = None,
    out_dir: str | Path | None = None,
) -> Plan:
    """Check everything about a run that can be checked before it starts.

    Raises:
        UsageError: something asked for is impossible; it is named with what is allowed.
        UserError: a data set is absent.
    """
    settings = config.resolve(name, profile, overrides)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise UsageError(f"seed = {seed!r}: must be an integer from 0 to 2147483647")
    if out_dir is not None and not isinstance(out_dir, str | Path):
        raise UsageError(f"out_dir = {out_dir!r}: must be a folder's name, or None")
    device = resolve_device(device)
    seeds = tuple(range(seed, seed + int(getattr(settings, "n_seeds", 1))))
    data = _data(settings)
    values = settings.model_dump(mode="json")
    run_id = identity(name, profile, values, seeds, device, data)
    directory = checkout.runs_folder(out_dir) / name / run_id
    changed = config.parse_overrides(overrides)
    return Plan(name, profile, seed, seeds, changed, settings, device, data, run_id, directory)


def identity(
    name: str,
    profile: str,
    settings: dict[str, Any],
    seeds: tuple[int, ...],
    device: str,
    data: dict[str, str],
) -> str:
    """The run id: readable start, then a hash of everything that decides the result."""
    kind = device.split(":")[0]
    content = [name, profile, settings, list(seeds), kind, data]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{profile}-s{seeds[0]}-{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def resolve_device(device: str) -> str:
    """`auto` becomes cuda where there is one, else cpu; a device that is absent is refused."""
    allowed = "allowed: auto, cpu, cuda, cuda:0, cuda:1 and so on"
    if not isinstance(device, str):
        raise UsageError(f"device = {device!r}: must be a string; {allowed}")
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdigit())):
        raise UsageError(f"device = {device!r} is unknown; {allowed}")
    if kind == "cpu":
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if kind == "auto":
        return "cuda" if available else "cpu"
    if not available:
        raise UsageError(
            f"device = {device!r}: this torch ({torch.__version__}) sees no CUDA device; "
            "allowed here: auto, cpu"
        )
    if colon and int(index) >= torch.cuda.device_count():
        raise UsageError(f"device = {device!r}: there are {torch.cuda.device_count()}, from cuda:0")
    return device


def set_aside_older(decided: Plan) -> bool:
    """Move a finished run of other code aside (its checkpoints are not today's); whether it did."""
    path = decided.directory / records.NAME
    if not path.exists():
        return False
    try:
        record = records.read(path)
    except UserError as error:
        print(f"{error}; the run starts anew beside it")
    else:
        if record["status"] not in ("ok", "diverged") or not fingerprint.changed(record):
            return False
    move_aside(decided.directory)
    return True


def move_aside(directory: Path) -> Path:
    """Rename a run directory, so that the run starts anew; returns where it is now."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = directory.with_name(f"{directory.name}.old-{stamp}")
    count = 1
    while target.exists():
        count += 1
        target = directory.with_name(f"{directory.name}.old-{stamp}-{count}")
    try:
        directory.rename(target)
    except OSError as error:
        raise UserError(f"{directory}: cannot be moved aside ({error.strerror})") from error
    return target


def _data(settings: Any) -> dict[str, str]:
    names = list(settings.datasets()) if hasattr(settings, "datasets") else []
    if not names:
        return {}
    from lmcnb.lab import data

    for name in names:
        data.require(name)
    return {name: data.fingerprint(name) for name in names}
