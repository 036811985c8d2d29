"""The binary VAE: its likelihood against torch's, both routes to it, rows of runs, the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import softplus

from lmcnb.errors import UsageError
from lmcnb.models.binary_vae import FLOOR, BinaryVAE

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(model: BinaryVAE, runs: int = 1) -> dict[str, Tensor]:
    """Float64, biases not zero."""
    g = generator(9)
    return {
        k: v.double() + 0.3 * torch.randn(v.shape, generator=g, dtype=F64)
        for k, v in model.initial([generator(s) for s in range(runs)]).items()
    }


def by_hand(p: dict[str, Tensor], part: str, a: Tensor, run: int, activation: Any) -> Tensor:
    """A perceptron, layer by layer."""
    layers = sum(name.startswith(f"{part}.W") for name in p)
    for layer in range(layers):
        a = a @ p[f"{part}.W{layer}"][run] + p[f"{part}.b{layer}"][run, 0]
        a = activation(a) if layer < layers - 1 else a
    return a


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("hidden", "activation"), [((5,), "tanh"), ((7, 4), "relu")])
def test_the_likelihood_is_the_bernoulli_s(
    runs: int, hidden: tuple[int, ...], activation: str
) -> None:
    model = BinaryVAE(6, 2, hidden, activation)
    p = parameters(model, runs)
    x = (torch.rand(runs, 4, 6, generator=generator(1)) < 0.4).double()
    z = 2 * torch.randn(runs, 4, 3, 2, generator=generator(2), dtype=F64)
    found = model.log_likelihood(p, x, z)
    assert found.shape == (runs, 4, 3)
    assert torch.equal(found, model.likelihood_of(p, model.projected(p, x), z))
    for run in range(runs):
        logits = by_hand(p, "decoder", z[run], run, getattr(torch, activation))
        known = Bernoulli(logits=logits).log_prob(x[run].unsqueeze(1).expand_as(logits)).sum(-1)
        torch.testing.assert_close(found[run], known, rtol=0, atol=1e-10)
        flat = model.logits(p, z.flatten(1, 2))[run].view_as(logits)
        torch.testing.assert_close(flat, logits, rtol=0, atol=1e-10)


def test_the_likelihood_is_in_the_graph_of_everything() -> None:
    """The last weights enter twice, by the softplus and by the projected image."""
    model = BinaryVAE(6, 2, (5, 4))
    p = {k: v.requires_grad_() for k, v in parameters(model, 2).items()}
    x = (torch.rand(2, 3, 6, generator=generator(1)) < 0.4).double()
    z = torch.randn(2, 3, 2, 2, generator=generator(2), dtype=F64).requires_grad_()
    inputs = [z, *(v for k, v in p.items() if k.startswith("decoder"))]
    value = model.log_likelihood(p, x, z)
    signal = torch.randn(value.shape, generator=generator(3), dtype=F64)
    found = torch.autograd.grad((signal * value).sum(), inputs)
    logits = model.logits(p, z.flatten(1, 2)).view(2, 3, 2, 6)
    seen = Bernoulli(logits=logits).log_prob(x.unsqueeze(2).expand_as(logits)).sum(-1)
    known = torch.autograd.grad((signal * seen).sum(), inputs)
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_runs_are_independent_models() -> None:
    model = BinaryVAE(6, 2, (7, 4))
    p = parameters(model, 3)
    x = (torch.rand(3, 4, 6, generator=generator(1)) < 0.4).double()
    z = torch.randn(3, 4, 3, 2, generator=generator(2), dtype=F64)
    together = (*model.encode(p, x), model.log_likelihood(p, x, z), model.projected(p, x))
    for r in range(3):
        own = {k: v[r : r + 1] for k, v in p.items()}
        x_own, z_own = x[r : r + 1], z[r : r + 1]
        alone = (
            *model.encode(own, x_own),
            model.log_likelihood(own, x_own, z_own),
            model.projected(own, x_own),
        )
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[r : r + 1], b, rtol=1e-12, atol=1e-12)


def test_the_encoder_is_the_formula_s_and_its_deviation_has_a_floor() -> None:
    model = BinaryVAE(6, 2, (7, 4))
    p = parameters(model)
    x = (torch.rand(1, 5, 6, generator=generator(1)) < 0.4).double()
    mean, std = model.encode(p, x)
    out = by_hand(p, "encoder", x[0], 0, torch.relu)
    torch.testing.assert_close(mean[0], out[:, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(std[0], softplus(out[:, 2:]) + 1e-4, rtol=0, atol=1e-12)
    p["encoder.b2"] = p["encoder.b2"] - 1e3
    assert bool((model.encode(p, x)[1] == FLOOR).all())


def test_the_start_is_glorots() -> None:
    model = BinaryVAE(50, 10, (40, 30))
    p = model.initial([generator(0), generator(1)])
    sizes = {"decoder": [(10, 40), (40, 30), (30, 50)], "encoder": [(50, 30), (30, 40), (40, 20)]}
    for part, own in sizes.items():
        for layer, (a, b) in enumerate(own):
            W, limit = p[f"{part}.W{layer}"], (6 / (a + b)) ** 0.5
            assert W.shape == (2, a, b)
            assert float(W.abs().max()) <= limit
            assert float(W.max()) > 0.98 * limit
            assert float(W.min()) < -0.98 * limit
            assert abs(float(W.std()) / (limit / 3**0.5) - 1) < 0.05
            assert not p[f"{part}.b{layer}"].any()
            assert p[f"{part}.b{layer}"].shape == (2, 1, b)
    assert len(p) == 12
    assert not torch.equal(p["decoder.W0"][0], p["decoder.W0"][1])
    alone = model.initial([generator(1)])
    assert all(torch.equal(p[k][1:], v) for k, v in alone.items())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pixels": 0}, "pixels=0"),
        ({"latent": 2.0}, "latent=2.0"),
        ({"hidden": ()}, r"hidden=\(\)"),
        ({"hidden": (5, 0)}, r"hidden=\(5, 0\)"),
        ({"activation": "gelu"}, "activation='gelu': relu or tanh"),
    ],
)
def test_impossible_architectures_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        BinaryVAE(**({"pixels": 6, "latent": 2, "hidden": (5,)} | changed))
