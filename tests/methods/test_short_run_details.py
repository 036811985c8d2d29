"""Details of short-run inference that a wrong number could hide in: shares, errors, settings."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.methods import short_run as sri
from lmcnb.methods.short_run_marginal import marginal_bounds, marginal_search
from lmcnb.methods.short_run_settings import Method, Training
from lmcnb.methods.short_run_training import Trainer, in_float64, spaced
from lmcnb.models.observed import LogJoint, log_joint

sys.path.append(str(Path(__file__).parent))
from short_run_start import digits, generator, streams

F64 = torch.float64
STEPS, S = 4, 0.5
SMALL = Training(latent=(3,), width=16, epochs=6, batch=20, steps=5, step_size=0.1)


class Quadratic:
    """U = sum_i lambda_i z_i^2 / 2, with eigenvalues `(dim)`, or `(n, dim)` of n examples."""

    def __init__(self, eigenvalues: Tensor) -> None:
        self.eigenvalues = eigenvalues.to(F64)

    def __call__(self, z: Tensor) -> Tensor:
        return -0.5 * (self.eigenvalues * z.square()).sum(-1)

    def second_order(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hessian = torch.diag_embed((-self.eigenvalues).expand_as(z))
        return self(z), -self.eigenvalues * z, hessian


# ---- the objective


def test_the_share_of_negative_eigenvalues_is_over_examples_steps_and_dimensions() -> None:
    """Two examples of three, 3 and 1 of 5 dimensions past s^2 lambda = 2: 4 of 15."""
    eigenvalues = torch.ones(3, 5)
    eigenvalues[0, :3] = eigenvalues[1, 4] = 2.5 / S**2
    z, noise = sri.draw((3, 5), STEPS, generator(), F64)
    for given in (noise, None):
        t = sri.transport(Quadratic(eigenvalues), z, S, STEPS, given)
        assert float(t.negative) == pytest.approx(4 / 15, abs=1e-12)
        assert float(t.smallest) == pytest.approx(-0.25, abs=1e-12)
        assert float(t.largest) == pytest.approx(1 - S**2 / 2, abs=1e-12)
        found = sri.objective(Quadratic(eigenvalues), z, S, STEPS, given)
        assert found.negative == pytest.approx(4 / 15, abs=1e-12)
        assert found.value is None
        assert "26.7% of the eigenvalues" in str(found.reason)


@pytest.mark.parametrize(("dim", "usable"), [(101, True), (99, False)])
def test_the_objective_is_withheld_above_one_percent_of_negative_eigenvalues(
    dim: int, usable: bool
) -> None:
    eigenvalues = torch.ones(dim)
    eigenvalues[3] = 2.5 / S**2
    z, noise = sri.draw((2, dim), STEPS, generator(), F64)
    found = sri.objective(Quadratic(eigenvalues), z, S, STEPS, noise)
    assert found.negative == pytest.approx(1 / dim, abs=1e-12)
    assert (found.value is not None) == (found.se is not None) == usable
    assert (found.reason is None) == usable


def test_the_objective_and_its_standard_error_by_hand() -> None:
    eigenvalues = torch.tensor([1.0, 2.0, 5.0], dtype=F64)
    z, noise = sri.draw((7, 3), STEPS, generator(), F64)
    a = 1 - 0.5 * S**2 * eigenvalues
    end = z
    for e in noise:
        end = a * end + S * e
    energy = 0.5 * (eigenvalues * end.square()).sum(-1)
    gap = Normal(0, 1).log_prob(z).sum(-1) - STEPS * a.abs().log().sum() + energy
    found = sri.objective(Quadratic(eigenvalues), z, S, STEPS, noise)
    assert found.value == pytest.approx(sum(gap.tolist()) / 7, abs=1e-10)
    spread = math.sqrt(float((gap - gap.mean()).square().sum()) / 6)
    assert found.se == pytest.approx(spread / math.sqrt(7), abs=1e-10)
    assert found.log_det == pytest.approx(STEPS * float(a.abs().log().sum()), abs=1e-10)
    assert sri.objective(Quadratic(eigenvalues), z[:1], S, STEPS, noise[:, :1]).se is None


# ---- the marginal bound


def test_the_marginal_search_minimizes_the_upper_bound() -> None:
    """With three chains the two bounds are far apart, and least at different step sizes."""
    target = quadrature.posterior(4)
    grid = [0.1, 0.2, 0.3, 0.4, 0.5]
    z, noise = sri.draw((3, 4, 1), 10, generator(1), F64)
    known = [marginal_bounds(target, z, s, 10, noise) for s in grid]
    found = marginal_search(target, z, grid, 10, noise)
    assert [o.value for o in found.visited] == [b.upper for b in known]
    assert [o.se for o in found.visited] == [b.upper_se for b in known]
    by_upper, by_lower = (
        min(range(len(grid)), key=lambda i: getattr(known[i], end)) for end in ("upper", "lower")
    )
    assert by_upper != by_lower
    assert found.step_size == grid[by_upper]


# ---- training


@pytest.mark.parametrize("noisy", [True, False])
def test_an_update_has_noise_in_its_chain_only_if_it_should(noisy: bool) -> None:
    own, other = (Trainer(replace(SMALL, noisy=noisy), digits(), streams()) for _ in range(2))
    own.step()
    rows = torch.randperm(100, generator=other.streams.order)[:20]
    x = digits()[rows]
    z, noise = sri.draw((20, 3), 5, other.streams.noise, torch.float32)
    target = LogJoint(other.generator, x, 0.3)
    ends = [sri.short_run(target, z, 0.1, 5, e) for e in (noise, None)]
    with torch.no_grad():
        errors = [float((x - other.generator(end)).square().mean()) for end in ends]
    assert abs(errors[0] - errors[1]) > 5e-5
    assert float(own.losses[0]) == pytest.approx(errors[0 if noisy else 1], abs=1e-6)
    loss = (x - other.generator(ends[0 if noisy else 1].detach())).square().sum(-1).mean()
    loss.backward()
    other.optimizer.step()
    for a, b in zip(own.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("how", ["grid", "gradient"])
@pytest.mark.parametrize("noisy", [True, False])
def test_the_search_judges_the_chain_that_is_used(noisy: bool, how: str) -> None:
    t = replace(SMALL, noisy=noisy, search=how, search_images=10, grid=(0.05, 0.1, 0.2))  # type: ignore[arg-type]
    t = replace(t, search_start=0.07, search_iterations=2)
    trainer = Trainer(t, digits(), streams())
    found = trainer.search()
    z, noise = sri.draw((10, 3), 5, generator(3), F64)
    target = log_joint(in_float64(trainer.generator), spaced(digits(), 10).double(), 0.3)
    values = []
    for given in (noise, None):
        at = [o.step_size for o in found.visited]
        values.append([sri.objective(target, z, s, 5, given).value for s in at])
    assert values[0] != pytest.approx(values[1], abs=1e-3)
    assert [o.value for o in found.visited] == pytest.approx(values[0 if noisy else 1], abs=1e-9)


def test_the_gradient_search_starts_small_and_later_a_fifth_below_the_present_step_size() -> None:
    t = replace(SMALL, search="gradient", search_images=10, search_start=0.03, search_iterations=1)
    trainer = Trainer(replace(t, search_from=1, search_every=1), digits(), streams())
    assert trainer.search().visited[0].step_size == pytest.approx(0.03)
    for _ in range(3 * trainer.per_epoch):
        trainer.step()
    starts = [choice["visited"][0][0] for choice in trainer.searches]
    chosen = [choice["step_size"] for choice in trainer.searches]
    assert starts == pytest.approx([0.03, 0.8 * chosen[0]])
    trainer.step_size = 0.1
    assert trainer.search().visited[0].step_size == pytest.approx(0.08)


@pytest.mark.parametrize(("method", "beta"), [("SRI", 0.3), ("ABP", 0.3), ("VAE", 0.9)])
def test_adams_first_beta_is_the_settings_or_the_autoencoders(method: Method, beta: float) -> None:
    trainer = Trainer(replace(SMALL, method=method, first_beta=0.3), digits(), streams())
    assert [g["betas"] for g in trainer.optimizer.param_groups] == [(beta, 0.999)]


def test_both_networks_of_an_autoencoder_are_trained_with_the_autoencoders_first_beta() -> None:
    for method in ("VAE", "LVAE"):
        t = replace(SMALL, method=method, latent=(2, 2))  # type: ignore[arg-type]
        trainer = Trainer(t, digits(), streams())
        assert trainer.encoder is not None
        (group,) = trainer.optimizer.param_groups
        assert group["betas"] == (0.9, 0.999)
        whole = [*trainer.generator.parameters(), *trainer.encoder.parameters()]
        assert {id(p) for p in group["params"]} == {id(p) for p in whole}
