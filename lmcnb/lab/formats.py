"""Readers for the file formats of the data sets: a path in, numpy arrays out.

Guaranteed: a damaged or truncated file, or one of another format, raises a `UserError` that names
it; nothing is read by halves, nothing is unpickled or executed, and no archive is unpacked to disk.
Not guaranteed: that the content is the published one (`lmcnb.lab.data` compares checksums).
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lmcnb.errors import UserError

Arrays = dict[str, np.ndarray]
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile)
_CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes
_OMNIGLOT_SIDE = 105
_LARGEST = 1 << 30  # bytes of an IDX array; a damaged header asks for more
_DRAWING = re.compile(r"(?:^|/)(\d{4})_(\d{2})\.png$")


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on a damaged file into one sentence with its name."""
    try:
        yield
    except UserError:
        raise
    except (*_DAMAGED, NotImplementedError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not a parser's
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{path}: corrupt or truncated, not a whole {what} ({reason})") from error


def read_idx(path: Path) -> np.ndarray:
    """An IDX array of unsigned bytes, gzipped or plain (the format of MNIST)."""
    with _reading(path, "IDX file"):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
                raise ValueError(f"it starts with {magic.hex()}, not 000008")
            shape = tuple(np.frombuffer(file.read(4 * magic[3]), ">u4").tolist())
            size = math.prod(shape)
            if len(shape) != magic[3] or size > _LARGEST:
                raise ValueError(f"its shape is {shape}")
            content = file.read(size + 1)  # one more: reaches the end, where gzip has its checksum
        if len(content) != size:
            raise ValueError(f"shape {shape} does not fit {len(content)} bytes")
        return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def read_amat(path: Path, columns: int = 784) -> np.ndarray:
    """Binary images as text, `columns` digits 0 or 1 a line: `(images, columns)` uint8."""
    with _reading(path, ".amat file"):
        text = np.frombuffer(path.read_bytes(), np.uint8)
        lines = text.reshape(-1, 2 * columns)
        digits, separators = lines[:, ::2] - ord("0"), lines[:, 1::2]
        right = (separators[:, :-1] == ord(" ")).all() and (separators[:, -1] == ord("\n")).all()
        if not len(lines) or not right or digits.max() > 1:
            raise ValueError(f"not lines of {columns} digits 0 and 1")
        return digits


def read_npz(path: Path, keys: Sequence[str]) -> Arrays:
    """The named arrays of an .npz file; an object array would need unpickling and is refused."""
    with _reading(path, ".npz file"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        absent = [key for key in keys if f"{key}.npy" not in names]
        if absent:
            raise ValueError(f"no array {absent[0]!r}, it has {', '.join(names)}")
        # read whole, so that zip's checksum is compared
        return {key: _npy(io.BytesIO(archive.read(f"{key}.npy"))) for key in keys}


def read_npy(path: Path) -> np.ndarray:
    """One array of an .npy file, never unpickled."""
    with _reading(path, ".npy file"):
        return _npy(io.BytesIO(path.read_bytes()))


def read_svhn(path: Path) -> Arrays:
    """A cropped-digits .mat file (MATLAB 5): images `(n, 3, 32, 32)` uint8, labels 0 to 9."""
    import scipy.io

    with _reading(path, ".mat file of SVHN"):
        file = io.BytesIO(path.read_bytes())
        try:
            content = scipy.io.loadmat(file, variable_names=["X", "y"])
        except Exception as error:  # scipy raises whatever the damage leads to
            raise ValueError(str(error)) from error
        images, labels = content["X"], content["y"].ravel()
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"X is {images.dtype} of shape {images.shape}")
        if labels.dtype.kind not in "ui" or len(labels) != images.shape[3] or not len(labels):
            raise ValueError(f"y is {labels.dtype} of shape {labels.shape}")
        if labels.min() < 1 or labels.max() > 10:
            raise ValueError("y is not from 1 to 10")
        planes = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
        return {"images": planes, "labels": (labels % 10).astype(np.uint8)}  # 10 means zero


def read_cifar(path: Path) -> Arrays:
    """One CIFAR-10 batch in its binary form: images `(n, 3, 32, 32)` uint8, labels 0 to 9."""
    with _reading(path, "CIFAR-10 batch"):
        content = path.read_bytes()
        if not content or len(content) % _CIFAR_RECORD:
            raise ValueError(f"{len(content)} bytes, not a multiple of {_CIFAR_RECORD}")
        records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
        if records[:, 0].max() > 9:
            raise ValueError(f"a label is {records[:, 0].max()}")
        return {"images": records[:, 1:].reshape(-1, 3, 32, 32), "labels": records[:, 0].copy()}


def read_tar_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The content of the named members of a .tar.gz file; nothing is unpacked to disk."""
    with _reading(path, ".tar.gz archive"), tarfile.open(path, "r:gz") as archive:
        found: dict[str, bytes] = {}
        for member in archive:
            if member.name in names and member.isfile():
                file = archive.extractfile(member)
                found[member.name] = file.read() if file else b""
        absent = [name for name in names if name not in found]
        if absent:
            raise ValueError(f"no member {absent[0]}")
        return found


def read_zip_member(path: Path, name: str) -> bytes:
    """The content of the member of a .zip file whose last path component is `name`."""
    with _reading(path, ".zip archive"), zipfile.ZipFile(path) as archive:
        found = [member for member in archive.namelist() if member.split("/")[-1] == name]
        if len(found) != 1:
            raise ValueError(f"{len(found)} members are called {name}")
        return archive.read(found[0])


def read_partition(path: Path) -> dict[str, int]:
    """CelebA's list of files, each with 0 (train), 1 (validation) or 2 (test)."""
    with _reading(path, "list of 'FILE 0|1|2' lines"):
        rows = [
            line.split() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()
        ]
        parts = {file: int(part) for file, part in rows}
        if not parts or not set(parts.values()) <= {0, 1, 2}:
            raise ValueError("a part is not 0, 1 or 2")
        return parts


def read_faces(path: Path, side: int) -> dict[str, np.ndarray]:
    """The JPEG members of a .zip by file name: short side to `side`, centre crop.

    `(3, side, side)` uint8 each; Pillow's bilinear filter.
    """
    from PIL import Image

    from lmcnb.lab.bars import Progress

    images = {}
    with _reading(path, ".zip archive of JPEG images"), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith(".jpg")]
        with Progress(len(members), path.name) as bar:
            for member in members:
                with Image.open(io.BytesIO(archive.read(member))) as picture:
                    width, height = picture.size
                    short = min(width, height)
                    size = (width * side // short, height * side // short)
                    small = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
                left, top = (round((n - side) / 2) for n in size)
                crop = np.asarray(small)[top : top + side, left : left + side]
                images[member.split("/")[-1]] = crop.transpose(2, 0, 1)
                bar.update(1)
        if not images:
            raise ValueError("no .jpg member")
    return images


def read_omniglot(path: Path) -> Arrays:
    """Omniglot's zip of 1-bit PNGs, `ALPHABET/characterNN/CCCC_DD.png`, in the order of CCCC, DD.

    Returns:
        images `(characters, drawings, 105, 105)` bool, True is paper and False is ink; labels
        `(characters, drawings)` int64, the index of the character.
    """
    from PIL import Image

    with _reading(path, "Omniglot zip"), zipfile.ZipFile(path) as archive:
        names = {}
        for name in archive.namelist():
            match = _DRAWING.search(name)
            if match and not name.startswith("__MACOSX"):
                names[int(match[1]), int(match[2]) - 1] = name
        if not names:
            raise ValueError("no drawing in it")
        first = min(names)[0]
        characters, drawings = max(names)[0] - first + 1, max(key[1] for key in names) + 1
        if len(names) != characters * drawings:
            raise ValueError(f"{len(names)} drawings of {characters} characters")
        images = np.empty((characters, drawings, _OMNIGLOT_SIDE, _OMNIGLOT_SIDE), bool)
        for (character, drawing), name in names.items():
            with Image.open(io.BytesIO(archive.read(name)), formats=["PNG"]) as image:
                if image.mode != "1" or image.size != (_OMNIGLOT_SIDE, _OMNIGLOT_SIDE):
                    raise ValueError(f"{name} is {image.mode} of size {image.size}")
                grey = np.asarray(image.convert("L"))  # Pillow's own bools hold 255
                images[character - first, drawing] = grey > 127
        labels = np.repeat(np.arange(characters, dtype=np.int64)[:, None], drawings, axis=1)
        return {"images": images, "labels": labels}


def read_table(path: Path, positive: str | None = None) -> Arrays:
    """A table of numbers whose last column is one of two labels; commas or blanks separate.

    A first line without any number is a heading and is skipped. The label +1 goes to `positive`;
    by default to the larger number, or to the word that comes later in the alphabet.

    Returns:
        x `(rows, features)` float64 and y `(rows,)` int64 in {-1, +1}.
    """
    rows = _rows(path)
    start = 1 if len(rows) > 1 and not any(map(_is_number, rows[0][1])) else 0
    x = _numbers(path, [(line, cells[:-1]) for line, cells in rows[start:]])
    if not x.shape[1]:
        raise UserError(f"{path}: one column only; features and then a label are needed")
    return {"x": x, "y": _signs(path, [cells[-1] for _, cells in rows[start:]], positive)}


def read_numbers(path: Path) -> np.ndarray:
    """A table of finite numbers, `(rows, columns)` float64; commas or blanks separate."""
    return _numbers(path, _rows(path))


def read_libsvm(path: Path, columns: int) -> Arrays:
    """Lines `label index:value ...`, indices from 1: x `(rows, columns)` float64, y in {-1, +1}."""
    lines = [line.split() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path}: no row in it")
    x = np.zeros((len(lines), columns))
    for row, cells in enumerate(lines):
        try:
            for cell in cells[1:]:
                index, value = cell.split(":")
                if not 1 <= int(index) <= columns:
                    raise ValueError
                x[row, int(index) - 1] = _finite(value)
        except ValueError:
            raise UserError(f"{path}: row {row + 1} is not `label index:value ...`") from None
    return {"x": x, "y": _signs(path, [cells[0] for cells in lines], None)}


def _npy(file: io.BytesIO) -> np.ndarray:
    return np.lib.format.read_array(file, allow_pickle=False)


def _text(path: Path) -> str:
    with _reading(path, "text file"):
        return path.read_text(encoding="utf-8-sig")


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The line number and the cells of every line that is not blank, all of one length."""
    text = _text(path)
    try:
        if "," in text:
            reader = csv.reader(io.StringIO(text, newline=""), strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
        else:
            rows = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1)]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise UserError(f"{path}: no row in it")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise UserError(f"{path}: line {line} has {len(cells)} columns, the first has {width}")
    return rows


def _numbers(path: Path, rows: list[tuple[int, list[str]]]) -> np.ndarray:
    values = np.empty((len(rows), len(rows[0][1])))
    for row, (line, cells) in enumerate(rows):
        for column, cell in enumerate(cells):
            try:
                values[row, column] = _finite(cell)
            except ValueError:
                where = f"line {line}, column {column + 1}"
                raise UserError(f"{path}: {where}: {cell!r} is not a finite number") from None
    return values


def _signs(path: Path, labels: list[str], positive: str | None) -> np.ndarray:
    numeric = all(map(_is_number, labels))
    kinds: list[str | float] = sorted({float(v) for v in labels} if numeric else set(labels))
    if len(kinds) != 2:
        some = ", ".join(map(str, kinds[:5]))
        raise UserError(f"{path}: the labels must be two, here are {len(kinds)}: {some}")
    convert: Callable[[str], str | float] = float if numeric else str
    if positive is not None and (numeric and not _is_number(positive)):
        raise UserError(f"{path}: no label is {positive!r}; they are {kinds[0]}, {kinds[1]}")
    up = kinds[1] if positive is None else convert(positive)
    if up not in kinds:
        raise UserError(f"{path}: no label is {positive!r}; they are {kinds[0]}, {kinds[1]}")
    return np.array([1 if convert(value) == up else -1 for value in labels], np.int64)


def _finite(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
