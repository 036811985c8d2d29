"""The perceptron: two routes to one gradient, rows, starts, products."""

from __future__ import annotations

import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.models.perceptron import Perceptron, orthogonal


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in range(n)]


def perturbed(net: Perceptron, rows: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(9)
    return {
        k: v.double() + 0.3 * torch.randn(v.shape, generator=g, dtype=torch.float64)
        for k, v in net.initial(generators(rows)).items()
    }


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("outputs", [None, 4])
def test_the_cut_sweep_is_autograd_s(rows: int, outputs: int | None) -> None:
    net = Perceptron((5, 7, 6), outputs)
    p = {k: v.requires_grad_() for k, v in perturbed(net, rows).items()}
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 8, 5, generator=g, dtype=torch.float64).requires_grad_()
    out = net.forward(p, x)
    delta = torch.randn(out.shape, generator=g, dtype=torch.float64)
    known = torch.autograd.grad((out * delta).sum(), [*p.values(), x])
    with torch.no_grad():
        trace = net.trace(p, x)
        torch.testing.assert_close(trace.output, out, rtol=1e-12, atol=1e-12)
        signals = net.signals(p, trace, delta)
        got = net.gradients(trace, signals)
    assert set(got) == set(p)
    for name, value in zip(p, known[:-1], strict=True):
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(signals.input, known[-1], rtol=1e-9, atol=1e-11)
    assert net.signals(p, trace, delta, by_input=False).input is None


def test_rows_are_independent_networks() -> None:
    net = Perceptron((5, 7), 3)
    p = perturbed(net, 3)
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = net.forward(p, x)
    for r in range(3):
        alone = net.forward({k: v[r : r + 1] for k, v in p.items()}, x[r : r + 1])
        torch.testing.assert_close(together[r : r + 1], alone)


def test_the_start() -> None:
    net = Perceptron((6, 10, 4), 9)
    p = net.initial(generators(2))
    for layer, (a, b) in enumerate([(6, 10), (10, 4), (4, 9)]):
        W = p[f"W{layer}"]
        assert W.shape == (2, a, b)
        gram = W.mT @ W if a >= b else W @ W.mT
        torch.testing.assert_close(gram, torch.eye(min(a, b)).expand_as(gram), rtol=0, atol=1e-5)
        assert not p[f"b{layer}"].any()
    assert bool((p["gain0"] == 1).all())
    assert not p["shift1"].any()
    assert not torch.equal(p["W0"][0], p["W0"][1])
    alone = net.initial(generators(1))
    torch.testing.assert_close(p["W1"][:1], alone["W1"])


def test_orthogonal_is_uniform_in_sign() -> None:
    """Without the signs of R every diagonal of Q would lean one way."""
    signs = [orthogonal((3, 3), torch.Generator().manual_seed(s)).det().sign() for s in range(60)]
    assert 15 < sum(float(s) > 0 for s in signs) < 45


def test_bfloat16_products_round_only_the_factors() -> None:
    exact, rough = Perceptron((50, 64), 8), Perceptron((50, 64), 8, torch.bfloat16)
    p = exact.initial(generators(1))
    x = torch.randn(1, 100, 50, generator=torch.Generator().manual_seed(0))
    a, b = exact.forward(p, x), rough.forward(p, x)
    assert b.dtype == torch.float32
    assert 1e-4 < float((a - b).abs().max() / a.abs().max()) < 3e-2
    t = rough.trace(p, x)
    assert all(v.dtype == torch.bfloat16 for v in t.inputs)
    torch.testing.assert_close(t.output, b)


@pytest.mark.parametrize("widths", [(5,), (5, 0), (5, 2.0)])
def test_impossible_sizes_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="widths="):
        Perceptron(widths)
