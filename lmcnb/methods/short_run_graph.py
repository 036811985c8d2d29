"""The short-run chain on a CUDA device as one captured graph: nothing of Python between steps.

Guaranteed by construction: the same operations on the same numbers as `short_run.short_run`. The
generator's weights are read where they lie, so updates in place are seen; a graph holds for one
step size and one shape. Not guaranteed: that it has run. No GPU was at hand when this was written,
and the test that compares it with the plain chain is skipped without one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcnb.methods.short_run import short_run
from lmcnb.models.observed import Generator, log_joint


class CapturedChain:
    """z_K of a batch of images; call it with other images, starts and noise of the same shapes."""

    def __init__(
        self,
        generator: Generator,
        sigma: float,
        step_size: float,
        x: Tensor,
        z: Tensor,
        noise: Tensor,
        *,
        noisy: bool = True,
    ) -> None:
        """Warm up on a stream of its own, as capture asks, then capture.

        Args:
            generator: g; its parameters must be updated in place.
            sigma: standard deviation of a pixel's noise.
            step_size: s.
            x: images `(n, pixels)` on the device.
            z: z_0, `(n, dim)`.
            noise: `(K, n, dim)`.
            noisy: whether the chain has noise.
        """
        self.step_size = step_size
        self._inputs = tuple(v.clone() for v in (x, z, noise))
        own_x, own_z, own_noise = self._inputs
        target = log_joint(generator, own_x, sigma)

        def run() -> Tensor:
            return short_run(target, own_z, step_size, len(noise), own_noise if noisy else None)

        side, current = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._end = run()

    def __call__(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """z_K, `(n, dim)`."""
        for own, given in zip(self._inputs, (x, z, noise), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._end.clone()
