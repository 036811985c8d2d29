"""How each data set is read from its files, and how a download becomes those files.

`READERS[reader](name, split, paths)` gives the arrays of a split. `CONVERTERS[reader](paths)` takes
the downloaded files by name and gives the content of the cache files by name; a reader without a
converter keeps the downloaded files as they are. `PARSERS` read single downloaded files whose
publisher gives no checksum, so that their content can be compared instead.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from lmcnb.errors import UserError
from lmcnb.lab import formats
from lmcnb.lab.checksums import file_sha256
from lmcnb.lab.formats import Arrays

INEXACT = (
    "23 of the 10,000 test images (22 ships, 1 horse) are JPEG decodes, not the published pixels; "
    "the array `exact` is False for them"
)
INEXACT_BATCH = "12b72019dddc66aa680d9654ddcc864aa808e6540641e0887054d04d415d6427"
_CIFAR_BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
_A1A_COLUMNS = 119
_DIGITS = {"train": slice(0, 1500), "test": slice(1500, None), "all": slice(None)}


def _idx(name: str, split: str, paths: list[Path]) -> Arrays:
    images, labels = (formats.read_idx(path) for path in paths)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{paths[0]}: {images.shape} images do not fit {labels.shape} labels")
    return {"images": images, "labels": labels}


def _static_mnist(name: str, split: str, paths: list[Path]) -> Arrays:
    packed = formats.read_npz(paths[0], [split])[split]
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != 98:
        shape = f"{packed.dtype} {packed.shape}"
        raise UserError(f"{paths[0]}: {split} is {shape}, not rows of 98 bytes")
    return {"images": np.unpackbits(packed, axis=1).reshape(-1, 28, 28)}


def _static_mnist_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    images = {
        split: np.packbits(formats.read_amat(downloads[f"binarized_mnist_{split}.amat"]), axis=1)
        for split in ("train", "valid", "test")
    }
    return {"binarized_mnist_larochelle.npz": _npz(images)}


def _omniglot(name: str, split: str, paths: list[Path]) -> Arrays:
    arrays = formats.read_npz(paths[0], ["images", "labels"])
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != bool or images.ndim != 4 or labels.shape != images.shape[:2]:
        raise UserError(f"{paths[0]}: images are {images.dtype} {images.shape}, not Omniglot's")
    # a bool written by Pillow may hold 255; here True is 1
    return {"images": images.view(np.uint8) != 0, "labels": labels.astype(np.int64, copy=False)}


def _omniglot_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    return {
        f"images_{part}.npz": _npz(formats.read_omniglot(downloads[f"images_{part}.zip"]))
        for part in ("background", "evaluation")
    }


def _omniglot28(name: str, split: str, paths: list[Path]) -> Arrays:
    arrays = _omniglot(name, split, paths)
    return {"images": resize28(arrays["images"]), "labels": arrays["labels"].reshape(-1)}


def resize28(paper: np.ndarray) -> np.ndarray:
    """Drawings at 28 x 28 by area averaging, in exact integers, so the same on every machine.

    Args:
        paper: `(..., 105, 105)` bool, False is ink.

    Returns:
        `(drawings, 28, 28)` uint8: the share of ink in each cell, 255 is all ink.
    """
    ink = ~paper.reshape(-1, 105, 105)
    fine = np.arange(420)  # 420 = 4 x 105 = 15 x 28: a cell is 15 quarter pixels wide
    weight = np.zeros((28, 105), np.float32)
    np.add.at(weight, (fine // 15, fine // 4), 1)
    out = np.empty((len(ink), 28, 28), np.uint8)
    for first in range(0, len(ink), 500):
        part = ink[first : first + 500].astype(np.float32)
        cells = (weight @ part @ weight.T).astype(np.int64)  # 0 to 225
        out[first : first + 500] = (2 * 255 * cells + 225) // 450
    return out


def _cifar10(name: str, split: str, paths: list[Path]) -> Arrays:
    batches = [formats.read_cifar(path) for path in paths]
    arrays = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    if split == "test":
        arrays["exact"] = _exact(paths[0], len(arrays["labels"]))
    return arrays


def _exact(test_batch: Path, images: int) -> np.ndarray:
    """`(images,)` bool, False where an image is not the published one."""
    if file_sha256(test_batch) != INEXACT_BATCH:
        return np.ones(images, bool)
    path = test_batch.with_name("test_exact.npy")
    if not path.exists():
        raise UserError(f"{path}: is absent, and {test_batch} needs it ({INEXACT})")
    exact = formats.read_npy(path)
    if exact.dtype != bool or exact.shape != (images,) or (~exact).sum() != 23:
        raise UserError(f"{path}: not {images} flags of which 23 are False")
    return exact


def _cifar10_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    names = [f"cifar-10-batches-bin/{batch}" for batch in _CIFAR_BATCHES]
    members = formats.read_tar_members(downloads["cifar-10-binary.tar.gz"], names)
    return {name.split("/")[1]: content for name, content in members.items()}


def _svhn(name: str, split: str, paths: list[Path]) -> Arrays:
    return formats.read_svhn(paths[0])


def _celeba32(name: str, split: str, paths: list[Path]) -> Arrays:
    return {"images": formats.read_npy(paths[0])}


def _celeba32_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    """As the paper's code: short side to 32 pixels, centre crop; the published partition."""
    parts = formats.read_partition(downloads["list_eval_partition.txt"])
    images = formats.read_faces(downloads["img_align_celeba.zip"], side=32)
    arrays = {
        name: np.stack([images[file] for file, part in parts.items() if part == number])
        for name, number in (("train", 0), ("test", 2))
    }
    return {f"celeba32_{name}.npy": _npy_bytes(array) for name, array in arrays.items()}


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _table(name: str, split: str, paths: list[Path]) -> Arrays:
    return formats.read_table(paths[0])


def _table_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    (path,) = downloads.values()
    rows = [line.replace(",", " ").split() for line in path.read_text("utf-8-sig").splitlines()]
    text = "".join(",".join(cells) + "\n" for cells in rows if cells)
    return {f"{path.name.split('.')[0]}.csv": text.encode()}


def _npz_table(name: str, split: str, paths: list[Path]) -> Arrays:
    arrays = formats.read_npz(paths[0], ["X", "y"])
    x, y = arrays["X"], arrays["y"]
    numbers = x.dtype.kind in "uif" and y.dtype.kind in "if"
    if x.ndim != 2 or y.shape != x.shape[:1] or not numbers:
        raise UserError(f"{paths[0]}: X is {x.dtype} {x.shape} and y {y.dtype} {y.shape}")
    return {"x": x.astype(np.float64), "y": y.astype(np.int64)}


def _a1a(path: Path) -> Arrays:
    return formats.read_libsvm(path, _A1A_COLUMNS)


def _npz_table_cache(downloads: dict[str, Path]) -> dict[str, bytes]:
    if "a1a" in downloads:
        table = _a1a(downloads["a1a"])
        file, x, y = "a1a.npz", table["x"].astype(np.uint8), table["y"]
    else:
        x = formats.read_numbers(downloads["madelon_train.data"]).astype(np.uint16)
        y = formats.read_numbers(downloads["madelon_train.labels"])[:, 0]
        file = "madelon_train.npz"
    return {file: _npz({"X": x, "y": y.astype(np.int8)})}


def _package(name: str, split: str, paths: list[Path]) -> Arrays:
    file = resources.files("lmcnb.lab").joinpath("data_files", f"{name}.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    kind = np.int64 if name == "seeds" else np.float64  # null becomes NaN
    return {key: np.array(value, dtype=kind) for key, value in content.items()}


def _digits(name: str, split: str, paths: list[Path]) -> Arrays:
    from sklearn.datasets import load_digits

    part, digits = _DIGITS[split], load_digits()
    return {
        "images": digits.images[part].astype(np.uint8),
        "labels": digits.target[part].astype(np.uint8),
    }


def _breast_cancer(name: str, split: str, paths: list[Path]) -> Arrays:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return {"x": table.data.astype(np.float64), "y": (2 * table.target - 1).astype(np.int64)}


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


READERS: dict[str, Callable[[str, str, list[Path]], Arrays]] = {
    "idx": _idx,
    "static_mnist": _static_mnist,
    "omniglot": _omniglot,
    "omniglot28_resized": _omniglot28,
    "cifar10": _cifar10,
    "svhn": _svhn,
    "celeba32": _celeba32,
    "table": _table,
    "npz_table": _npz_table,
    "package": _package,
    "digits": _digits,
    "breast_cancer": _breast_cancer,
}

CONVERTERS: dict[str, Callable[[dict[str, Path]], dict[str, bytes]]] = {
    "static_mnist": _static_mnist_cache,
    "omniglot": _omniglot_cache,
    "omniglot28_resized": _omniglot_cache,
    "cifar10": _cifar10_cache,
    "celeba32": _celeba32_cache,
    "table": _table_cache,
    "npz_table": _npz_table_cache,
}

PARSERS: dict[str, Callable[[Path], Arrays]] = {
    "table": formats.read_table,
    "numbers": lambda path: {"numbers": formats.read_numbers(path)},
    "a1a": _a1a,
}
