"""The bar: a file for `lmcnb run`, nothing in CI, tqdm otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcnb.lab import bars
from lmcnb.lab.bars import Progress, progress


@pytest.fixture
def nobody_told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("CI", "LMCNB_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("quiet", ["CI", "LMCNB_PROGRESS", None])
def test_everything_is_iterated_and_only_people_see_a_bar(
    nobody_told: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    quiet: str | None,
) -> None:
    if quiet:
        nobody_told.setenv(quiet, str(tmp_path / "bar.json"))
    assert list(progress([3, 1, 2], desc="work")) == [3, 1, 2]
    assert list(progress(iter("abc"), desc="work")) == ["a", "b", "c"]
    assert list(progress([], desc="work")) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert ("work" in err) == (quiet is None)
    assert (tmp_path / "bar.json").exists() == (quiet == "LMCNB_PROGRESS")


def test_the_file_is_fed(nobody_told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, now, seen = tmp_path / "bar.json", 100.0, []
    nobody_told.setenv("LMCNB_PROGRESS", str(path))
    nobody_told.setattr(bars.time, "monotonic", lambda: now)
    with Progress(10, "training") as bar:
        for _ in range(10):
            now += 0.2
            bar.update()
            seen.append(json.loads(path.read_text())["n"])
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10]  # at most twice a second
    state = json.loads(path.read_text())
    assert state.keys() == {"desc", "n", "total", "t"}
    assert (state["desc"], state["n"], state["total"]) == ("training", 10, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["bar.json"]


def test_the_end_is_written_also_after_an_error(
    nobody_told: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "bar.json"
    nobody_told.setenv("LMCNB_PROGRESS", str(path))
    with pytest.raises(KeyError), Progress(None, "work") as bar:
        bar.update(2)
        bar.update(0.5)
        raise KeyError
    state = json.loads(path.read_text())
    assert (state["n"], state["total"]) == (2.5, None)


def test_a_file_that_cannot_be_written_stops_nothing(
    nobody_told: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nobody_told.setenv("LMCNB_PROGRESS", str(tmp_path / "no folder" / "bar.json"))
    assert list(progress(range(3))) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
