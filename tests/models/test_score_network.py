"""The score network: hand-written reverse against autograd, zero and flat at the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.models import score_network
from lmcnb.models.score_network import EMBEDDING, Network

K, ROWS, CHAINS, DIM = 4, 3, 5, 2
DOUBLE = torch.float64


def parameters(n_input: int, at_start: bool = False) -> dict[str, Tensor]:
    """`ROWS` networks; unless at the start, with parameters of order one."""
    nets: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, shape in score_network.shapes(n_input, DIM, K).items():
        rows = []
        for _ in range(ROWS):
            value = score_network.initial(name, shape, generator)
            if not at_start:
                value = value + 0.3 * torch.randn(shape, generator=generator)
            rows.append(value)
        nets[f"net.{name}"] = torch.stack(rows).double()
    return nets


def inputs(with_momentum: bool) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    z, u = torch.randn(2, K, ROWS, CHAINS, DIM, generator=generator, dtype=DOUBLE)
    return z, u if with_momentum else None


def reference(p: dict[str, Tensor], z: Tensor, u: Tensor | None) -> Tensor:
    """One bridge, row and chain at a time, straight from the docstring of the module."""
    out = []
    for k in range(K):
        for r in range(ROWS):
            own = {name.removeprefix("net."): v[r] for name, v in p.items()}
            for n in range(CHAINS):
                seen = [z[k, r, n]] + ([] if u is None else [u[k, r, n]])
                x = torch.cat([*seen, own["embedding"][k]])
                h1 = x + torch.log1p(torch.exp(x @ own["W1"] + own["b1"]))
                h2 = h1 + torch.log1p(torch.exp(h1 @ own["W2"] + own["b2"]))
                out.append(own["factor"] * (h2 @ own["W3"] + own["b3"]))
    return torch.stack(out).view(K, ROWS, CHAINS, DIM)


def network(with_momentum: bool) -> Network:
    n_input = 2 * DIM if with_momentum else DIM
    return Network(n_input, DIM, (K, ROWS, CHAINS, DIM), DOUBLE, "cpu")


@pytest.mark.parametrize("with_momentum", [False, True])
def test_forward_is_the_network_of_the_docstring(with_momentum: bool) -> None:
    p = parameters(2 * DIM if with_momentum else DIM)
    z, u = inputs(with_momentum)
    expected = reference(p, z, u)
    assert expected.abs().max() > 0.1
    s = network(with_momentum).forward(p, z, u)
    torch.testing.assert_close(s, expected, rtol=1e-12, atol=1e-12)

    net = {name.removeprefix("net."): value for name, value in p.items()}
    for k in range(K):
        seen = [z[k]] + ([] if u is None else [u[k]])
        x = torch.cat([*seen, net["embedding"][:, k, None].expand(-1, CHAINS, -1)], -1)
        torch.testing.assert_close(
            score_network.forward(net, x), expected[k], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("with_momentum", [False, True])
def test_backward_is_autograd(with_momentum: bool) -> None:
    p = {
        name: value.requires_grad_(True)
        for name, value in parameters(2 * DIM if with_momentum else DIM).items()
    }
    z, u = inputs(with_momentum)
    leaves = [z.requires_grad_(True)] + ([] if u is None else [u.requires_grad_(True)])
    sbar = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    loss = (reference(p, z, u) * sbar).sum()
    expected = torch.autograd.grad(loss, [*p.values(), *leaves])

    engine = network(with_momentum)
    for _ in range(2):  # buffers are used again
        with torch.no_grad():
            engine.forward(p, z, u)
            gradient = {name: torch.full_like(value, 7.0) for name, value in p.items()}
            zbar, ubar = engine.backward(p, sbar, gradient)
        found = [*gradient.values(), zbar] + ([] if u is None else [ubar])
        for name, one, other in zip([*p, "z", "u"], found, expected, strict=False):
            assert other.abs().max() > 1e-3, name
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=name)
    assert (ubar is None) == (u is None)


@pytest.mark.parametrize("with_momentum", [False, True])
def test_at_the_start_it_is_zero_and_only_the_factor_has_a_gradient(with_momentum: bool) -> None:
    p = parameters(2 * DIM if with_momentum else DIM, at_start=True)
    z, u = inputs(with_momentum)
    engine = network(with_momentum)
    assert torch.equal(engine.forward(p, z, u), torch.zeros_like(z))
    gradient = {name: torch.full_like(value, 7.0) for name, value in p.items()}
    zbar, ubar = engine.backward(p, torch.ones_like(z), gradient)
    for name, value in gradient.items():
        assert value.any() == (name == "net.factor"), name
    assert (gradient["net.factor"].abs() > 1e-2).all()  # in every row
    assert not zbar.any()
    assert ubar is None or not ubar.any()


def test_large_inputs_do_not_overflow() -> None:
    p = parameters(DIM)
    z, _ = inputs(False)
    engine = network(False)
    assert torch.isfinite(engine.forward(p, 1e4 * z)).all()
    gradient = {name: torch.empty_like(value) for name, value in p.items()}
    engine.backward(p, torch.ones_like(z), gradient)
    assert all(torch.isfinite(value).all() for value in gradient.values())


def test_initial_values_have_the_published_scales() -> None:
    shapes = score_network.shapes(300, 400, 50)
    width = 300 + EMBEDDING
    scales = {
        "embedding": 0.05,
        "W1": math.sqrt(2 / (width + width)),
        "b1": 0.01,
        "W2": math.sqrt(2 / (width + width)),
        "b2": 0.01,
        "W3": math.sqrt(2 / (width + 400)),
        "b3": 0.01,
    }
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        value = score_network.initial(name, shape, generator)
        assert value.shape == shape
        assert value.dtype == torch.float32
        if name == "factor":
            assert not value.any()
            continue
        spread = 5 / math.sqrt(2 * value.numel())
        assert float(value.std()) == pytest.approx(scales[name], rel=spread)
        assert abs(float(value.mean())) < 5 * scales[name] / math.sqrt(value.numel())
