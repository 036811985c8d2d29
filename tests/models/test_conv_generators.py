"""The released networks: their sizes, their layout, and that chains run on them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu
from torch.utils.flop_counter import FlopCounterMode

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import score
from lmcnb.kernels.hessian import second_order
from lmcnb.kernels.smoothness import kinks
from lmcnb.methods.short_run import objective, short_run
from lmcnb.methods.short_run_baselines import reconstruct
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import Streams, Trainer
from lmcnb.models.conv_generators import (
    PIXELS,
    ConvEncoder,
    ConvLadderEncoder,
    FiveLayer,
    OneLayer,
)
from lmcnb.models.observed import log_joint


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(**more):
    return FiveLayer(generator(), (2, 3, 2), 4, **more)


def test_the_released_size():
    """12,162,435 parameters and 395 million multiply-adds an image, as counted in the release."""
    network = FiveLayer(generator())
    assert sum(p.numel() for p in network.parameters()) == 12_162_435
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, network.dim))
    assert abs(counter.get_total_flops() / 2 / 395e6 - 1) < 0.01
    assert network.dim == 416


def test_one_layer_has_the_size_of_the_later_work():
    with FlopCounterMode(display=False) as counter:
        OneLayer(generator())(torch.zeros(1, 100))
    assert abs(counter.get_total_flops() / 2 / 70e6 - 1) < 0.02


def test_the_layout_by_hand():
    network = tiny().double()
    z = torch.randn(5, 7, generator=generator(1), dtype=torch.float64)
    a, b, c = z.split((2, 3, 2), -1)
    h = network.deterministic[0](network.project[0](a))
    for i, own in ((1, b), (2, c)):
        block = network.stochastic[i - 1]
        raw = block.raw(h)
        std = torch.exp(0.5 * (-1 + 5 * torch.tanh((raw + 1) / 5)))
        h = network.deterministic[i](network.project[i](block.mean(h) + std * own)) + h
    known = torch.tanh(network.out(network.last(h))).flatten(1)
    assert torch.allclose(network(z), known)
    inner = network.deterministic[0]
    x = torch.randn(1, 4, 16, 16, generator=generator(2), dtype=torch.float64)
    assert torch.allclose(inner(x), x + gelu(inner.second(gelu(inner.first(x)))))


def test_shapes_and_leading_dimensions():
    network = tiny()
    z = torch.randn(2, 3, 7, generator=generator(1))
    found = network(z)
    assert found.shape == (2, 3, PIXELS)
    assert float(found.detach().abs().max()) <= 1
    assert torch.allclose(found[1], network(z[1]), atol=1e-6)
    one = OneLayer(generator(), 6, 4)
    assert one(torch.zeros(2, 3, 6)).shape == (2, 3, PIXELS)
    assert FiveLayer(generator(), (3,), 4)(torch.zeros(2, 3)).shape == (2, PIXELS)


def test_wide_layers_have_a_standard_deviation_of_at_least_one():
    network = tiny(variant="wide")
    h = 10 * torch.randn(3, 4, 16, 16, generator=generator(1))
    block = network.stochastic[0]
    assert float(block(h)[1].detach().min()) >= 1


def test_weights_follow_the_generator_alone():
    state = torch.get_rng_state()
    a, b, c = (FiveLayer(generator(s), (2,), 4) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(a.parameters(), b.parameters(), c.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q, _ in pairs)
    assert not any(torch.equal(p, r) for p, _, r in pairs)
    weight = FiveLayer(generator()).deterministic[0].first.weight.detach()
    assert float(weight.abs().max()) <= (64 * 25) ** -0.5


def test_chains_and_the_objective_run_on_them():
    x = torch.tanh(torch.randn(2, PIXELS, generator=generator(1), dtype=torch.float64))
    network = tiny().double().requires_grad_(False)
    assert kinks(network, torch.zeros(1, 7, dtype=torch.float64)) == []
    target = log_joint(network, x, 0.5)
    z = torch.randn(2, 7, generator=generator(2), dtype=torch.float64)
    noise = torch.randn(3, 2, 7, generator=generator(3), dtype=torch.float64)
    assert bool(torch.isfinite(score(target, z)).all())
    whole, parts = (second_order(target, z, chunk=c)[2] for c in (None, 3))
    assert torch.allclose(whole, parts)
    assert torch.allclose(whole, whole.mT)
    assert objective(target, z, 0.02, 3, noise).value is not None
    assert short_run(target, z, 0.02, 3, noise).shape == z.shape


@pytest.mark.parametrize(
    ("method", "latent"), [("SRI", (2, 2)), ("SRI", (3,)), ("VAE", (2, 2)), ("LVAE", (2, 3))]
)
def test_a_trainer_builds_them(method, latent):
    t = Training(
        method, latent, network="conv", width=4, epochs=1, batch=2, steps=2, step_size=0.05
    )
    images = torch.randint(0, 256, (4, PIXELS), generator=generator(), dtype=torch.uint8)
    trainer = Trainer(t, images, Streams(*(generator(i) for i in range(4))))
    trainer.step()
    assert isinstance(trainer.generator, FiveLayer if len(latent) > 1 else OneLayer)
    assert (trainer.encoder is not None) == method.endswith("VAE")
    assert trainer.diverged_at() == [None]


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="latent"):
        FiveLayer(generator(), ())
    with pytest.raises(UsageError, match="variant"):
        FiveLayer(generator(), variant="ladder")
    with pytest.raises(UsageError, match="activation"):
        OneLayer(generator(), activation="relu")
    with pytest.raises(UsageError, match="dim"):
        OneLayer(generator(), 0)
    t = Training("SRI", (2,), network="conv", width=4)
    with pytest.raises(UsageError, match="here 64, gaussian, 1"):
        Trainer(t, torch.zeros(200, 64), Streams(*(generator(i) for i in range(4))))
    t = Training("LVAE", (2,), network="conv", width=4)
    with pytest.raises(UsageError, match="two layers or more"):
        Trainer(t, torch.zeros(200, PIXELS), Streams(*(generator(i) for i in range(4))))


def test_the_encoder():
    mean, std = ConvEncoder(5, generator(), 4)(torch.zeros(3, PIXELS))
    assert mean.shape == std.shape == (3, 5)
    assert float(std.detach().min()) > 0


def test_the_ladder_encoder():
    """z is that of the image; without an encoder's say the posterior is the prior."""
    encoder = ConvLadderEncoder((2, 3, 2), generator(1), 4).double()
    x = torch.randn(3, PIXELS, generator=generator(2), dtype=torch.float64)
    noise = torch.randn(3, 7, generator=generator(3), dtype=torch.float64)
    assert [m.shape[1] for m, _ in encoder(x)] == [2, 3, 2]
    network = tiny().double()
    found = reconstruct(network, encoder, x, noise)
    assert torch.allclose(network(found.z), found.image)
    assert float(found.kl.detach().min()) > 0
    vague = [(m, 1e9 * s) for m, s in encoder(x)]
    encoder.forward = lambda _: vague
    found = reconstruct(network, encoder, x, noise)
    assert torch.allclose(found.z, noise)
    assert float(found.kl.detach().abs().max()) < 1e-6
