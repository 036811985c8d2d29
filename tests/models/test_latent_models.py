"""Gaussian posteriors, planar flows, the linear-Gaussian model and random networks."""

from __future__ import annotations

import math

import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments import langevin_autoencoder_exact_models as exact
from lmcnb.models import planar_flow
from lmcnb.models.gaussian import kl_to_standard, log_normal, log_standard, split
from lmcnb.models.linear_gaussian import LinearGaussian, log_gaussian
from lmcnb.models.random_network import RandomDecoder, random_features


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gaussian_pieces_against_torch_distributions() -> None:
    mean, raw = torch.randn(2, 4, 3, generator=generator(), dtype=torch.float64)
    m, std = split(torch.cat([mean, raw], -1))
    torch.testing.assert_close(m, mean)
    torch.testing.assert_close(std, torch.log1p(raw.exp()) ** -0.5)
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    known = torch.distributions.kl_divergence(q, p.expand(q.batch_shape)).sum(-1)
    torch.testing.assert_close(kl_to_standard(mean, std), known)
    z = mean + 0.3
    torch.testing.assert_close(log_normal(z, mean, std), q.log_prob(z).sum(-1))
    torch.testing.assert_close(log_standard(z), p.log_prob(z).sum(-1))


def test_the_bound_is_exact_on_a_linear_gaussian_model() -> None:
    closed, tight = exact.elbo_errors(generator())
    assert closed < 1e-12
    assert tight < 1e-12


def test_the_linear_gaussian_model_obeys_bayes() -> None:
    """log p(x, z) = log p(x) + log p(z | x) at any z."""
    W = torch.randn(4, 2, generator=generator(1), dtype=torch.float64)
    root = torch.randn(4, 4, generator=generator(2), dtype=torch.float64)
    model = LinearGaussian(W, root @ root.mT + torch.eye(4, dtype=torch.float64))
    x = model.sample(3, generator(3))
    z = torch.randn(3, 2, generator=generator(4), dtype=torch.float64)
    mean, covariance = model.posterior(x)
    posterior = log_gaussian(z - mean, covariance)
    torch.testing.assert_close(model.log_joint(x, z), model.log_marginal(x) + posterior)


def test_the_sheet_s_conjugate_posterior() -> None:
    noise = torch.tensor([[0.7, 0.6], [0.6, 0.8]], dtype=torch.float64)
    _, covariance = LinearGaussian(torch.eye(2, dtype=torch.float64), noise).posterior(noise)
    known = torch.tensor([[0.3333, 0.2222], [0.2222, 0.3704]], dtype=torch.float64)
    torch.testing.assert_close(covariance, known, rtol=0, atol=5e-5)


def test_samples_have_the_model_s_covariance() -> None:
    W = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.2], [0.2, 0.9]], dtype=torch.float64)
    x = LinearGaussian(W, noise).sample(200_000, generator())
    torch.testing.assert_close(x.mT.cov(), W @ W.mT + noise, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_a_flow_s_log_determinant_is_autograd_s(seed: int) -> None:
    assert exact.flow_error(generator(seed)) < 1e-12


def test_a_flow_s_start() -> None:
    p = planar_flow.initial(5, 3, [generator(0), generator(1)])
    torch.testing.assert_close(p["w"].norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(p["u"].norm(dim=-1), torch.ones(2, 3))
    assert not p["c"].any()


def test_the_features_have_the_trace_they_are_given() -> None:
    points = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    for d in (1, 2, 128):
        g = random_features(points, d, 30.0, generator(1))
        assert g.shape == (4, d)
        assert math.isclose(float(g.square().sum()), 120.0, rel_tol=1e-9)
        assert int(torch.linalg.matrix_rank(g)) == min(4, d)


def test_impossible_features_are_refused() -> None:
    points = torch.zeros(3, 2)
    with pytest.raises(UsageError, match="features=0"):
        random_features(points, 0, 1.0, generator())
    with pytest.raises(UsageError, match="all have the same value in some dimension"):
        random_features(torch.ones(3, 2), 2, 1.0, generator())
    with pytest.raises(UsageError, match="trace=-1"):
        random_features(points, 2, -1.0, generator())


def test_the_random_decoder_s_joint_density() -> None:
    network = RandomDecoder.draw(generator(3))
    x, z = network.sample(5, generator(4)), torch.randn(5, 2, dtype=torch.float64)
    likelihood = torch.distributions.Normal(network.mean(z), 0.25).log_prob(x).sum(-1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(network.log_joint(x, z), likelihood + prior)
    spread = torch.stack([w.std() for w in network.weights])
    torch.testing.assert_close(
        spread[1:3], torch.full((2,), 0.2, dtype=torch.float64), rtol=0.05, atol=0
    )
    biases = torch.cat(network.biases)
    assert abs(float(biases.std()) - 0.1) < 0.015
