"""`lmcnb keep`: copy a finished run's record and figures to where they are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import checkout, files, records

FINISHED = ("ok", "diverged")


def keep(
    name: str,
    run_id: str | None = None,
    *,
    out_dir: str | Path | None = None,
    force: bool = False,
    figures: bool = True,
) -> list[Path]:
    """Copy the record to `results/NAME/RUN_ID.json`, figures to `figures/NAME/PROFILE/`.

    Args:
        name: the notebook.
        run_id: which run; default the finished run written last.
        out_dir: where runs are written, as in `lmcnb run`.
        force: overwrite files that differ.
        figures: copy the figures too; without, those of the profile's main run stay.

    Returns:
        The files that were written.

    Raises:
        UsageError: no such finished run, or another file stands there.
    """
    if name not in checkout.papers():
        raise UsageError(checkout.unknown("notebook", name, checkout.papers()))
    folder = checkout.runs_folder(out_dir) / name
    directory, record = _find(name, folder, run_id)
    root = checkout.root()
    target = root / "results" / name / f"{record['id']}.json"
    pairs = [(directory / records.NAME, target)]
    for path in sorted((directory / "figures").rglob("*")) if figures else []:
        if path.is_file() and not path.name.startswith("."):
            inner = path.relative_to(directory / "figures")
            pairs.append((path, root / "figures" / name / record["profile"] / inner))
    changes = [(old, new) for old, new in pairs if not _same(old, new)]
    standing = [new for _, new in changes if new.exists()]
    if standing and not force:
        names = ", ".join(str(path.relative_to(root)) for path in standing)
        raise UsageError(f"another result stands there: {names}; --force overwrites it")
    for old, new in changes:
        files.write_bytes(new, old.read_bytes())
    return [new for _, new in changes]


def _find(name: str, folder: Path, run_id: str | None) -> tuple[Path, dict[str, Any]]:
    """The directory and the record of the finished run `run_id`, or of the last one."""
    directories = sorted(p.parent for p in folder.glob(f"*/{records.NAME}"))
    ids = [d.name for d in directories]
    if run_id is not None:
        if run_id not in ids:
            raise UsageError(checkout.unknown("run", run_id, ids) + f" (in {folder})")
        record = records.read(folder / run_id / records.NAME)
        if record["status"] not in FINISHED:
            raise UsageError(f"run {run_id} is {record['status']}: only a finished run is kept")
        return folder / run_id, record
    finished = []
    for directory in directories:
        try:
            record = records.read(directory / records.NAME)
        except UserError:
            continue  # a broken record is nothing to keep
        if record["status"] in FINISHED and ".old-" not in directory.name:
            finished.append((record["finished"], directory, record))
    if not finished:
        raise UsageError(f"no finished run of {name} in {folder}: `lmcnb run {name}` makes one")
    _, directory, record = max(finished, key=lambda item: item[0])
    return directory, record


def _same(old: Path, new: Path) -> bool:
    return new.exists() and old.read_bytes() == new.read_bytes()
