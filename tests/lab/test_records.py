"""Records: what is not one, or not whole, is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lmcnb.errors import UserError
from lmcnb.lab import plan, records, run


@pytest.fixture
def record(toy: Path) -> dict[str, Any]:
    made = run.Run(plan.make("toy", device="cpu"))
    made.metric("walk/end", 1.5, seed=0, se=0.1, n=10, estimator="mean", split="test")
    made.finish()
    return records.read(made.directory / records.NAME)


def test_a_record_comes_back_as_it_was(record: dict[str, Any], tmp_path: Path) -> None:
    path = records.write(tmp_path / "copy.json", record)
    assert records.read(path) == record
    assert records.write(tmp_path / "again.json", record).read_bytes() == path.read_bytes()


def test_a_record_holds_what_the_design_asks(record: dict[str, Any]) -> None:
    assert record["schema_version"] == 1
    assert (record["notebook"], record["profile"], record["seed"]) == ("toy", "quick", 0)
    assert record["seeds"] == [0] and record["status"] == "ok"
    assert record["settings"]["loop"] == {"steps": 5, "wait": 0.0, "fail": "no"}
    assert set(record["versions"]) >= {"python", "torch", "numpy"}
    assert record["device"]["type"] == "cpu" and record["device"]["name"]
    assert record["machine"]["threads"] == 1 and record["machine"]["cpu"]
    assert record["peak_memory"]["cpu"] > 10**7
    assert record["seconds"] >= 0 and record["started"] <= record["finished"]
    assert len(record["code"]["fingerprint"]) == 16 and len(record["code"]["notebook"]) == 16
    assert record["metrics"]["walk/end"] == [
        {
            "seed": 0,
            "value": 1.5,
            "se": 0.1,
            "n": 10,
            "unit": "nats",
            "estimator": "mean",
            "split": "test",
            "diverged": False,
            "note": None,
        }
    ]


def broken(record: dict[str, Any], how: str) -> Any:
    new = copy.deepcopy(record)
    entries = new["metrics"]["walk/end"]
    if how == "another schema":
        new["schema_version"] = 99
    elif how == "no schema":
        del new["schema_version"]
    elif how == "not an object":
        return [new]
    elif how == "no settings":
        del new["settings"]
    elif how == "unknown status":
        new["status"] = "fine"
    elif how == "unknown field":
        new["extra"] = 1
    elif how == "seed twice":
        entries.append(entries[0])
    elif how == "foreign seed":
        entries[0]["seed"] = 7
    elif how == "value of a diverged seed":
        entries[0]["diverged"] = True
    elif how == "no value":
        entries[0]["value"] = None
    return new


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another schema", "schema 99, this lmcnb reads schema 1"),
        ("no schema", "not a run record"),
        ("not an object", "not a run record"),
        ("no settings", "settings"),
        ("unknown status", "status"),
        ("unknown field", "extra"),
        ("seed twice", "stands twice"),
        ("foreign seed", "not of this run"),
        ("value of a diverged seed", "null exactly when"),
        ("no value", "null exactly when"),
    ],
)
def test_a_broken_record_is_refused_by_name(
    record: dict[str, Any], tmp_path: Path, how: str, message: str
) -> None:
    path = tmp_path / "the-record.json"
    path.write_text(json.dumps(broken(record, how)))
    with pytest.raises(UserError, match=f"the-record.json.*{message}"):
        records.read(path)


def test_half_a_record_is_refused_and_a_bad_one_is_never_written(
    record: dict[str, Any], tmp_path: Path
) -> None:
    path = records.write(tmp_path / "the-record.json", record)
    good = path.read_bytes()
    with pytest.raises(UserError, match="stands twice"):
        records.write(path, broken(record, "seed twice"))
    assert path.read_bytes() == good
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"the-record\.json: not a whole JSON file"):
        records.read(path)
