"""Identities that short-run inference must satisfy on any generator (float64).

The functions return numbers that should be zero, or standard errors away from a known value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmcnb.experiments.short_run_exact import STEPS, reference
from lmcnb.kernels.hessian import second_order
from lmcnb.methods.short_run import draw, objective, short_run, transport
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown

F64 = torch.float64


def unrolled_error(
    stream: torch.Generator, latent: tuple[int, ...] = (16,), steps: int = 25
) -> float:
    """Largest difference of the log-determinant by eigenvalues and by the unrolled Jacobian."""
    network = TopDown(latent, 20, 24, stream).double().requires_grad_(False)
    x = torch.tanh(torch.randn(4, 20, generator=stream, dtype=F64))
    z, noise = draw((4, network.dim), steps, stream, F64)
    target = log_joint(network, x, 0.5)
    by_steps = transport(target, z, 0.15, steps, noise).log_det

    def chain(start: Tensor, image: Tensor, e: Tensor) -> Tensor:
        one = LogJoint(network, image[None], 0.5)
        point = start[None]
        for k in range(steps):
            s = torch.func.grad(lambda v: one(v).sum())(point)
            point = point + 0.5 * 0.15**2 * s + 0.15 * e[k]
        return point[0]

    J = torch.func.vmap(torch.func.jacrev(chain))(z, x, noise.transpose(0, 1))
    return float((by_steps - torch.linalg.slogdet(J).logabsdet).abs().max())


def limit_errors(stream: torch.Generator) -> dict[str, float]:
    """s -> 0: no determinant, and J is E_prior U less the prior's entropy; K = 0: the prior."""
    case = reference()
    z, noise = draw((1000, 2), STEPS, stream, F64)
    t = transport(case.log_joint, z, 1e-6, STEPS, noise)
    j = objective(case.log_joint, z, 1e-6, STEPS, noise).value
    assert j is not None
    entropy = -0.5 * z.square().sum(-1).mean() - math.log(2 * math.pi)
    expected = float(entropy - case.log_joint(z).mean())
    end = short_run(case.log_joint, z, 0.1, 0)
    return {
        "log_det": float(t.log_det.abs().max()),
        "objective": j - expected,
        "prior": float((end - z).abs().max()),
    }


def masks(stream: torch.Generator, draws: int = 4000, steps: int = 400) -> dict[str, float]:
    """No mask: the same chain; every pixel hidden: a chain of the prior, variance 1 / (1 - s^2/4).

    The second in standard errors; s = 0.3.
    """
    network = TopDown((4,), 12, 16, stream).double().requires_grad_(False)
    x = torch.tanh(torch.randn(1, 12, generator=stream, dtype=F64)).expand(draws, 12)
    z, noise = draw((draws, 4), steps, stream, F64)
    few = x[:50]
    plain = short_run(log_joint(network, few, 0.3), z[:50], 0.05, 20, noise[:20, :50])
    seen = log_joint(network, few, 0.3, torch.ones(12, dtype=F64))
    same = short_run(seen, z[:50], 0.05, 20, noise[:20, :50])
    hidden = log_joint(network, x, 0.3, torch.zeros(12, dtype=F64))
    end = short_run(hidden, z, 0.3, steps, noise)
    known = 1 / (1 - 0.3**2 / 4)
    spread = (float(end.square().mean()) / known - 1) / math.sqrt(2 / end.numel())
    return {"empty": float((plain - same).abs().max()), "full": spread}


def derivative_errors(stream: torch.Generator) -> dict[str, float]:
    """Value, score and Hessian by hand against autograd's, relative, by kind of generator."""
    found = {}
    for variant in ("gaussian", "wide", "ladder"):
        network = TopDown((3, 4, 5), 20, 16, stream, variant=variant)  # type: ignore[arg-type]
        network = network.double().requires_grad_(False)
        x = torch.randn(6, 20, generator=stream, dtype=F64)
        z = torch.randn(6, network.dim, generator=stream, dtype=F64)
        mask = (torch.rand(6, 20, generator=stream) > 0.3).double()
        plain = second_order(LogJoint(network, x, 0.3, mask), z)
        own = second_order(log_joint(network, x, 0.3, mask), z)
        errors = [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(own, plain, strict=True)
        ]
        found[f"derivatives/{variant}"] = max(errors)
    return found
