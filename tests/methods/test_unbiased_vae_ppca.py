"""PPCA: exact gradients, the short cut of the log weight, moments, and what is fitted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.methods.unbiased_vae import LEAST, expectation, weighted_points
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.methods.unbiased_vae_ppca import PPCA, Moments, Proposal, coupled, independent
from lmcnb.methods.unbiased_vae_ppca_fit import doubly_reparameterized, fit_encoder, pilot_beta
from lmcnb.models.gaussian import log_normal
from lmcnb.models.linear_gaussian import LinearGaussian

# section 6.2 of the notes: all known in closed form
REFERENCE = PPCA(
    torch.tensor([[1, 0.5], [0.3, -0.8], [-0.6, 0.4]], dtype=torch.float64),
    torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64),
    0.5,
)
X = torch.tensor([[1, -0.5, 0.8]], dtype=torch.float64)
Q = Proposal(
    torch.tensor([[-0.3, 0.9]], dtype=torch.float64), torch.full((1, 2), 0.9, dtype=torch.float64)
)
HERE: dict[str, Any] = {"rtol": 0, "atol": 1e-10}


def seeded(seed: int = 0, device: Any = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def instance(images: int = 4, seed: int = 0) -> tuple[PPCA, Tensor, Proposal]:
    """Images of a model with 5 coordinates and 12 pixels, and proposals that differ by image."""
    g = seeded(seed)
    model = PPCA.draw(12, 5, 0.3, 0.4, g)
    x = model.sample(images, g)
    mean, covariance = model.posterior(x)
    widest = torch.linalg.eigvalsh(covariance)[-1].sqrt()
    a, b = torch.rand(2, images, 5, generator=g, dtype=torch.float64)
    return model, x, Proposal(mean + widest * (a - 0.5), widest * (1.05 + b))  # A3 holds


def as_linear_gaussian(model: PPCA) -> LinearGaussian:
    return LinearGaussian(model.weight, model.noise * torch.eye(len(model.weight)).double())


# ---- exact


def test_exact_gradients_are_those_of_log_p() -> None:
    model, x, _ = instance()
    W, theta0 = model.weight.clone().requires_grad_(), model.intercept.clone().requires_grad_()
    found = model.exact_gradients(x)
    marginal = as_linear_gaussian(PPCA(W, theta0, model.noise)).log_marginal(x - theta0)
    for n, log_p in enumerate(marginal):
        by_w, by_theta0 = torch.autograd.grad(log_p, (W, theta0), retain_graph=True)
        assert_close(found.intercept[n], by_theta0, **HERE)
        assert_close(found.weight[n], by_w, **HERE)


def test_the_reference_instance() -> None:
    found = REFERENCE.exact_gradients(X)
    intercept = [[0.63126965, 0.03249396, 0.75368122]]
    weight = [[-0.39038997, 0.05714573], [-0.15302569, 0.53739030], [0.45268208, 0.18344069]]
    assert_close(found.intercept, torch.tensor(intercept).double(), rtol=0, atol=1e-7)
    assert_close(found.weight[0], torch.tensor(weight).double(), rtol=0, atol=1e-7)
    mean, _ = REFERENCE.posterior(X)
    assert_close(mean[0], torch.tensor([0.18880911, 0.59111214]).double(), rtol=0, atol=1e-7)


def test_posterior_moments_give_the_exact_gradients() -> None:
    """Fisher's identity, with several replicates of several images."""
    model, x, _ = instance()
    mean, covariance = model.posterior(x)
    columns = (3, 0)
    second = torch.einsum("nd,ne->nde", mean, mean) + covariance
    none = torch.zeros(12, dtype=torch.long)
    both = [t.repeat(3, *[1] * (t.dim() - 1)) for t in (mean, second[:, list(columns)])]
    both[0][4:8] += 1  # the second replicate is another
    found = model.gradients(x, Moments(both[0], both[1], none, none > 0, 0), columns)
    exact = model.exact_gradients(x)
    for r in (0, 2):
        assert_close(found.intercept[r], exact.intercept.sum(0), **HERE)
        assert_close(found.weight[r], exact.weight.sum(0)[:, list(columns)], **HERE)
    assert not torch.allclose(found.intercept[1], exact.intercept.sum(0))


def test_posterior_and_samples_are_those_of_the_model() -> None:
    model, x, _ = instance()
    mean, covariance = as_linear_gaussian(model).posterior(x - model.intercept)
    assert_close(model.posterior(x)[0], mean, **HERE)
    assert_close(model.posterior(x)[1], covariance, **HERE)
    many = model.sample(200_000, seeded(1))
    truth = model.weight @ model.weight.mT + model.noise * torch.eye(12)
    assert_close(many.mean(0), model.intercept, rtol=0, atol=0.02)
    assert_close(torch.cov(many.mT), truth.double(), rtol=0, atol=0.03)


# ---- the log weight


def direct(model: PPCA, x: Tensor, q: Proposal, points: Tensor, data: Tensor) -> Tensor:
    """log p(x, z) - log q(z), pixel by pixel."""
    mean, std, own = (t[data].unsqueeze(1) for t in (*q, x))
    z = mean + std * points
    at = torch.tensor(model.noise, dtype=torch.float64).sqrt()
    likelihood = log_normal(own, model.intercept + z @ model.weight.mT, at.expand(own.shape[-1]))
    prior = log_normal(z, torch.zeros(z.shape[-1]).double(), torch.ones(z.shape[-1]).double())
    return likelihood + prior - log_normal(z, mean, std)


def test_the_quadratic_form_is_the_log_weight() -> None:
    model, x, q = instance()
    data = torch.tensor([2, 0, 0, 3, 1])
    points = torch.randn(3, 7, 5, generator=seeded(1), dtype=torch.float64)
    rows = torch.tensor([4, 0, 2])
    before = points.clone()
    found = model.log_weight(x, q, data, torch.float64)(points, rows)
    assert_close(found, direct(model, x, q, points, data[rows]), **HERE)
    assert torch.equal(points, before)
    single = model.log_weight(x, q, data)(points.float(), rows)
    assert single.dtype == torch.float64
    assert_close(single, found, rtol=1e-6, atol=1e-4)


def test_bounded_is_assumption_A3() -> None:
    model, x, _ = instance()
    assert bool(REFERENCE.bounded(Q).all())
    wide = model.shifted_mean_field(x, 0.0, 1.0)
    assert not bool(model.bounded(wide).any())  # correlated posterior: mean field is too narrow
    widest = torch.linalg.eigvalsh(model.posterior(x)[1])[-1].sqrt()
    for factor, expected in ((1.001, True), (0.999, False)):
        q = Proposal(wide.mean, (factor * widest).expand_as(wide.std))
        assert bool(model.bounded(q).all()) is expected
    mixed = Proposal(wide.mean, wide.std * torch.tensor([[1.0], [5.0], [1.0], [5.0]]))
    assert model.bounded(mixed).tolist() == [False, True, False, True]


def test_a_shifted_proposal_is_off_by_what_it_says() -> None:
    model, x, _ = instance()
    q = model.shifted_mean_field(x, 0.3, 1.6)
    mean, _ = model.posterior(x)
    mean_field = (1 + model.weight.square().sum(0) / model.noise).rsqrt()
    assert_close((q.mean - mean) / mean_field, torch.full((4, 5), 0.3).double())
    assert_close(q.std / mean_field, torch.full((4, 5), 1.6).double())


# ---- moments


@pytest.mark.parametrize(
    "coupling",
    [
        Coupling(samples=4),
        Coupling(samples=4, composite=False),
        Coupling(samples=3, lag=2, start=3),
        Coupling(samples=4, cap=0),
        Coupling(samples=4, cap=2, lag=1),
        Coupling(samples=4, rule="index"),
    ],
)
def test_streaming_equals_what_is_stored(coupling: Coupling) -> None:
    model, x, q = instance()
    data, columns = torch.arange(4).repeat(15), (3, 1)
    log_weight = model.log_weight(x, q, data, torch.float64)
    common = (coupling, 0.8, seeded(2), torch.float64)
    found = coupled(log_weight, q, data, *common[:2], seeded(2), torch.float64, columns)
    stored = weighted_points(log_weight, 60, 5, *common)
    mean, std = (t[data] for t in q)

    def h(points: Tensor, rows: Tensor) -> Tensor:
        z = mean[rows].unsqueeze(1) + std[rows].unsqueeze(1) * points
        return torch.stack([z, z[..., 3, None] * z, z[..., 1, None] * z], 2)

    expected = expectation(stored, h)
    assert_close(found.mean, expected[:, 0], **HERE)
    assert_close(found.second, expected[:, 1:], **HERE)
    assert torch.equal(found.joint_steps, stored.meeting.joint_steps)
    assert torch.equal(found.capped, stored.meeting.capped)
    assert found.n_weights == stored.n_weights


def test_gradients_of_moments_are_the_averages_of_gradients() -> None:
    """h(u) = sum_k w~_k grad log p(x, z_k), by autograd, is what the moments give."""
    model, x, q = instance(images=1)
    data = torch.zeros(6, dtype=torch.long)
    log_weight = model.log_weight(x, q, data, torch.float64)
    coupling = Coupling(samples=3, lag=2)
    moments = coupled(log_weight, q, data, coupling, 0.5, seeded(3), torch.float64, tuple(range(5)))
    found = model.gradients(x, moments, tuple(range(5)))
    stored = weighted_points(log_weight, 6, 5, coupling, 0.5, seeded(3), torch.float64)
    for row in range(6):
        W, theta0 = (t.clone().requires_grad_() for t in (model.weight, model.intercept))
        own = stored.rows == row
        z = q.mean[0] + q.std[0] * stored.points[own]
        log_p = as_linear_gaussian(PPCA(W, theta0, model.noise)).log_joint(x - theta0, z)
        by_w, by_theta0 = torch.autograd.grad((stored.weights[own] * log_p).sum(), (W, theta0))
        assert_close(found.intercept[row], by_theta0, **HERE)
        assert_close(found.weight[row], by_w, **HERE)


def test_independent_draws_weighted_and_not() -> None:
    model, x, q = instance()
    data = torch.tensor([0, 1, 2, 3, 3])
    log_weight = model.log_weight(x, q, data, torch.float64)
    xi = torch.randn(5, 6, 5, generator=seeded(4), dtype=torch.float64)
    z = q.mean[data].unsqueeze(1) + q.std[data].unsqueeze(1) * xi
    for of, w in (
        (log_weight, torch.softmax(direct(model, x, q, xi, data), -1)),
        (None, torch.full((5, 6), 1 / 6, dtype=torch.float64)),
    ):
        found = independent(of, q, data, 6, seeded(4), torch.float64, (2,))
        assert_close(found.mean, torch.einsum("nk,nkd->nd", w, z), **HERE)
        assert_close(found.second[:, 0], torch.einsum("nk,nk,nkd->nd", w, z[..., 2], z), **HERE)
        assert found.n_weights == 30
        assert not bool(found.capped.any())
    one = independent(log_weight, q, data, 1, seeded(4), torch.float64)
    plain = independent(None, q, data, 1, seeded(4), torch.float64)
    assert torch.equal(one.mean, plain.mean)  # K = 1: IWAE is the ELBO


@pytest.mark.parametrize("composite", [False, True])
def test_unbiased_on_the_reference_instance(composite: bool, device: torch.device) -> None:
    model, x, q = REFERENCE.to(device), X.to(device), Proposal(*(t.to(device) for t in Q))
    data = torch.zeros(40_000, dtype=torch.long, device=device)
    log_weight, coupling = model.log_weight(x, q, data), Coupling(samples=4, composite=composite)
    moments = coupled(log_weight, q, data, coupling, 0.5, seeded(5, device), torch.float32, (0, 1))
    found, exact = model.gradients(x, moments, (0, 1)), model.exact_gradients(x)
    sd = found.intercept.std(0).cpu()
    expected = [0.312, 0.275, 0.216] if composite else [0.385, 0.337, 0.271]
    assert_close(sd, torch.tensor(expected).double(), rtol=0.05, atol=0)
    for a, b in zip(found, exact, strict=True):
        z = (a.mean(0) - b[0]) / a.std(0) * math.sqrt(len(a))
        assert float(z.abs().max()) < 4
    steps = 1.97 if composite else 3.04
    assert float(moments.joint_steps.double().mean()) == pytest.approx(steps, abs=0.05)
    biased = model.gradients(x, independent(log_weight, q, data, 4, seeded(6, device)))
    z = (biased.intercept.mean(0) - exact.intercept[0]) / biased.intercept.std(0) * 200
    assert float(z.abs().max()) > 10


def test_float32_is_close_to_float64() -> None:
    """The same noise in both types: the moments agree as long as no choice flips."""
    model, x, q = instance()
    data = torch.arange(4).repeat(50)
    xi = torch.randn(200, 8, 5, generator=seeded(7), dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        w = torch.softmax(model.log_weight(x, q, data, dtype)(xi.to(dtype), torch.arange(200)), -1)
        truth = torch.softmax(direct(model, x, q, xi, data), -1)
        assert_close(w, truth, rtol=0, atol=tolerance)
    both = []
    for dtype in (torch.float32, torch.float64):
        log_weight = model.log_weight(x, q, data, dtype)
        found = coupled(log_weight, q, data, Coupling(samples=5), 0.8, seeded(8), dtype, (1,))
        assert found.mean.dtype == found.second.dtype == torch.float64
        both.append(model.gradients(x, found, (1,)).intercept)
    a, b = both
    assert_close(a.std(0), b.std(0), rtol=0.5, atol=0)
    z = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / len(a)).sqrt()
    assert float(z.abs().max()) < 4


# ---- what is fitted


def test_the_fit_finds_the_posterior_mean_and_a_wider_std() -> None:
    model, x, _ = instance(images=400)
    encoder = fit_encoder(model, x, 20, 400, seeded(9), learning_rate=2e-2)
    assert not any(p.requires_grad for p in encoder.parameters())
    q, (mean, covariance) = encoder(x), model.posterior(x)
    sd = covariance.diagonal().sqrt()
    assert float(((q.mean - mean) / sd).square().mean().sqrt()) < 0.1
    factor = (q.std * model.precision.diagonal().sqrt()).mean(0)
    assert bool(((factor > 1) & (factor < 1.6)).all())
    again = fit_encoder(model, x, 20, 400, seeded(9), learning_rate=2e-2)(x)
    assert torch.equal(q.mean, again.mean)


def test_the_force_is_the_doubly_reparameterized_gradient() -> None:
    """By autograd through log w, the parameters of q held fixed."""
    model, x, q = instance()
    xi = torch.randn(4, 6, 5, generator=seeded(10), dtype=torch.float64)
    z = (q.mean.unsqueeze(1) + q.std.unsqueeze(1) * xi).requires_grad_()
    prior = log_normal(z, torch.zeros(5).double(), torch.ones(5).double())
    at = torch.full((12,), model.noise, dtype=torch.float64).sqrt()
    mean = model.intercept + z @ model.weight.mT
    log_w = log_normal(x.unsqueeze(1), mean, at) + prior
    log_w = log_w - log_normal(z, q.mean.unsqueeze(1), q.std.unsqueeze(1))
    (slope,) = torch.autograd.grad(log_w.sum(), z)
    w = torch.softmax(log_w, -1).detach().unsqueeze(-1)
    found = doubly_reparameterized(xi, *q, model.pull(x), model.precision)
    assert_close(found, w.square() * slope, **HERE)


def test_the_pilot_finds_the_beta_of_the_target() -> None:
    model, x, _ = instance()
    q, data = model.shifted_mean_field(x, 0.3, 2.5), torch.arange(4).repeat(100)
    log_weight = model.log_weight(x, q, data)
    beta, effective = pilot_beta(log_weight, (400, 10, 5), seeded(11))
    assert effective == pytest.approx(3.0, abs=0.02)
    kernel, _ = kernels(log_weight, Coupling(), beta, seeded(12))
    rows, found = torch.arange(400), []
    state = disir.start((400, 10, 5), lambda p: log_weight(p, rows), seeded(13), torch.float32)
    for _ in range(40):
        state = kernel(state, rows)
        found.append(float(disir.effective_samples(state).mean()))
    assert sum(found[10:]) / 30 == pytest.approx(3.0, abs=0.2)
    assert 0.3 < beta < 0.999
    easy = pilot_beta(log_weight, (400, 10, 5), seeded(11), target=0.12)
    assert easy.beta == LEAST
    assert easy.effective > 1.2


# ---- bad input


def test_bad_input_is_refused_by_name() -> None:
    model, x, q = instance()
    data = torch.arange(4)
    for noise in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="noise="):
            PPCA(model.weight, model.intercept, noise)
    with pytest.raises(UsageError, match="weight"):
        PPCA(model.weight, model.intercept[:3], 0.1)
    with pytest.raises(UsageError, match="std"):
        model.log_weight(x, q._replace(std=q.std - 2), data)
    log_weight = model.log_weight(x, q, data)
    with pytest.raises(UsageError, match="samples=0"):
        independent(log_weight, q, data, 0, seeded())
    with pytest.raises(UsageError, match="samples=1"):
        coupled(log_weight, q, data, Coupling(samples=1), 0.5, seeded())
    with pytest.raises(UsageError, match="beta=1"):
        coupled(log_weight, q, data, Coupling(), 1.0, seeded())
    with pytest.raises(UsageError, match="target="):
        pilot_beta(log_weight, (4, 10, 5), seeded(), target=1.0)
    with pytest.raises(UsageError, match="steps=0"):
        fit_encoder(model, x, 10, 0, seeded())
