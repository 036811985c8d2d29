"""The one-layer generator and the encoders, recomputed by hand; bounds of a log variance."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from lmcnb.models.conv_generators import PIXELS, ConvEncoder, ConvLadderEncoder, OneLayer
from lmcnb.models.encoders import Encoder, LadderEncoder, mean_and_std

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gelu(h: Tensor) -> Tensor:
    return 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))


def leaky(h: Tensor) -> Tensor:
    return torch.where(h > 0, h, 0.2 * h)


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu"])
def test_one_layer_by_hand(activation: Literal["gelu", "leaky_relu"]) -> None:
    network = OneLayer(generator(), 3, 2, activation=activation).double()
    z = torch.randn(4, 3, generator=generator(1), dtype=F64)
    h = z[:, :, None, None]
    shapes = []
    for layer, (stride, padding) in zip(network.layers, ((1, 0), (2, 1), (2, 1)), strict=True):
        raw = conv_transpose2d(h, layer.weight, layer.bias, stride, padding)
        h = gelu(raw) if activation == "gelu" else leaky(raw)
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [(8, 4, 4), (4, 8, 8), (2, 16, 16)]
    known = torch.tanh(conv_transpose2d(h, network.out.weight, network.out.bias, 2, 1))
    assert known.shape == (4, 3, 32, 32)
    assert torch.allclose(network(z), known.flatten(1), rtol=0, atol=1e-12)


def test_the_convolutional_encoder_by_hand() -> None:
    encoder = ConvEncoder(3, generator(), 2).double()
    x = torch.randn(4, PIXELS, generator=generator(1), dtype=F64)
    h = x.view(4, 3, 32, 32)
    for layer in encoder.layers:
        h = gelu(conv2d(h, layer.weight, layer.bias, stride=2, padding=1))
    assert h.shape == (4, 8, 4, 4)
    output = h.flatten(1) @ encoder.head.weight.T + encoder.head.bias
    mean, std = encoder(x)
    assert torch.allclose(mean, output[:, :3], rtol=0, atol=1e-12)
    assert torch.allclose(std, torch.exp(output[:, 3:] / 2), rtol=0, atol=1e-12)


def test_the_log_variance_is_free_between_minus_ten_and_ten() -> None:
    log_variance = torch.tensor([-50.0, -10.0, -8.0, -1.5, 0.0, 3.0, 9.0, 50.0], dtype=F64)
    mean, std = mean_and_std(torch.cat([torch.arange(8, dtype=F64), log_variance]))
    assert mean.tolist() == list(range(8))
    assert (2 * std.log()).tolist() == pytest.approx([-10, -10, -8, -1.5, 0, 3, 9, 10])


@pytest.mark.parametrize("kind", ["mlp", "mlp ladder", "conv", "conv ladder"])
def test_encoders_can_be_sure_of_a_latent(kind: str) -> None:
    """Standard deviations far below a tenth are reached."""
    encoder: nn.Module
    if kind == "mlp":
        encoder, pixels = Encoder(6, 4, 2, generator()), 6
    elif kind == "mlp ladder":
        encoder, pixels = LadderEncoder(6, 4, (2, 2), generator()), 6
    elif kind == "conv":
        encoder, pixels = ConvEncoder(2, generator(), 2), PIXELS
    else:
        encoder, pixels = ConvLadderEncoder((2, 2), generator(), 2), PIXELS
    heads = encoder.head if isinstance(encoder.head, nn.ModuleList) else [encoder.head]
    with torch.no_grad():
        for head in heads:
            last = getattr(head, "linear", head)
            last.weight.zero_()
            last.bias[2:] = -8
        found = encoder(torch.zeros(3, pixels))
    for _, std in found if isinstance(found, list) else [found]:
        assert std.flatten().tolist() == pytest.approx([math.exp(-4)] * 6)
