"""The Langevin revision, on a CUDA device as one captured graph: nothing of Python between steps.

Guaranteed by construction: the same operations on the same numbers as `mcmc_teaching.revise`. The
energy's weights are read where they lie, so updates in place are seen; a graph holds for one
energy, step size and shape, and is captured anew when one changes. Not guaranteed: that it has run.
No GPU was at hand when this was written; the test that compares both is skipped without one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcnb.methods.mcmc_teaching import revise
from lmcnb.models.energy import EnergyDensity, density


class Revision:
    """`revise` with a graph where there is a GPU; called as it is."""

    def __init__(self, device: torch.device) -> None:
        self._captures = device.type == "cuda"
        self._key: tuple[object, ...] | None = None

    def __call__(
        self, target: EnergyDensity, x: Tensor, step_size: float, steps: int, noise: Tensor | None
    ) -> Tensor:
        """x_K, `(n, dim)`, detached; noise `(steps, n, dim)` or None."""
        if not self._captures:
            return revise(target, x, step_size, steps, noise)
        given = [v for v in (x, noise, target.c) if v is not None]
        shapes = tuple(None if v is None else v.shape for v in (x, noise, target.c))
        key = (id(target.energy), target.reference, step_size, steps, *shapes)
        if key != self._key:
            self._capture(target, x, step_size, steps, noise)
            self._key = key
        for own, value in zip(self._inputs, given, strict=True):
            own.copy_(value)
        self._graph.replay()
        return self._end.clone()

    def _capture(
        self, target: EnergyDensity, x: Tensor, step_size: float, steps: int, noise: Tensor | None
    ) -> None:
        """Warm up on a stream of its own, as capture asks, then capture."""
        own = [None if v is None else v.detach().clone() for v in (x, noise, target.c)]
        self._inputs = [v for v in own if v is not None]
        start, drawn, c = own
        assert start is not None

        def run() -> Tensor:  # the density anew, so that a replay takes the present weights
            held = density(target.energy, target.reference, c)
            return revise(held, start, step_size, steps, drawn)

        side, current = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._end = run()
