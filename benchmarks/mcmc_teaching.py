"""Speed of MCMC teaching, as ratios measured in one run on one thread.

    langevin          Langevin steps per second of `revise` over those of the plain loop
                      (plane: 2 dimensions, 2 x 128 units, 256 chains, K = 20)
    langevin_digits   the same at the digits' shape (64 pixels, 2 x 256 units, 128 chains)
    langevin_condition  the same given a class (10 numbers)
    linear_in_K       time of K = 100 over that of K = 20, divided by 5
    iteration         iterations per second of variational teaching over those of a literal loop
                      (plane; three updates of the autoencoder each)

The plain loop is the one that everybody writes: the log density by the module, `autograd.grad` by
x, fresh noise at every step. Runs use one thread a process and two processes side by side, so the
ratios of one thread are theirs. Before anything is timed, both must end at the same x_K. The last
line printed is one JSON object; it is also written, with the machine and versions, to
results/benchmarks/mcmc_teaching.json.
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
from lmcnb.methods.mcmc_teaching import energy_loss, revise, vae_loss
from lmcnb.methods.mcmc_teaching_data import Batch, Networks, Streams
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.energy import EnergyMLP, density
from lmcnb.models.mlp import Decoder, Posterior

STEPS = 20
SHAPES = {  # dimension, units, chains, condition, step size, width of the reference
    "langevin": (2, 128, 256, 0, 0.15, 2.0),
    "langevin_digits": (64, 256, 128, 0, 0.05, 1.0),
    "langevin_condition": (64, 256, 128, 10, 0.05, 1.0),
}
TARGETS: dict[str, tuple[str, float]] = {
    "langevin": ("at_least", 1.8),
    "linear_in_K": ("at_most", 1.1),
}


def stream(seed: int) -> torch.Generator:
    """A random generator."""
    return torch.Generator().manual_seed(seed)


def setting(name: str) -> tuple[EnergyMLP, Tensor, Tensor | None, float, float]:
    """An energy, starts, conditions, step size and reference."""
    dim, units, chains, condition, d, reference = SHAPES[name]
    energy = EnergyMLP(dim, [units, units], stream(0), condition)
    x = torch.randn(chains, dim, generator=stream(1))
    c = torch.randn(chains, condition, generator=stream(2)) if condition else None
    return energy, x, c, d, reference


def plain(
    energy: EnergyMLP,
    x: Tensor,
    c: Tensor | None,
    d: float,
    reference: float,
    noise: Callable[[int], Tensor],
    steps: int,
) -> Tensor:
    """The loop that everybody writes."""
    for k in range(steps):
        x = x.detach().requires_grad_(True)
        log_p = energy(x, c).sum() - x.square().sum() / (2 * reference**2)
        (gradient,) = torch.autograd.grad(log_p, x)
        x = x + 0.5 * d**2 * gradient + d * noise(k)
    return x.detach()


def chains(name: str, steps: int = STEPS) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Our revision and the plain one, each with fresh draws of its own."""
    energy, x, c, d, reference = setting(name)
    own = stream(3)

    def ours() -> Tensor:
        noise = torch.randn(steps, *x.shape, generator=own)
        return revise(density(energy, reference, c), x, d, steps, noise)

    def theirs() -> Tensor:
        return plain(
            energy, x, c, d, reference, lambda _: torch.randn(x.shape, generator=own), steps
        )

    return ours, theirs


def ring(n: int, s: torch.Generator) -> Batch:
    """Data."""
    angle = 6.2832 * torch.rand(n, generator=s)
    return Batch(2 * torch.stack([angle.cos(), angle.sin()], -1))


def iterations() -> tuple[Callable[[], object], Callable[[], object]]:
    """An iteration of the trainer, and the literal one."""
    t = Teaching(iterations=10**6)

    def networks() -> Networks:
        return Networks(
            EnergyMLP(2, [128, 128], stream(0)),
            Posterior(2, [128, 128], 2, stream(1)),
            Decoder(2, [128, 128], 2, stream(2)),
        )

    trainer = Trainer(t, networks(), ring, Streams(stream(3), stream(4)))
    energy, encoder, decoder = networks()
    assert isinstance(energy, EnergyMLP) and encoder is not None and decoder is not None
    s = stream(5)
    betas = (t.first_beta, 0.999)
    adam = torch.optim.Adam(energy.parameters(), lr=t.energy_rate, betas=betas)
    both = [*decoder.parameters(), *encoder.parameters()]
    other = torch.optim.Adam(both, lr=t.generator_rate, betas=betas)

    def literal() -> None:
        x = ring(t.batch, s).x
        start = decoder(torch.randn(t.chains, 2, generator=s)).detach()
        start = start + t.sigma * torch.randn(start.shape, generator=s)
        made = plain(
            energy, start, None, t.step_size, 2.0,
            lambda _: torch.randn(start.shape, generator=s), t.steps,
        )  # fmt: skip
        adam.zero_grad()
        energy_loss(energy, made, x).backward()
        adam.step()
        for _ in range(t.generator_steps):
            other.zero_grad()
            noise = torch.randn(t.chains, 2, generator=s)
            vae_loss(encoder, decoder, made, noise, t.sigma).backward()
            other.step()

    return trainer.step, literal


def disagreement() -> float:
    """Largest difference of x_K, float64 and shared draws, over the distance moved."""
    worst = 0.0
    for name in SHAPES:
        energy, x, c, d, reference = setting(name)
        energy, x, c = energy.double(), x.double(), None if c is None else c.double()
        noise = torch.randn(STEPS, *x.shape, generator=stream(4), dtype=torch.float64)
        ours = revise(density(energy, reference, c), x, d, STEPS, noise)
        theirs = plain(energy, x, c, d, reference, lambda k, noise=noise: noise[k], STEPS)  # type: ignore[misc]
        worst = max(worst, float((ours - theirs).abs().max() / (theirs - x).abs().max()))
    return worst


def measure(rounds: int = 40, block: float = 0.1) -> dict[str, Any]:
    """All ratios, measured; raises if the programs disagree."""
    difference = disagreement()
    if not difference <= 1e-10:
        raise UserError(f"the programs disagree by {difference:.1e}, relative")
    programs: dict[str, Callable[[], object]] = {}
    for name in SHAPES:
        programs[name], programs[f"{name}_plain"] = chains(name)
    programs["langevin_100"] = chains("langevin", 5 * STEPS)[0]
    programs["iteration"], programs["iteration_plain"] = iterations()
    t = least_times(programs, rounds, block)
    ratios = {name: t[f"{name}_plain"] / t[name] for name in (*SHAPES, "iteration")}
    ratios["linear_in_K"] = t["langevin_100"] / t["langevin"] / 5
    return judged("mcmc_teaching", ratios, TARGETS, t) | {"difference": difference}


def table(result: benchmark.Result) -> str:
    """The ratios with their targets, and the times, as text."""
    return benchmark.table([f"MCMC teaching, {result['threads']} thread"], "call", result)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and the JSON line, write the file."""
    benchmark.main(__doc__, measure, lambda: measure(1, 0.0), table, arguments)


if __name__ == "__main__":
    benchmark.script(main)
