"""The time that a training takes, without what is not counted: looks, evaluation, saving."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds of the processor, on CUDA of the clock; stands until it is started.

    Attributes:
        seconds: so far, when it stands.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Run, if it stands."""
        if self._started is None:
            self._started = self._now()

    def stop(self) -> None:
        """Stand, if it runs."""
        if self._started is not None:
            self.seconds += self._now() - self._started
            self._started = None

    def reset(self, seconds: float) -> None:
        """Stand at so many seconds."""
        self.seconds, self._started = seconds, None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()
