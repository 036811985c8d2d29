"""Data sets fetched: addresses in turn, checksums, conversions; nothing half done."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_files import (
    CLASSES,
    IMAGES,
    left,
    write_amat,
    write_cifar,
    write_omniglot,
    write_svhn,
    write_tar,
)

from lmcnb.errors import UserError
from lmcnb.lab import data, data_readers, formats
from lmcnb.lab.data_registry import DataSet, Source, Split, registry

rng = np.random.default_rng(1)

# ---------------- fetching


def test_the_second_address_serves_when_the_first_fails(
    cache: Path, small: DataSet, server: Any
) -> None:
    loaded = data.load("small")
    np.testing.assert_array_equal(loaded["images"], IMAGES)
    np.testing.assert_array_equal(loaded["labels"], CLASSES)
    assert server.asked == ["/gone", "/images.gz", "/labels.gz"]
    assert left(cache) == ["small/images.gz", "small/labels.gz"]
    data.load("small", network=False)
    data.fetch("small")
    assert len(server.asked) == 3


def test_a_wrong_file_is_refused_and_nothing_stays(
    cache: Path, small: DataSet, server: Any
) -> None:
    server.files["/labels.gz"] = server.files["/labels.gz"][:-3]
    with pytest.raises(UserError, match=r"labels.gz: could not be downloaded") as error:
        data.load("small")
    assert "not the published file" in str(error.value) and "looked in" in str(error.value)
    assert left(cache) == [] and not data.available("small")
    server.files["/gone"] = b"<html>moved</html>"  # a wrong file at the first address is no harm
    server.files["/labels.gz"] += small.sources[1].sha256.encode()
    with pytest.raises(UserError, match="labels.gz: could not be downloaded"):
        data.load("small")
    assert "/images.gz" in server.asked[-2:] and left(cache) == []


def test_no_address_is_asked_where_that_is_forbidden(
    cache: Path, small: DataSet, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="not on this machine"):
        data.load("small", network=False)
    monkeypatch.setenv("LMCNB_OFFLINE", "1")
    for call in (data.load, data.fetch):
        with pytest.raises(UserError, match="not on this machine"):
            call("small")
    assert server.asked == [] and left(cache) == []


def test_an_unreachable_server_is_named(cache: Path, small: DataSet, server: Any) -> None:
    server.files.clear()
    with pytest.raises(UserError) as error:
        data.fetch("small")
    for address in small.sources[0].addresses:
        assert f"{address}: 404" in str(error.value)
    server.close()
    with pytest.raises(UserError, match="/gone: no connection"):
        data.fetch("small")


def test_a_killed_fetch_leaves_nothing_that_counts(
    cache: Path, small: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data, "_read", kill)
        with pytest.raises(KeyboardInterrupt):
            data.fetch("small")
    assert left(cache) == []
    old = cache / ".fetch-old"  # of a fetch killed for good
    new = cache / ".fetch-new"  # of one that runs beside this
    old.mkdir(), new.mkdir()
    os.utime(old, (time.time() - 1e6,) * 2)
    data.fetch("small")
    assert new.exists() and not old.exists() and data.available("small")


def test_a_cache_that_cannot_be_written_is_named(
    small: DataSet, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMCNB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="small cannot be written there"):
        data.fetch("small")


def test_files_got_by_hand_are_used_without_a_network(
    cache: Path, small: DataSet, server: Any, tmp_path: Path
) -> None:
    (cache / "downloads").mkdir(parents=True)
    for name in ("images.gz", "labels.gz"):
        shutil.copy(tmp_path / name, cache / "downloads")
    wrong = cache / "downloads" / "labels.gz"
    right = wrong.read_bytes()
    wrong.write_bytes(right[:-1])
    with pytest.raises(UserError, match=f"{wrong}: not the published file"):
        data.load("small", network=False)
    wrong.write_bytes(right)
    np.testing.assert_array_equal(data.load("small", network=False)["images"], IMAGES)
    assert server.asked == []


def test_where_no_checksum_is_published_the_content_is_compared(
    cache: Path, server: Any, register: Callable[[DataSet], DataSet]
) -> None:
    text = b"0.5,1,R\n-2,0,M\n"
    content = data.digest({"x": np.array([[0.5, 1.0], [-2, 0]]), "y": np.array([1, -1])})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/t.all-data", text)
    server.files = {"/t.all-data": b"<html>1,2,R</html>", "/t.zip": archive.getvalue()}
    addresses = (f"{server.address}/t.all-data", f"{server.address}/t.zip#t.all-data")
    source = Source("t.all-data", addresses, parser="table", content=content)
    split = Split(("t.csv",), content)
    entry = DataSet("t", "t", "l", "o", "table", {"train": split}, ("uci",), (source,))
    register(entry)
    np.testing.assert_array_equal(data.load("t")["x"], [[0.5, 1.0], [-2, 0]])
    assert left(cache) == ["uci/t.csv"] and (cache / "uci/t.csv").read_bytes() == text
    (cache / "uci/t.csv").unlink()
    server.files["/t.zip"] = b"no zip"
    with pytest.raises(UserError, match="t.all-data: could not be downloaded"):
        data.load("t")
    assert left(cache) == []


# ---------------- conversions, both routes alike


def check_route(
    name: str,
    server: Any,
    register: Callable[[DataSet], DataSet],
    cache: Path,
    downloads: dict[str, bytes],
    expected: dict[str, formats.Arrays],
    files: list[str],
) -> None:
    """Fetch the real entry `name` with small files; the arrays are those expected."""
    entry = registry()[name]
    sources = tuple(server.source(file, content) for file, content in downloads.items())
    assert [s.file for s in sources] == [s.file for s in entry.sources]
    splits = {
        split: replace(known, sha256=data.digest(expected[split]), known={})
        for split, known in entry.splits.items()
    }
    register(replace(entry, sources=sources, splits=splits))
    for split, arrays in expected.items():
        loaded = data.load(name, split)
        assert sorted(loaded) == sorted(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(loaded[key], array)
            assert loaded[key].dtype == array.dtype
    assert left(cache) == files
    wrong = {split: replace(known, sha256="0" * 64) for split, known in splits.items()}
    register(replace(entry, sources=sources, splits=wrong))
    with pytest.raises(UserError, match="not the published content"):
        data.load(name)
    shutil.rmtree(cache)
    with pytest.raises(UserError, match="the download does not give the known data"):
        data.load(name)
    assert left(cache) == []


Route = tuple[Any, Callable[[DataSet], DataSet], Path]


@pytest.fixture
def route(server: Any, register: Callable[[DataSet], DataSet], cache: Path) -> Route:
    return server, register, cache


def test_static_mnist_route(route: Route, tmp_path: Path) -> None:
    images = {split: rng.integers(0, 2, (4, 784), np.uint8) for split in ("train", "valid", "test")}
    downloads = {
        f"binarized_mnist_{split}.amat": write_amat(tmp_path / split, array).read_bytes()
        for split, array in images.items()
    }
    expected = {split: {"images": array.reshape(-1, 28, 28)} for split, array in images.items()}
    files = ["static_mnist/binarized_mnist_larochelle.npz"]
    check_route("static_mnist", *route, downloads, expected, files)


@pytest.mark.parametrize("name", ["omniglot", "omniglot28_resized"])
def test_omniglot_route(route: Route, tmp_path: Path, name: str) -> None:
    downloads, expected = {}, {}
    for split, part, first in (("train", "background", 1), ("test", "evaluation", 965)):
        paper = rng.integers(0, 2, (3, 2, 105, 105)).astype(bool)
        path = write_omniglot(tmp_path / part, paper, first)
        downloads[f"images_{part}.zip"] = path.read_bytes()
        expected[split] = {"images": paper, "labels": np.array([[0, 0], [1, 1], [2, 2]])}
        if name != "omniglot":
            pictures = data_readers.resize28(paper)
            expected[split] = {"images": pictures, "labels": np.array([0, 0, 1, 1, 2, 2])}
    files = ["omniglot/images_background.npz", "omniglot/images_evaluation.npz"]
    check_route(name, *route, downloads, expected, files)


def test_cifar10_route(route: Route, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (12, 3, 32, 32), np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    members = {}
    for i, name in reversed(list(enumerate(names))):  # an archive may have any order
        part = slice(2 * i, 2 * i + 2)
        path = write_cifar(tmp_path / name, pictures[part], labels[part])
        members[f"cifar-10-batches-bin/{name}"] = path.read_bytes()
    tar = write_tar(tmp_path / "a.tar.gz", {"cifar-10-batches-bin/readme.html": b"x", **members})
    expected = {
        "train": {"images": pictures[:10], "labels": labels[:10]},
        "test": {"images": pictures[10:], "labels": labels[10:], "exact": np.ones(2, bool)},
    }
    downloads = {"cifar-10-binary.tar.gz": tar.read_bytes()}
    files = [f"cifar-10-batches-bin/{name}" for name in names]
    check_route("cifar10", *route, downloads, expected, files)


def test_svhn_route(route: Route, tmp_path: Path) -> None:
    content = write_svhn(tmp_path / "a.mat").read_bytes()
    arrays = formats.read_svhn(tmp_path / "a.mat")
    downloads = {"train_32x32.mat": content, "test_32x32.mat": content}
    expected = {"train": arrays, "test": arrays}
    files = ["svhn/test_32x32.mat", "svhn/train_32x32.mat"]
    check_route("svhn", *route, downloads, expected, files)


def test_celeba_is_got_by_hand_and_resized(
    cache: Path, register: Callable[[DataSet], DataSet]
) -> None:
    """Short side to 32, centre crop; the partition's 0 is train, 2 test, 1 is not used."""
    archive, sizes = io.BytesIO(), {"000001.jpg": (178, 218), "000002.jpg": (64, 64)}
    sizes |= {"000003.jpg": (178, 218), "000004.jpg": (100, 50)}
    with zipfile.ZipFile(archive, "w") as file:
        for number, (name, (width, height)) in enumerate(reversed(sizes.items())):
            ramp = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
            pixels = np.stack([ramp, 255 - ramp, np.full((height, width), 40 * number)], -1)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
            file.writestr(f"img_align_celeba/{name}", buffer.getvalue())
    contents = {
        "img_align_celeba.zip": archive.getvalue(),
        "list_eval_partition.txt": b"000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n",
    }
    entry = registry()["celeba32"]
    assert [s.file for s in entry.sources] == list(contents)
    assert all(s.by_hand and len(s.md5) == 32 for s in entry.sources)
    known = [
        replace(s, md5=hashlib.md5(contents[s.file], usedforsecurity=False).hexdigest())
        for s in entry.sources
    ]
    register(replace(entry, sources=tuple(known)))
    with pytest.raises(UserError, match=r"by hand: put these into .*downloads.*\n.*CelebA.html"):
        data.load("celeba32")
    (cache / "downloads").mkdir(parents=True)
    for name, content in contents.items():
        (cache / "downloads" / name).write_bytes(content)
    train, test = (data.load("celeba32", split)["images"] for split in ("train", "test"))
    assert train.shape == (2, 3, 32, 32)
    assert test.shape == (1, 3, 32, 32)
    assert train.dtype == np.uint8
    rows = train[0, 0].mean(1)  # 39 rows, of which 4 ... 35 are kept
    np.testing.assert_allclose(rows, np.linspace(0, 255, 39 * 2 + 1)[1::2][4:36], atol=4)
    assert abs(float(test[0, 2].mean()) - 0) < 4  # the last file, written first
    bad = cache / "downloads" / "list_eval_partition.txt"
    bad.write_bytes(b"000001.jpg 0\n")
    shutil.rmtree(cache / "celeba32")
    with pytest.raises(UserError, match=r"not the published file \(md5"):
        data.load("celeba32")


@pytest.mark.parametrize("text", ["", "a.jpg 3\n", "a.jpg\n"])
def test_a_broken_partition_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=r"list.txt"):
        formats.read_partition(tmp_path / "list.txt")


def test_an_archive_without_faces_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme", "x")
    with pytest.raises(UserError, match=r"a.zip"):
        formats.read_faces(tmp_path / "a.zip", 32)


def test_a1a_madelon_and_australian_routes(route: Route) -> None:
    x = np.zeros((2, 119))
    x[0, [0, 118]] = x[1, 4] = 1
    expected = {"train": {"x": x, "y": np.array([-1, 1])}}
    downloads = {"a1a": b"-1 1:1 119:1 \n+1 5:1 \n"}
    check_route("a1a", *route, downloads, expected, ["uci/a1a.npz"])
    expected = {"train": {"x": np.array([[485.0, 999], [470, 3]]), "y": np.array([-1, 1])}}
    downloads = {"madelon_train.data": b"485 999 \n470 3 \n", "madelon_train.labels": b"-1\n1\n"}
    check_route("madelon", *route, downloads, expected, ["uci/madelon_train.npz"])
    downloads = {"australian.dat": b"485 999 0\n470 3 1\n"}
    check_route("australian", *route, downloads, expected, ["uci/australian.csv"])


def test_resizing_is_an_area_average_of_the_ink() -> None:
    paper = rng.integers(0, 2, (2, 105, 105)).astype(bool)
    fine = np.kron(~paper, np.ones((4, 4)))  # 420 x 420
    mean = fine.reshape(2, 28, 15, 28, 15).mean((2, 4))
    got = data_readers.resize28(paper)
    assert got.dtype == np.uint8 and got.shape == (2, 28, 28)
    assert np.abs(got - 255 * mean).max() <= 0.5 + 1e-9
    assert (data_readers.resize28(np.zeros((1, 105, 105), bool)) == 255).all()
    assert (data_readers.resize28(np.ones((1, 105, 105), bool)) == 0).all()
    parts = data_readers.resize28(np.repeat(paper, 300, axis=0))  # more than one part
    np.testing.assert_array_equal(parts, np.repeat(got, 300, axis=0))
