"""What the command says of a run that has ended."""

from pathlib import Path

from lmcnb.lab import console, records
from lmcnb.lab.execute import Outcome

RECORD = next((Path(__file__).parents[2] / "results").glob("*/quick-*.json"))


def test_remarks_of_a_run_are_shown_after_it(tmp_path: Path) -> None:
    notes = [f"remark {i}" for i in range(console.NOTES + 2)]
    records.write(tmp_path / records.NAME, records.read(RECORD) | {"notes": notes})
    said = console.outcome(None, Outcome("ok", False, tmp_path, seconds=3.0))  # type: ignore[arg-type]
    assert said.splitlines()[0] == "  ok in 3 s"
    assert said.count("  note: remark") == console.NOTES
    assert "and 2 more notes, in record.json" in said
    again = console.outcome(None, Outcome("ok", True, tmp_path))  # type: ignore[arg-type]
    assert "note:" not in again
