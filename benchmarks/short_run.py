"""Speed of short-run inference, as ratios measured in one run on one thread.

    chain          chain steps per second of `short_run` over those of the plain loop
                   (digits: 64 pixels, 16 latents, 128 units, 100 images, K = 25)
    chain_layers   the same with three layers (8, 8, 16)
    chain_mnist    the same at MNIST's shape (784 pixels, 16 latents, 256 units)
    linear_in_K    time of K = 100 over that of K = 25, divided by 4
    log_det        time of the unrolled Jacobian of the whole chain (reverse mode, `slogdet`) over
                   that of the eigenvalues of every step, 64 images, 16 latents, K = 25, 10 step
                   sizes, float64
    log_det_forward  the same, the unrolled Jacobian in forward mode

The plain loop is the released one: U by the modules, `autograd.grad` by z, fresh noise at every
step. Before anything is timed, both must end at the same z_K, and all determinants must agree. The
last line printed is one JSON object; it is also written, with the machine and versions, to
results/benchmarks/short_run.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.lab import benchmark
from lmcnb.lab.benchmark import judged
from lmcnb.lab.timing import least_times
from lmcnb.methods.short_run import draw, short_run, transport
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown

SIGMA, STEP_SIZE, STEPS, IMAGES = 0.3, 0.1, 25, 100
SHAPES = {
    "chain": ((16,), 64, 128),
    "chain_layers": ((8, 8, 16), 64, 128),
    "chain_mnist": ((16,), 784, 256),
}
GRID = [0.01 * (i + 1) for i in range(10)]
TARGETS: dict[str, tuple[str, float]] = {
    "chain": ("at_least", 1.8),
    "linear_in_K": ("at_most", 1.1),
    "log_det": ("at_least", 2.0),
}


def network(name: str) -> TopDown:
    """A generator of the given shape."""
    latent, pixels, width = SHAPES[name]
    return TopDown(latent, pixels, width, torch.Generator().manual_seed(0))


def images(pixels: int, n: int = IMAGES) -> Tensor:
    """Something to infer."""
    return torch.tanh(torch.randn(n, pixels, generator=torch.Generator().manual_seed(1)))


def plain(g: TopDown, x: Tensor, z: Tensor, noise: Callable[[int], Tensor], steps: int) -> Tensor:
    """The released loop."""
    for k in range(steps):
        z = z.detach().requires_grad_(True)
        U = (x - g(z)).square().sum() / (2 * SIGMA**2) + z.square().sum() / 2
        (gradient,) = torch.autograd.grad(U, z)
        z = z - 0.5 * STEP_SIZE**2 * gradient + STEP_SIZE * noise(k)
    return z.detach()


def chains(name: str, steps: int = STEPS) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Our chain and the plain one, each with fresh draws of its own."""
    g = network(name)
    x = images(g.pixels)
    stream = torch.Generator().manual_seed(2)
    shape = (len(x), g.dim)

    def ours() -> Tensor:
        z, noise = draw(shape, steps, stream, torch.float32)
        return short_run(log_joint(g, x, SIGMA), z, STEP_SIZE, steps, noise)

    def theirs() -> Tensor:
        z = torch.randn(shape, generator=stream)
        return plain(g, x, z, lambda k: torch.randn(shape, generator=stream), steps)

    return ours, theirs


def determinants(
    count: int = 64, grid: list[float] = GRID, steps: int = STEPS
) -> dict[str, Callable[[], Tensor]]:
    """log |det| `(len(grid), count)` by eigenvalues, and by the unrolled Jacobian."""
    g = network("chain").double().requires_grad_(False)
    x = images(g.pixels, count).double()
    z, noise = draw((count, g.dim), steps, torch.Generator().manual_seed(3), torch.float64)

    def chain(start: Tensor, image: Tensor, e: Tensor, s: float) -> Tensor:
        point, one = start[None], LogJoint(g, image[None], SIGMA)
        for k in range(steps):
            score = torch.func.grad(lambda v: one(v).sum())(point)
            point = point + 0.5 * s**2 * score + s * e[k]
        return point[0]

    def by_eigenvalues() -> Tensor:
        with torch.no_grad():
            target = log_joint(g, x, SIGMA)
            return torch.stack([transport(target, z, s, steps, noise).log_det for s in grid])

    def unrolled(jacobian: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            found = []
            for s in grid:
                J = torch.func.vmap(lambda a, b, e, s=s: jacobian(chain)(a, b, e, s))(
                    z, x, noise.transpose(0, 1)
                )
                found.append(torch.linalg.slogdet(J).logabsdet)
            return torch.stack(found)

        return run

    return {
        "eigenvalues": by_eigenvalues,
        "reverse": unrolled(torch.func.jacrev),
        "forward": unrolled(torch.func.jacfwd),
    }


def disagreement() -> float:
    """Largest difference of z_K (float64, shared draws) and of the determinants, relative."""
    worst = 0.0
    for name in SHAPES:
        g = network(name).double()
        x = images(g.pixels, 10).double()
        z, noise = draw((10, g.dim), 10, torch.Generator().manual_seed(4), torch.float64)
        ours = short_run(log_joint(g, x, SIGMA), z, STEP_SIZE, 10, noise)
        theirs = plain(g, x, z, lambda k, noise=noise: noise[k], 10)  # type: ignore[misc]
        moved = float((theirs - z).abs().max())
        worst = max(worst, float((ours - theirs).abs().max()) / moved if moved else 1.0)
    found = [f() for f in determinants(4, [0.05, 0.1], 5).values()]
    return max(worst, *(float((f - found[0]).abs().max() / found[0].abs().max()) for f in found))


def measure(rounds: int = 40, block: float = 0.1) -> dict[str, Any]:
    """All ratios, measured; raises if the programs disagree."""
    difference = disagreement()
    if not difference <= 1e-8:
        raise UserError(f"the programs disagree by {difference:.1e}, relative")
    programs: dict[str, Callable[[], object]] = {}
    for name in SHAPES:
        programs[name], programs[f"{name}_plain"] = chains(name)
    programs["chain_100"] = chains("chain", 100)[0]
    t = least_times(programs, rounds, block)
    once = determinants() if block else determinants(8, GRID[:2], 5)
    t |= least_times(once, 2 if block else 1, 0.0)
    ratios = {name: t[f"{name}_plain"] / t[name] for name in SHAPES}
    ratios["linear_in_K"] = t["chain_100"] / t["chain"] / 4
    ratios["log_det"] = t["reverse"] / t["eigenvalues"]
    ratios["log_det_forward"] = t["forward"] / t["eigenvalues"]
    return judged("short_run", ratios, TARGETS, t) | {"difference": difference}


def table(result: benchmark.Result) -> str:
    """The ratios with their targets, and the times, as text."""
    return benchmark.table([f"short-run inference, {result['threads']} thread"], "call", result)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and the JSON line, write the file."""
    benchmark.main(__doc__, measure, lambda: measure(1, 0.0), table, arguments)


if __name__ == "__main__":
    benchmark.script(main)
