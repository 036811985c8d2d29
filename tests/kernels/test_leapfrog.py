"""Leapfrog: reversible, volume-preserving, exact for a linear force, third-order per step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity, differentiable_score, score, value_and_score
from lmcnb.kernels.leapfrog import leapfrog
from lmcnb.lab.data import load
from lmcnb.models.targets import make_target

DOUBLE = torch.float64


def seeds_target() -> LogDensity:
    return make_target("seeds", DOUBLE, data=load("seeds"))


def state(dim: int, chains: int, scale: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, rho = torch.randn(2, chains, dim, generator=generator, dtype=DOUBLE)
    return scale * z, rho


@pytest.mark.parametrize("name", ["seeds", "banana", "mixture"])
@pytest.mark.parametrize("step_size", [0.01, 0.05])
def test_flipped_and_stepped_again_it_returns(name: str, step_size: float) -> None:
    target = seeds_target() if name == "seeds" else make_target(name, DOUBLE)
    z, rho = state(target.dim, 20)
    there = leapfrog(z, rho, step_size, lambda x: score(target, x))
    assert (there[0] - z).abs().max() > 1e-2
    back, minus_rho = leapfrog(there[0], -there[1], step_size, lambda x: score(target, x))
    assert (back - z).abs().max() <= 1e-13
    assert (minus_rho + rho).abs().max() <= 1e-13 * max(1, float(rho.abs().max()))


@pytest.mark.parametrize("name", ["seeds", "banana"])
def test_volume_is_preserved(name: str) -> None:
    target = seeds_target() if name == "seeds" else make_target(name, DOUBLE)
    z, rho = state(target.dim, 1)

    def step(both: Tensor) -> Tensor:
        z, rho = both.chunk(2)
        moved = leapfrog(z[None], rho[None], 0.05, lambda x: differentiable_score(target, x))
        return torch.cat(moved, -1)[0]

    jacobian = torch.autograd.functional.jacobian(step, torch.cat([z[0], rho[0]]))
    identity = torch.eye(2 * target.dim, dtype=DOUBLE)
    assert (jacobian - identity).abs().max() > 0.03  # it is a map worth the question
    assert abs(float(torch.linalg.slogdet(jacobian).logabsdet)) <= 1e-12


def test_a_gaussian_step_by_hand() -> None:
    z, rho, eps = torch.tensor([1.0, -0.5]), torch.tensor([0.2, 0.4]), 0.3
    new, momentum = leapfrog(z, rho, eps, lambda x: -x)
    half = rho - eps / 2 * z
    torch.testing.assert_close(new, z + eps * half)
    torch.testing.assert_close(momentum, half - eps / 2 * (z + eps * half))


def test_the_energy_error_of_a_step_is_of_third_order() -> None:
    target = make_target("banana", DOUBLE)
    z, rho = state(2, 50)

    def error(eps: float) -> float:
        before = value_and_score(target, z)[0] - 0.5 * rho.square().sum(-1)
        new, momentum = leapfrog(z, rho, eps, lambda x: score(target, x))
        after = value_and_score(target, new)[0] - 0.5 * momentum.square().sum(-1)
        return float((after - before).abs().mean())

    for eps in (4e-3, 2e-3):
        assert error(eps) / error(eps / 2) == pytest.approx(8, rel=0.03)


def test_step_sizes_broadcast_and_the_graph_is_kept() -> None:
    z, rho = state(3, 4)
    sizes = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)[:, None].requires_grad_(True)
    force: Callable[[Tensor], Tensor] = lambda x: -(x**3)  # noqa: E731
    together = leapfrog(z, rho, sizes, force)
    for i in range(4):
        alone = leapfrog(z[i], rho[i], sizes[i].detach(), force)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other[i].detach(), rtol=1e-14, atol=1e-14)
    (slope,) = torch.autograd.grad(together[0].sum(), sizes)
    expected = (rho + sizes.detach() * force(z)).sum(-1, keepdim=True)
    torch.testing.assert_close(slope, expected)
