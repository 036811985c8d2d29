"""What is chosen before the chains of PPCA run, and then frozen (2010.01845, PPCA and section 4).

The proposal is a factorised Gaussian whose mean and log std are affine in the image, fitted by the
IWAE bound and shared by all estimators; beta of DISIR comes from pilot runs. Guaranteed: neither
changes while an estimator runs, so unbiasedness is untouched. Not guaranteed: that a fitted
proposal is wider than the posterior in every direction (assumption A3); `PPCA.bounded` says where.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.methods.unbiased_vae import LEAST, MOST
from lmcnb.methods.unbiased_vae_kernels import Coupling, RowLogWeight, kernels
from lmcnb.methods.unbiased_vae_ppca import PPCA, Proposal


class LinearEncoder(nn.Module):
    """q(z | x) = N(A (x - c) + a, diag exp(B (x - c) + b)^2), c the mean image.

    Starts at A = a = B = 0 and a given std. Without c and that start, Adam moves all of B first,
    because b alone is slow, and the std depends on how much ink an image has long after.
    """

    centre: Tensor

    def __init__(self, centre: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.mean, self.log_std = (
            nn.utils.skip_init(nn.Linear, len(centre), len(std)) for _ in range(2)
        )
        with torch.no_grad():
            for p in self.parameters():
                p.zero_()
            self.log_std.bias.copy_(std.log())

    def forward(self, x: Tensor) -> Proposal:
        """The proposals of images `(n, pixels)`."""
        x = x - self.centre
        return Proposal(self.mean(x), self.log_std(x).exp())


def fit_encoder(
    model: PPCA,
    images: Tensor,
    samples: int,
    steps: int,
    generator: torch.Generator,
    *,
    learning_rate: float = 3e-3,
    batch: int = 100,
) -> LinearEncoder:
    """Maximise the K-sample IWAE bound by Adam, with the doubly reparameterised gradient.

        grad_phi = E sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi)

    On a Gaussian model d log w / d z = W^T r / sigma^2 - Lambda z + xi / s is explicit. It starts
    at mean 0 and the std of the best factorised Gaussian; the rate falls linearly to 0. Returns
    the encoder in float64, frozen, on the device of the images.

    Args:
        model: theta, fixed.
        images: `(n, pixels)`, on the device of `model`.
        samples: K.
        steps: updates.
        generator: source of all randomness, on the CPU.
        learning_rate: of the first update.
        batch: images of an update, drawn with replacement.
    """
    for name, value in (("samples", samples), ("steps", steps), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise UsageError(f"{name}={value!r}: an integer of at least 1 is needed")
    x, device, dim = images.float(), images.device, model.weight.shape[1]
    b, precision = model.pull(images).float(), model.precision.float()
    encoder = LinearEncoder(x.mean(0), precision.diagonal().rsqrt()).to(device)
    optimizer = torch.optim.Adam(encoder.parameters(), learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    for _ in range(steps):
        own = torch.randint(len(x), (batch,), generator=generator).to(device)
        xi = torch.randn(batch, samples, dim, generator=generator).to(device)
        mean, std = encoder(x[own])
        force = doubly_reparameterized(xi, mean.detach(), std.detach(), b[own], precision)
        surrogate = mean * force.sum(1) + std * (force * xi).sum(1)
        optimizer.zero_grad(set_to_none=True)
        (-surrogate.sum() / batch).backward()
        optimizer.step()
        rate.step()
    return encoder.double().requires_grad_(False)


def doubly_reparameterized(
    xi: Tensor, mean: Tensor, std: Tensor, pull: Tensor, precision: Tensor
) -> Tensor:
    """w~_k^2 d log w_k / d z_k, `(n, K, dim)`; arguments are `(n, K, dim)`, then `(n, dim)`."""
    s = std.unsqueeze(1)
    z = mean.unsqueeze(1) + s * xi
    pulled = z @ precision
    log_w = (z * (pull.unsqueeze(1) - 0.5 * pulled) + 0.5 * xi.square()).sum(-1)
    w = torch.softmax(log_w.double(), -1).to(xi.dtype).square().unsqueeze(-1)
    return w * (pull.unsqueeze(1) - pulled + xi / s)


class Pilot(NamedTuple):
    """A correlation chosen before the runs, and the mean ESS that it has."""

    beta: float
    effective: float


@torch.no_grad()
def pilot_beta(
    log_weight: RowLogWeight,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    *,
    target: float = 0.3,
    iterations: int = 20,
    halvings: int = 14,
) -> Pilot:
    """The beta at which the second step's ESS is `target` K, by bisection of log(1 - beta).

    ESS is averaged over rows and over the second half of `iterations` composite iterations; every
    beta is tried with the same random numbers. Where independent draws have that ESS already, beta
    is the least. To be frozen: a beta that follows its own chains' weights makes them biased.

    Args:
        log_weight: of the rows.
        shape: `(rows, K, dim)`.
        generator: source of all randomness; is left where the last trial ended.
        dtype: of the points.
        target: ESS / K.
        iterations: of every trial.
        halvings: trials but the first.
    """
    if not 0 < target < 1:
        raise UsageError(f"target={target!r}: a share of K in (0, 1) is needed")
    rows = torch.arange(shape[0], device=generator.device)
    coupling, origin = Coupling(samples=shape[1]), generator.get_state()

    def effective(beta: float) -> float:
        generator.set_state(origin)
        kernel, _ = kernels(log_weight, coupling, beta, generator)
        state = disir.start(shape, lambda p: log_weight(p, rows), generator, dtype)
        found = []
        for _ in range(iterations):
            state = kernel(state, rows)
            found.append(float(disir.effective_samples(state).mean()))
        return sum(found[iterations // 2 :]) / len(found[iterations // 2 :])

    if (least := effective(LEAST)) >= target * shape[1]:
        return Pilot(LEAST, least)
    low, high = math.log(1 - MOST), 0.0  # of log(1 - beta); ESS falls from left to right
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        if effective(1 - math.exp(middle)) > target * shape[1]:
            low = middle
        else:
            high = middle
    beta = 1 - math.exp(0.5 * (low + high))
    return Pilot(beta, effective(beta))
