"""Files that are written whole or not at all.

Every write goes to a temporary file in the same folder, is flushed to the disk (fsync), and takes
its name in one step (`os.replace`). A process killed at any moment leaves the old file or the new
one, never a half. Leftovers of killed writers start with a dot and end in `.partial`, so nothing
takes them for a result; the next write of the same file removes them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import uuid
import warnings
import zipfile
from pathlib import Path
from typing import Any

from lmcnb.errors import UserError

_SUFFIX = ".partial"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_bytes(path: str | Path, data: bytes, *, previous: Path | None = None) -> Path:
    """Write `data` to `path`, whole or not at all.

    Args:
        path: where to write; missing folders are made.
        data: the content.
        previous: where the file that stood at `path` goes (default: it is replaced).

    Raises:
        UserError: the disk is full, or the folder cannot be written. The old file is untouched.
    """
    path = Path(path)
    writer = f"{socket.gethostname()}-{os.getpid()}-"
    temporary = path.with_name(f".{path.name}.{writer}{uuid.uuid4().hex[:8]}{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(_explain(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all (see `write_bytes`)."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, obj: Any) -> Path:
    """Write `obj` as JSON, whole or not at all; NaN and infinity are not JSON and are refused."""
    return write_text(path, to_json(obj) + "\n")


def to_json(obj: Any) -> str:
    """The JSON text of `obj`; numpy and torch values become numbers and lists."""
    return json.dumps(obj, indent=1, allow_nan=False, default=_plain, ensure_ascii=False)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is absent, unreadable, or not whole.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: not a whole JSON file ({error})") from error


def save_checkpoint(path: str | Path, obj: Any) -> Path:
    """Save tensors and plain values with `torch.save`, whole or not at all.

    The checkpoint that stood at `path` is kept as `path` + `.previous`.
    """
    import torch

    path = Path(path)
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return write_bytes(path, buffer.getvalue(), previous=_previous(path))


def load_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> Any | None:
    """Load a checkpoint of `save_checkpoint`, or None when there is none that can be used.

    A damaged file is refused with a warning and the previous checkpoint is tried. Nothing is
    unpickled (`weights_only=True`): tensors, numbers, strings, lists, tuples and dicts only.
    """
    path = Path(path)
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            return _load(candidate, map_location)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            warnings.warn(f"{candidate}: damaged checkpoint ignored ({reason[:120]})", stacklevel=2)
    return None


def remove_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint and its previous one, if they exist."""
    path = Path(path)
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _load(path: Path, map_location: Any) -> Any:
    import torch

    data = path.read_bytes()
    # torch does not compare the checksums that it writes; a flipped bit must not pass.
    damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
    if damaged is not None:
        raise ValueError(f"checksum of {damaged} differs")
    return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    for method in ("tolist", "item"):  # numpy and torch arrays and scalars
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` on this machine left behind."""
    prefix = f".{path.name}.{socket.gethostname()}-"
    for name in os.listdir(path.parent):
        if not (name.startswith(prefix) and name.endswith(_SUFFIX)):
            continue
        pid = name[len(prefix) :].split("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                (path.parent / name).unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(path: Path, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return (
            f"{path}: no room to write it ({error.strerror}); nothing was changed, "
            "free some space and start again: what was saved before is kept"
        )
    if error.errno in _NO_PERMISSION:
        return (
            f"{path}: the folder {path.parent} may not be written ({error.strerror}); "
            "nothing was changed, choose another with out_dir"
        )
    return f"{path}: cannot be written ({error.strerror or error}); nothing was changed"
