"""Paired images from folders that the tests make."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmcnb.errors import UsageError, UserError
from lmcnb.lab.paired_images import load_pairs


def picture(seed: int, width: int = 6, height: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def tensor(*arrays: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([a.transpose(2, 0, 1) for a in arrays]))


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype == torch.uint8 and torch.equal(a, b)


def two_folders(root: Path, names: tuple[str, str] = ("input", "target")) -> None:
    for k, folder in enumerate(names):
        for i in range(3):
            save(picture(10 * k + i), root / folder / f"{i}.png")


def test_halves_side_by_side_in_a_folder_with_spaces_and_unicode(tmp_path: Path) -> None:
    root = tmp_path / "bâtiments et façades – 建物"
    for i, name in ((0, "été 1.png"), (1, "b 2.PNG"), (2, "a.png")):
        save(np.concatenate([picture(i), picture(i + 5)], 1), root / name)
    inputs, targets = load_pairs(root)
    assert equal(inputs, tensor(picture(2), picture(1), picture(0)))
    assert equal(targets, tensor(picture(7), picture(6), picture(5)))
    swapped = load_pairs(str(root), swap=True)
    assert equal(swapped[0], targets)
    assert equal(swapped[1], inputs)


@pytest.mark.parametrize("names", [("input", "target"), ("A", "B")])
def test_two_folders(names: tuple[str, str], tmp_path: Path) -> None:
    two_folders(tmp_path, names)
    inputs, targets = load_pairs(tmp_path)
    assert equal(inputs, tensor(*map(picture, (0, 1, 2))))
    assert equal(targets, tensor(*map(picture, (10, 11, 12))))
    assert equal(load_pairs(tmp_path, layout="folders", swap=True)[0], targets)


def test_the_order_is_that_of_the_names_by_code_point(tmp_path: Path) -> None:
    for i, name in enumerate(("2.png", "10.png", "B.png", "a.png", "é.png")):
        save(np.full((2, 4, 3), 10 * i, np.uint8), tmp_path / name)
    inputs, _ = load_pairs(tmp_path)
    assert inputs[:, 0, 0, 0].tolist() == [10, 0, 20, 30, 40]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    save(picture(0, 4, 2), tmp_path / "a.png")
    for name in ("._a.png", "Thumbs.db", "read me.txt"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    assert load_pairs(tmp_path)[0].shape == (1, 3, 2, 2)


def test_resizing_each_half_alone(tmp_path: Path) -> None:
    """A black and a white half stay so to the seam, and a ramp keeps its middle."""
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, 8:] = 255
    save(array, tmp_path / "a.png")
    for side in (3, 8, 20):
        inputs, targets = load_pairs(tmp_path, side)
        assert inputs.shape == targets.shape == (1, 3, side, side)
        assert int(inputs.max()) == 0
        assert int(targets.min()) == 255


def test_the_filter_is_bicubic(tmp_path: Path) -> None:
    a, b = picture(0, 10, 7), picture(1, 10, 7)
    save(np.concatenate([a, b], 1), tmp_path / "a.png")
    known = [Image.fromarray(x).resize((4, 4), Image.Resampling.BICUBIC) for x in (a, b)]
    found = load_pairs(tmp_path, side=4)
    assert equal(torch.cat(found), tensor(*map(np.asarray, known)))


def test_images_of_any_size_go_to_one_side(tmp_path: Path) -> None:
    save(picture(0, 8, 4), tmp_path / "a.png")
    save(picture(1, 12, 9), tmp_path / "b.png")
    assert load_pairs(tmp_path, 5)[1].shape == (2, 3, 5, 5)
    with pytest.raises(UserError, match=r"b\.png: 6 x 9 pixels.*4 x 4.*side="):
        load_pairs(tmp_path)


def test_without_a_side_the_size_stays(tmp_path: Path) -> None:
    save(picture(0, 8, 3), tmp_path / "a.png")
    inputs, targets = load_pairs(tmp_path)
    assert equal(torch.cat([inputs, targets], 3), tensor(picture(0, 8, 3)))


def test_jpeg_within_its_loss(tmp_path: Path) -> None:
    ramp = np.linspace(40, 200, 64).astype(np.uint8)
    a = np.broadcast_to(ramp[None, :, None], (64, 64, 3))
    b = a.transpose(1, 0, 2)
    Image.fromarray(np.concatenate([a, b], 1)).save(tmp_path / "a.jpg", quality=95)
    inputs, targets = load_pairs(tmp_path)
    assert int((inputs.int() - tensor(a).int()).abs().max()) < 8
    assert int((targets.int() - tensor(np.ascontiguousarray(b)).int()).abs().max()) < 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    array = np.zeros((2, 4, 3), np.uint8)
    array[:, 2:] = 255
    suffix = "tif" if mode == "CMYK" else "png"
    Image.fromarray(array).convert("RGB").convert(mode).save(tmp_path / f"a.{suffix}")
    inputs, targets = load_pairs(tmp_path)
    assert inputs.shape == (1, 3, 2, 2)
    assert int(inputs.max()) == 0
    assert int(targets.min()) == 255


def test_one_channel_is_the_luma(tmp_path: Path) -> None:
    save(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8), tmp_path / "a.png")
    inputs, targets = load_pairs(tmp_path, channels=1)
    assert inputs.shape == (1, 1, 1, 1)
    assert (int(inputs), int(targets)) == (76, 150)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    array = picture(0, 4, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(array)).save(tmp_path / "a.png", exif=exif)
    inputs, targets = load_pairs(tmp_path)
    assert equal(torch.cat([inputs, targets], 3), tensor(array))


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png.*8 bits"):
        load_pairs(tmp_path)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such folder"):
        load_pairs(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: no such folder"):
        load_pairs(tmp_path / "file")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no images.*it has the folders train"):
        load_pairs(tmp_path)
    with pytest.raises(UserError, match="no subfolders input/ and target/, nor A/ and B/"):
        load_pairs(tmp_path, layout="folders")


def test_a_file_without_partner_is_named(tmp_path: Path) -> None:
    two_folders(tmp_path)
    save(picture(0), tmp_path / "target" / "7 é.png")
    with pytest.raises(UserError, match=r"target/7 é\.png: no partner.*input$"):
        load_pairs(tmp_path)
    save(picture(0), tmp_path / "input" / "8.png")
    save(picture(0), tmp_path / "input" / "9.png")
    with pytest.raises(UserError, match=r"input/8\.png: no partner.*target \(and 1 more\)"):
        load_pairs(tmp_path)


def test_partners_of_unequal_sizes(tmp_path: Path) -> None:
    two_folders(tmp_path)
    save(picture(0, 6, 5), tmp_path / "target" / "1.png")
    for side in (None, 4):
        with pytest.raises(UserError, match=r"input/1\.png: 6 x 6.*target/1\.png has 6 x 5"):
            load_pairs(tmp_path, side)


def test_an_odd_width(tmp_path: Path) -> None:
    save(picture(0, 7, 6), tmp_path / "odd.png")
    with pytest.raises(UserError, match=r"odd\.png: 7 pixels wide"):
        load_pairs(tmp_path, 4)


def test_layouts_that_are_not_plain(tmp_path: Path) -> None:
    two_folders(tmp_path)
    save(picture(0, 4, 2), tmp_path / "extra.png")
    with pytest.raises(UserError, match=r"images beside the folders input/ and target/"):
        load_pairs(tmp_path)
    assert len(load_pairs(tmp_path, layout="folders")[0]) == 3
    assert len(load_pairs(tmp_path, layout="halves")[0]) == 1
    two_folders(tmp_path, ("A", "B"))
    with pytest.raises(UserError, match="beside A/ and B/"):
        load_pairs(tmp_path, layout="folders")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_image_is_named(suffix: str, keep: float, tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(picture(0, 64, 64)).save(whole, {"png": "png", "jpg": "jpeg"}[suffix])
    data = whole.getvalue()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: not a whole image"):
        load_pairs(tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(picture(0, 64, 64)).save(whole, "png")
    data = bytearray(whole.getvalue())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.png: not a whole image"):
        load_pairs(tmp_path)
    (tmp_path / "bad.png").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"bad\.png: not a whole image"):
        load_pairs(tmp_path)


def test_impossible_arguments(tmp_path: Path) -> None:
    save(picture(0, 4, 2), tmp_path / "a.png")
    for side in (0, -3, 2.5, True):
        with pytest.raises(UsageError, match="side="):
            load_pairs(tmp_path, side)
    with pytest.raises(UsageError, match="layout='side'"):
        load_pairs(tmp_path, layout="side")
    with pytest.raises(UsageError, match="channels=4"):
        load_pairs(tmp_path, channels=4)
