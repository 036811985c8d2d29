"""Annealing many images at once, on a linear-Gaussian model whose evidence is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.ais_images import Annealed, ais_images
from lmcnb.evaluation.importance_weighted import importance_weighted_bound
from lmcnb.models.gaussian import log_normal
from lmcnb.models.linear_gaussian import LinearGaussian

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def instance() -> tuple[LinearGaussian, Tensor, Tensor, Tensor]:
    """Model, five images `(5, 8)`, and for every image a proposal off its posterior."""
    W = torch.linalg.qr(torch.randn(8, 4, generator=generator(1), dtype=F64)).Q
    W = W + 0.1 * torch.randn(8, 4, generator=generator(7), dtype=F64)
    model = LinearGaussian(W, 0.3 * torch.eye(8, dtype=F64))
    x = model.sample(5, generator(2))
    mean, covariance = model.posterior(x)
    off = 0.2 * torch.randn(mean.shape, generator=generator(3), dtype=F64)
    std = torch.linspace(1.0, 1.3, 5, dtype=F64).unsqueeze(-1) * covariance.diagonal().sqrt()
    return model, x, mean + off, std


def log_joint(model: LinearGaussian, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The model's own, without a factorization at every call."""
    constant = 0.5 * x.shape[-1] * math.log(2 * math.pi * 0.3)
    constant += 0.5 * model.weight.shape[-1] * math.log(2 * math.pi)

    def value(z: Tensor) -> Tensor:
        square = (x - z @ model.weight.mT).square().sum(-1) / 0.3
        return -0.5 * (square + z.square().sum(-1)) - constant

    return value


def annealed(temperatures: int, **more: int) -> Annealed:
    model, x, mean, std = instance()
    return ais_images(
        log_joint(model, x), mean, std, temperatures=temperatures, generator=generator(4), **more
    )


def test_the_evidence_is_found() -> None:
    """16 chains, 1,000 temperatures: within 0.05 nat of log p(x); accepted as often as is meant."""
    model, x, mean, std = instance()
    torch.testing.assert_close(log_joint(model, x)(mean), model.log_joint(x, mean))
    seen: list[int] = []
    found = ais_images(log_joint(model, x), mean, std, generator=generator(4), report=seen.append)
    error = found.bound.value - model.log_marginal(x)
    assert found.bound.value.shape == found.bound.se.shape == (5,)
    assert float(error.abs().max()) < 0.05
    assert float((error / found.bound.se).abs().max()) < 4
    assert abs(found.acceptance - 0.65) < 0.05
    assert seen == [1] * 1000


def test_the_importance_weighted_bound_is_below_the_evidence() -> None:
    model, x, mean, std = instance()
    stream, value = generator(10), log_joint(model, x)

    def draw() -> Tensor:
        z = mean + std * torch.randn(mean.shape, generator=stream, dtype=F64)
        return value(z) - log_normal(z, mean, std)

    bound = importance_weighted_bound(draw, 5000)
    error = bound.value - model.log_marginal(x)
    assert bool((error <= 4 * bound.se).all())
    assert float(error.min()) > -0.1


def test_images_do_not_mix() -> None:
    """Another image beside it, far away: the estimates of the others stay true."""
    model, x, mean, std = instance()
    far = torch.cat([x, x[:1] + 3])
    posterior = model.posterior(far)[0][-1:]
    found = ais_images(
        log_joint(model, far),
        torch.cat([mean, posterior]),
        torch.cat([std, std[:1]]),
        temperatures=300,
        generator=generator(4),
    )
    error = found.bound.value - model.log_marginal(far)
    assert float(error.abs().max()) < 0.1
    assert float(model.log_marginal(far)[-1]) < float(model.log_marginal(x).min()) - 2


def test_few_temperatures_fall_short_in_the_mean_of_the_logarithm() -> None:
    """The estimate is at most log p(x) in expectation and rises with the temperatures."""
    model, x, mean, std = instance()
    n = 1000

    def gaps(temperatures: int) -> Tensor:
        found = ais_images(
            log_joint(model, x.repeat(n, 1)),
            mean.repeat(n, 1),
            2 * std.repeat(n, 1),
            chains=2,
            temperatures=temperatures,
            generator=generator(5),
        )
        return found.bound.value - model.log_marginal(x).repeat(n)

    few, more = gaps(3), gaps(40)
    ratio = few.exp()  # the mean weight itself is unbiased, however few there are
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(ratio))
    assert float(few.mean()) < -4 * float(few.std()) / math.sqrt(len(few))
    assert float(few.mean()) < float(more.mean()) - 0.1
    assert float(more.mean()) < 4 * float(more.std()) / math.sqrt(len(more))


@pytest.mark.parametrize("temperatures", [2, 3, 4, 5])
def test_the_shortest_ladders_work(temperatures: int) -> None:
    found = annealed(temperatures)
    assert bool(torch.isfinite(found.bound.value).all())
    assert 0.9 < found.acceptance <= 1  # the first step size is small here


def test_the_standard_error_is_that_of_the_chains() -> None:
    model, x, mean, std = instance()
    n = 400
    found = ais_images(
        log_joint(model, x[:1].expand(n, 8)),
        mean[:1].expand(n, 4),
        std[:1].expand(n, 4),
        chains=30,
        temperatures=20,
        generator=generator(6),
    )
    spread = float(found.bound.value.std())
    assert abs(float(found.bound.se.mean()) / spread - 1) < 0.15


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"chains": 1}, "chains=1"), ({"temperatures": 1}, "temperatures=1")],
)
def test_impossible_settings_are_refused(changed: dict[str, int], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        annealed(**({"temperatures": 5} | changed))
    with pytest.raises(UsageError, match=r"temperatures=2\.5"):
        annealed(2.5)  # type: ignore[arg-type]
    mean = torch.zeros(2, 3)
    for bad in (0.0, -1.0, math.nan):
        std = torch.tensor([[1.0, 1.0, 0.0 if math.isnan(bad) else bad], [1.0, 1.0, 1.0]])
        with pytest.raises(UsageError, match="^std: the smallest is"):
            ais_images(lambda z: -z.square().sum(-1), mean, std, generator=generator(0))
        with pytest.raises(UsageError, match="^step_size="):
            ais_images(
                lambda z: -z.square().sum(-1), mean, mean + 1, step_size=bad, generator=generator(0)
            )
