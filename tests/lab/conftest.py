"""A toy checkout: one tiny notebook with its settings, profiles and facts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TOY = Path(__file__).resolve().parents[1] / "toy"


def build(folder: Path) -> Path:
    """Copy the toy; its notebook has another ending there, so that no test run collects it."""
    shutil.copytree(TOY, folder, dirs_exist_ok=True)
    notebook = folder / "notebooks" / "toy.ipynb.json"
    notebook.rename(notebook.with_suffix(""))
    return folder


@pytest.fixture(scope="module")
def shared_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One toy checkout for a whole file, where nothing is changed."""
    return build(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy checkout of its own; runs are written to its folder `runs`."""
    folder = build(tmp_path / "checkout")
    monkeypatch.setenv("LMCNB_ROOT", str(folder))
    for name in ("LMCNB_RUNS", "LMCNB_DEADLINE", "LMCNB_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Put back what `lab.start` pins."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
