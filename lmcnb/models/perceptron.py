"""A stack of Linear, LayerNorm, ReLU layers, with a final Linear or without (2209.07036, App. B).

    a_{l+1} = relu(gain_l * normalize(a_l W_l + b_l) + shift_l),   output = a_L W_L + b_L

Parameters are a dict of tensors with one leading row dimension (independent networks), weights
`(rows, in, out)`. `forward` is for autograd. `trace`, `signals` and `gradients` are the same
network with its reverse sweep cut in two: the signals that pass through the data, and the
parameter gradients, which are formed only where they are wanted. A test holds them to autograd.

Matrix products take their factors in `products` (float32, float64 or bfloat16); everything else,
and the master weights, stay as they are. Not guaranteed: that bfloat16 gives the same numbers.
Factors are then rounded to 8 significant bits, sums are accumulated in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from lmcnb.errors import UsageError

Parameters = Mapping[str, Tensor]
EPSILON = 1e-5  # of LayerNorm, torch's default


class Trace(NamedTuple):
    """What the reverse sweep needs of a forward one, and its signals; a tuple entry per layer."""

    inputs: tuple[Tensor, ...]  # (rows, batch, in), in the type of the products
    normalized: tuple[Tensor, ...]  # (rows, batch, width), before gain and shift
    root: tuple[Tensor, ...]  # (rows, batch, 1), 1 / standard deviation
    active: tuple[Tensor, ...]  # (rows, batch, width), after the ReLU
    output: Tensor  # (rows, batch, out)


class Signals(NamedTuple):
    """Derivatives of a loss by what passes through the network; a tuple entry per layer."""

    linear: tuple[Tensor, ...]  # by the outputs of the Linear layers
    affine: tuple[Tensor, ...]  # by the outputs of the LayerNorms
    input: Tensor | None  # by the input; None if not asked for


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` for `(rows, m, k)` and `(rows, k, n)`; one row is one plain product."""
    if a.shape[0] == 1:
        return (a[0] @ b[0])[None]
    return torch.bmm(a, b)


@dataclass(frozen=True)
class Perceptron:
    """The architecture; parameters are given to each function."""

    widths: tuple[int, ...]
    """Input, then every hidden layer."""
    outputs: int | None = None
    """Width of a final Linear, or None to end with the last ReLU."""
    products: torch.dtype | None = None
    """Type of the factors of matrix products; None: that of the data."""

    def __post_init__(self) -> None:
        sizes = (*self.widths, *(() if self.outputs is None else (self.outputs,)))
        if len(self.widths) < 2 or any(type(w) is not int or w < 1 for w in sizes):
            raise UsageError(
                f"widths={self.widths!r}, outputs={self.outputs!r}: an input and at least one "
                "hidden layer, integers of at least 1, are needed"
            )

    @property
    def hidden(self) -> int:
        """Number of hidden layers."""
        return len(self.widths) - 1

    def initial(self, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One network a generator: orthogonal weights, zero biases, identity LayerNorms."""
        rows, device = len(generators), generators[0].device
        sizes = [*self.widths, *([] if self.outputs is None else [self.outputs])]
        p: dict[str, Tensor] = {}
        for layer in range(len(sizes) - 1):
            shape = (sizes[layer], sizes[layer + 1])
            p[f"W{layer}"] = torch.stack([orthogonal(shape, g) for g in generators])
            p[f"b{layer}"] = torch.zeros(rows, 1, shape[1], device=device)
            if layer < self.hidden:
                p[f"gain{layer}"] = torch.ones(rows, 1, shape[1], device=device)
                p[f"shift{layer}"] = torch.zeros(rows, 1, shape[1], device=device)
        return p

    def forward(self, p: Parameters, x: Tensor) -> Tensor:
        """Output `(rows, batch, out)` for inputs `(rows, batch, in)`, in the graph of both."""
        for layer in range(self.hidden):
            y = layer_norm(self._linear(p, layer, x), (self.widths[layer + 1],), eps=EPSILON)
            x = torch.relu(y * p[f"gain{layer}"] + p[f"shift{layer}"])
        return x if self.outputs is None else self._linear(p, self.hidden, x)

    def factors(self, p: Parameters) -> dict[str, Tensor]:
        """The weights in the type of the products, to be cast once for several sweeps."""
        if self.products is None:
            return dict(p)
        return {k: v.to(self.products) if k[0] == "W" else v for k, v in p.items()}

    def trace(self, p: Parameters, x: Tensor) -> Trace:
        """The forward sweep, with all that the reverse one needs; no graph."""
        inputs, normalized, roots, active = [], [], [], []
        for layer in range(self.hidden):
            inputs.append(self._factor(x))
            linear = product(inputs[-1], self._factor(p[f"W{layer}"])).to(x.dtype) + p[f"b{layer}"]
            y, _, root = torch.native_layer_norm(
                linear, [self.widths[layer + 1]], None, None, EPSILON
            )
            normalized.append(y)
            roots.append(root)
            x = torch.addcmul(p[f"shift{layer}"], y, p[f"gain{layer}"]).relu_()
            active.append(x)
        if self.outputs is not None:
            inputs.append(self._factor(x))
            weight = self._factor(p[f"W{self.hidden}"])
            x = product(inputs[-1], weight).to(x.dtype) + p[f"b{self.hidden}"]
        return Trace(tuple(inputs), tuple(normalized), tuple(roots), tuple(active), x)

    def signals(self, p: Parameters, t: Trace, delta: Tensor, *, by_input: bool = True) -> Signals:
        """The reverse sweep through the data, from `delta` = d loss / d output."""
        linear: list[Tensor] = []
        affine: list[Tensor] = []
        if self.outputs is not None:
            linear.append(delta)
            delta = self._back(p, self.hidden, delta)
        for layer in reversed(range(self.hidden)):
            y, root = t.normalized[layer], t.root[layer]
            delta = torch.ops.aten.threshold_backward(delta, t.active[layer], 0)
            affine.insert(0, delta)
            inner = delta * p[f"gain{layer}"]
            along = (inner * y).mean(-1, keepdim=True)
            delta = (inner - inner.mean(-1, keepdim=True) - y * along) * root
            linear.insert(0, delta)
            if layer or by_input:
                delta = self._back(p, layer, delta)
        return Signals(tuple(linear), tuple(affine), delta if by_input else None)

    def gradients(self, t: Trace, s: Signals) -> dict[str, Tensor]:
        """Gradients of all parameters from the two sweeps, summed over the batch.

        Those of the weights are in the type of the products.
        """
        g: dict[str, Tensor] = {}
        for layer, (a, delta) in enumerate(zip(t.inputs, s.linear, strict=True)):
            g[f"W{layer}"] = product(a.mT, delta.to(a.dtype))
            g[f"b{layer}"] = delta.sum(-2, keepdim=True)
            if layer < self.hidden:
                g[f"gain{layer}"] = (s.affine[layer] * t.normalized[layer]).sum(-2, keepdim=True)
                g[f"shift{layer}"] = s.affine[layer].sum(-2, keepdim=True)
        return g

    def _factor(self, x: Tensor) -> Tensor:
        return x if self.products is None else x.to(self.products)

    def _linear(self, p: Parameters, layer: int, x: Tensor) -> Tensor:
        weight = self._factor(p[f"W{layer}"])
        return product(self._factor(x), weight).to(x.dtype) + p[f"b{layer}"]

    def _back(self, p: Parameters, layer: int, delta: Tensor) -> Tensor:
        return product(self._factor(delta), self._factor(p[f"W{layer}"]).mT).to(delta.dtype)


def orthogonal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns or rows, whichever are fewer, float32.

    Uniform over such matrices: the Q of a Gaussian matrix, signs fixed by R (as in
    `torch.nn.init.orthogonal_`).
    """
    high, low = max(shape), min(shape)
    noise = torch.randn(high, low, generator=generator, device=generator.device)
    q, r = torch.linalg.qr(noise)
    q = q * r.diagonal().sign()
    return q if shape == (high, low) else q.mT.contiguous()
