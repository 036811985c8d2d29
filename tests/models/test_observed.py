"""The joint log density against torch's own normal distributions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from lmcnb.kernels.hessian import second_order
from lmcnb.models.observed import LogJoint, TopDownLogJoint, log_joint
from lmcnb.models.top_down import TopDown

F64 = torch.float64
SIGMA, N, PIXELS = 0.7, 4, 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand() -> TopDown:
    return TopDown((2, 3), PIXELS, 8, generator()).double().requires_grad_(False)


WEIGHT = torch.randn(5, PIXELS, generator=generator(7), dtype=F64)


def bent(z: Tensor) -> Tensor:
    return torch.sin(z @ WEIGHT)


def mask_of(kind: str) -> Tensor | None:
    """Of the pixels 3, 4, 5, 6 or 4, 4, 4, 4 are observed, or all 9."""
    if kind == "none":
        return None
    if kind == "shared":
        return (torch.arange(PIXELS) < 4).double()
    return torch.stack([(torch.arange(PIXELS) >= 6 - i).double() for i in range(N)])


@pytest.mark.parametrize("kind", ["none", "shared", "own"])
@pytest.mark.parametrize("network", [bent, by_hand()], ids=["plain", "top_down"])
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_the_value_is_the_sum_of_normal_log_densities_of_observed_pixels_and_latents(
    lead: tuple[int, ...], network: Callable[[Tensor], Tensor], kind: str
) -> None:
    x = torch.tanh(torch.randn(N, PIXELS, generator=generator(1), dtype=F64))
    z = torch.randn(*lead, N, 5, generator=generator(2), dtype=F64)
    mask = mask_of(kind)
    pixels = Normal(network(z), SIGMA).log_prob(x)
    known = (pixels if mask is None else pixels * mask).sum(-1) + Normal(0, 1).log_prob(z).sum(-1)
    target = log_joint(network, x, SIGMA, mask)
    assert isinstance(target, TopDownLogJoint) == isinstance(network, TopDown)
    for found in (target(z), LogJoint(network, x, SIGMA, mask)(z), second_order(target, z)[0]):
        assert found.shape == (*lead, N)
        assert torch.allclose(found, known, rtol=0, atol=1e-10)


def test_without_an_observed_pixel_only_the_prior_is_left() -> None:
    z = torch.randn(N, 5, generator=generator(2), dtype=F64)
    x = torch.zeros(N, PIXELS, dtype=F64)
    for network in (bent, by_hand()):
        found = log_joint(network, x, SIGMA, torch.zeros(PIXELS, dtype=F64))(z)
        assert torch.allclose(found, Normal(0, 1).log_prob(z).sum(-1), rtol=0, atol=1e-12)
