"""MCMC teaching against every case whose answer is known."""

from __future__ import annotations

import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments import mcmc_teaching_exact as exact
from lmcnb.experiments import mcmc_teaching_exact_vae as vae
from lmcnb.experiments import mcmc_teaching_learning as learning
from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.models.quadratic_energy import QuadraticEnergy


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_revision_of_a_gaussian_has_the_moments_of_unadjusted_langevin() -> None:
    found = exact.revision(stream(), 200_000)
    assert max(map(abs, found.values())) < 4, found
    assert abs(exact.inflation()) < 1e-12


def test_flat_energy_shrinks_towards_the_reference() -> None:
    assert max(map(abs, exact.shrinking().values())) < 5e-6


def test_partition_function_of_a_quadratic_energy() -> None:
    assert max(map(abs, exact.partition_function().values())) < 1e-8


def test_contrastive_gradient_is_the_likelihoods_with_exact_samples() -> None:
    found = exact.likelihood_gradient(stream(1), 1_000_000)
    assert max(found.values()) < 4.2, found


def test_contrastive_gradient_is_that_of_the_difference_of_divergences() -> None:
    assert max(exact.contrastive_divergence().values()) < 1e-12


def test_linear_autoencoder_is_probabilistic_pca() -> None:
    assert max(map(abs, vae.principal_components().values())) < 1e-10
    assert vae.principal_gradient() < 1e-10


def test_loss_is_the_bound_times_minus_twice_the_variance() -> None:
    assert vae.loss_identity(stream()) < 1e-12


def test_chain_rule_of_the_geometric_picture() -> None:
    assert max(map(abs, vae.chain_rule().values())) < 1e-10


def test_score_by_hand_is_autograds() -> None:
    assert exact.scores(stream()) < 1e-12


def test_gradients_flow_where_they_should_and_nowhere_else() -> None:
    assert exact.plumbing(stream()) == dict.fromkeys(
        ("sampling", "detached", "generator", "energy", "encoder"), 0.0
    )


def test_fixed_points_in_closed_form_have_the_sheets_digits() -> None:
    assert max(map(abs, learning.fixed_points().values())) < 1e-12


@pytest.mark.parametrize("name", learning.LEARNED)
def test_learning_arrives_at_the_fixed_point(name: str) -> None:
    (row,) = learning.learning(lambda _: stream(3), 1500, 4000, (name,))
    assert row["variance"] == pytest.approx(row["exact variance"], rel=0.01), row
    assert row["mean"] == pytest.approx(row["exact mean"], rel=0.005), row
    if row["weight"] is not None:
        assert row["weight"] == pytest.approx(row["exact weight"], abs=0.01), row


def test_sampler_of_the_quadratic_energy_has_its_moments() -> None:
    model = exact.energy_model(None)
    x = model.sample(400_000, 1.3, stream(2))
    m, L = (v.detach() for v in model.moments(1.3))
    C = torch.linalg.inv(L)
    assert torch.allclose(x.mean(0), m, atol=0.006)
    assert torch.allclose(x.mT.cov(), C, atol=0.01)
    assert not torch.allclose(x.mT.cov(), torch.linalg.inv(model.moments(None)[1]), atol=0.01)


def test_quadratic_energy_with_a_linear_f_is_the_shifted_reference() -> None:
    flat = torch.zeros(1, 1, dtype=torch.float64)
    m, L = QuadraticEnergy(flat, torch.tensor([3.0], dtype=torch.float64)).moments(0.5)
    assert float(m.detach()) == pytest.approx(0.75)
    assert float(L.detach()) == pytest.approx(4.0)


def test_every_fixed_point_solves_its_two_equations() -> None:
    mu, v, d = 2.0, 0.25, 0.2
    for teacher in ("variational", "fast", "original", "short-run"):
        for steps in (2, 5, 10, 40):
            for ancestral in (True, False):
                p = theory.fixed_point(teacher, mu, v, d, steps, sigma=0.2, ancestral=ancestral)
                start = 0.0 if teacher == "short-run" else mu
                mean, variance = theory.after(
                    start, p.start_variance, p.mean, p.precision, d, steps
                )
                assert mean == pytest.approx(mu, abs=1e-9)
                assert variance == pytest.approx(v, abs=1e-9)


@pytest.mark.parametrize("ancestral", [True, False])
def test_fast_teaching_learns_one_of_the_two_alone(ancestral: bool) -> None:
    """By its moments: w = E[z x~] = a^K w, and the variance of the revised samples is v."""
    own = 0.04 if ancestral else 0.0
    for steps in (2, 5, 6, 7, 10, 30):
        p = theory.fixed_point("fast", 0.0, 0.25, 0.2, steps, sigma=0.2, ancestral=ancestral)
        a = theory.multiplier(p.precision, 0.2)
        assert a**steps * p.weight == pytest.approx(p.weight, abs=1e-12)
        assert p.start_variance == pytest.approx(p.weight**2 + own, abs=1e-12)
        flat = steps * 0.04 < 0.25 - own
        assert (p.precision == 0) == flat == (p.weight > 0)
        assert (p.variance == float("inf")) == flat


@pytest.mark.parametrize("steps", [2, 4, 10])
def test_fast_teaching_flows_to_its_fixed_point(steps: int) -> None:
    """The expected gradients of energy and generator, followed from elsewhere."""
    known = theory.fixed_point("fast", 0.0, 0.25, 0.2, steps, sigma=0.2)
    precision, w = 5.0, 0.4
    for _ in range(60_000):
        variance = theory.after(0.0, w**2 + 0.04, 0.0, precision, 0.2, steps)[1]
        precision += 2.0 * (variance - 0.25)
        w += 0.01 * (theory.multiplier(precision, 0.2) ** steps * w - w)
    assert precision == pytest.approx(known.precision, abs=0.01)
    assert w == pytest.approx(known.weight, abs=0.005)


def test_short_run_learning_with_too_little_noise_has_no_density() -> None:
    p = theory.fixed_point("short-run", 0.0, 2.0, 0.2, 5, start_variance=1.0)
    assert p.precision < 0
    assert p.variance == float("inf")


def test_original_teaching_by_its_moments() -> None:
    """w = E[z' x~] / E[z'^2] with a long Gaussian sample, and its raw errors are named."""
    for steps, L in ((10, 50), (5, 10), (10, 10)):
        p = theory.fixed_point("original", 0.0, 0.25, 0.2, steps, sigma=0.2, inference=(L, 0.1))
        s = stream(steps + L)

        def normal(s: torch.Generator = s) -> torch.Tensor:
            return torch.randn(400_000, generator=s, dtype=torch.float64)

        z = normal()
        x = p.weight * z + 0.2 * normal()
        for _ in range(steps):
            x = x - 0.02 * p.precision * x + 0.2 * normal()
        u = z
        for _ in range(L):
            slope = (x - p.weight * u) * p.weight / 0.04 - u
            u = u + 0.005 * slope + 0.1 * normal()
        assert float((u * x).mean() / u.square().mean()) == pytest.approx(p.weight, abs=0.004)
        assert float(x.var()) == pytest.approx(0.25, rel=0.01)
    with pytest.raises(UsageError, match="sigma=0"):
        theory.fixed_point("original", 0.0, 0.25, 0.2, 5)
    with pytest.raises(UsageError, match="start variance -1"):
        theory.energy_precision(0.25, 0.2, 5, -1.0)
    with pytest.raises(UsageError, match="precision=-1"):
        theory.invariant_variance(-1.0, 0.2)
    assert theory.energy_precision(1.0, 0.01, 600, 0.0) < 0


def test_mcmc_inference_with_many_steps_is_the_encoders() -> None:
    ours = theory.fixed_point("variational", 0.0, 0.25, 0.2, 10, sigma=0.2)
    few, many = (
        theory.fixed_point("original", 0.0, 0.25, 0.2, 10, sigma=0.2, inference=(L, 0.02))
        for L in (100, 100_000)
    )
    assert few.weight == pytest.approx(0, abs=1e-6)
    assert many.weight == pytest.approx(ours.weight, rel=0.002)
    assert many.variance == pytest.approx(ours.variance, rel=0.002)
