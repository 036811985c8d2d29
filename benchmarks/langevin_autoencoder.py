"""Speed of the Langevin autoencoder's training step, as ratios measured in one run on one thread.

MNIST's shape (784 pixels, 1,024 units, 8 latents, batch 100), T = 2, accept test, the move after
the T as in the official code: three moves a step.

    float32        steps/s of `Trainer` over those of the literal step
    bfloat16       the same with products in bfloat16, where the processor multiplies it natively
    floor_*        time of our step over its matrix products alone at this machine's rate
    cost_*         time of our step over that of the VAE, the VAE with flows, Hoffman's VAE
    (float32)

The literal step is the official one as the spec sheet describes it, in plain autograd: energy and
gradient at both ends of every move, each state's energy kept for the loss, a decision on the host,
and a reconstruction pass on every step for monitoring. Before anything is timed, both must move Phi
and every parameter alike. The last line printed is one JSON object; it is also written, with the
machine and versions, to results/benchmarks/langevin_autoencoder.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lmcnb.errors import UserError
from lmcnb.lab import benchmark
from lmcnb.lab.benchmark import judged
from lmcnb.lab.timing import least_times, matrix_product
from lmcnb.methods.langevin_autoencoder import Langevin
from lmcnb.methods.langevin_autoencoder_training import Streams, Trainer, Training

TRAINING = Training("LAE", epochs=1e6)
PIXELS, IMAGES = 784, 1000
TARGETS = {"float32": ("at_least", 1.3), "bfloat16": ("at_least", 2.0)}
NATIVE = 1.5  # bfloat16 counts as native if its products run at this multiple of float32's rate


class Literal(nn.Module):
    """The official model and its step: plain modules, plain autograd."""

    def __init__(self, t: Training, pixels: int) -> None:
        super().__init__()
        body, decoder = [pixels, *[t.width] * t.hidden], [t.latent, *[t.width] * t.hidden]
        self.t = t
        self.body = nn.Sequential(*self._hidden(body))
        self.decoder = nn.Sequential(*self._hidden(decoder), nn.Linear(t.width, pixels))
        self.b = nn.Parameter(torch.zeros(()))
        self.phi = torch.zeros(t.latent, t.width)  # moved by the chain, not by the optimizer

    @staticmethod
    def _hidden(widths: list[int]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU()]
        return layers

    def energy(self, x: Tensor, h: Tensor, phi: Tensor) -> Tensor:
        """Per image, with the clamped likelihood."""
        z = h @ phi.mT
        mu, scale = self.decoder(z), softplus(self.b).rsqrt()
        half = 1 / (self.t.levels - 1)
        upper = torch.where(x + half > 1, 1.0, torch.sigmoid((x + half - mu) / scale))
        lower = torch.where(x - half < -1, 0.0, torch.sigmoid((x - half - mu) / scale))
        mass = (upper - lower).clamp(min=1.19e-7)
        return -mass.log().sum(-1) + 0.5 * z.square().sum(-1)

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, noise: Tensor, u: Tensor) -> None:
        """One minibatch."""
        size, total = self.t.langevin.step_size, self.t.langevin.total
        eta = size / len(x)
        h = self.body(x)
        phi, kept = self.phi.requires_grad_(), []
        for move in range(total):
            energy = self.energy(x, h, phi)
            if move:  # the first move's energy is dropped
                kept.append(energy.mean())
            (g,) = torch.autograd.grad(energy.mean(), phi, retain_graph=True)
            mean = (phi - size * g).detach()
            new = (mean + (2 * eta) ** 0.5 * noise[move].view_as(phi)).requires_grad_()
            moved = self.energy(x, h.detach(), new)
            (g_new,) = torch.autograd.grad(moved.mean(), new)
            back = new.detach() - size * g_new
            log_q = (new - mean).square().sum() - (phi - back).square().sum()
            log_r = (energy.double() - moved.double()).sum().detach() + log_q / (4 * eta)
            if float(u[move].log()) < float(log_r.detach()):
                phi = new
            phi = phi.detach().requires_grad_()
        loss = torch.stack(kept).mean() + (self.b + 2 * softplus(-self.b)) / IMAGES
        self.decoder(self.body(x) @ phi.mT)  # the reconstruction that is monitored, in the graph
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.phi = phi.detach()


def pixels(t: Training, size: int) -> Tensor:
    """Images of random levels; speed does not depend on them."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, t.levels, (IMAGES, size), generator=g, dtype=torch.uint8)


def streams() -> list[Streams]:
    """Generators of one row."""
    return [Streams(*(torch.Generator().manual_seed(s) for s in range(3)))]


def literal_of(trainer: Trainer) -> Literal:
    """The literal model with a trainer's parameters."""
    t, p = trainer.training, trainer.parameters
    model = Literal(t, trainer.pixels.shape[1]).to(p["phi"].dtype)
    with torch.no_grad():
        for name, stack in (("body", model.body), ("decoder", model.decoder)):
            for k, layer in enumerate(m for m in stack if isinstance(m, nn.Linear)):
                layer.weight.copy_(p[f"{name}.W{k}"][0].mT)
                layer.bias.copy_(p[f"{name}.b{k}"][0, 0])
            for k, layer in enumerate(m for m in stack if isinstance(m, nn.LayerNorm)):
                layer.weight.copy_(p[f"{name}.gain{k}"][0, 0])
                layer.bias.copy_(p[f"{name}.shift{k}"][0, 0])
        model.b.copy_(p["b"].view(()))
    model.phi = p["phi"].view(t.latent, t.width).clone()
    return model


def disagreement(t: Training, size: int, steps: int = 3) -> float:
    """Largest relative difference of Phi and all parameters after some steps, in float64."""
    ours = Trainer(t, pixels(t, size), streams(), dtype=torch.float64)
    theirs = literal_of(ours)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=t.learning_rate)
    moved = ours.parameters["phi"].clone()
    for _ in range(steps):
        ours.step()  # its noise and images serve both
        index = ours.order[0, (ours.done - 1) * t.batch : ours.done * t.batch]
        x = ours.pixels[index].double() * (2 / (t.levels - 1)) - 1
        theirs.step(optimizer, x, ours.noise[0], ours.uniform[0])
    if torch.equal(moved, ours.parameters["phi"]):
        return float("inf")  # nothing was accepted: the comparison would say little
    worst = 0.0
    for name, value in literal_of(ours).state_dict().items():
        known = theirs.state_dict()[name]
        worst = max(worst, float((value - known).abs().max() / (known.abs().max() + 1e-12)))
    off = theirs.phi - ours.parameters["phi"].view_as(theirs.phi)
    return max(worst, float(off.abs().max() / theirs.phi.abs().max()))


def literal_step(t: Training) -> Callable[[], None]:
    """One literal training step, with its own images and noise."""
    trainer = Trainer(t, pixels(t, PIXELS), streams())
    model, data = literal_of(trainer), trainer.pixels
    optimizer = torch.optim.SGD(model.parameters(), lr=t.learning_rate)
    g = torch.Generator().manual_seed(1)

    def step() -> None:
        x = data[torch.randint(0, IMAGES, (t.batch,), generator=g)].float() * (2 / 255) - 1
        noise = torch.randn(t.langevin.total, t.latent * t.width, generator=g)
        model.step(optimizer, x, noise, torch.rand(t.langevin.total, generator=g))

    return step


def operations(t: Training, distinct: int = 2) -> int:
    """Floating-point operations of the matrix products of our step.

    Decoder: forward and backward through the data at the start and at every proposal, parameter
    gradients of `distinct` states; body: forward, parameter gradients, backward but for its input.
    """
    h, n = t.width, t.hidden
    inner = (n - 1) * h * h
    decoder, body = t.latent * h + inner + h * PIXELS, PIXELS * h + inner
    per_image = decoder * (2 * (1 + t.langevin.total) + distinct) + 2 * body + inner
    return 2 * t.batch * per_image


def measure(rounds: int = 30, block: float = 0.2) -> dict[str, Any]:
    """All ratios, measured; raises if the programs disagree."""
    small = replace(TRAINING, width=32, latent=3, batch=20, langevin=Langevin(step_size=1e-2))
    difference = disagreement(small, 50)
    if not difference <= 1e-9:
        raise UserError(f"the programs disagree: parameters differ by {difference:.1e}, relative")
    programs: dict[str, Callable[[], object]] = {
        "gemm_float32": matrix_product(1024),
        "gemm_bfloat16": matrix_product(1024, torch.bfloat16),
        "literal": literal_step(TRAINING),
    }
    for method in ("LAE", "VAE", "VAE-flow", "Hoffman"):
        t = replace(TRAINING, method=method)
        programs[method] = Trainer(t, pixels(t, PIXELS), streams()).step
    rough = replace(TRAINING, products="bfloat16")
    programs["LAE_bfloat16"] = Trainer(rough, pixels(rough, PIXELS), streams()).step
    t = least_times(programs, rounds, block)

    rates = {k: 2 * 1024**3 / t[f"gemm_{k}"] for k in ("float32", "bfloat16")}
    native = rates["bfloat16"] > NATIVE * rates["float32"]
    ratios = {
        "float32": t["literal"] / t["LAE"],
        "bfloat16": t["literal"] / t["LAE_bfloat16"],
        "floor_float32": t["LAE"] * rates["float32"] / operations(TRAINING),
        "floor_bfloat16": t["LAE_bfloat16"] * rates["bfloat16"] / operations(TRAINING),
        **{f"cost_LAE_over_{m}": t["LAE"] / t[m] for m in ("VAE", "VAE-flow", "Hoffman")},
    }
    applicable = {k: v for k, v in TARGETS.items() if native or k != "bfloat16"}
    return judged("langevin_autoencoder", ratios, applicable, t) | {
        "native_bfloat16": native,
        "not_applicable": [] if native else ["bfloat16"],
        "gigaflops": {k: round(v / 1e9, 1) for k, v in rates.items()},
        "parameter_difference": difference,
    }


def table(result: benchmark.Result) -> str:
    """The ratios with their targets, and the times, as text."""
    how = "natively" if result["native_bfloat16"] else "not natively: its target does not apply"
    rates = ", ".join(f"{k} {v:g} GFLOP/s" for k, v in result["gigaflops"].items())
    heads = [
        f"LAE, T = 2, MNIST's shape, batch 100, {result['threads']} thread",
        f"this processor multiplies bfloat16 {how} ({rates})",
    ]
    return benchmark.table(heads, "step", result)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and the JSON line, write the file."""
    benchmark.main(__doc__, measure, lambda: measure(1, 0.0), table, arguments)


if __name__ == "__main__":
    benchmark.script(main)
