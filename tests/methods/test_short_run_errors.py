"""Bad input of short-run inference: refused by name, or unusable with a reason; never a number."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.frechet import frechet_distance
from lmcnb.experiments import short_run_evaluation as measure
from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.lab.training import fit
from lmcnb.methods import short_run as sri
from lmcnb.methods import short_run_likelihood as likelihood
from lmcnb.methods import short_run_search as choice
from lmcnb.methods import short_run_theory as theory
from lmcnb.methods.short_run_marginal import marginal_bounds
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import Streams, Trainer
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown

F64 = torch.float64
SMALL = Training(latent=(3,), width=16, epochs=2, batch=20, steps=5, step_size=0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams() -> Streams:
    return Streams(*(generator(i) for i in range(4)))


def case(n: int = 4) -> tuple[LogJoint, Tensor, Tensor]:
    """A target of n images, starts and the noise of 5 steps."""
    network = TopDown((3,), 9, 8, generator()).double().requires_grad_(False)
    x = torch.randn(n, 9, generator=generator(1), dtype=F64)
    z, noise = sri.draw((n, 3), 5, generator(2), F64)
    return log_joint(network, x, 0.3), z, noise


# ---- shapes that would be broadcast


@pytest.mark.parametrize("kind", [log_joint, LogJoint])
def test_points_and_images_must_match(kind: Any) -> None:
    network = TopDown((3,), 9, 8, generator()).double().requires_grad_(False)
    target = kind(network, torch.zeros(4, 9, dtype=F64), 0.3)
    z = torch.zeros(4, 3, dtype=F64)
    with pytest.raises(UsageError, match=r"z of shape \(1, 3\): \(\.\.\., 4, dim\)"):
        sri.short_run(target, z[:1], 0.1, 2)
    with pytest.raises(UsageError, match=r"z of shape \(3,\)"):
        target(z[0])
    narrow = kind(network, torch.zeros(4, 1, dtype=F64), 0.3)
    with pytest.raises(UsageError, match="images have 9 pixels, x has 1"):
        sri.short_run(narrow, z, 0.1, 2)
    one = kind(network, torch.zeros(1, 9, dtype=F64), 0.3)
    assert one(torch.zeros(7, 3, dtype=F64)).shape == (7,)


@pytest.mark.parametrize(
    ("x", "why"),
    [(torch.zeros(9), "images"), (torch.zeros(4, 9, dtype=torch.uint8), "floats")],
)
def test_images_must_be_rows_of_floats(x: Tensor, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        LogJoint(lambda z: z, x, 0.3)


@pytest.mark.parametrize("sigma", [0, 0.0, -1.0, math.inf, math.nan, 1e-200, 1e200, True])
def test_a_noise_width_that_is_none_is_refused(sigma: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"sigma={sigma!r}")):
        LogJoint(lambda z: z, torch.zeros(1, 2), sigma)


def test_a_noise_width_may_be_any_kind_of_number() -> None:
    for sigma in (1, np.float32(0.5), torch.tensor(0.5)):
        assert LogJoint(lambda z: z, torch.zeros(1, 2), sigma).sigma == float(sigma)  # type: ignore[arg-type]


def test_hidden_pixels_may_be_anything() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0])
    spoiled = torch.tensor([[0.5, math.nan, 0.1]], dtype=F64)
    z = torch.randn(1, 3, generator=generator(), dtype=F64)
    found = LogJoint(lambda v: v, spoiled, 0.3, mask)(z)
    assert torch.equal(found, LogJoint(lambda v: v, spoiled.nan_to_num(), 0.3, mask)(z))
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("call", [sri.short_run, sri.transport, sri.objective])
def test_noise_steps_and_step_sizes_must_fit(call: Any) -> None:
    target, z, noise = case()
    for bad in (noise[:4], noise[:, :1], torch.cat([noise, noise])):
        with pytest.raises(UsageError, match=r"noise of shape .* \(5, 4, 3\) is needed"):
            call(target, z, 0.1, 5, bad)
    for steps in (-3, 2.0, True):
        with pytest.raises(UsageError, match=f"steps={steps!r}"):
            call(target, z, 0.1, steps)
    for shape in ((4, 1), (2,)):
        with pytest.raises(UsageError, match="step_size of shape"):
            call(target, z, torch.full(shape, 0.1, dtype=F64), 5, noise)
    for s in ("0.1", None, 0, -1, math.nan, math.inf):
        with pytest.raises(UsageError, match="step_size="):
            call(target, z, s, 5, noise)
    call(target, z, 1e-50, 5, noise)


def test_the_marginal_bounds_refuse_noise_of_another_shape() -> None:
    target, z, noise = case()
    many, some = z.expand(3, 4, 3), noise[:, None].expand(5, 3, 4, 3)
    assert math.isfinite(marginal_bounds(target, many, 0.1, 5, some).upper)
    with pytest.raises(UsageError, match="noise of shape"):
        marginal_bounds(target, many, 0.1, 5, some[:, :1])


@pytest.mark.parametrize("z", [torch.zeros(3, dtype=F64), torch.zeros(0, 3, dtype=F64)])
def test_the_objective_needs_points(z: Tensor) -> None:
    with pytest.raises(UsageError, match="z of shape"):
        sri.objective(case(1)[0], z, 0.1, 5)


def test_the_objective_needs_float64_and_finite_starts() -> None:
    target, z, _ = case()
    with pytest.raises(UsageError, match=r"torch.float32: .* in torch.float64"):
        sri.objective(target, z.float(), 0.1, 5)
    with pytest.raises(UsageError, match="z: values that are not finite"):
        sri.objective(target, z * math.nan, 0.1, 5)
    for bad in (target.__call__, LogJoint(lambda v: v, torch.zeros(1, 3), 0.3)):
        with pytest.raises(UsageError, match="float64"):
            likelihood.log_likelihood(bad, 3, 0.1, 5, 10, generator())


# ---- chains that are not finite


@pytest.mark.parametrize(("s", "steps"), [(1e6, 25), (5.0, 400)])
def test_an_exploding_chain_is_unusable_and_said_so(s: float, steps: int) -> None:
    target, z, _ = case()
    found = sri.objective(target, z, s, steps)
    assert found.value is None
    assert "not finite" in str(found.reason)
    assert choice.grid_search(target, z, [0.05, s], steps, None).step_size == 0.05


def test_weights_that_are_not_finite_make_the_objective_unusable() -> None:
    network = TopDown((3,), 9, 8, generator()).double().requires_grad_(False)
    with torch.no_grad():
        network.out.bias[0] = math.nan
    target = log_joint(network, torch.zeros(4, 9, dtype=F64), 0.3)
    found = sri.objective(target, torch.zeros(4, 3, dtype=F64), 0.1, 5)
    assert found.value is None


@pytest.mark.parametrize("search", ["grid", "gradient", "marginal"])
def test_a_training_that_diverges_ends_as_diverged_also_with_a_search(search: Any) -> None:
    images = torch.zeros(100, 64)
    images[7] = math.nan
    t = replace(SMALL, search=search, search_from=1, search_every=0.2, search_images=8)
    trainer = Trainer(t, images, streams())
    fit(trainer, trainer.iterations, check_every=1)
    assert trainer.diverged_at()[0] is not None


def test_gradient_search_backs_off_from_a_step_that_is_far_too_large() -> None:
    reference = exact.reference()
    z, _ = exact.whitened(60, 2, 10, generator())
    found = choice.gradient_search(
        reference.log_joint, z, 0.1, 10, None, learning_rate=1000.0, iterations=3
    )
    assert isinstance(found.step_size, float)
    assert 0 < found.step_size < 0.45


@pytest.mark.filterwarnings("error")
def test_a_search_leaves_the_parameters_of_a_module_alone() -> None:
    """It neither follows nor fills their gradients, and says nothing of them."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 9))
    target, z, noise = case()
    own = LogJoint(net.double(), target.x, 0.5)
    found = choice.gradient_search(own, z, 0.05, 5, noise, iterations=2)
    net.requires_grad_(False)
    assert choice.gradient_search(own, z, 0.05, 5, noise, iterations=2) == found
    assert all(p.grad is None for p in net.parameters())


def test_what_the_marginal_bound_cannot_have_is_refused() -> None:
    target, z, noise = case()
    with pytest.raises(UsageError, match="noise=None"):
        marginal_bounds(target, z[None].repeat(2, 1, 1), 0.1, 5, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one number"):
        marginal_bounds(
            target,
            z[None].repeat(2, 1, 1),
            torch.full((3,), 0.1),
            5,
            noise[:, None].repeat(1, 2, 1, 1),
        )  # type: ignore[arg-type]


def test_images_that_are_not_finite_are_named() -> None:
    target, z, noise = case()
    x = target.x.clone()
    x[0, 0] = math.nan
    with pytest.raises(UsageError, match="x: values that are not finite"):
        choice.grid_search(LogJoint(target.generator, x, 0.5), z, [0.1], 5, noise)
    seen = torch.ones_like(x)
    seen[0, 0] = 0
    hidden = LogJoint(target.generator, x, 0.5, seen)
    assert choice.grid_search(hidden, z, [0.1], 5, noise).step_size == 0.1


def test_gradient_search_refuses_what_does_not_fit() -> None:
    target, z, noise = case()
    with pytest.raises(UsageError, match="iterations=-3"):
        choice.gradient_search(target, z, 0.05, 5, noise, iterations=-3)
    with pytest.raises(UsageError, match="layers"):
        choice.gradient_search(target, z, 0.05, 5, noise, layers=[1, 1])
    with pytest.raises(UsageError, match="start"):
        choice.gradient_search(target, z, [0.05, 0.05], 5, noise, layers=[1, 1, 1])
    with pytest.raises(choice.PastGuard, match=r"start=5.0: an eigenvalue"):
        choice.gradient_search(target, z, 5.0, 5, noise)


def test_a_search_does_not_swallow_other_errors() -> None:
    trainer = Trainer(replace(SMALL, search="gradient"), torch.zeros(100, 64), streams())
    inner = trainer.generator
    trainer.generator = torch.nn.Sequential(inner, torch.nn.ReLU())
    with pytest.raises(UsageError, match="kinks"):
        trainer.search()


def test_grids_may_be_tensors_and_must_hold_numbers() -> None:
    target, z, noise = case()
    for grid in (torch.tensor([0.05, 0.1]), np.array([0.05, 0.1])):
        found = choice.grid_search(target, z, grid, 5, noise)  # type: ignore[arg-type]
        assert isinstance(found.step_size, float)
    for bad in ([], ["a"], [0.1, -1]):
        with pytest.raises(UsageError):
            choice.grid_search(target, z, bad, 5, noise)


# ---- importance sampling past injectivity


def test_the_likelihood_is_withheld_where_steps_are_not_injective() -> None:
    target = quadrature.posterior()
    with pytest.raises(UsageError, match="eigenvalues of a step's Jacobian are negative"):
        likelihood.log_likelihood(target, 1, 0.5, quadrature.STEPS_1D, 2000, generator())
    found = likelihood.log_likelihood(target, 1, 0.2, quadrature.STEPS_1D, 20_000, generator())
    grid = torch.linspace(-9, 9, 3601, dtype=F64)
    known = float(torch.logsumexp(target(grid[:, None]), 0)) + math.log(float(grid[1] - grid[0]))
    assert abs(float(found.value[0]) - known) < 5 * float(found.se[0])


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid", ()),
        ("grid", (0.1, -0.1)),
        ("search_chains", 1),
        ("search_iterations", -3),
        ("first_beta", 1.5),
        ("search_from", math.nan),
        ("search_from", -1),
        ("search_start", -1),
        ("search_rate", 0.0),
        ("decay", ((0.5, -1.0),)),
        ("decay", ((1.5, 1.0),)),
        ("latent", ()),
        ("network", "x"),
        ("search", "newton"),
    ],
)
def test_settings_that_mean_nothing_are_refused_at_once(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        replace(SMALL, **{name: value})
    with pytest.raises(UsageError, match="noise"):
        replace(SMALL, search="marginal", noisy=False)


def test_a_state_dict_is_not_changed_by_later_steps() -> None:
    images = torch.rand(100, 64, generator=generator())
    trainer = Trainer(SMALL, images, streams())
    for _ in range(3):
        trainer.step()
    state = trainer.state_dict()
    before = io.BytesIO()
    torch.save(state["optimizer"], before)
    for _ in range(3):
        trainer.step()
    known = trainer.losses.clone()
    after = io.BytesIO()
    torch.save(state["optimizer"], after)
    assert before.getvalue() == after.getvalue()
    again = Trainer(SMALL, images, streams())
    again.load_state_dict(state)
    for _ in range(3):
        again.step()
    assert torch.equal(again.losses, known)


# ---- theory and measures


def test_theory_refuses_unstable_chains_and_what_is_no_precision() -> None:
    lam = torch.tensor([2.0, 10.0])
    for s in (0.0, -0.1, math.nan):
        with pytest.raises(UsageError, match="step_size"):
            theory.divergences(lam, None, s, 5)
    for bad in (torch.tensor([-1.0]), torch.tensor([math.nan])):
        with pytest.raises(UsageError, match="precision"):
            theory.divergences(bad, None, 0.1, 5)
    with pytest.raises(UsageError, match="mean of shape"):
        theory.divergences(lam, torch.zeros(3), 0.1, 5)
    with pytest.raises(UsageError, match="stable"):
        theory.learning_map(50.0, 2.0, 0.5, 0.2, 25, True)
    with pytest.raises(UsageError, match=r"step_size=2.5"):
        theory.fixed_points(2.0, 0.5, 2.5, 25, True)


def test_a_distance_that_is_no_number_is_refused() -> None:
    far = 1e200 * torch.randn(5, 2, generator=generator(), dtype=F64)
    with pytest.raises(UsageError, match="not finite"):
        frechet_distance(far, torch.zeros(3, 2, dtype=F64))


def test_an_image_with_nothing_hidden_has_no_hidden_error() -> None:
    x, a = torch.zeros(3, 4), torch.ones(3, 4)
    mask = torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    found = measure.hidden_error(a, x, mask)
    assert (found["value"], found["n"]) == (1.0, 2)
