"""Reference normalizers against exact answers, and against the published values of log Z."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.evaluation.ais import _Bridge, ais
from lmcnb.evaluation.laplace import hessian, laplace
from lmcnb.evaluation.particle_filter import (
    lorenz_log_normalizer,
    move,
    systematic_resample,
)
from lmcnb.evaluation.quadrature import (
    brownian_log_normalizer,
    brownian_marginal,
    plane_log_normalizer,
)
from lmcnb.evaluation.seeds_normalizer import seeds_log_normalizer, seeds_marginal
from lmcnb.lab import data
from lmcnb.models.targets import Brownian, Lorenz, Seeds, make_target


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(name: str):
    return make_target(name, torch.float64, data=data.load(name))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Laplace -------------------------------------------------------------------------------------


def test_laplace_is_exact_for_a_gaussian() -> None:
    gaussian = make_target("gaussian", torch.float64)
    peak = laplace(gaussian, torch.zeros(5, dtype=torch.float64))
    assert float(peak.log_normalizer) == pytest.approx(0.7, abs=1e-10)
    torch.testing.assert_close(peak.mode, gaussian.mean)
    torch.testing.assert_close(peak.root @ peak.root.mT, gaussian.covariance)
    inverse = torch.linalg.inv(gaussian.covariance)
    torch.testing.assert_close(peak.sigma, inverse.diagonal().rsqrt())


def test_hessian_of_a_plain_function_is_that_of_autograd() -> None:
    def log_density(z: Tensor) -> Tensor:
        return -(z**4).sum(-1) + z[..., 0] * z[..., 1].sin()

    z = double(0.4, -0.7)
    torch.testing.assert_close(
        hessian(log_density, z), torch.autograd.functional.hessian(log_density, z)
    )


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_laplace_refuses_what_has_no_mode(slope: float) -> None:
    with pytest.raises(UserError, match="no mode"):
        laplace(lambda z: slope * z.sum(-1), torch.zeros(2, dtype=torch.float64))


def test_lorenz_laplace_and_the_bound_that_starts_there() -> None:
    lorenz = target("lorenz")
    peak = laplace(lorenz, torch.zeros(90, dtype=torch.float64))
    assert float(peak.log_density) == pytest.approx(263.81, abs=0.005)
    assert float(peak.log_normalizer) == pytest.approx(-29.207, abs=0.0005)
    curvature = torch.linalg.eigvalsh(peak.precision)
    assert float(curvature[0]) == pytest.approx(0.08, abs=0.005)
    assert float(curvature[-1]) == pytest.approx(26308, abs=0.5)
    noise = torch.randn(40_000, 90, generator=generator(), dtype=torch.float64)
    log_density = lorenz(peak.mode + peak.sigma * noise)
    entropy = 45 * (1 + math.log(2 * math.pi)) + float(peak.sigma.log().sum())
    error = float(log_density.std()) / 200
    assert error < 0.05
    assert float(log_density.mean()) + entropy == pytest.approx(-65.81, abs=4 * error)


# Quadrature ----------------------------------------------------------------------------------


def test_plane_rule_is_exact_for_a_constant_up_to_the_border() -> None:
    value = plane_log_normalizer(lambda z: 0 * z[..., 0] + 2, (0.0, -1.0), (3.0, 4.0), points=5)
    assert value == pytest.approx(2 + math.log(15), abs=1e-12)


def test_brownian_marginal_is_that_of_the_dense_gaussian() -> None:
    brownian = target("brownian")
    seen = brownian.mask > 0
    times = torch.arange(1.0, 31.0, dtype=torch.float64)[seen]
    walk = torch.minimum(times[:, None], times)
    log_scales = torch.tensor([[-2.0, -1.8], [0.3, -3.0], [-4.0, 1.0]], dtype=torch.float64)
    for pair in log_scales:
        q2, r2 = (2 * pair).exp()
        normal = torch.distributions.MultivariateNormal(
            torch.zeros_like(times), q2 * walk + r2 * torch.eye(len(times))
        )
        prior = torch.distributions.Normal(0.0, 2.0).log_prob(pair).sum()
        exact = normal.log_prob(brownian.observations[seen]) + prior
        torch.testing.assert_close(brownian_marginal(brownian, pair), exact)
    assert brownian_marginal(brownian, log_scales).shape == (3,)


def test_brownian_normalizer() -> None:
    brownian = target("brownian")
    box = brownian_log_normalizer(brownian, -8.0, 4.0)
    assert box == pytest.approx(1.18773, abs=5e-6)
    whole = brownian_log_normalizer(brownian)
    assert whole == pytest.approx(box, abs=2e-5)
    assert whole == pytest.approx(brownian_log_normalizer(brownian, -16, 10, 600), abs=1e-9)


def test_brownian_density_and_marginal_share_their_constants() -> None:
    # One step, one observation: the path is one number, integrated here by brute force.
    brownian = Brownian([0.4], dtype=torch.float64)
    log_scales = double(-0.5, 0.2)
    raw = log_scales.exp().expm1().log()  # softplus^-1 of the scales
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    z = torch.cat([raw.expand(len(x), 2), x[:, None]], 1)
    jacobian = (torch.sigmoid(raw) / log_scales.exp()).log().sum()  # d log scale / d z
    brute = torch.logsumexp(brownian(z), 0) + (x[1] - x[0]).log() - jacobian
    torch.testing.assert_close(brownian_marginal(brownian, log_scales), brute)


# Particle filter -----------------------------------------------------------------------------


def test_systematic_resampling_takes_each_particle_its_share() -> None:
    log_weights = torch.randn(1000, generator=generator(), dtype=torch.float64)
    counts = torch.bincount(systematic_resample(log_weights, generator(1)), minlength=1000)
    share = 1000 * torch.softmax(log_weights, 0)
    assert int(counts.sum()) == 1000
    assert float((counts - share).abs().max()) < 1 + 1e-9


def test_particles_move_as_the_target_says() -> None:
    # The density of moves drawn by the filter, under the target: its mean is the entropy's.
    n = 50_000
    first = torch.randn(n, 3, generator=generator(), dtype=torch.float64)
    path = torch.cat([first, move(first, generator(1))], 1)
    unseen = Lorenz([0.0, math.nan], dtype=torch.float64)
    observed = torch.distributions.Normal(first[:, 0], 1.0).log_prob(double(0.0))
    log_density = unseen(path) - observed
    exact = -3 * (1 + math.log(2 * math.pi)) - 1.5 * math.log(2e-4)
    error = float(log_density.std()) / math.sqrt(n)
    assert float(log_density.mean()) == pytest.approx(exact, abs=4 * error)


def test_particle_filter_where_the_answer_is_known() -> None:
    # Two states, x_1 and x_2 observed; x_2 = 0.8 x_1 + 0.2 y_1 + noise is linear in the start.
    bridge = Lorenz([0.7, -0.4], dtype=torch.float64)
    row = double(0.8, 0.2)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 0.0]], dtype=torch.float64)
    covariance[1, 1] = row @ row + 2e-4
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), covariance + torch.eye(2)
    )
    exact = float(normal.log_prob(double(0.7, -0.4)))
    estimate = lorenz_log_normalizer(bridge, particles=2000, filters=50, generator=generator())
    assert estimate.se < 0.01
    assert estimate.value == pytest.approx(exact, abs=4 * estimate.se)


def test_particle_filter_on_lorenz() -> None:
    estimate = lorenz_log_normalizer(
        target("lorenz"), particles=20_000, filters=20, generator=generator()
    )
    assert estimate.se < 0.04
    assert estimate.value == pytest.approx(-29.206, abs=4 * estimate.se)


@pytest.mark.slow
def test_particle_filter_on_lorenz_with_a_million_particles() -> None:
    estimate = lorenz_log_normalizer(
        target("lorenz"), particles=100_000, filters=10, generator=generator()
    )
    assert estimate.value == pytest.approx(-29.21, abs=0.03)


# Seeds ---------------------------------------------------------------------------------------


def test_seeds_marginal_integrates_the_density_itself() -> None:
    seeds = Seeds([3, 9], [7, 12], [0, 1], [1, 1], dtype=torch.float64)
    rest = double(0.3, -0.2, 0.1, 0.4, 1.2)

    def given_rest(b: Tensor) -> Tensor:
        fixed = rest.expand(len(b), 5)
        return seeds(torch.cat([fixed[:, :4], b, fixed[:, 4:]], 1))

    brute = plane_log_normalizer(given_rest, (-7, -7), (7, 7), points=400)
    assert float(seeds_marginal(seeds, rest)) == pytest.approx(brute, abs=1e-9)


def test_seeds_normalizer() -> None:
    seeds = target("seeds")
    estimate = seeds_log_normalizer(seeds, samples=20_000, generator=generator())
    assert estimate.se < 0.006
    assert estimate.value == pytest.approx(-73.408, abs=4 * (estimate.se + 0.003))
    coarse = seeds_log_normalizer(seeds, samples=2000, generator=generator(), nodes=40)
    fine = seeds_log_normalizer(seeds, samples=2000, generator=generator(), nodes=60)
    assert coarse.value == pytest.approx(fine.value, abs=1e-4)


# Annealed importance sampling ----------------------------------------------------------------


def test_the_bridge_of_ais_has_the_score_and_hessian_of_its_density() -> None:
    g = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=torch.float64)
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    bridge = _Bridge(make_target("mixture", torch.float64), mean, root)
    bridge.beta = 0.6
    u = torch.randn(1, 2, generator=g, dtype=torch.float64)
    score, product = bridge.linearize(u)
    plain = torch.autograd.functional.jacobian(lambda x: bridge(x).sum(), u)
    torch.testing.assert_close(score, plain)
    curvature = torch.autograd.functional.hessian(lambda x: bridge(x).sum(), u)[0, :, 0]
    torch.testing.assert_close(product(torch.eye(2, dtype=torch.float64)[:1])[0], curvature[0])


def test_ais_is_exact_when_it_starts_at_the_target() -> None:
    gaussian = make_target("gaussian", torch.float64)
    result = ais(
        gaussian,
        gaussian.mean,
        torch.linalg.cholesky(gaussian.covariance),
        particles=50,
        steps=7,
        step_size=0.5,
        n_leapfrog=2,
        generator=generator(),
    )
    torch.testing.assert_close(result.log_weights, torch.full((50,), 0.7, dtype=torch.float64))
    assert result.log_normalizer.value == pytest.approx(0.7, abs=1e-12)
    assert float(result.acceptance.min()) > 0.9  # also says that the score is the density's own


@pytest.mark.parametrize(
    ("name", "exact", "scales"),
    [("gaussian", 0.7, (0.5, 1.0, 1.5, 2.0, 2.5)), ("mixture", 1.3, (2.0, 2.0))],
)
def test_ais_from_a_wrong_start(name: str, exact: float, scales: tuple[float, ...]) -> None:
    toy = make_target(name, torch.float64)
    result = ais(
        toy,
        torch.zeros(toy.dim, dtype=torch.float64),
        torch.diag(double(*scales)),
        particles=2000,
        steps=100,
        step_size=0.2,
        n_leapfrog=4,
        generator=generator(),
    )
    estimate = result.log_normalizer
    assert estimate.se < 0.04
    assert estimate.value == pytest.approx(exact, abs=4 * estimate.se)
    assert 0.5 < float(result.acceptance.min()) <= 1
    # the weighted draws have the target's mean
    shares = torch.softmax(result.log_weights, 0)
    draws = result.positions
    mean = shares @ draws
    truth = toy.mean if name == "gaussian" else double(0.5, 0.3, 0.2) @ toy.means
    spread = (shares.square() @ (draws - mean).square()).sqrt()
    assert ((mean - truth).abs() < 4.5 * spread).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exact"), [("ionosphere", -111.617), ("sonar", -108.383)])
def test_ais_on_the_logistic_tables(
    require_data: Callable[[str], None], name: str, exact: float
) -> None:
    require_data(name)
    posterior = target(name)
    peak = laplace(posterior, torch.zeros(posterior.dim, dtype=torch.float64))
    result = ais(
        posterior,
        peak.mode,
        peak.root,
        particles=1000,
        steps=200,
        step_size=0.4,
        n_leapfrog=4,
        generator=generator(),
    )
    estimate = result.log_normalizer
    assert result.effective_samples > 900
    assert estimate.se < 0.01
    assert estimate.value == pytest.approx(exact, abs=3 * (estimate.se + 0.008))
