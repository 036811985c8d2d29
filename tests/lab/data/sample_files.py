"""Small files of every format, for the tests of the data sets."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (7, 28, 28), np.uint8)
CLASSES = rng.integers(0, 10, 7).astype(np.uint8)
BYTES = rng.integers(0, 256, (5, 4, 3), np.uint8)
BINARY = rng.integers(0, 2, (3, 784), np.uint8)
PICTURES = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
LABELS = np.array([3, 0, 9, 1], np.uint8)
PAPER = rng.integers(0, 2, (2, 3, 105, 105)).astype(bool)
TABLE = "0.5,1e-3,R\n-2,0,M\n7,8.25,R\n"


def write_idx(path: Path, array: np.ndarray = BYTES) -> Path:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_amat(path: Path, images: np.ndarray = BINARY) -> Path:
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in images.tolist()), newline="")
    return path


def write_cifar(path: Path, images: np.ndarray = PICTURES, labels: np.ndarray = LABELS) -> Path:
    path.write_bytes(np.concatenate([labels[:, None], images.reshape(-1, 3072)], 1).tobytes())
    return path


def write_svhn(path: Path, compress: bool = True) -> Path:
    import scipy.io

    labels = np.where(LABELS == 0, 10, LABELS)[:, None]
    content = {"X": PICTURES.transpose(2, 3, 1, 0), "y": labels}
    scipy.io.savemat(path, content, do_compression=compress)
    return path


def write_omniglot(
    path: Path, paper: np.ndarray = PAPER, first: int = 965, mode: str = "1"
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        # out of order, and in an alphabet order that is not the order of the numbers
        for character, drawing in reversed(list(np.ndindex(paper.shape[:2]))):
            buffer = io.BytesIO()
            Image.fromarray(paper[character, drawing]).convert(mode).save(buffer, "PNG")
            folder = f"images_evaluation/Alphabet{9 - character}/character01"
            name = f"{folder}/{first + character:04d}_{drawing + 1:02d}.png"
            archive.writestr(name, buffer.getvalue())
            archive.writestr(f"__MACOSX/{name}", b"not a picture")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_npz(path: Path) -> Path:
    with open(path, "wb") as file:  # a path would be given another ending
        np.savez_compressed(file, a=BYTES, b=LABELS)
    return path


def write_npy(path: Path) -> Path:
    np.save(path, BYTES)
    return path


def write_table(path: Path) -> Path:
    path.write_text(TABLE)
    return path


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
