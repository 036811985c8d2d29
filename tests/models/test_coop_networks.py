"""The released networks of variational MCMC teaching: sizes, alignment, by hand, conditions."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lmcnb.errors import UsageError
from lmcnb.models.coop_networks import (
    ARCHITECTURES,
    ConvDecoder,
    ConvEnergy,
    ConvPosterior,
    networks,
)

NAMES = list(ARCHITECTURES)
DIM = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def narrow(name: str):
    """The architecture with a few channels each: kernels, strides and sides are the original's."""
    a = ARCHITECTURES[name]
    thin = {
        part: tuple((2 + i % 2, *layer[1:]) for i, layer in enumerate(getattr(a, part)))
        for part in ("energy", "posterior", "decoder")
    }
    thin["decoder"] = (*thin["decoder"][:-1], a.decoder[-1])
    return dataclasses.replace(a, outputs=3, **thin)


def thin_networks(name: str, condition=None, std: float = 0.3):
    """Thin networks in double precision, with biases and shifts that are not zero."""
    a, stream = narrow(name), generator()
    made = (
        ConvEnergy(a, stream, condition, std),
        ConvPosterior(a, DIM, stream, condition, std),
        ConvDecoder(a, DIM, stream, condition, std),
    )
    for network in made:
        network.double()
        for parameter_name, p in network.named_parameters():
            if parameter_name.endswith("bias"):
                nn.init.normal_(p, std=0.3, generator=stream)
    return made


# TensorFlow's rules, as its documentation states them, in numpy.


def padding(side: int, kernel: int, stride: int) -> int:
    """Zeros before a side: half of the total, rounded down; the odd one comes after."""
    over = side % stride
    return max(kernel - (over if over else stride), 0) // 2


def tf_conv(x, w, stride):
    """conv2d, SAME: x `(n, c, side, side)`, w `(out, c, k, k)`."""
    side, kernel = x.shape[-1], w.shape[-1]
    small, before = -(-side // stride), padding(side, kernel, stride)
    wide = np.zeros((*x.shape[:2], side + 2 * kernel, side + 2 * kernel))
    wide[:, :, before : before + side, before : before + side] = x
    out = np.zeros((len(x), len(w), small, small))
    for i, j in itertools.product(range(small), repeat=2):
        window = wide[:, :, i * stride :, j * stride :][:, :, :kernel, :kernel]
        out[:, :, i, j] = np.einsum("ncab,ocab->no", window, w)
    return out


def tf_conv_transpose(y, w, stride, side):
    """conv2d_transpose, SAME, to a side: the adjoint of `tf_conv`, w `(c, out, k, k)`."""
    kernel, before = w.shape[-1], padding(side, w.shape[-1], stride)
    wide = np.zeros((len(y), w.shape[1], side + 2 * kernel, side + 2 * kernel))
    for i, j in itertools.product(range(y.shape[-1]), repeat=2):
        part = wide[:, :, i * stride :, j * stride :][:, :, :kernel, :kernel]
        part += np.einsum("nc,coab->noab", y[:, :, i, j], w)
    return wide[:, :, before : before + side, before : before + side]


def leaky(h, slope=0.2):
    return np.where(h > 0, h, slope * h)


def weights(module):
    return module.weight.detach().numpy(), module.bias.detach().numpy()


def only(module, kind):
    (found,) = (m for m in module.modules() if isinstance(m, kind))
    return found


def by_hand(features, layers, x):
    """Features of images `(n, channels, side, side)`."""
    for module, (_, _, stride) in zip(features.layers, layers, strict=True):
        w, b = weights(only(module, nn.Conv2d))
        x = leaky(tf_conv(x, w, stride) + b[:, None, None])
    return x


def test_the_transposed_convolution_of_the_tests_is_the_adjoint():
    for side, kernel, stride in ((7, 3, 2), (14, 3, 2), (32, 3, 1), (8, 4, 2), (28, 5, 2)):
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=(2, 3, side, side)), rng.normal(size=(2, 3, kernel, kernel))
        there = tf_conv(x, w, stride)
        y = rng.normal(size=there.shape)
        assert np.isclose((there * y).sum(), (x * tf_conv_transpose(y, w, stride, side)).sum())


@pytest.mark.parametrize("name", NAMES)
def test_the_energy_and_the_posterior_by_hand(name):
    a, (energy, posterior, _) = narrow(name), thin_networks(name)
    image = normal(3, *a.image)
    x = image.flatten(1)
    h = by_hand(energy.features, a.energy, image.numpy())
    w, b = weights(energy.last)
    outputs = np.einsum("ncij,ocij->no", h, w) + b
    assert outputs.shape == (3, 3)
    assert np.allclose(energy(x).detach(), outputs.sum(1), rtol=1e-10)
    h = by_hand(posterior.features, a.posterior, image.numpy()).reshape(3, -1)
    mean, std = posterior(x)
    w, b = weights(posterior.mean)
    assert np.allclose(mean.detach(), h @ w.T + b, rtol=1e-10)
    w, b = weights(posterior.log_variance)
    assert np.allclose(std.detach() ** 2, np.exp(h @ w.T + b), rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_by_hand(name):
    a, decoder = narrow(name), thin_networks(name)[2]
    z = normal(3, DIM)
    w, b = weights(only(decoder.layers[0], nn.ConvTranspose2d))
    h = np.einsum("nc,coab->noab", z.numpy(), w) + b[:, None, None]
    for i, (layer, (_, _, stride, side)) in enumerate(zip(decoder.layers, a.decoder, strict=True)):
        if i:
            w, b = weights(only(layer, nn.ConvTranspose2d))
            h = tf_conv_transpose(h, w, stride, side) + b[:, None, None]
        if i < 3:
            shift = only(layer, nn.BatchNorm2d).bias.detach().numpy()[:, None, None]
            center, spread = h.mean((0, 2, 3), keepdims=True), h.var((0, 2, 3), keepdims=True)
            h = (h - center) / np.sqrt(spread + 1e-3) + shift
        if i < len(decoder.layers) - 1:
            h = leaky(h, 0.2 if name == "cifar10" else 0.0)
    assert np.allclose(decoder(z).detach(), np.tanh(h).reshape(3, -1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar10", (1_710_465, 4_393_800, 1_104_515)),
        ("mnist", (1_625_188, 759_688, 779_713)),
        ("mnist14", (101_977, 58_736, 56_177)),
    ],
)
def test_the_released_sizes(name, counts):
    """As counted in the release (but for 14 x 14); nothing is there that is not trained."""
    made = networks(name, ARCHITECTURES[name].dim, generator())
    assert tuple(sum(p.numel() for p in n.parameters() if p.requires_grad) for n in made) == counts
    assert all(len(n.state_dict()) == len(list(n.parameters())) for n in made)


def shapes(modules, call):
    """Shapes of the outputs of these modules during a call, without the batch."""
    found = []
    for m in modules:
        m.register_forward_hook(lambda _m, _i, o: found.append(tuple(o.shape[1:])))
    call()
    return found


MAPS = {
    "cifar10": (
        [(64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 4, 4), (1, 1, 1)],
        [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (100,), (100,)],
        [(256, 4, 4), (128, 8, 8), (64, 16, 16), (64, 32, 32), (3, 32, 32)],
        ([3, 4, 4, 4, 4], [3, 4, 4, 4], [4, 4, 4, 3, 3]),
    ),
    "mnist": (
        [(64, 14, 14), (128, 7, 7), (256, 7, 7), (100, 1, 1)],
        [(64, 14, 14), (64, 7, 7), (64, 7, 7), (100,), (100,)],
        [(256, 4, 4), (128, 7, 7), (64, 14, 14), (1, 28, 28)],
        ([5, 3, 3, 7], [4, 4, 4], [4, 3, 3, 3]),
    ),
    "mnist14": (
        [(16, 7, 7), (32, 7, 7), (64, 7, 7), (25, 1, 1)],
        [(16, 7, 7), (16, 7, 7), (16, 7, 7), (32,), (32,)],
        [(64, 4, 4), (32, 7, 7), (16, 7, 7), (1, 14, 14)],
        ([5, 3, 3, 7], [4, 4, 4], [4, 3, 3, 3]),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_layers(name):
    a = ARCHITECTURES[name]
    energy, posterior, decoder = made = networks(name, a.dim, generator())
    pixels = int(np.prod(a.image))
    x, z = torch.zeros(2, pixels), normal(2, a.dim).float()
    assert energy(x).shape == (2,)
    assert [t.shape for t in posterior(x)] == [(2, a.dim)] * 2
    assert decoder(z).shape == (2, pixels)
    assert float(decoder(z).detach().abs().max()) < 1
    *maps, kernels = MAPS[name]
    found = (
        shapes([*energy.features.layers, energy.last], lambda: energy(x)),
        shapes(
            [*posterior.features.layers, posterior.mean, posterior.log_variance],
            lambda: posterior(x),
        ),
        shapes(decoder.layers, lambda: decoder(z)),
    )
    assert found == tuple(maps)
    for network, sizes in zip(made, kernels, strict=True):
        assert [p.shape[-1] for p in network.parameters() if p.ndim == 4] == sizes


def test_a_decoder_normalizes_by_the_batch_always_and_has_no_scale():
    decoder = thin_networks("mnist")[2]
    z = normal(4, DIM)
    image = decoder(z).detach()
    assert torch.equal(decoder.eval()(z), image)
    assert torch.equal(decoder(z), image)  # no statistics are kept
    assert not torch.allclose(decoder(z[:2]), image[:2], atol=1e-3)
    norms = [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    decoder.requires_grad_(False).requires_grad_(True)  # as a sampler does
    for norm in norms:
        assert [n for n, p in norm.named_parameters() if p.requires_grad] == ["bias"]
        assert torch.equal(norm.weight, torch.ones(norm.num_features, dtype=torch.float64))


def test_dropout_comes_from_its_generator_alone():
    posterior = thin_networks("mnist")[1]
    x = normal(2, 784)
    state = torch.get_rng_state()
    plain = posterior(x)[0].detach()
    assert torch.equal(posterior.eval()(x)[0], posterior.train()(x)[0])
    a, b, c = (posterior(x, dropout=generator(s))[0].detach() for s in (2, 2, 3))
    assert torch.equal(posterior.eval()(x, dropout=generator(2))[0], a)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert not torch.allclose(a, plain)
    assert torch.equal(torch.get_rng_state(), state)
    stream = generator(2)
    of_cifar, x = thin_networks("cifar10")[1], normal(2, 3072)
    assert torch.equal(of_cifar(x, dropout=stream)[0], of_cifar(x)[0])
    assert torch.equal(stream.get_state(), generator(2).get_state())


@pytest.mark.parametrize("name", ["mnist", "mnist14"])
def test_dropout_keeps_four_in_five_after_each_layer(name):
    a = ARCHITECTURES[name]
    posterior = networks(name, 2, generator(), conv_std=0.1)[1]
    steps = [*posterior.features.layers, posterior.mean]
    given, made = [], []
    for m in steps:
        m.register_forward_hook(lambda _m, i, o: given.append(i[0]) or made.append(o))
    posterior(normal(40, a.image[1] ** 2).float(), dropout=generator(2))
    for before, after in zip(made[:-1], given[1:], strict=True):
        ratio = (after.reshape(before.shape) / before).detach()
        kept = ratio != 0
        assert torch.allclose(ratio[kept], torch.tensor(1.25))
        share = float(kept.double().mean())
        assert abs(share - 0.8) < 5 * (0.16 / kept.numel()) ** 0.5
        assert not torch.equal(kept[0], kept[1])


def test_weights_follow_the_generator_alone():
    state = torch.get_rng_state()
    a, b, c = (networks("mnist", 100, generator(s), (1, 28, 28)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for one, two, other in zip(a, b, c, strict=True):
        pairs = zip(one.parameters(), two.parameters(), other.parameters(), strict=True)
        for p, q, r in pairs:
            assert torch.equal(p, q)
            assert p.ndim == 1 or not torch.equal(p, r)


@pytest.mark.parametrize("std", [0.005, 0.05])
def test_weights_start_as_in_the_code(std):
    more = {} if std == 0.005 else {"conv_std": std}
    made = networks("mnist", 100, generator(), (2, 28, 28), **more)
    kinds = set()
    for network in made:
        for name, p in network.named_parameters():
            p = p.detach()
            if p.ndim == 1:
                assert not p.any()
            elif p.ndim == 4 and "describe" not in name:
                assert abs(float(p.std()) / std - 1) < 6 / (2 * p.numel()) ** 0.5
                assert float(p.abs().max()) > 2.4 * std  # normal
                kinds.add("normal")
            else:  # Glorot: fans count the kernel
                area = p[0, 0].numel()
                limit = (6 / (area * (p.shape[0] + p.shape[1]))) ** 0.5
                assert 0.97 * limit < float(p.abs().max()) <= limit
                kinds.add((p.ndim, "uniform"))
    assert kinds == {"normal", (2, "uniform"), (4, "uniform")}


def test_labels_are_constant_channels_and_join_z():
    x, label, z = normal(3, 784), normal(3, 4), normal(3, DIM)
    of_label, of_image = (thin_networks("mnist", c) for c in ((4,), (4, 28, 28)))
    for a, b in zip(of_label[:2], of_image[:2], strict=True):
        b.load_state_dict(a.state_dict())
    spread = label[:, :, None].expand(3, 4, 784).flatten(1)
    assert torch.allclose(of_label[0](x, label), of_image[0](x, spread), rtol=1e-12)
    for a, b in zip(of_label[1](x, label), of_image[1](x, spread), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    decoder, a = of_label[2], narrow("mnist")
    plain = ConvDecoder(a, DIM + 4, generator(), None, 0.3).double()
    plain.load_state_dict(decoder.state_dict())
    assert torch.allclose(decoder(z, label), plain(torch.cat((z, label), 1)), rtol=1e-12)
    hot = torch.eye(4, dtype=torch.int64)[:3]
    assert torch.equal(decoder(z, hot), decoder(z, hot.double()))
    assert torch.equal(of_label[0](x, hot), of_label[0](x, hot.double()))


def test_condition_images_are_channels_and_features_beside_z():
    image, x, z = normal(3, 2, 28, 28, seed=2), normal(3, 1, 28, 28), normal(3, DIM)
    energy, _, decoder = thin_networks("mnist", (2, 28, 28))
    a, c = narrow("mnist"), image.flatten(1)
    h = by_hand(energy.features, a.energy, np.concatenate((x, image), 1))
    w, b = weights(energy.last)
    known = (np.einsum("ncij,ocij->no", h, w) + b).sum(1)
    assert np.allclose(energy(x.flatten(1), c).detach(), known, rtol=1e-10)
    h = by_hand(decoder.describe[0], ((2, 4, 2),) * 2, image.numpy())
    assert h.shape == (3, 2, 7, 7)
    w, b = weights(decoder.describe[-1])
    features = torch.as_tensor(h.reshape(3, -1) @ w.T + b)
    plain = ConvDecoder(a, 2 * DIM, generator(), None, 0.3).double()
    own = {k: v for k, v in decoder.state_dict().items() if not k.startswith("describe")}
    plain.load_state_dict(own)
    assert torch.allclose(decoder(z, c), plain(torch.cat((z, features), 1)), rtol=1e-10)
    mask = c > 0
    assert torch.equal(decoder(z, mask), decoder(z, mask.double()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["none", "label", "image"])
def test_gradients_reach_everything(name, kind):
    square = ARCHITECTURES[name].image[1:]
    condition = {"none": None, "label": (3,), "image": (1, *square)}[kind]
    energy, posterior, decoder = thin_networks(name, condition)
    x = normal(4, int(np.prod(ARCHITECTURES[name].image)), seed=2).requires_grad_()
    z = normal(4, DIM, seed=3).requires_grad_()
    c = None if condition is None else normal(4, int(np.prod(condition)), seed=4).requires_grad_()
    for network, given, run in (
        (energy, x, lambda: energy(x, c)),
        (posterior, x, lambda: torch.cat(posterior(x, c, generator()), 1)),
        (decoder, z, lambda: decoder(z, c)),
    ):
        value = run()
        total = (value * normal(*value.shape, seed=5)).sum()
        inputs = [given] if c is None else [given, c]
        for g in torch.autograd.grad(total, inputs, retain_graph=True):
            assert bool((g.abs().amax(1) > 1e-12).all())
        # not to a bias before normalization, which takes it away
        matrices = [p for p in network.parameters() if p.ndim > 1]
        shifts = [m.bias for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for g in torch.autograd.grad(total, matrices + shifts):
            assert bool(g.abs().max() > 1e-12)


def test_f_of_an_image_depends_on_its_own_condition_alone():
    energy, posterior, decoder = thin_networks("mnist14", (3,))
    x, c, z = normal(4, 196), normal(4, 3, seed=2), normal(4, DIM)
    other = c.clone()
    other[1] += 1
    for f in (lambda c: energy(x, c), lambda c: posterior(x, c)[0].sum(1)):
        assert (~torch.isclose(f(c), f(other))).tolist() == [False, True, False, False]
    assert not torch.allclose(decoder(z, c), decoder(z, other))


@pytest.mark.parametrize(
    ("name", "condition"),
    [("mnist", None), ("mnist", (1, 28, 28)), ("mnist14", (3,)), ("cifar10", None)],
)
def test_channels_last_changes_nothing(name, condition):
    x = normal(3, int(np.prod(ARCHITECTURES[name].image))).requires_grad_()
    z = normal(3, DIM).requires_grad_()
    c = None if condition is None else normal(3, int(np.prod(condition)))

    def everything(made):
        energy, posterior, decoder = made
        values = (energy(x, c), *posterior(x, c, generator()), decoder(z, c))
        return *values, *torch.autograd.grad(sum(v.square().sum() for v in values), (x, z))

    plain = everything(thin_networks(name, condition))
    made = [n.to(memory_format=torch.channels_last) for n in thin_networks(name, condition)]
    assert made[0].last.weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(plain, everything(made), strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        (("mnits", 3), {}, "architecture='mnits': one of cifar10, mnist, mnist14"),
        (("mnist", 0), {}, "dim=0"),
        (("mnist", 2.0), {}, "dim=2.0"),
        (("mnist", True), {}, "dim=True"),
        (("mnist", 3), {"conv_std": 0.0}, "conv_std=0.0"),
        (("mnist", 3), {"conv_std": float("nan")}, "conv_std=nan"),
        (("mnist", 3), {"condition": 10}, r"condition=10: None, \(k,\) or \(channels, 28, 28\)"),
        (("mnist", 3), {"condition": ()}, r"condition=\(\)"),
        (("mnist", 3), {"condition": (0,)}, r"condition=\(0,\)"),
        (("mnist", 3), {"condition": (1.0,)}, r"condition=\(1.0,\)"),
        (("mnist", 3), {"condition": (1, 28)}, r"condition=\(1, 28\)"),
        (("mnist", 3), {"condition": (1, 14, 28)}, r"condition=\(1, 14, 28\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, more, said):
    with pytest.raises(UsageError, match=said):
        networks(*arguments, generator(), **more)


@pytest.mark.parametrize(
    ("condition", "c", "said"),
    [
        (None, (2, 3), r"c of shape \(2, 3\): None is needed"),
        ((3,), None, r"c of shape None: \(2, 3\) is needed"),
        ((3,), (1, 3), r"c of shape \(1, 3\): \(2, 3\)"),
        ((3,), (2, 4), r"c of shape \(2, 4\): \(2, 3\)"),
        ((3,), (3,), r"c of shape \(3,\): \(2, 3\)"),
        ((2, 14, 14), None, r"c of shape None: \(2, 392\)"),
        ((2, 14, 14), (2, 2, 14, 14), r"c of shape \(2, 2, 14, 14\): \(2, 392\)"),
        ((2, 14, 14), (2, 196), r"c of shape \(2, 196\): \(2, 392\)"),
        ((2, 14, 14), (1, 392), r"c of shape \(1, 392\): \(2, 392\)"),
    ],
)
def test_a_condition_of_another_shape_is_refused(condition, c, said):
    energy, posterior, decoder = thin_networks("mnist14", condition)
    x, z = normal(2, 196), normal(2, DIM)
    c = None if c is None else normal(*c)
    for run in (lambda: energy(x, c), lambda: posterior(x, c), lambda: decoder(z, c)):
        with pytest.raises(UsageError, match=said):
            run()


def test_images_and_latents_of_another_shape_are_refused():
    energy, posterior, decoder = thin_networks("mnist14")
    for shape in ((2, 392), (196,), (2, 1, 14, 14), ()):
        n = 2 if len(shape) > 1 else 1
        for run in (energy, posterior):
            with pytest.raises(UsageError, match=rf"x of shape .*: \({n}, 196\) is needed"):
                run(normal(*shape))
    for shape in ((2, DIM + 1), (DIM,), (2, 3, DIM)):
        with pytest.raises(UsageError, match=rf"z of shape .*: \([12], {DIM}\) is needed"):
            decoder(normal(*shape))
