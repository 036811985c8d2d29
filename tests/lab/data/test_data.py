"""Data sets on this machine: what is found, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_files import (
    CLASSES,
    IMAGES,
    left,
    write_cifar,
    write_idx,
    write_svhn,
)

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import data, data_readers, formats
from lmcnb.lab.checksums import file_sha256
from lmcnb.lab.data_registry import DataSet, Split, registry

rng = np.random.default_rng(1)
FINGERPRINTS = {
    "seeds": "b67e1b94c52ccbcb03e34c2a6ac9a1f57aa53b1cf3a77244f505b5919183625e",
    "mnist": "ade59d31d638abd0562b7d22f6d180529b7f0e0dabf214fab4b3367779550d07",
}

# ---------------- what comes with the package


def test_seeds_brownian_and_lorenz_stand_in_the_package(cache: Path) -> None:
    seeds = data.load("seeds", network=False)
    assert [int(seeds[key].sum()) for key in ("r", "n", "x1", "x2")] == [424, 831, 10, 11]
    assert (seeds["r"] <= seeds["n"]).all() and len(seeds["r"]) == 21
    for name, scale, ends in (
        ("brownian", 0.1, (0.21592641, -0.6202789)),
        ("lorenz", 0.1, (-0.2761459, 6.26647)),
    ):
        series = data.load(name, network=False)
        observed = series["observations"]
        assert (observed[0], observed[-1]) == ends and observed.shape == (30,)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(observed)), np.arange(10, 20))
        assert series["innovation_scale"] == scale
    assert data.load("lorenz")["step_size"] == 0.02 and data.load("lorenz").note is None
    assert not cache.exists()


def test_digits_and_breast_cancer_come_with_scikit_learn(cache: Path) -> None:
    train, test, whole = (data.load("digits", split) for split in ("train", "test", "all"))
    assert [len(part["labels"]) for part in (train, test, whole)] == [1500, 297, 1797]
    np.testing.assert_array_equal(
        np.concatenate([train["images"], test["images"]]), whole["images"]
    )
    assert np.bincount(whole["labels"]).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert whole["images"].max() == 16 and "our own split" in str(train.note)
    cancer = data.load("breast_cancer")
    assert cancer["x"].shape == (569, 30) and (cancer["y"] == 1).sum() == 357
    assert set(cancer["y"].tolist()) == {-1, 1}


def test_a_changed_number_in_the_package_is_noticed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str, split: str, paths: list[Path]) -> formats.Arrays:
        arrays = read(name, split, paths)
        arrays["observations"][3] += 1e-9
        return arrays

    read = data_readers.READERS["package"]
    monkeypatch.setitem(data_readers.READERS, "package", changed)
    with pytest.raises(UserError, match="not the published content of brownian"):
        data.load("brownian")


def test_fingerprints_do_not_change(cache: Path) -> None:
    """They are in the run ids; mnist is known without being read."""
    assert data.fingerprint("seeds") == FINGERPRINTS["seeds"]
    assert data.fingerprint("mnist") == FINGERPRINTS["mnist"]
    assert data.verify("seeds") == FINGERPRINTS["seeds"]
    assert data.verify("digits") == data.fingerprint("digits")
    every = [data.fingerprint(n) for n in registry() if n not in ("svhn", "cifar10", "celeba32")]
    assert len(set(every)) == len(every)


def test_a_digest_sees_everything_but_the_layout() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    same = data.digest({"a": array})
    assert data.digest({"a": np.asfortranarray(array)}) == same
    assert data.digest({"a": array.astype(">i8")}) == same
    assert data.digest({"b": array, "a": array}) == data.digest({"a": array, "b": array})
    others = [array.reshape(3, 2), array.astype(np.int32), array.T, array + (array == 5)]
    assert len({same, *(data.digest({"a": a}) for a in others), data.digest({"b": array})}) == 6


# ---------------- what is asked for wrongly


def test_unknown_names_and_splits_are_refused(cache: Path) -> None:
    for call in (data.load, data.available, data.fetch, data.verify, data.fingerprint):
        with pytest.raises(UsageError, match=r"'minst' does not exist; choose one of mnist, "):
            call("minst")
    with pytest.raises(UsageError, match=r"mnist has no split 'valid'; choose one of train, test"):
        data.load("mnist", "valid")
    with pytest.raises(UsageError, match="no split 'x'"):
        data.available("mnist", "x")


def test_missing_data_say_what_where_and_how(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("LMCNB_DATA", str(tmp_path / "mine"))
    assert not data.available("mnist") and data.available("seeds")
    with pytest.raises(UserError) as error:
        data.load("mnist", network=False)
    for part in (
        "mnist/train-images-idx3-ubyte.gz, mnist/train-labels-idx1-ubyte.gz",
        "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz or https://stor",
        f"looked in: {tmp_path / 'mine'}, {cache}",
        f"put these into {cache / 'downloads'}",
        "lmcnb data fetch mnist",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match="not on this machine"):
        data.require("mnist")
    monkeypatch.setenv("LMCNB_OFFLINE", "1")
    for name, entry in registry().items():
        if not entry.built_in:
            with pytest.raises(UserError, match=f"data set '{name}' is not on this machine"):
                data.load(name)
    assert left(cache) == []


def test_lmcnb_data_must_be_a_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCNB_DATA", "/no/such/folder")
    with pytest.raises(UserError, match="LMCNB_DATA names /no/such/folder, which is not a folder"):
        data.load("mnist")


# ---------------- damage on this machine


@pytest.mark.parametrize("file", ["images.gz", "labels.gz"])
def test_damaged_files_are_refused_by_name(cache: Path, small: DataSet, file: str) -> None:
    data.fetch("small")
    path = cache / "small" / file
    good = path.read_bytes()
    other = IMAGES.copy() if file == "images.gz" else CLASSES.copy()
    other.flat[3] ^= 1
    for bad in (good[:-9], b"", good[:20], write_idx(path, other).read_bytes()):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"remove the file, then `lmcnb data fetch small`") as e:
            data.load("small")
        assert str(path) in str(e.value)
    path.write_bytes(good)
    assert data.verify("small") == data.fingerprint("small")


def test_a_file_that_is_not_one_of_the_known_is_refused(
    cache: Path, tmp_path: Path, register: Callable[[DataSet], DataSet]
) -> None:
    (cache / "svhn").mkdir(parents=True)
    path = write_svhn(cache / "svhn" / "train_32x32.mat")
    with pytest.raises(UserError, match=r"train_32x32.mat: corrupt or truncated"):
        data.load("svhn")
    known = Split((path.name,), known={path.name: (file_sha256(path),)})
    register(replace(registry()["svhn"], splits={"train": known}))
    assert data.load("svhn")["images"].shape == (4, 3, 32, 32)
    assert data.fingerprint("svhn") == data.verify("svhn")


def test_the_known_inexact_cifar10_batch_needs_its_flags(
    cache: Path, register: Callable[[DataSet], DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "cifar10" / "cifar-10-batches-bin"  # the second place
    folder.mkdir(parents=True)
    pictures = rng.integers(0, 256, (40, 3, 32, 32), np.uint8)
    path = write_cifar(folder / "test_batch.bin", pictures, np.zeros(40, np.uint8))
    with pytest.raises(UserError, match="corrupt or truncated"):
        data.load("cifar10", "test")
    known = Split((path.name,), known={path.name: ("0" * 64, file_sha256(path))})
    register(replace(registry()["cifar10"], splits={"test": known}))
    assert data.load("cifar10", "test").note is None
    monkeypatch.setattr(data_readers, "INEXACT_BATCH", file_sha256(path))
    with pytest.raises(UserError, match=r"test_exact.npy: is absent"):
        data.load("cifar10", "test")
    flags = np.arange(40) >= 23
    for wrong in (flags[1:], flags.astype(int), ~flags):
        np.save(folder / "test_exact.npy", wrong)
        with pytest.raises(UserError, match=r"not 40 flags of which 23 are False"):
            data.load("cifar10", "test")
    np.save(folder / "test_exact.npy", flags)
    loaded = data.load("cifar10", "test")
    np.testing.assert_array_equal(loaded["exact"], flags)
    assert "23 of the 10,000 test images" in str(loaded.note)


def test_folders_are_searched_in_order(
    cache: Path, small: DataSet, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "small").mkdir(parents=True)
    shutil.copy(tmp_path / "images.gz", first / "small")  # not whole: the labels are not there
    for name in ("images.gz", "labels.gz"):
        shutil.copy(tmp_path / name, second / "small")
    monkeypatch.setenv("LMCNB_DATA", os.pathsep.join([str(first), str(second)]))
    data.load("small")
    assert server.asked == [] and not cache.exists()
    (first / "small" / "labels.gz").write_bytes(b"bad")  # the first whole one counts, and is bad
    with pytest.raises(UserError, match=str(first)):
        data.load("small")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b,c\n1,2,yes\n3,4,no\n")
    mine = data.load_csv(tmp_path / "mine.csv")
    np.testing.assert_array_equal(mine["x"], [[1, 2], [3, 4]])
    assert mine["y"].tolist() == [1, -1] and mine.name == "mine"
    assert data.load_csv(tmp_path / "mine.csv", positive="no")["y"].tolist() == [-1, 1]


# ---------------- the registry


def test_every_entry_is_complete() -> None:
    def is_sha(text: str) -> bool:
        return len(text) == 64 and set(text) <= set("0123456789abcdef")

    for name, entry in registry().items():
        assert entry.title and entry.licence and entry.origin, name
        assert entry.reader in data_readers.READERS
        assert bool(entry.folders) == bool(entry.sources) != entry.built_in
        for split in entry.splits.values():
            assert bool(split.files) != entry.built_in
            known = set(split.known) == set(split.files) != set()
            derived = bool(entry.sources) and all(len(s.md5) == 32 for s in entry.sources)
            assert is_sha(split.sha256) or known or derived
            assert all(is_sha(value) for sums in split.known.values() for value in sums)
        for source in entry.sources:
            assert source.addresses and all(a.startswith("http") for a in source.addresses)
            assert is_sha(source.sha256) + is_sha(source.content) + (len(source.md5) == 32) == 1
            assert (source.parser in data_readers.PARSERS) == bool(source.content)
        if entry.sources and entry.reader not in data_readers.CONVERTERS:
            files = {file for split in entry.splits.values() for file in split.files}
            assert files == {source.file for source in entry.sources}
