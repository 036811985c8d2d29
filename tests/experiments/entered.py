"""A stand-in of a `lab.Run` that keeps what is entered; the experiments' tests share it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any


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
