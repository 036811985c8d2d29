"""Every format: what is written is read, and nothing damaged is."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_files import (
    BINARY,
    BYTES,
    LABELS,
    PAPER,
    PICTURES,
    write_amat,
    write_cifar,
    write_idx,
    write_npy,
    write_npz,
    write_omniglot,
    write_svhn,
    write_table,
    write_tar,
)

from lmcnb.errors import UserError
from lmcnb.lab import formats

MEMBERS = {"x/one.bin": BYTES.tobytes(), "x/two.bin": b"two"}
FORMATS: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], object]]] = {
    "idx.gz": ("a.gz", write_idx, formats.read_idx),
    "idx": ("a.idx", write_idx, formats.read_idx),
    "amat": ("a.amat", write_amat, formats.read_amat),
    "cifar": ("a.bin", write_cifar, formats.read_cifar),
    "svhn": ("a.mat", write_svhn, formats.read_svhn),
    "svhn, not compressed": ("a.mat", lambda p: write_svhn(p, False), formats.read_svhn),
    "omniglot": ("a.zip", write_omniglot, formats.read_omniglot),
    "zip": ("b.zip", write_npz, lambda p: formats.read_zip_member(p, "a.npy")),
    "tar": (
        "a.tar.gz",
        lambda p: write_tar(p, MEMBERS),
        lambda p: formats.read_tar_members(p, list(MEMBERS)),
    ),
    "npz": ("a.npz", write_npz, lambda p: formats.read_npz(p, ["a", "b"])),
    "npy": ("a.npy", write_npy, formats.read_npy),
    "table": ("a.csv", write_table, formats.read_table),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for name in ("a.gz", "a.idx"):
        np.testing.assert_array_equal(formats.read_idx(write_idx(tmp_path / name)), BYTES)
    np.testing.assert_array_equal(formats.read_amat(write_amat(tmp_path / "a.amat")), BINARY)
    for compress in (True, False):
        svhn = formats.read_svhn(write_svhn(tmp_path / "a.mat", compress))
        np.testing.assert_array_equal(svhn["images"], PICTURES)
        np.testing.assert_array_equal(svhn["labels"], LABELS)
    cifar = formats.read_cifar(write_cifar(tmp_path / "a.bin"))
    np.testing.assert_array_equal(cifar["images"], PICTURES)
    np.testing.assert_array_equal(cifar["labels"], LABELS)
    omniglot = formats.read_omniglot(write_omniglot(tmp_path / "a.zip"))
    np.testing.assert_array_equal(omniglot["images"], PAPER)
    assert omniglot["images"].view(np.uint8).max() == 1  # Pillow's bools hold 255
    np.testing.assert_array_equal(omniglot["labels"], [[0, 0, 0], [1, 1, 1]])
    npz = formats.read_npz(write_npz(tmp_path / "a.npz"), ["b"])
    assert list(npz) == ["b"] and (npz["b"] == LABELS).all()
    np.testing.assert_array_equal(formats.read_npy(write_npy(tmp_path / "a.npy")), BYTES)
    tar = write_tar(tmp_path / "a.tar.gz", {**MEMBERS, "x/three": b"3"})
    assert formats.read_tar_members(tar, list(MEMBERS)) == MEMBERS
    table = formats.read_table(write_table(tmp_path / "a.csv"))
    np.testing.assert_array_equal(table["x"], [[0.5, 1e-3], [-2, 0], [7, 8.25]])
    np.testing.assert_array_equal(table["y"], [1, -1, 1])


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "table"])  # rows are its unit
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.4, 0.7])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kind: str, keep: float) -> None:
    name, write, read = FORMATS[kind]
    path = write(tmp_path / name)
    read(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=name):
        read(path)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "table"])
def test_one_byte_short_is_refused(tmp_path: Path, kind: str) -> None:
    name, write, read = FORMATS[kind]
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-1])
    if kind == "tar":  # what is missing is the end of the padding; the file's checksum sees it
        return
    with pytest.raises(UserError, match=name):
        read(path)


@pytest.mark.parametrize("kind", ["idx.gz", "zip", "npz", "omniglot"])
def test_a_flipped_bit_is_refused(tmp_path: Path, kind: str) -> None:
    name, write, read = FORMATS[kind]
    path = write(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        read(path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>\n" * 9, b"\x93NUMPY\x01\x00" * 99]
)
def test_another_format_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    name, _, read = FORMATS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        read(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_absent_file_is_named(tmp_path: Path, kind: str) -> None:
    name, _, read = FORMATS[kind]
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(No such file"):
        read(tmp_path / name)


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    array = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "a.npz", a=array)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match="a.npz"):
        formats.read_npz(tmp_path / "a.npz", ["a"])
    with pytest.raises(UserError, match="a.npy"):
        formats.read_npy(tmp_path / "a.npy")
    assert not (tmp_path / "exploded").exists()


def test_idx_refuses_a_header_that_asks_for_more(tmp_path: Path) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(bytes([0, 0, 8, 2]) + struct.pack(">2I", 2**31, 2**31))
    with pytest.raises(UserError, match="shape"):
        formats.read_idx(path)
    path.write_bytes(write_idx(path).read_bytes() + b"\0")
    with pytest.raises(UserError, match="fit"):
        formats.read_idx(path)
    path.write_bytes(bytes([0, 0, 13, 1]) + struct.pack(">I", 1) + bytes(4))  # floats
    with pytest.raises(UserError, match="00000d01"):
        formats.read_idx(path)


def test_amat_refuses_what_is_not_binary(tmp_path: Path) -> None:
    path = write_amat(tmp_path / "a.amat")
    content = path.read_bytes()
    for place, byte in ((0, b"2"), (1, b";"), (2 * 784 - 1, b" ")):
        path.write_bytes(content[:place] + byte + content[place + 1 :])
        with pytest.raises(UserError, match="digits"):
            formats.read_amat(path)


def test_cifar_and_svhn_refuse_impossible_labels(tmp_path: Path) -> None:
    import scipy.io

    path = write_cifar(tmp_path / "a.bin", labels=np.array([1, 10, 2, 3], np.uint8))
    with pytest.raises(UserError, match="label is 10"):
        formats.read_cifar(path)
    mat = tmp_path / "a.mat"
    right = {"X": PICTURES.transpose(2, 3, 1, 0), "y": LABELS[:, None] + 1}
    for wrong in ({"y": LABELS[:, None]}, {"y": LABELS[1:, None]}, {"X": PICTURES}):
        scipy.io.savemat(mat, {**right, **wrong})
        with pytest.raises(UserError, match="a.mat"):
            formats.read_svhn(mat)
    scipy.io.savemat(mat, {"X": right["X"]})
    with pytest.raises(UserError, match="y"):
        formats.read_svhn(mat)


def test_omniglot_refuses_other_pictures_and_gaps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is L of size"):
        formats.read_omniglot(write_omniglot(tmp_path / "a.zip", mode="L"))
    with pytest.raises(UserError, match=r"size \(50, 105\)"):
        formats.read_omniglot(write_omniglot(tmp_path / "b.zip", PAPER[:, :, :, :50]))
    write_omniglot(tmp_path / "c.zip")
    with (
        zipfile.ZipFile(tmp_path / "c.zip") as full,
        zipfile.ZipFile(tmp_path / "d.zip", "w") as gap,
    ):
        for name in full.namelist()[2:]:
            gap.writestr(name, full.read(name))
    with pytest.raises(UserError, match="5 drawings of 2 characters"):
        formats.read_omniglot(tmp_path / "d.zip")


def test_absent_members_are_named(tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "a.npz")
    with pytest.raises(UserError, match="no array 'c'"):
        formats.read_npz(npz, ["a", "c"])
    with pytest.raises(UserError, match="no member x/four"):
        formats.read_tar_members(write_tar(tmp_path / "a.tar.gz", MEMBERS), ["x/four"])
    with pytest.raises(UserError, match="0 members are called c"):
        formats.read_zip_member(npz, "c")


@pytest.mark.parametrize(
    "text",
    [
        "0.5,1e-3,R\n-2,0,M\n7,8.25,R",
        "0.5 1e-3 R\n  -2   0 M\n\n7 8.25 R\n",
        "a,b,kind\n0.5,1e-3,R\n\n-2, 0 ,M\r\n7,8.25,R\n,,\n",
        '\ufeff"a","b","kind"\n"0.5",1e-3,"R"\n-2,0,M\n7,8.25,R\n',
        "0.5,1e-3,1\n-2,0,-1.0\n7,8.25,+1\n",
        "0.5,1e-3,2\n-2,0,0\n7,8.25,2\n",
    ],
)
def test_tables_in_all_their_spellings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = formats.read_table(path)
    np.testing.assert_array_equal(table["x"], [[0.5, 1e-3], [-2, 0], [7, 8.25]])
    np.testing.assert_array_equal(table["y"], [1, -1, 1])


def test_the_positive_label_can_be_chosen(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv")
    np.testing.assert_array_equal(formats.read_table(path, positive="M")["y"], [-1, 1, -1])
    with pytest.raises(UserError, match="no label is 'X'; they are M, R"):
        formats.read_table(path, positive="X")
    path.write_text("1,0\n2,1\n")
    np.testing.assert_array_equal(formats.read_table(path, positive="0")["y"], [1, -1])
    with pytest.raises(UserError, match="no label is 'X'"):
        formats.read_table(path, positive="X")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no row"),
        ("\n \n", "no row"),
        ("1,2,a\n3,b\n", "line 2 has 2 columns, the first has 3"),
        ("1,2,a\n3,x,b\n", "line 2, column 2: 'x' is not a finite number"),
        ("x,2,a\n3,4,b\n", "line 1, column 1: 'x'"),
        ("1,nan,a\n3,4,b\n", "line 1, column 2: 'nan'"),
        ("1,2,a\n3,inf,b\n", "line 2, column 2: 'inf'"),
        ("1,,a\n3,4,b\n", "line 1, column 2: ''"),
        ("1,2,a\n3,4,a\n", "labels must be two, here are 1: a"),
        ("1,2,a\n3,4,b\n5,6,c\n", "labels must be two, here are 3: a, b, c"),
        ("1\n2\n", "one column only"),
        ('1,2,"a\n3,4,b\n', "not a CSV file"),
        ("1,2,\xff\n", "corrupt"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message) as error:
        formats.read_table(path)
    assert str(path) in str(error.value)


def test_libsvm(tmp_path: Path) -> None:
    path = tmp_path / "a.libsvm"
    path.write_text("-1 1:1 3:0.5 \n+1 2:1 \n")
    table = formats.read_libsvm(path, 4)
    np.testing.assert_array_equal(table["x"], [[1, 0, 0.5, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(table["y"], [-1, 1])
    for wrong in ("+1 0:1", "+1 5:1", "+1 1", "+1 1:x", "+1 1:nan"):
        path.write_text(f"-1 1:1\n{wrong}\n")
        with pytest.raises(UserError, match="row 2 is not"):
            formats.read_libsvm(path, 4)
    path.write_text("")
    with pytest.raises(UserError, match="no row"):
        formats.read_libsvm(path, 4)
