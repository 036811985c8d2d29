"""What is known about each data set: `data_registry.toml` as typed values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Source:
    """A file that is downloaded.

    Attributes:
        file: its name.
        addresses: where it is, tried in turn.
        sha256: of the file, where one is known.
        parser: where none is, the reader of the file whose result is compared,
        content: and the digest of that result.
        md5: of the file, where its publisher's users know only that.
        by_hand: whether its address is a page for people, which no program can download from.
    """

    file: str
    addresses: tuple[str, ...]
    sha256: str = ""
    parser: str = ""
    content: str = ""
    md5: str = ""
    by_hand: bool = False


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        files: names of its files; none where the data come with the package or scikit-learn.
        sha256: the digest of its arrays; empty where it is not known.
        known: of a file, the sha256 values that are accepted.
    """

    files: tuple[str, ...] = ()
    sha256: str = ""
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: how `load` calls it.
        title: what it is, in a line.
        licence: as stated by its authors.
        origin: who made it and where it is described.
        reader: how its files are read, a key of `data_readers.READERS`.
        splits: its parts by name.
        folders: where its files lie below a data folder; downloads go to the first.
        sources: what is downloaded.
        note: what a user of it must know.
    """

    name: str
    title: str
    licence: str
    origin: str
    reader: str
    splits: dict[str, Split]
    folders: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    note: str | None = None

    @property
    def built_in(self) -> bool:
        """Whether it comes with the package or scikit-learn, so that nothing is ever fetched."""
        return not self.folders


@lru_cache(maxsize=1)
def registry() -> dict[str, DataSet]:
    """All data sets by name, in the order of the file."""
    text = resources.files("lmcnb.lab").joinpath("data_registry.toml").read_text(encoding="utf-8")
    sets: dict[str, DataSet] = {}
    for name, entry in tomllib.loads(text).items():
        parent = entry.pop("same_files_as", None)
        sets[name] = _data_set(name, entry)
        if parent:
            other = sets[parent]
            sets[name] = replace(sets[name], folders=other.folders, sources=other.sources)
    return sets


def _data_set(name: str, entry: dict[str, Any]) -> DataSet:
    splits = {key: _split(**value) for key, value in entry.pop("splits").items()}
    sources = tuple(
        Source(addresses=tuple(source.pop("addresses")), **source)
        for source in entry.pop("sources", [])
    )
    folders = tuple(entry.pop("folders", ()))
    return DataSet(name=name, splits=splits, sources=sources, folders=folders, **entry)


def _split(
    files: list[str] | None = None, sha256: str = "", known: dict[str, list[str]] | None = None
) -> Split:
    accepted = {file: tuple(sums) for file, sums in (known or {}).items()}
    return Split(files=tuple(files or ()), sha256=sha256, known=accepted)
