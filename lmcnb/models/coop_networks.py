"""The networks of the released code of variational MCMC teaching (2012.14936), for small images.

Three networks: the negative energy f(x) of the density exp(f(x)) p0(x), without the Gaussian p0;
the posterior q(z | x) = N(mean, diag std^2); the decoder's mean g(z) = tanh(.). Images are
flattened channel first, values in [-1, 1].

Guaranteed: layers, trainable parameters and alignment of the TensorFlow code. Its "SAME" padding
gives the odd pixel to the end, and its transposed convolution is the adjoint of that; torch's usual
`padding=1, output_padding=1` has the same sizes, shifted by one pixel. A decoder normalizes by the
batch it is given, always: an image depends on the others. A wrong shape is a UsageError.

Not guaranteed: the original's weights (its random numbers are TensorFlow's) and a Hessian of f
(LeakyReLU has none of use). Ours, not the code's: all about conditions (only the unconditional code
was released), and the 14 x 14 networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError

SLOPE = 0.2  # of LeakyReLU
CONV_STD = 0.005  # of the weights of a convolution at the start
NORMALIZED = 3  # layers of a decoder with batch normalization, the first ones
EPSILON = 1e-3  # of batch normalization

Condition = tuple[int, ...] | None  # of one image: (k,) or (channels, side, side)


@dataclass(frozen=True)
class Architecture:
    """Layers are `(outputs, kernel, stride)`, padded as TensorFlow's "SAME"."""

    image: tuple[int, int, int]
    """Channels, side and side."""
    dim: int
    """Dimension of z in the source (ours for 14 x 14)."""
    energy: tuple[tuple[int, int, int], ...]
    """Hidden layers; a convolution over the whole map follows, without padding."""
    outputs: int
    """Of the energy, summed."""
    posterior: tuple[tuple[int, int, int], ...]
    """Hidden layers; two dense layers follow."""
    keep: float
    """Chance that the posterior's dropout keeps a feature, after each layer; 1: no dropout."""
    decoder: tuple[tuple[int, int, int, int], ...]
    """Transposed convolutions, each with the side of its output last."""
    slope: float
    """Of the decoder's LeakyReLU; 0: ReLU."""


ARCHITECTURES = {
    "cifar10": Architecture(
        image=(3, 32, 32),
        dim=100,
        energy=((64, 3, 1), (128, 4, 2), (256, 4, 2), (256, 4, 2)),
        outputs=1,
        posterior=((64, 3, 1), (128, 4, 2), (256, 4, 2), (512, 4, 2)),
        keep=1.0,
        decoder=((256, 4, 1, 4), (128, 4, 2, 8), (64, 4, 2, 16), (64, 3, 2, 32), (3, 3, 1, 32)),
        slope=SLOPE,
    ),
    "mnist": Architecture(
        image=(1, 28, 28),
        dim=100,
        energy=((64, 5, 2), (128, 3, 2), (256, 3, 1)),
        outputs=100,
        posterior=((64, 4, 2), (64, 4, 2), (64, 4, 1)),
        keep=0.8,
        decoder=((256, 4, 1, 4), (128, 3, 2, 7), (64, 3, 2, 14), (1, 3, 2, 28)),
        slope=0.0,
    ),
    "mnist14": Architecture(
        image=(1, 14, 14),
        dim=32,
        energy=((16, 5, 2), (32, 3, 1), (64, 3, 1)),
        outputs=25,
        posterior=((16, 4, 2), (16, 4, 1), (16, 4, 1)),
        keep=0.8,
        decoder=((64, 4, 1, 4), (32, 3, 2, 7), (16, 3, 1, 7), (1, 3, 2, 14)),
        slope=0.0,
    ),
}
"""By name. "mnist14" is "mnist" with a quarter of the channels (and of the energy's outputs) and
stride 1 in the second strided layer of each network, so that the last map is 7 x 7 there too."""


def networks(
    architecture: str,
    dim: int,
    stream: torch.Generator,
    condition: Condition = None,
    *,
    conv_std: float = CONV_STD,
) -> tuple[ConvEnergy, ConvPosterior, ConvDecoder]:
    """Negative energy, posterior and decoder at the start, drawn from `stream` in this order.

    Args:
        architecture: a name in `ARCHITECTURES`.
        dim: of z.
        stream: source of the weights, on the CPU.
        condition: shape of the condition c of one image: `(k,)` for vectors such as labels (one
            hot), `(channels, side, side)` for images (given flattened); None for none.
        conv_std: standard deviation of a convolution's weights; biases are 0, dense layers Glorot
            uniform.

    Raises:
        UsageError: an argument outside of that.
    """
    if architecture not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise UsageError(f"architecture={architecture!r}: one of {names} is needed")
    if type(dim) is not int or dim < 1:
        raise UsageError(f"dim={dim!r}: an integer of at least 1 is needed")
    if not 0 < conv_std < math.inf:
        raise UsageError(f"conv_std={conv_std!r}: a positive number is needed")
    a = ARCHITECTURES[architecture]
    square = a.image[1:]
    if condition is not None and not (
        isinstance(condition, tuple)
        and condition
        and all(type(n) is int and n > 0 for n in condition)
        and condition[1:] in ((), square)
    ):
        need = "None, (k,) or (channels, {}, {}) is needed".format(*square)
        raise UsageError(f"condition={condition!r}: {need}")
    return (
        ConvEnergy(a, stream, condition, conv_std),
        ConvPosterior(a, dim, stream, condition, conv_std),
        ConvDecoder(a, dim, stream, condition, conv_std),
    )


def same(large: int, small: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros at both ends of a side of `large` for a convolution to `small`; how many more after.

    As TensorFlow does: `small` windows, `stride` apart, just covered, the odd zero at the end.
    """
    total = max((small - 1) * stride + kernel - large, 0)
    return total // 2, total % 2


def drawn(kind: Any, stream: torch.Generator, std: float | None, *sizes: int) -> nn.Module:
    """`kind(*sizes)`: weights N(0, std^2) or (None) Glorot uniform, from `stream`; biases 0."""
    made = nn.utils.skip_init(kind, *sizes)
    if std is None:
        nn.init.xavier_uniform_(made.weight, generator=stream)
    else:
        nn.init.normal_(made.weight, std=std, generator=stream)
    nn.init.zeros_(made.bias)
    return made


def batch_normalization(channels: int) -> nn.Module:
    """By the batch, also in evaluation; a learned shift and no scale (the weight is a buffer)."""
    made = nn.BatchNorm2d(channels, eps=EPSILON, track_running_stats=False)
    del made.weight
    made.register_buffer("weight", torch.ones(channels), persistent=False)
    return made


def checked(name: str, value: Tensor | None, shape: tuple[int, ...] | None) -> None:
    """Refuse a tensor of another shape; None stands for no tensor."""
    found = None if value is None else tuple(value.shape)
    if found != shape:
        raise UsageError(f"{name} of shape {found}: {shape} is needed (None: no tensor)")


class Convolutions(nn.Module):
    """Convolutions with LeakyReLU, of an image and its condition as further channels."""

    def __init__(
        self,
        image: tuple[int, int, int],
        layers: tuple[tuple[int, int, int], ...],
        stream: torch.Generator,
        condition: Condition,
        std: float | None,
    ) -> None:
        super().__init__()
        self.image, self.condition = image, condition
        channels, side, _ = image
        channels += condition[0] if condition else 0
        self.layers = nn.ModuleList()
        for outputs, kernel, stride in layers:
            small = -(-side // stride)
            both, more = same(side, small, kernel, stride)
            made = drawn(nn.Conv2d, stream, std, channels, outputs, kernel, stride, both)
            layer = nn.Sequential(nn.ZeroPad2d((0, more, 0, more))) if more else nn.Sequential()
            layer.extend([made, nn.LeakyReLU(SLOPE)])
            self.layers.append(layer)
            channels, side = outputs, small
        self.channels, self.side = channels, side
        self.width = channels * side * side

    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        dropout: torch.Generator | None = None,
        keep: float = 1.0,
    ) -> Tensor:
        """Features `(n, channels, side, side)` of images `(n, pixels)`."""
        n, side = len(x) if x.ndim > 1 else 1, self.image[1]
        checked("x", x, (n, math.prod(self.image)))
        checked("c", c, (n, math.prod(self.condition)) if self.condition else None)
        h = x.unflatten(1, self.image)
        if c is not None and self.condition is not None:
            spread = c.unflatten(1, (*self.condition, 1, 1)[:3]).expand(-1, -1, side, side)
            h = torch.cat((h, spread.to(h.dtype)), 1)
        for layer in self.layers:
            h = layer(h)
            if dropout is not None and keep < 1:
                h = h * (torch.rand(h.shape, generator=dropout, device=h.device) < keep) / keep
        return h


class ConvEnergy(nn.Module):
    """f, the negative energy without the reference; `networks` makes it."""

    def __init__(
        self, a: Architecture, stream: torch.Generator, condition: Condition, std: float
    ) -> None:
        super().__init__()
        self.features = made = Convolutions(a.image, a.energy, stream, condition, std)
        self.last = drawn(nn.Conv2d, stream, std, made.channels, a.outputs, made.side)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """f(x), `(n,)`: the sum of the outputs.

        Args:
            x: images, `(n, pixels)`.
            c: conditions, `(n, k)` or flattened images: further channels, constant for vectors.
        """
        return self.last(self.features(x, c)).sum((1, 2, 3))


class ConvPosterior(nn.Module):
    """q(z | x), a diagonal Gaussian; `networks` makes it."""

    def __init__(
        self, a: Architecture, dim: int, stream: torch.Generator, condition: Condition, std: float
    ) -> None:
        super().__init__()
        self.keep = a.keep
        self.features = made = Convolutions(a.image, a.posterior, stream, condition, std)
        self.mean = drawn(nn.Linear, stream, None, made.width, dim)
        self.log_variance = drawn(nn.Linear, stream, None, made.width, dim)

    def forward(
        self, x: Tensor, c: Tensor | None = None, dropout: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation exp(l), l = log variance / 2, `(n, dim)` each.

        Args:
            x: images, `(n, pixels)`.
            c: conditions, as for `ConvEnergy`.
            dropout: source of dropout, on the device of `x`. The code always drops on MNIST, in
                training and after it; without a source nothing is dropped. Unused on CIFAR-10.
        """
        h = self.features(x, c, dropout, self.keep).flatten(1)
        return self.mean(h), torch.exp(0.5 * self.log_variance(h))


class ConvDecoder(nn.Module):
    """g(z), the mean of p(x | z); `networks` makes it."""

    def __init__(
        self, a: Architecture, dim: int, stream: torch.Generator, condition: Condition, std: float
    ) -> None:
        super().__init__()
        self.latent, self.condition = dim, condition
        self.describe: nn.Module = nn.Identity()  # from c to what joins z
        channels, side = dim + (condition[0] if condition else 0), 1
        if condition is not None and len(condition) == 3:
            layers = ((a.posterior[0][0], 4, 2),) * 2
            made = Convolutions((condition[0], *a.image[1:]), layers, stream, None, None)
            last = drawn(nn.Linear, stream, None, made.width, dim)
            self.describe = nn.Sequential(made, nn.Flatten(), last)
            channels = 2 * dim
        self.layers = nn.ModuleList()
        for i, (outputs, kernel, stride, large) in enumerate(a.decoder):
            both, more = same(large, side, kernel, stride)
            up = drawn(nn.ConvTranspose2d, stream, std, channels, outputs, kernel, stride, both)
            layer = nn.Sequential(up)
            if more:  # the last row and column go
                layer.append(nn.ZeroPad2d((0, -more, 0, -more)))
            if i < NORMALIZED:
                layer.append(batch_normalization(outputs))
            layer.append(nn.LeakyReLU(a.slope) if i < len(a.decoder) - 1 else nn.Tanh())
            self.layers.append(layer)
            channels, side = outputs, large

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Images `(n, pixels)`, within (-1, 1); each depends on the whole batch.

        Args:
            z: latents, `(n, dim)`.
            c: conditions, `(n, k)` or flattened images. Vectors join z; images do after two
                convolutions (kernel 4, stride 2) and a dense layer to dim features, all Glorot
                uniform: weights of 0.005 would let next to nothing through.
        """
        n = len(z) if z.ndim > 1 else 1
        checked("z", z, (n, self.latent))
        checked("c", c, (n, math.prod(self.condition)) if self.condition else None)
        h = z if c is None else torch.cat((z, self.describe(c.to(z.dtype))), 1)
        h = h[:, :, None, None]
        for layer in self.layers:
            h = layer(h)
        return h.flatten(1)
