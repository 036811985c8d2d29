"""Speed of Langevin diffusion VI, as ratios measured in one run on one thread.

LDVI on ionosphere (dimension 35, 351 rows), five chains, float32. The programs take turns in short
blocks and the least time of each counts: processor time of the one thread, so that other work on
the machine disturbs little.

    literal_port_K*    iterations/s of `Trainer` over those of a literal port of the official code
    readable_K*        the same over the readable `log_weight` of this package (no target)
    batch_15_K*        15 runs as rows of one program over the same 15 one after another
    K256_over_K64      time per iteration at 256 bridges over that at 64
    floor_K*           time per iteration over the arithmetic alone at this machine's sgemm rate

Before anything is timed, the three programs must give the same log weights. The last line printed
is one JSON object; it is also written, with the machine and versions, to
results/benchmarks/langevin_diffusion.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lmcnb.errors import UserError
from lmcnb.lab import benchmark, data
from lmcnb.lab.benchmark import judged
from lmcnb.lab.timing import least_times, matrix_product
from lmcnb.methods import langevin_diffusion as ld
from lmcnb.methods.langevin_diffusion_fast import Engine
from lmcnb.methods.langevin_diffusion_training import Trainer, Training
from lmcnb.models.targets import LogisticRegression, make_target

LDVI = ld.METHODS["LDVI"]
CHAINS, RATE, ROWS = 5, 1e-3, 15
TARGETS = {
    "literal_port_K8": ("at_least", 12.0),
    "literal_port_K64": ("at_least", 18.0),
    "batch_15_K8": ("at_least", 3.0),
    "batch_15_K64": ("at_least", 2.0),
    "K256_over_K64": ("at_most", 4.5),
}

Parameters = Mapping[str, Tensor]


def literal_log_weight(log_density: Any, p: Parameters, noise: Tensor) -> Tensor:
    """LDVI's log weight, line by line as the official code builds it (spec sheet, 1.2 and 4).

    One bridging potential, differentiated by autograd inside the chain, twice a step; the network
    called at every step; both transition densities written out.
    """
    sigma = torch.exp(p["log_sigma"])
    damped = p["damping"] * p["step_size"]
    betas = ld.temperatures(p["knots"], len(noise) - 2)

    def log_q(z: Tensor) -> Tensor:
        return ld.log_normal(z, p["mu"], sigma**2)

    def potential(z: Tensor, beta: Tensor) -> Tensor:
        return -(beta * log_density(z) + (1 - beta) * log_q(z))

    def gradient(z: Tensor, beta: Tensor) -> Tensor:
        return torch.autograd.grad(potential(z, beta).sum(), z, create_graph=True)[0]

    def score(inputs: Tensor, k: int) -> Tensor:
        x = torch.cat([inputs, p["net.embedding"][k].expand(len(inputs), -1)], -1)
        x = x + softplus(x @ p["net.W1"] + p["net.b1"])
        x = x + softplus(x @ p["net.W2"] + p["net.b2"])
        return p["net.factor"] * (x @ p["net.W3"] + p["net.b3"])

    z, rho = p["mu"] + sigma * noise[0], noise[1]
    w = -log_q(z) - ld.log_normal(rho, 0.0, 1.0)
    for k, beta in enumerate(betas):
        mean = (1 - damped) * rho
        fresh = mean + torch.sqrt(2 * damped) * noise[k + 2]
        half = fresh - p["step_size"] / 2 * gradient(z, beta)
        new_z = z + p["step_size"] * half
        new_rho = half - p["step_size"] / 2 * gradient(new_z, beta)
        back = (1 - damped) * fresh + 2 * damped * score(torch.cat([z, fresh], -1), k)
        w = w + ld.log_normal(rho, back, 2 * damped) - ld.log_normal(fresh, mean, 2 * damped)
        z, rho = new_z, new_rho
    return w + log_density(z) + ld.log_normal(rho, 0.0, 1.0)


def readable_log_weight(log_density: Any, p: Parameters, noise: Tensor) -> Tensor:
    """The readable version of this package."""
    return ld.log_weight(LDVI, log_density, p, noise, ld.network_of(p))


def autograd_step(log_weight: Any, target: LogisticRegression, bridges: int) -> Callable[[], None]:
    """One training iteration as the official code has it: Adam over the parameters, then clamps."""
    generator = torch.Generator().manual_seed(0)
    p = dict(ld.initial_values(LDVI, target.dim, bridges, generator))
    optimizer = torch.optim.Adam([v.requires_grad_() for v in p.values()], lr=RATE)

    def step() -> None:
        noise = torch.randn(bridges + 2, CHAINS, target.dim, generator=generator)
        optimizer.zero_grad()
        (-log_weight(target, p, noise).mean()).backward()
        optimizer.step()
        with torch.no_grad():
            for name, (low, high) in ld.BOUNDS.items():
                p[name].clamp_(low, high)

    return step


def trainer_step(target: LogisticRegression, bridges: int, rows: int = 1) -> Callable[[], None]:
    """One training iteration of ours: five seeds at each of three learning rates if rows = 15."""
    rates = [RATE * 10.0 ** -(r % 3) for r in range(rows)]
    generators = [torch.Generator().manual_seed(r // 3) for r in range(rows)]
    training = Training(100_000, CHAINS)
    return Trainer(LDVI, target, target.dim, bridges, training, rates, generators).step


def ionosphere(dtype: torch.dtype = torch.float32) -> tuple[LogisticRegression, str]:
    """The real table where it is on this machine, else noise of its shape; and which of the two."""
    if data.available("ionosphere"):
        table = data.load("ionosphere", network=False)
        return make_target("ionosphere", data=table, dtype=dtype), "ionosphere"  # type: ignore
    x = torch.randn(351, 34, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).double() * 2 - 1
    return LogisticRegression(x, y, dtype=dtype), "synthetic, of the shape of ionosphere"


def disagreement(target: LogisticRegression, bridges: int, dtype: torch.dtype) -> float:
    """Largest relative difference of w between the three programs, same noise and parameters."""
    generator = torch.Generator().manual_seed(1)
    start = {"step_size": 0.05, "damping": 3.0, "log_sigma": -1.0}
    p = dict(ld.initial_values(LDVI, target.dim, bridges, generator, **start))
    p["net.factor"] = p["net.factor"] + 0.3
    p["knots"] = p["knots"] + torch.rand(p["knots"].shape, generator=generator)
    p = {name: value.to(dtype) for name, value in p.items()}
    noise = torch.randn(bridges + 2, CHAINS, target.dim, generator=generator).to(dtype)
    engine = Engine(LDVI, target, target.dim, bridges, 1, CHAINS, dtype)
    ours = engine.forward({name: value[None] for name, value in p.items()}, noise[None])[0]
    for value in p.values():
        value.requires_grad_()
    others = [f(target, p, noise).detach() for f in (literal_log_weight, readable_log_weight)]
    return max(float(((w - ours) / (1 + w.abs())).abs().max()) for w in others)


def operations(target: LogisticRegression, bridges: int) -> int:
    """Floating-point operations of the matrix products that one iteration cannot do without.

    Per chain: K + 1 scores and Hessian products of two products with the 351 x 35 table each; the
    network forward, and twice that backward. Elementwise work is left out.
    """
    d, n = target.dim, 351
    width = 2 * d + ld.score_network.EMBEDDING
    network = 3 * (2 * width**2 + width * d)
    return 2 * CHAINS * ((bridges + 1) * 4 * n * d + bridges * network)


def measure(rounds: int = 100, block: float = 0.03) -> dict[str, Any]:
    """All ratios, measured; raises if the programs disagree."""
    target, source = ionosphere()
    difference = max(disagreement(target, K, torch.float32) for K in (8, 64))
    if not difference <= 1e-4:
        raise UserError(f"the programs disagree: log weights differ by {difference:.1e}, relative")
    programs: dict[str, Callable[[], None]] = {"sgemm": matrix_product()}
    for K in (8, 64):
        programs[f"literal_K{K}"] = autograd_step(literal_log_weight, target, K)
        programs[f"ours_K{K}"] = trainer_step(target, K)
        programs[f"readable_K{K}"] = autograd_step(readable_log_weight, target, K)
        programs[f"batch_K{K}"] = trainer_step(target, K, ROWS)
    programs["ours_K256"] = trainer_step(target, 256)
    t = least_times(programs, rounds, block)

    rate = 2 * 768**3 / t["sgemm"]
    ratios = {"K256_over_K64": t["ours_K256"] / t["ours_K64"]}
    for K in (8, 64):
        ratios[f"literal_port_K{K}"] = t[f"literal_K{K}"] / t[f"ours_K{K}"]
        ratios[f"readable_K{K}"] = t[f"readable_K{K}"] / t[f"ours_K{K}"]
        ratios[f"batch_{ROWS}_K{K}"] = ROWS * t[f"ours_K{K}"] / t[f"batch_K{K}"]
    for K in (8, 64, 256):
        ratios[f"floor_K{K}"] = t[f"ours_K{K}"] * rate / operations(target, K)
    ratios = dict(sorted(ratios.items()))
    return judged("langevin_diffusion", ratios, TARGETS, t) | {
        "data": source,
        "sgemm_gflops": round(rate / 1e9, 1),
        "log_weight_difference": difference,
    }


def table(result: benchmark.Result) -> str:
    """The ratios with their targets, and the times, as text."""
    head = f"LDVI, {result['data']}, {CHAINS} chains, float32, {result['threads']} thread"
    return benchmark.table([head], "iteration (batch: of all its runs)", result)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and the JSON line, write the file."""
    benchmark.main(__doc__, measure, lambda: measure(1, 0.0), table, arguments)


if __name__ == "__main__":
    benchmark.script(main)
