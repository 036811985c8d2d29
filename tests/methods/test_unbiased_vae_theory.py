"""Closed forms of importance weights and of the linear-Gaussian gradient, against numerics."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lmcnb.errors import UsageError
from lmcnb.experiments.unbiased_vae_exact import formulas, importance
from lmcnb.experiments.unbiased_vae_exact_models import Case, reference, toy
from lmcnb.methods import unbiased_vae_theory as theory
from lmcnb.models.linear_gaussian import LinearGaussian

F64 = torch.float64


def parameters(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (*case.posterior(), case.mean, case.std)


def log_ratio(case: Case, z: Tensor) -> Tensor:
    """log w(z) / p(x): the log ratio of the two Gaussians."""
    mean, covariance = case.posterior()
    q = MultivariateNormal(case.mean, case.std.square().diag())
    return MultivariateNormal(mean, covariance).log_prob(z) - q.log_prob(z)


def square(n: int, reach: float) -> tuple[Tensor, float]:
    """A grid of points of the plane, and the area of its cells."""
    line = torch.linspace(-reach, reach, n, dtype=F64)
    return torch.cartesian_prod(line, line), (2 * reach / (n - 1)) ** 2


def test_the_printed_digits() -> None:
    """Every number of the reference instance, to half a unit of its last digit."""
    found = formulas()
    assert len(found) == 7
    assert all(e <= 0.5001 for e in found.values()), found


@pytest.mark.parametrize("case", [reference(), toy()], ids=["reference", "toy"])
def test_both_forms_of_the_gradient_and_autograd_agree(case: Case) -> None:
    model = (case.weight, case.intercept, case.variance, case.x)
    W, intercept = (t.clone().requires_grad_() for t in (case.weight, case.intercept))
    identity = torch.eye(len(case.x), dtype=F64)
    log_p = LinearGaussian(W, case.variance * identity).log_marginal(case.x - intercept)
    by_autograd = torch.autograd.grad(log_p, (intercept, W))
    for own in (theory.gradients(*model), theory.fisher_gradients(*model)):
        for a, b in zip(own, by_autograd, strict=True):
            assert a.shape == b.shape
            assert float((a - b).abs().max()) < 1e-12


def test_the_posterior_is_that_of_the_model() -> None:
    case = toy()
    model = LinearGaussian(case.weight, case.variance * torch.eye(8, dtype=F64))
    for a, b in zip(case.posterior(), model.posterior(case.x), strict=True):
        assert float((a - b).abs().max()) < 1e-12


def test_the_largest_weight_is_found_by_a_grid() -> None:
    case = reference()
    z, _ = square(801, 5.0)
    most = float(log_ratio(case, z).max().exp())
    bound = case.weights().bound
    assert bound * (1 - 1e-3) < most <= bound * (1 + 1e-12)


def test_moments_under_the_proposal_by_quadrature() -> None:
    """rho_2, and the mean under w^2 q that gives the bias."""
    case = reference()
    z, area = square(801, 9.0)
    q = MultivariateNormal(case.mean, case.std.square().diag())
    tilted = (2 * log_ratio(case, z) + q.log_prob(z)).exp() * area
    rho = float(tilted.sum())
    assert abs(rho - case.weights().second_moment) < 1e-9
    mean = (tilted[:, None] * z).sum(0) / rho
    expected = -rho / 7 * (mean - case.posterior()[0])
    assert float((theory.iwae_bias(*parameters(case), 7) - expected).abs().max()) < 1e-9


def test_importance_sampling_has_the_bias_of_first_order() -> None:
    """grad theta0 is affine in z: its bias is -W bias(z) / sigma^2, up to K^-2."""
    case, K = reference(), 32
    first = -(case.weight @ theory.iwae_bias(*parameters(case), K)) / case.variance
    e = importance(case, torch.Generator().manual_seed(0), 60_000, K)
    assert bool((e.error[:3].abs() > 7 * e.se[:3]).all())
    assert bool(((e.error[:3] - first).abs() < 4 * e.se[:3] + 1 / K**2).all())


def one_dimension(variance: float, std: float) -> theory.Weights:
    """Posterior N(0.3, variance), proposal N(0, std^2)."""
    return theory.weights(
        torch.tensor([0.3]),
        torch.tensor([[variance]]),
        torch.tensor([0.0]),
        torch.tensor([std]),
    )


def test_one_dimension_by_hand() -> None:
    """N(0, 1) against N(0, 4): w = 2 exp(-3 z^2 / 8), E[w^2] = 4 / sqrt(7)."""
    w = theory.weights(torch.zeros(1), torch.eye(1), torch.zeros(1), torch.tensor([2.0]))
    assert abs(w.bound - 2) < 1e-12
    assert abs(w.second_moment - 4 / math.sqrt(7)) < 1e-12
    assert w.least == pytest.approx(0.75)
    assert w.least_twice == pytest.approx(1.75)
    assert w.tail == math.inf


@pytest.mark.parametrize(
    ("variance", "bounded", "finite"),
    [(0.99, True, True), (1.01, False, True), (1.99, False, True), (2.01, False, False)],
)
def test_where_the_weights_are_bounded_and_where_their_variance_is_finite(
    variance: float, bounded: bool, finite: bool
) -> None:
    """In one dimension: posterior variance below s^2 = 1, and below 2 s^2."""
    w = one_dimension(variance, 1.0)
    assert math.isfinite(w.bound) == (w.least > 0) == bounded
    assert math.isfinite(w.second_moment) == (w.least_twice > 0) == (w.tail > 2) == finite


def test_the_tail_is_a_power_law() -> None:
    """Without an offset P_q(w > y) is exact: w = c exp(g^2 (1 - s^2 / v) / 2), g ~ N(0, 1)."""
    w = theory.weights(torch.zeros(1), torch.tensor([[1.8]]), torch.zeros(1), torch.ones(1))
    logs = torch.tensor([200.0, 400.0], dtype=F64)  # log y
    g = (2 * (logs + 0.5 * math.log(1.8)) / (1 - 1 / 1.8)).sqrt()
    log_p = torch.special.log_ndtr(-g)
    slope = float((log_p[1] - log_p[0]) / (logs[1] - logs[0]))
    assert abs(slope + w.tail) < 0.01
    assert w.tail == pytest.approx(1.8 / 0.8)


def test_the_direction_in_which_the_weights_grow() -> None:
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64)
    w = theory.weights(torch.zeros(2), covariance, torch.zeros(2), torch.tensor([1.0, 1.0]))
    assert abs(abs(float(w.direction @ torch.tensor([1.0, 1.0], dtype=F64))) - math.sqrt(2)) < 1e-9
    assert w.least == pytest.approx(1 / 1.9 - 1)


def test_a_warning_where_the_weights_are_unbounded() -> None:
    case = toy(1.2)  # unbounded, with a second moment
    with pytest.warns(UserWarning) as caught:
        w = theory.warn_if_unbounded(*parameters(case))
    said = str(caught[0].message)
    assert f"least eigenvalue of Lambda - Q is {w.least:.3g}" in said
    assert "(0.30, 0.60, 0.61, 0.43)" in said.replace("-", "")
    assert f"y^-{w.tail:.3g}" in said
    for meaning in ("polynomial", "A3", "meeting time", "variance of the unbiased estimator"):
        assert meaning in said
    assert "second moment" not in said


def test_a_warning_where_the_weights_have_no_variance_either() -> None:
    with pytest.warns(UserWarning, match="2 Lambda - Q is -0.113: even the second moment"):
        theory.warn_if_unbounded(*parameters(toy(1.0)))


def test_no_warning_where_they_are_bounded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = theory.warn_if_unbounded(*parameters(reference()))
    assert w.bound == reference().weights().bound


def test_bounds_on_mixing_and_meeting() -> None:
    assert theory.contraction(1.0, 2) == pytest.approx(0.5)  # q is the posterior
    assert theory.contraction(4.0, 3) == pytest.approx(7 / 9)  # the finite-state example
    assert theory.least_meeting_probability(4.0, 4) == pytest.approx(3 / 16)
    assert theory.most_joint_steps(4.0, 4) == pytest.approx(16 / 3)
    assert theory.most_joint_steps(4.0, 4, composite=False) == pytest.approx(19 / 3)
    steps = [theory.most_joint_steps(4.0, K) for K in (2, 4, 8, 100)]
    assert steps == sorted(steps, reverse=True)
    assert theory.contraction(math.inf, 4) == 1
    assert theory.least_meeting_probability(math.inf, 4) == 0
    assert theory.most_joint_steps(math.inf, 4) == math.inf


def test_wrong_arguments() -> None:
    mean, covariance, m, s = parameters(reference())
    for wrong in (
        (mean[:1], covariance, m, s),
        (mean, covariance[0], m, s),
        (mean, covariance, m[:1], s),
        (mean, covariance, m, s[:1]),
        (mean[None], covariance, m, s),
    ):
        with pytest.raises(UsageError, match="of shapes"):
            theory.weights(*wrong)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="positive numbers"):
            theory.weights(mean, covariance, m, torch.tensor([0.9, bad]))
    with pytest.raises(UsageError, match="positive definite"):
        theory.weights(mean, -covariance, m, s)
    with pytest.raises(UsageError, match="symmetric"):
        theory.weights(mean, covariance.triu(), m, s)
    for name, bad_mean in (("mean", (mean * math.nan, m)), ("proposal_mean", (mean, m * math.inf))):
        with pytest.raises(UsageError, match=f"^{name}=.*finite"):
            theory.weights(bad_mean[0], covariance, bad_mean[1], s)
    with pytest.raises(UsageError, match="second moment"):
        theory.iwae_bias(*parameters(toy(1.0)), 4)
    with pytest.raises(UsageError, match="samples=0"):
        theory.iwae_bias(mean, covariance, m, s, 0)
    for function in (theory.contraction, theory.least_meeting_probability):
        with pytest.raises(UsageError, match="samples=1"):
            function(4.0, 1)
        with pytest.raises(UsageError, match="at least 1"):
            function(0.9, 4)
        with pytest.raises(UsageError, match="at least 1"):
            function(math.nan, 4)
    W, x = reference().weight, reference().x
    for function in (theory.gradients, theory.fisher_gradients, theory.posterior):
        with pytest.raises(UsageError, match="of shapes"):
            function(W, x[:2], 0.5, x)
        with pytest.raises(UsageError, match="of shapes"):
            function(W.T, x, 0.5, x)
        with pytest.raises(UsageError, match="variance=0"):
            function(W, x, 0.0, x)
