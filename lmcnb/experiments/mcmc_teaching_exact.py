"""MCMC teaching where the answer is known; used by the tests and the notebook.

The functions return numbers that should be zero, or standard errors away from a known value.
float64 throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.methods.mcmc_teaching import energy_loss, revise
from lmcnb.models.energy import EnergyMLP, density
from lmcnb.models.mlp import Decoder, Posterior
from lmcnb.models.quadratic_energy import QuadraticEnergy

F64 = torch.float64
Stream = torch.Generator


def revision(stream: Stream, chains: int) -> dict[str, float]:
    """Standard errors of the mean and variance after K steps on N(0, 1), d = 0.5, from x_0 = 2.

    The limit is 1.06667; with a reference of width 1 on a flat f the density is the same.
    """
    found: dict[str, float] = {}
    zero = torch.zeros(1, dtype=F64)
    models = {
        "f": (QuadraticEnergy(torch.ones(1, 1, dtype=F64), zero), None),
        "reference": (QuadraticEnergy(torch.zeros(1, 1, dtype=F64), zero), 1.0),
    }
    for name, (energy, reference) in models.items():
        for steps in (1, 5, 60):
            x = torch.full((chains, 1), 2.0, dtype=F64)
            noise = (torch.randn(x.shape, generator=stream, dtype=F64) for _ in range(steps))
            end = revise(density(energy, reference), x, 0.5, steps, noise)
            mean, variance = theory.after(2.0, 0.0, 0.0, 1.0, 0.5, steps)
            z = (float(end.mean()) - mean) / math.sqrt(variance / chains)
            found[f"mean/{name}/K={steps}"] = z
            ratio = float(end.var()) / variance - 1
            found[f"variance/{name}/K={steps}"] = ratio / math.sqrt(2 / (chains - 1))
    return found


def inflation() -> float:
    """Invariant variance at S = 1, d = 0.5 less the sheet's 1.06667."""
    return theory.invariant_variance(1.0, 0.5) - 16 / 15


def shrinking() -> dict[str, float]:
    """Flat f, no noise, s_ref = 0.016: the factor of K steps less the sheet's five digits."""
    known = {(15, 0.002): 0.88901, (30, 0.002): 0.79034, (50, 0.001): 0.90687}
    flat = QuadraticEnergy(torch.zeros(3, 3, dtype=F64), torch.zeros(3, dtype=F64))
    x = torch.ones(2, 3, dtype=F64)
    return {
        f"K={steps}/d={d}": float(revise(density(flat, 0.016), x, d, steps).mean()) - factor
        for (steps, d), factor in known.items()
    }


def energy_model(reference: float | None) -> QuadraticEnergy:
    """A quadratic energy in two dimensions, float64."""
    A = torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=F64)
    return QuadraticEnergy(A, torch.tensor([0.7, -0.3], dtype=F64))


def partition_function() -> dict[str, float]:
    """log Z by its formula less that of a grid of 401 x 401 points over [-8, 8]^2, nats."""
    axis = torch.linspace(-8, 8, 401, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    found = {}
    for reference in (None, 1.3):
        model = energy_model(reference)
        with torch.no_grad():
            own = torch.logsumexp(density(model, reference)(points), 0)
        cell = 2 * math.log(float(axis[1] - axis[0]))
        found[f"s0={reference}"] = float(model.log_normalizer(reference).detach() - own) - cell
    return found


def likelihood_gradient(stream: Stream, n: int) -> dict[str, float]:
    """The gradient by `energy_loss` with exact samples against that of log p: standard errors.

    Largest over b and A, with the reference and without. Data are another Gaussian's.
    """
    found = {}
    for reference in (None, 1.3):
        model = energy_model(reference)
        data = 0.5 + 1.2 * torch.randn(n, 2, generator=stream, dtype=F64)
        samples = model.sample(n, reference, stream)
        energy_loss(model, samples, data).backward()
        m, L = (v.detach() for v in model.moments(reference))
        second = data.mT @ data / n
        exact = {
            "b": m - data.mean(0),
            "A": 0.5 * (second - torch.linalg.inv(L) - torch.outer(m, m)),
        }
        each = {
            "b": samples,
            "A": -0.5 * samples.unsqueeze(-1) * samples.unsqueeze(-2),
        }
        for name in ("b", "A"):
            own = getattr(model, name).grad
            assert own is not None
            error = (own - exact[name]).abs()
            se = each[name].std(0) / math.sqrt(n)
            found[f"{name}/s0={reference}"] = float((error / se).max())
    return found


def contrastive_divergence() -> dict[str, float]:
    """theta's gradient of KL(data, p) - KL(M q, p), M q held fixed, less the loss's, Gaussian.

    Both in closed form: the expectations of f under two Gaussians against autograd of the
    divergences (the sheet's 1.6).
    """
    model = energy_model(1.3)
    data, revised = (
        (torch.tensor([0.5, 0.2], dtype=F64), torch.tensor([[1.4, 0.1], [0.1, 0.9]], dtype=F64)),
        (torch.tensor([0.1, -0.4], dtype=F64), torch.tensor([[0.6, -0.2], [-0.2, 0.5]], dtype=F64)),
    )

    def mean_f(p: tuple[Tensor, Tensor]) -> Tensor:
        m, C = p
        return model(m) - 0.5 * (model.symmetric * C).sum()

    m, L = model.moments(1.3)
    own = (m, torch.linalg.inv(L))
    loss = mean_f(revised) - mean_f(data)
    found = {}
    for name in ("A", "b"):
        parameter = getattr(model, name)
        (a,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        objective = gaussian_kl(*data, *own) - gaussian_kl(*revised, *own)
        (b,) = torch.autograd.grad(objective, parameter, retain_graph=True)
        found[name] = float((a - b).abs().max())
    return found


def gaussian_kl(m: Tensor, C: Tensor, n: Tensor, D: Tensor) -> Tensor:
    """KL(N(m, C) || N(n, D)), nats."""
    solved, gap = torch.linalg.solve(D, C), n - m
    square = gap @ torch.linalg.solve(D, gap)
    return 0.5 * (solved.trace() + square - len(m) + torch.logdet(D) - torch.logdet(C))


def scores(stream: Stream) -> float:
    """Hand-written gradient of the energy by x less autograd's, largest over shapes."""
    worst = 0.0
    for widths, dim, condition in (([32], 2, 0), ([24, 16], 5, 0), ([16, 16, 8], 3, 4)):
        energy = EnergyMLP(dim, widths, stream, condition).double()
        x = torch.randn(6, dim, generator=stream, dtype=F64)
        c = torch.randn(6, condition, generator=stream, dtype=F64) if condition else None
        own = density(energy, 1.5, c)
        leaf = x.clone().requires_grad_(True)
        (known,) = torch.autograd.grad(own(leaf).sum(), leaf)
        worst = max(worst, float((own.linearize(x)[0] - known).abs().max()))  # type: ignore[attr-defined]
    return worst


def plumbing(stream: Stream) -> dict[str, float]:
    """0 where gradients flow as they should: 1 for each that does not.

    None to the energy by sampling or by the generator's loss, none through the chains; the
    encoder's by the squared error alone is not zero.
    """
    energy = EnergyMLP(3, [16], stream).double()
    decoder = Decoder(2, [16], 3, stream).double()
    encoder = Posterior(3, [16], 2, stream).double()
    z = torch.randn(10, 2, generator=stream, dtype=F64)
    noise = torch.randn(5, 10, 3, generator=stream, dtype=F64)
    end = revise(density(energy, 2.0), decoder(z), 0.1, 5, noise)
    found = {"sampling": any(p.grad is not None for p in energy.parameters())}
    found["detached"] = end.requires_grad
    energy_loss(energy, end, torch.zeros(4, 3, dtype=F64)).backward()
    found["generator"] = any(p.grad is not None for p in decoder.parameters())
    for p in energy.parameters():
        p.grad = None
    e = torch.randn(10, 2, generator=stream, dtype=F64)
    mean, std = encoder(end)
    (end - decoder(mean + std * e)).square().sum().backward()
    found["energy"] = any(p.grad is not None for p in energy.parameters())
    lacking = [p for p in encoder.parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    return {k: float(v) for k, v in found.items()} | {"encoder": float(len(lacking))}
