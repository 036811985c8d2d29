"""Getting a published file: the addresses in turn, the checksum always."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urldefrag

from tqdm import tqdm

from lmcnb.errors import UserError
from lmcnb.lab import formats
from lmcnb.lab.checksums import digest, file_md5, file_sha256
from lmcnb.lab.data_readers import PARSERS
from lmcnb.lab.data_registry import Source

_SECONDS = 30  # without an answer, before the next address is tried


def check(path: Path, source: Source) -> None:
    """Refuse a file that is not the published one.

    Raises:
        UserError: its checksum, or the digest of what it holds, differs from the known one.
    """
    kind = "sha256"
    if source.sha256:
        found, expected = file_sha256(path), source.sha256
    elif source.md5:
        kind, found, expected = "md5", file_md5(path), source.md5
    else:
        found, expected = digest(PARSERS[source.parser](path)), source.content
    if found != expected:
        raise UserError(f"{path}: not the published file ({kind} {found}, expected {expected})")


def download(source: Source, folder: Path) -> Path:
    """Download `source` into `folder` and check it; a bad file is removed.

    Raises:
        UserError: no address gave the right file; each is named with what went wrong.
    """
    problems = []
    for address in source.addresses:
        path = folder / source.file
        try:
            _retrieve(address, path)
            check(path, source)
            return path
        except (UserError, OSError, ValueError) as error:  # requests' errors are OSErrors
            path.unlink(missing_ok=True)
            problems.append(f"  {address}: {_first_line(error)}")
    raise UserError(f"{source.file}: could not be downloaded\n" + "\n".join(problems))


def _retrieve(address: str, path: Path) -> None:
    import pooch

    url, member = urldefrag(address)
    target = path.with_name(path.name + ".zip") if member else path
    quiet = not sys.stderr.isatty() or bool(os.environ.get("CI"))  # logs, notebooks
    pooch.get_logger().setLevel("WARNING")
    with tqdm(desc=path.name, total=1, unit="B", unit_scale=True, disable=quiet) as bar:
        fetch = pooch.HTTPDownloader(progressbar=bar, timeout=_SECONDS, chunk_size=1 << 16)
        pooch.retrieve(url, None, fname=target.name, path=target.parent, downloader=fetch)
    if member:
        try:
            path.write_bytes(formats.read_zip_member(target, member))
        finally:
            target.unlink()


def _first_line(error: Exception) -> str:
    if type(error).__module__.startswith("requests") and "Connection" in type(error).__name__:
        return "no connection"  # its own text is a paragraph of nested names
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
