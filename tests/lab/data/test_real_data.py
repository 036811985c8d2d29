"""The real data, where they are: counts, checksums, and both routes alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmcnb.lab import data, data_readers, formats
from lmcnb.lab.data_registry import registry

IONOSPHERE_DATA = "46d52186b84e20be52918adb93e8fb9926b34795ff7504c24350ae0616a04bbd"  # UCI's
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("mnist", MNIST_COUNTS, 10_000), ("fashion_mnist", [6000] * 10, 10_000)],
)
def test_real_mnist(
    name: str, train: list[int], test: int, require_data: Callable[[str], None]
) -> None:
    require_data(name)
    loaded = data.load(name)
    assert loaded["images"].shape == (60_000, 28, 28) and loaded["images"].dtype == np.uint8
    assert np.bincount(loaded["labels"]).tolist() == train
    assert data.load(name, "test")["images"].shape == (test, 28, 28)
    assert data.verify(name) == data.fingerprint(name)


def test_real_static_mnist(require_data: Callable[[str], None], tmp_path: Path) -> None:
    require_data("static_mnist")
    assert data.verify("static_mnist") == data.fingerprint("static_mnist")
    assert len(data.load("static_mnist")["images"]) == 50_000
    images = data.load("static_mnist", "valid")["images"].reshape(-1, 784)
    # the published text, written again from the arrays, has the published checksum
    text = np.full((10_000, 2 * 784), ord(" "), np.uint8)
    text[:, ::2], text[:, -1] = images + ord("0"), ord("\n")
    (source,) = (s for s in registry()["static_mnist"].sources if "valid" in s.file)
    assert hashlib.sha256(text.tobytes()).hexdigest() == source.sha256
    (tmp_path / "a.amat").write_bytes(text.tobytes())
    np.testing.assert_array_equal(formats.read_amat(tmp_path / "a.amat"), images)


def test_real_omniglot(require_data: Callable[[str], None]) -> None:
    require_data("omniglot")
    evaluation = data.load("omniglot", "test")
    assert evaluation["images"].shape == (659, 20, 105, 105)
    np.testing.assert_array_equal(evaluation["labels"][:, 7], np.arange(659))
    small = data.load("omniglot28_resized", "test")
    assert small["images"].shape == (13_180, 28, 28) and "not the Burda split" in str(small.note)
    ink = 1 - evaluation["images"].mean()
    assert abs(small["images"].mean() / 255 - ink) < 1e-3


def test_real_cifar10(require_data: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    if folder := os.environ.get("LMCNB_CIFAR10"):
        paths = [folder, os.environ.get("LMCNB_DATA", "")]
        monkeypatch.setenv("LMCNB_DATA", os.pathsep.join(filter(None, paths)))
    require_data("cifar10")
    train, test = data.load("cifar10"), data.load("cifar10", "test")
    assert train["images"].shape == (50_000, 3, 32, 32)
    assert np.bincount(train["labels"]).tolist() == [5000] * 10
    assert np.bincount(test["labels"]).tolist() == [1000] * 10
    inexact = np.bincount(test["labels"][~test["exact"]], minlength=10)
    assert inexact.sum() in (0, 23) and bool(test.note) == bool(inexact.sum())
    if test.note:
        assert inexact[8] == 22 and inexact[7] == 1  # ships, a horse


TABLES = {  # rows, features, rows of label +1, LDVI's file
    "ionosphere": (351, 34, 225, "ldvi_ionosphere_full.npz"),
    "sonar": (208, 60, 97, "ldvi_sonar_full.npz"),
    "australian": (690, 14, 307, "ldvi_australian_full.npz"),
    "a1a": (1605, 119, 395, "ldvi_a1a_full.npz"),
    "madelon": (2000, 500, 1000, "ldvi_madelon_full.npz"),
}


@pytest.mark.parametrize("name", TABLES)
def test_real_tables(name: str, require_data: Callable[[str], None]) -> None:
    require_data(name)
    rows, features, positive, ldvi = TABLES[name]
    table = data.load(name)
    x, y = table["x"], table["y"]
    assert x.shape == (rows, features) and (y == 1).sum() == positive and (abs(y) == 1).all()
    for folder in data.folders():
        if (folder / "uci" / ldvi).exists():  # the arrays that the official code reads
            theirs = formats.read_npz(folder / "uci" / ldvi, ["X", "Y"])
            np.testing.assert_array_equal(theirs["Y"], y)
            if name in ("ionosphere", "sonar", "australian"):
                low, width = x.min(0), np.ptp(x, axis=0)
                scaled = 2 * (x - low) / np.where(width == 0, 1, width) - 1
                x = np.where(width == 0, theirs["X"], scaled)
            np.testing.assert_allclose(theirs["X"], x, atol=1e-6)


def test_real_texts_have_the_content_of_the_registry(require_data: Callable[[str], None]) -> None:
    """The published text and the cache file give the same arrays."""
    require_data("ionosphere")
    for folder in data.folders():
        if (path := folder / "uci" / "ionosphere.csv").exists():
            text = path.read_bytes().rstrip() + b"\n"
            assert hashlib.sha256(text).hexdigest() == IONOSPHERE_DATA
        if (path := folder / "uci" / "a1a.libsvm").exists():
            arrays = data_readers.PARSERS["a1a"](path)
            assert data.digest(arrays) == registry()["a1a"].sources[0].content
