"""One progress bar for everything: tqdm for people, a file for `lmcnb run`, quiet in CI.

`lmcnb run` executes a notebook in another process. It names a file in LMCNB_PROGRESS; what would be
a bar is then written there (whole, at most twice a second) and shown by the command. A notebook's
outputs therefore never hold a bar.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress:
    """A bar with `update(n)`; use as a context manager."""

    def __init__(self, total: float | None, desc: str) -> None:
        self.total, self.desc, self.n = total, desc, 0.0
        self._file = os.environ.get("LMCNB_PROGRESS")
        self._last = 0.0
        quiet = self._file is not None or bool(os.environ.get("CI"))
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if total else None
        self._bar: Any = (
            None if quiet else tqdm(total=total, desc=desc, bar_format=form, leave=False)
        )

    def update(self, n: float = 1) -> None:
        """Advance by `n`."""
        self.n += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._file is not None and time.monotonic() - self._last > 0.5:
            self._last = time.monotonic()
            self._write(Path(self._file))

    def _write(self, path: Path) -> None:
        state = {"desc": self.desc, "n": self.n, "total": self.total, "t": time.time()}
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(state))
            os.replace(temporary, path)
        except OSError:  # a bar is never worth a run
            self._file = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._file is not None:
            self._write(Path(self._file))


def progress(iterable: Iterable[T], *, total: float | None = None, desc: str = "") -> Iterator[T]:
    """Iterate with a bar."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(total, desc) as bar:
        for item in iterable:
            yield item
            bar.update()
