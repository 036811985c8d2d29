"""Kinks are found, wherever they come from, and smooth functions pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmcnb.errors import UsageError
from lmcnb.kernels.smoothness import kinks, require_smooth
from lmcnb.methods.short_run import objective
from lmcnb.methods.short_run_likelihood import log_likelihood
from lmcnb.methods.short_run_search import gradient_search
from lmcnb.models.conv_generators import OneLayer
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.LeakyReLU(0.2), "leaky_relu"),
        (nn.Hardtanh(), "hardtanh"),
        (nn.MaxPool2d(2), "max_pool2d_with_indices"),
        (F.relu, "relu"),
        (torch.abs, "abs"),
        (lambda x: x.clamp(-1, 1), "clamp"),
        (lambda x: torch.maximum(x, 0 * x), "maximum"),
        (F.selu, "elu"),
        (lambda x: F.elu(x, 2.0), "elu"),
        (lambda x: F.adaptive_max_pool2d(x, 2), "adaptive_max_pool2d"),
        (lambda x: torch.linalg.vector_norm(x, 1), "linalg_vector_norm"),
        (lambda x: torch.cdist(x[0, 0], x[1, 0], p=1), "_cdist_forward"),
        (lambda x: x.sort(), "sort"),
        (lambda x: x.median(), "median"),
        (lambda x: x % 1, "remainder"),
        (lambda x: nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU())(x), "_prelu_kernel"),
    ],
)
def test_kinks_are_named(function, name):
    assert kinks(function, X) == [name]
    with pytest.raises(UsageError, match=rf"kinks \({name}\)"):
        require_smooth(function, X)


@pytest.mark.parametrize(
    "function",
    [
        nn.GELU(),
        torch.tanh,
        F.softplus,
        F.silu,
        torch.sin,
        lambda x: x**2,
        nn.ELU(),
        torch.linalg.vector_norm,
        lambda x: torch.cdist(x[0, 0], x[1, 0]),
    ],
)
def test_smooth_functions_pass(function):
    assert kinks(function, X) == []
    require_smooth(function, X)


def test_every_generator_made_for_the_determinant_passes():
    g = torch.Generator().manual_seed(0)
    for variant in ("gaussian", "wide", "ladder"):
        network = TopDown((2, 3), 9, 8, g, variant=variant)
        assert kinks(network, torch.randn(3, 5)) == []


def test_the_objective_refuses_a_generator_with_kinks():
    network = OneLayer(torch.Generator().manual_seed(0), 4, 4, activation="leaky_relu").double()
    x = torch.zeros(2, 3072, dtype=torch.float64)
    z, noise = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(3, 2, 4, dtype=torch.float64)
    target = log_joint(network, x, 0.3)
    assert isinstance(target, LogJoint)
    with pytest.raises(UsageError, match="leaky_relu"):
        objective(target, z, 0.1, 3, noise)
    with pytest.raises(UsageError, match="leaky_relu"):
        gradient_search(target, z, 0.1, 3, noise)
    with pytest.raises(UsageError, match="leaky_relu"):
        log_likelihood(target, 4, 0.1, 3, 10, torch.Generator())
