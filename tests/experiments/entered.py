"""A stand-in of a `lab.Run`, records and checks; the experiments' tests share them."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest


class Entered(SimpleNamespace):
    """`metrics` by name and seed, `counters`, `notes`, and the attributes that it is given."""

    def __init__(self, **own: Any) -> None:
        super().__init__(metrics={}, counters=Counter(), notes=[], **own)

    def metric(self, name: str, value: Any, *, seed: int, **more: Any) -> None:
        assert (name, seed) not in self.metrics, f"{name} twice"
        self.metrics[name, seed] = {"value": value, **more}

    def note(self, text: str) -> None:
        self.notes.append(text)

    def count(self, name: str, n: int) -> None:
        self.counters[name] += n


def record_of(
    notebook: str, profile: str, metrics: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """A finished run's record, as far as it is read."""
    return {
        "id": f"{profile}-s0-cpu-0",
        "notebook": notebook,
        "profile": profile,
        "status": "ok",
        "seeds": [0, 1, 2],
        "overrides": {},
        "settings": {},
        "finished": "2026-01-01",
        "code": {},
        "metrics": metrics,
    }


def one_fails(rows: list[dict[str, Any]], words: str, allowed: float, value: float) -> None:
    """Only the check with these words fails, since `value` is beyond `allowed`."""
    (row,) = [r for r in rows if not r["holds"]]
    assert words in row["check"]
    assert row["allowed"] == allowed
    expected = math.inf if math.isnan(value) else abs(value)
    assert row["worst"] == pytest.approx(expected, rel=1e-6)
