"""The fingerprint follows what code does, not how it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcnb.lab import config, fingerprint

CODE = '''
"""A module."""

import math


def area(radius: float) -> float:
    """The area."""
    return math.pi * radius**2  # as in school


class Disc:
    """A disc."""

    sides = 1
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # as in school", "", True),
        ('    """The area."""\n', "", True),
        ('    """A disc."""\n', '    """Round."""\n', True),
        ('"""A module."""', "", True),
        ("math.pi * radius**2", "(math.pi\n        * radius ** 2)", True),
        ("radius**2", "radius**3", False),
        ("math.pi *", "-math.pi *", False),
        ("sides = 1", "sides = 1.0", False),
        ("sides = 1", "sides = '1'", False),
        ("area", "surface", False),
    ],
)
def test_only_what_code_does_counts(old: str, new: str, same: bool) -> None:
    assert old in CODE
    changed = CODE.replace(old, new)
    assert (fingerprint.of_source(changed) == fingerprint.of_source(CODE)) is same


def test_the_form_is_the_same_for_every_python_version() -> None:
    """A constant: versions that differ in `ast.dump` must agree on it."""
    assert fingerprint.of_source(CODE) == "fe5fbf1115916195"


def write(path: Path, *cells: tuple[str, list[str], str]) -> Path:
    content = [{"cell_type": k, "metadata": {"tags": t}, "source": s} for k, t, s in cells]
    path.write_text(json.dumps({"cells": content}))
    return path


def test_a_notebook_is_its_code_cells(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    base = [
        ("markdown", [], "text"),
        ("code", ["parameters"], "seed = 0"),
        ("code", [], "%matplotlib inline\nx = 1  # one"),
        ("code", ["presentation"], "plot(x)"),
    ]
    first = fingerprint.of_notebook(write(path, *base))
    base[0] = ("markdown", [], "other text")
    base[1] = ("code", ["parameters"], "seed = 1")
    base[2] = ("code", [], "x = 1")
    base[3] = ("code", ["presentation"], "plot(x, color='red')")
    base.append(("code", ["injected-parameters"], "seed = 7"))
    assert fingerprint.of_notebook(write(path, *base)) == first
    base[2] = ("code", [], "x = 2")
    assert fingerprint.of_notebook(write(path, *base)) != first
    path.write_text("{")
    assert fingerprint.of_notebook(path) is None


def test_a_record_knows_what_changed(toy: Path) -> None:
    names = ["lmcnb.lab.files", "lmcnb.lab.machine"]
    settings = config.resolve("toy", "quick").model_dump(mode="json")
    record = {"notebook": "toy", "profile": "quick", "overrides": {}, "settings": settings}
    record["code"] = fingerprint.current("toy", names)
    assert fingerprint.changed(record) == []
    record["code"]["modules"]["lmcnb.lab.machine"] = "0" * 16
    record["code"]["modules"]["lmcnb.gone"] = "0" * 16
    notebook = toy / "notebooks" / "toy.ipynb"
    notebook.write_text(notebook.read_text().replace("0.9 * x", "0.8 * x"))
    assert fingerprint.changed(record) == ["lmcnb.lab.machine", "lmcnb.gone", "notebook"]
    profiles = toy / "notebooks" / "profiles" / "toy.toml"
    profiles.write_text(profiles.read_text().replace("steps = 5", "steps = 6"))
    assert fingerprint.changed(record)[-1] == "profile"
    assert fingerprint.changed(record | {"profile": "gone"})[-1] == "profile"


def test_what_only_shows_is_left_out() -> None:
    import lmcnb.lab.fingerprint
    import lmcnb.lab.machine  # noqa: F401

    names = fingerprint.modules()
    assert "lmcnb.lab.machine" in names
    assert "lmcnb.lab.fingerprint" not in names
