"""Data sets by name: found on the machine or fetched, checked, never read by halves.

    images = load("mnist", split="train")["images"]

A data set is looked for in the folders that LMCNB_DATA names (several: separated as in PATH), then
in the user cache (LMCNB_CACHE, or the platform's place), and is then downloaded, unless
LMCNB_OFFLINE is set. Guaranteed: the arrays are the published ones, because every `load` compares
their sha256 (or that of the file) with the registry's (of CelebA the archive is compared, by md5,
when it is resized here); nothing is unpickled; a killed or failed `fetch` leaves no file under a
data set's name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import files, formats
from lmcnb.lab.checksums import digest, file_sha256
from lmcnb.lab.data_readers import CONVERTERS, INEXACT, READERS
from lmcnb.lab.data_registry import DataSet, Source, registry
from lmcnb.lab.download import check, download

__all__ = [
    "Data",
    "available",
    "digest",
    "fetch",
    "fingerprint",
    "load",
    "load_csv",
    "registry",
    "require",
    "verify",
]


class Data(dict[str, np.ndarray]):
    """The arrays of one split by name.

    Images: `images` uint8, `(n, 28, 28)` or `(n, channel, 32, 32)`, and `labels`. Tables: `x`
    float64 `(rows, features)`, not scaled, and `y` in {-1, +1}. Series: `observations`, NaN where
    missing.

    Attributes:
        name: of the data set.
        split: of the data set.
        note: what a record of a run on these data must say, or None.
    """

    def __init__(self, arrays: formats.Arrays, name: str, split: str, note: str | None) -> None:
        super().__init__(arrays)
        self.name, self.split, self.note = name, split, note


def load(name: str, split: str = "train", *, network: bool = True) -> Data:
    """The arrays of a data set, checked.

    Args:
        name: a key of `registry()`.
        split: one of its splits, mostly "train" and "test"; tables and series have "train" only.
        network: whether it may be downloaded where it is absent.

    Raises:
        UsageError: an unknown name or split.
        UserError: the data are absent and cannot be had, or a file is damaged; the text says what
            to do.
    """
    entry = _entry(name, split)
    if not entry.built_in and _find(entry, split) is None:
        fetch(name, network=network)
    try:
        return _read(entry, split, _find(entry, split) or [])
    except (UserError, OSError) as error:
        again = f"remove the file, then `lmcnb data fetch {name}` gets a good one"
        raise UserError(str(error) if entry.built_in else f"{error}; {again}") from error


def load_csv(path: str | Path, positive: str | None = None) -> Data:
    """Any table of numbers whose last column is one of two labels, as a data set.

    Args:
        path: the file; commas or blanks separate, a heading is skipped.
        positive: the label that becomes +1; by default the larger number or the later word.
    """
    path = Path(path)
    return Data(formats.read_table(path, positive), path.stem, "train", None)


def available(name: str, split: str | None = None) -> bool:
    """Whether the files of a split (by default of all splits) are on this machine, unread."""
    entry = _entry(name, split)
    splits = entry.splits if split is None else [split]
    return entry.built_in or all(_find(entry, s) is not None for s in splits)


def require(name: str) -> None:
    """Refuse, with the text that says what to do, when the data set is not on this machine."""
    if not available(name):
        raise UserError(_how_to_get(_entry(name)))


def fetch(name: str, *, network: bool = True) -> None:
    """Put the data set into the user cache, unless it is on this machine already.

    A file of the right name in the folder `downloads` of a data folder is used before the network.

    Raises:
        UserError: it cannot be had; nothing is left behind.
    """
    entry = _entry(name)
    if available(name):
        return
    cache = user_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_old_fetches(cache)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as temporary:
            _fetch(entry, cache, Path(temporary), network and not os.environ.get("LMCNB_OFFLINE"))
    except OSError as error:
        raise UserError(f"{cache}: {name} cannot be written there ({error})") from error


def verify(name: str) -> str:
    """Read every split and compare it with the registry; the fingerprint of what is there."""
    require(name)
    entry = _entry(name)
    return _join({split: digest(load(name, split, network=False)) for split in entry.splits})


def fingerprint(name: str) -> str:
    """The sha256 of all arrays of the data set, for a run's id.

    From the registry where it is known, so that nothing is read; SVHN and CIFAR-10's test batch
    are read.
    """
    entry = _entry(name)
    return _join({s: e.sha256 or digest(load(name, s)) for s, e in entry.splits.items()})


def folders() -> list[Path]:
    """Where data sets are looked for: the folders of LMCNB_DATA, then the user cache."""
    named = [Path(part) for part in os.environ.get("LMCNB_DATA", "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise UserError(f"LMCNB_DATA names {folder}, which is not a folder")
    return [*named, user_cache()]


def user_cache() -> Path:
    """LMCNB_CACHE, or the platform's place for caches."""
    import pooch

    return Path(os.environ.get("LMCNB_CACHE") or pooch.os_cache("lmcnb"))


def _entry(name: str, split: str | None = None) -> DataSet:
    if name not in registry():
        raise UsageError(f"data set {name!r} does not exist; choose one of {', '.join(registry())}")
    entry = registry()[name]
    if split is not None and split not in entry.splits:
        raise UsageError(f"{name} has no split {split!r}; choose one of {', '.join(entry.splits)}")
    return entry


def _find(entry: DataSet, split: str) -> list[Path] | None:
    """The files of a split, all in one folder, or None."""
    for root in folders():
        for folder in entry.folders:
            paths = [root / folder / file for file in entry.splits[split].files]
            if all(path.is_file() for path in paths):
                return paths
    return None


def _read(entry: DataSet, split: str, paths: list[Path]) -> Data:
    """The arrays of a split, compared with what the registry knows of the file or of them."""
    known, note = entry.splits[split], entry.note
    for path in paths:
        if path.name in known.known and file_sha256(path) not in known.known[path.name]:
            raise UserError(f"{path}: corrupt or truncated (its sha256 is not a known one)")
    arrays = READERS[entry.reader](entry.name, split, paths)
    if "exact" in arrays and not arrays["exact"].all():
        note = INEXACT
    if known.sha256 and (found := digest(arrays)) != known.sha256:
        where = ", ".join(map(str, paths)) or entry.origin
        raise UserError(
            f"{where}: not the published content of {entry.name} "
            f"(sha256 of the arrays {found}, expected {known.sha256})"
        )
    return Data(arrays, entry.name, split, note)


def _fetch(entry: DataSet, cache: Path, temporary: Path, network: bool) -> None:
    downloads = {}
    for source in entry.sources:
        downloads[source.file] = _by_hand(source) or _by_network(entry, source, temporary, network)
    convert = CONVERTERS.get(entry.reader)
    if convert:
        content = convert(downloads)
    else:
        content = {file: path.read_bytes() for file, path in downloads.items()}
    fresh = temporary / "fresh"
    for file, data in content.items():
        files.write_bytes(fresh / file, data)
    try:
        for split, known in entry.splits.items():
            _read(entry, split, [fresh / file for file in known.files])
    except UserError as error:
        raise UserError(
            f"{entry.name}: the download does not give the known data: {error}"
        ) from error
    target = cache / entry.folders[0]
    target.mkdir(parents=True, exist_ok=True)
    for file in content:
        os.replace(fresh / file, target / file)


def _by_hand(source: Source) -> Path | None:
    for root in folders():
        path = root / "downloads" / source.file
        if path.is_file():
            check(path, source)
            return path
    return None


def _by_network(entry: DataSet, source: Source, folder: Path, network: bool) -> Path:
    if not network or source.by_hand:
        raise UserError(_how_to_get(entry))
    try:
        return download(source, folder)
    except UserError as error:
        raise UserError(f"{error}\n{_how_to_get(entry)}") from error


def _how_to_get(entry: DataSet) -> str:
    """What is missing, where it was looked for, where it is published and where to put it."""
    names = dict.fromkeys(file for split in entry.splits.values() for file in split.files)
    lines = [f"data set {entry.name!r} is not on this machine"]
    lines += ["  files: " + ", ".join(f"{entry.folders[0]}/{file}" for file in names)]
    lines += ["  looked in: " + ", ".join(map(str, folders()))]
    by_hand = any(source.by_hand for source in entry.sources)
    if not by_hand:
        lines += [f"  with a network: lmcnb data fetch {entry.name}"]
    how = "download by hand" if by_hand else "without"
    lines += [
        f"  {how}: put these into {user_cache() / 'downloads'}; lmcnb data fetch {entry.name}"
    ]
    for source in entry.sources:
        lines += [f"    {source.file}: " + " or ".join(source.addresses)]
    lines += ["  or let LMCNB_DATA name a folder that holds the files"]
    return "\n".join(lines)


def _join(digests: dict[str, str]) -> str:
    text = " ".join(f"{split}:{value}" for split, value in digests.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _remove_old_fetches(cache: Path) -> None:
    """What killed fetches left behind more than a day ago."""
    for left in cache.glob(".fetch-*"):
        if time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)
