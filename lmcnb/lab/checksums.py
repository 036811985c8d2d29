"""Checksums of files and of arrays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def digest(arrays: dict[str, np.ndarray]) -> str:
    """The sha256 of arrays: of each, in the order of the names, its name, type, shape and bytes."""
    total = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(f"{key} {array.dtype.str} {arrays[key].shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def file_md5(path: Path) -> str:
    """The md5 of a file, for archives of which no better checksum is known."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
