"""Folders of paired images, for image-to-image translation.

    inputs, targets = load_pairs("facades/train", side=128)

Two layouts: files that hold both halves side by side, input | target (that of pix2pix), or two
subfolders with equal file names, `input/` and `target/` or `A/` and `B/`. Guaranteed: the pairs
come in the order of the file names (by code point: `10.png` before `2.png`), a pair is never
skipped, and a file that cannot be read whole is an error that names it. Not guaranteed: that the
two images of a pair show the same thing; pixels of JPEG files may differ by a level or so between
versions of Pillow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lmcnb.errors import UsageError, UserError

Layout = Literal["auto", "halves", "folders"]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOLDERS = (("input", "target"), ("A", "B"))
FILTER = Image.Resampling.BICUBIC  # that of pix2pix; Pillow widens it on shrinking (no aliasing)


def load_pairs(
    folder: Path | str,
    side: int | None = None,
    layout: Layout = "auto",
    *,
    swap: bool = False,
    channels: int = 3,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of every pair in `folder`, uint8 `(n, channels, side, side)` each.

    Hidden files and files that are no images by their suffix are passed over. Photographs are
    turned as their EXIF says; transparency is dropped.

    Args:
        folder: holds the image files, or the two subfolders.
        side: every image, or half, is resized to side x side pixels (bicubic, whatever its shape:
            one that is not square is distorted). None: the sizes stay, `(n, channels, height,
            width)`, and must be equal.
        layout: "halves", "folders", or "auto": folders where `input/` and `target/`, or `A/` and
            `B/`, are there, else halves.
        swap: the right half (`target/`, `B/`) is the input and the left one the target.
        channels: 3 (RGB) or 1 (grey, ITU-R 601 luma).

    Raises:
        UsageError: a side, a layout or a number of channels that cannot be.
        UserError: no such folder, no images in it, a file without partner, halves or pairs of
            unequal sizes, an image that cannot be read; the text names the file.
    """
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
        raise UsageError(f"side={side!r}: a whole number of pixels, at least 1, or None")
    if layout not in ("auto", "halves", "folders"):
        raise UsageError(f"layout={layout!r}: choose auto, halves or folders")
    if channels not in (1, 3):
        raise UsageError(f"channels={channels!r}: 3 (RGB) or 1 (grey)")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give one that holds paired images")
    two = _subfolders(root, layout)
    paths = _partners(*two) if two else [(path, None) for path in _images(root)]
    inputs, targets = [], []
    size: tuple[int, int] | None = None
    for first, second in paths:
        pair = _halves(first) if second is None else _both(first, second)
        if side is not None:
            pair = (pair[0].resize((side, side), FILTER), pair[1].resize((side, side), FILTER))
        size = size or pair[0].size
        if pair[0].size != size:
            raise UserError(
                f"{first}: {_pixels(pair[0].size)} pixels, the images before it have "
                f"{_pixels(size)}; give side=... to resize all"
            )
        inputs.append(_array(pair[0], channels))
        targets.append(_array(pair[1], channels))
    both = torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))
    return (both[1], both[0]) if swap else both


def _subfolders(root: Path, layout: Layout) -> tuple[Path, Path] | None:
    """The two subfolders, or None where the files of `root` hold both halves."""
    if layout == "halves":
        return None
    there = [(root / a, root / b) for a, b in FOLDERS]
    there = [two for two in there if all(path.is_dir() for path in two)]
    if layout == "folders" and not there:
        raise UserError(f"{root}: no subfolders input/ and target/, nor A/ and B/")
    if len(there) > 1:
        raise UserError(f"{root}: input/ and target/ beside A/ and B/; keep one pair of folders")
    if there and layout == "auto" and _image_files(root):
        raise UserError(
            f"{root}: images beside the folders {there[0][0].name}/ and {there[0][1].name}/; "
            "say which count by layout='halves' or layout='folders'"
        )
    return there[0] if there else None


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        ),
        key=lambda path: path.name,
    )


def _images(folder: Path) -> list[Path]:
    found = _image_files(folder)
    if not found:
        subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f"; it has the folders {', '.join(subfolders)}" if subfolders else ""
        raise UserError(f"{folder}: no images ({', '.join(SUFFIXES)}){hint}")
    return found


def _partners(first: Path, second: Path) -> list[tuple[Path, Path | None]]:
    a, b = _images(first), _images(second)
    for paths, other in ((a, b), (b, a)):
        alone = {path.name for path in paths} - {path.name for path in other}
        if alone:
            where = other[0].parent
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise UserError(
                f"{paths[0].parent / min(alone)}: no partner of that name in {where}{more}"
            )
    return list(zip(a, b, strict=True))


def _halves(path: Path) -> tuple[Image.Image, Image.Image]:
    image = _read(path)
    width, height = image.size
    if width % 2:
        raise UserError(f"{path}: {width} pixels wide; two halves side by side need an even width")
    left = image.crop((0, 0, width // 2, height))
    return left, image.crop((width // 2, 0, width, height))


def _both(first: Path, second: Path) -> tuple[Image.Image, Image.Image]:
    a, b = _read(first), _read(second)
    if a.size != b.size:
        raise UserError(
            f"{first}: {_pixels(a.size)} pixels, its partner {second} has {_pixels(b.size)}; "
            "the two images of a pair must match"
        )
    return a, b


def _read(path: Path) -> Image.Image:
    """The whole image in RGB, turned as its EXIF says."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            image.load()
            whole = ImageOps.exif_transpose(image)
            rgb = whole.convert("RGB")
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise UserError(f"{path}: not a whole image ({error}); replace or remove it") from error
    if mode.startswith(("I", "F")):
        raise UserError(f"{path}: of mode {mode}, more than 8 bits a channel; convert it to 8 bits")
    return rgb


def _array(image: Image.Image, channels: int) -> np.ndarray:
    """`(channels, height, width)`, uint8."""
    if channels == 1:
        return np.asarray(image.convert("L"))[None]
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
