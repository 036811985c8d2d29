"""Short-run inference against its exact answers (the sheet's section 6), and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.experiments import short_run_structure as structure
from lmcnb.kernels.gradients import score
from lmcnb.kernels.hessian import second_order
from lmcnb.methods import short_run as sri
from lmcnb.methods import short_run_likelihood as likelihood
from lmcnb.methods import short_run_search as choice
from lmcnb.methods import short_run_theory as theory
from lmcnb.models.observed import LogJoint, TopDownLogJoint, log_joint
from lmcnb.models.top_down import TopDown

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the linear-Gaussian case


def test_the_closed_forms_give_the_reference_instance() -> None:
    assert all(abs(e) < 1e-6 for e in exact.formulas().values())


@pytest.mark.parametrize(
    ("precision", "noise_free", "marginal", "frozen"),
    [
        (2, (0.14742, 0.20273), (0.36971, 0.00163), (0.11663, 0.50172)),
        (10, (0.10695, 0.32093), (0.18467, 0.00247), (0.10579, 0.80751)),
        (50, (0.05926, 0.34155), (0.08858, 0.00325), (0.05914, 0.85912)),
        (400, (0.02501, 0.34595), (0.03371, 0.00435), (0.02499, 0.87862)),
    ],
)
def test_minima_averaged_over_images(
    precision: float,
    noise_free: tuple[float, float],
    marginal: tuple[float, float],
    frozen: tuple[float, float],
) -> None:
    lam, steps, most = torch.tensor([float(precision)]), 25, math.sqrt(2 / precision)
    for name, known in (("noise_free", noise_free), ("marginal", marginal), ("frozen", frozen)):
        s, value = theory.minimizer(name, lam, None, steps, most)
        assert abs(s - known[0]) < 1.1e-5
        assert abs(value - known[1]) < 1.1e-5


def test_where_the_noise_free_minimum_lies_and_the_limits() -> None:
    lam, steps = 10.0, 25
    s, value = theory.minimizer("noise_free", torch.tensor([lam]), None, steps, 0.44)
    closed = math.sqrt(2 * (1 - (2 * lam - 1) ** (-1 / (2 * steps))) / lam)
    assert abs(s - closed) < 1e-6
    assert abs(value - 0.5 * math.log((2 * lam - 1) / lam)) < 1e-9
    many = torch.tensor([4e4])
    assert abs(theory.minimizer("noise_free", many, None, 2000, 0.007)[1] - 0.3466) < 1e-3
    assert abs(theory.minimizer("frozen", many, None, 2000, 0.007)[1] - 0.8466) < 2e-3
    at_two = theory.divergences(torch.tensor([8.0]), None, 0.5, 7)  # s^2 lambda = 2
    assert abs(at_two.marginal - 0.5 * (1 - math.log(2))) < 1e-9


def test_the_estimator_meets_its_closed_forms() -> None:
    found = exact.estimator(generator(), 40_000)
    assert found.pop("log_det") < 1e-9
    assert all(abs(z) < 4 for z in found.values()), found


def test_the_estimator_is_not_the_marginal_divergence() -> None:
    """The finding, by the same code: with noise, J + log p(x) is far above the chain's own KL."""
    case = exact.reference()
    z, noise = sri.draw((20_000, 2), 10, generator(), F64)
    gap = sri.log_density_gap(sri.transport(case.log_joint, z, 0.2, 10, noise), z)
    own = float(gap.mean()) + case.log_marginal
    marginal = theory.divergences(case.precision, case.mean, 0.2, 10).marginal
    assert own - marginal > 1.3


@pytest.mark.parametrize("seed", range(3))
def test_the_chain_has_its_exact_moments(seed: int) -> None:
    assert all(abs(z) < 4.2 for z in exact.moments(generator(seed), 20_000).values())


def test_gradient_search_finds_the_minimizers() -> None:
    assert all(abs(e) < 1e-3 for e in exact.searches(generator()).values())


def test_grid_search_takes_the_least_usable_value() -> None:
    case = exact.reference()
    z, noise = exact.whitened(60, 2, 10, generator())
    found = choice.grid_search(case.log_joint, z, (0.1, 0.16, 0.3, 0.5), 10, noise)
    assert found.step_size == 0.16
    known = theory.divergences(case.precision, case.mean, 0.16, 10).frozen
    value = found.visited[1].value
    assert value is not None
    assert abs(value + case.log_marginal - known) < 1e-9
    worst = found.visited[3]
    assert worst.value is None
    assert worst.reason is not None
    assert "s^2 lambda = 2.5 (lambda = 10)" in worst.reason


def test_invariance_under_a_rotation() -> None:
    z, noise = exact.whitened(60, 2, 10, generator())
    a, b = (
        sri.objective(exact.reference(angle).log_joint, z, 0.2, 10, noise).value
        for angle in (0.0, 1.1)
    )
    assert a is not None
    assert b is not None
    assert abs(a - b) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_importance_sampled_log_likelihood(seed: int) -> None:
    assert abs(exact.likelihood_error(generator(seed))) < 0.05


def test_importance_sampling_with_the_noise_given() -> None:
    """q(z | e) is a density for every e, so that the noisy chain is right, too."""
    case = exact.reference()
    bound = likelihood.log_likelihood(case.log_joint, 2, 0.12, 10, 100_000, generator(), noisy=True)
    assert abs(float(bound.value[0]) - case.log_marginal) < 0.05


# ---- one dimension, by quadrature

SHEET = {  # s: (E log-det, KL0, KL of the chain's own law, J and its standard error)
    0.05: (-0.04935, 2.98438, 3.02108, 3.035, 0.008),
    0.10: (-0.27528, 1.76731, 1.91973, 1.999, 0.006),
    0.15: (-0.83381, 0.92585, 0.97796, 1.315, 0.005),
    0.20: (-1.77815, 1.11343, 0.51409, 1.497, 0.004),
    0.25: (-3.15803, 2.15034, 0.32744, 2.432, 0.004),
    0.30: (-5.22240, 4.04111, 0.24695, 4.147, 0.005),
}


@pytest.mark.parametrize("s", SHEET)
def test_the_nonlinear_case_by_quadrature(s: float) -> None:
    log_det, noise_free, marginal, frozen, its_se = SHEET[s]
    found = quadrature.one_dimensional(s)
    assert found.injective
    assert abs(found.log_det - log_det) < 1e-4
    assert abs(found.noise_free - noise_free) < 1e-3
    assert abs(found.marginal - marginal) < 1e-3
    value, se = quadrature.frozen_1d(s, generator(1), 100_000)
    assert abs(value - frozen) < 4 * math.hypot(se, its_se)
    assert value > found.marginal


def test_beyond_injectivity_the_true_divergence_still_falls() -> None:
    found = quadrature.one_dimensional(0.4)
    assert not found.injective
    assert abs(found.marginal - 0.20904) < 1e-3


# ---- structure


@pytest.mark.parametrize("latent", [(16,), (3, 4, 5)])
def test_log_determinant_against_the_unrolled_jacobian(latent: tuple[int, ...]) -> None:
    assert structure.unrolled_error(generator(), latent) < 1e-8


def test_a_step_size_for_every_dimension() -> None:
    """The symmetric form has the determinant of the plain Jacobian."""
    network = TopDown((2, 3), 9, 8, generator()).double().requires_grad_(False)
    x = torch.tanh(torch.randn(1, 9, generator=generator(1), dtype=F64))
    target = log_joint(network, x, 0.5)
    s = torch.tensor([0.1, 0.1, 0.25, 0.25, 0.25], dtype=F64)
    z, noise = sri.draw((1, 5), 6, generator(2), F64)
    found = sri.transport(target, z, s, 6, noise)

    def chain(start: Tensor) -> Tensor:
        point = start[None]
        for k in range(6):
            g = torch.func.grad(lambda v: target(v).sum())(point)
            point = point + 0.5 * s**2 * g + s * noise[k]
        return point[0]

    J = torch.func.jacrev(chain)(z[0])
    assert abs(float(found.log_det) - float(torch.linalg.slogdet(J).logabsdet)) < 1e-10
    assert float((found.z - chain(z[0])).abs().max()) < 1e-12


def test_limits() -> None:
    found = structure.limit_errors(generator())
    assert found["log_det"] < 1e-9
    assert abs(found["objective"]) < 1e-4
    assert found["prior"] == 0


@pytest.mark.parametrize("seed", range(2))
def test_masks(seed: int) -> None:
    found = structure.masks(generator(seed))
    assert found["empty"] == 0
    assert abs(found["full"]) < 4


def test_a_number_and_a_tensor_are_the_same_step_size() -> None:
    case = exact.reference()
    z, noise = sri.draw((7, 2), 10, generator(), F64)
    a = sri.short_run(case.log_joint, z, 0.2, 10, noise)
    b = sri.short_run(case.log_joint, z, torch.tensor([0.2, 0.2], dtype=F64), 10, noise)
    assert float((a - b).abs().max()) < 1e-12
    kept = list(sri.states(case.log_joint, z, 0.2, 10, noise))
    assert len(kept) == 11
    assert torch.equal(kept[-1], a)
    assert torch.equal(kept[0], z)


def test_derivative_of_the_objective_in_log_s() -> None:
    network = TopDown((2, 2), 9, 8, generator()).double().requires_grad_(False)
    x = torch.tanh(torch.randn(5, 9, generator=generator(1), dtype=F64))
    target = log_joint(network, x, 0.5)
    z, noise = sri.draw((5, 4), 8, generator(2), F64)

    def value(log_s: Tensor) -> tuple[Tensor, sri.Transport]:
        t = sri.transport(target, z, log_s.exp().repeat_interleave(2), 8, noise)
        return sri.log_density_gap(t, z).mean(), t

    at = torch.tensor([0.1, 0.2], dtype=F64).log()
    gradient, _ = choice._derivatives(value, at)
    h = 1e-5
    for i in range(2):
        e = torch.zeros(2, dtype=F64)
        e[i] = h
        numeric = float((value(at + e)[0] - value(at - e)[0]) / (2 * h))
        assert abs(numeric - float(gradient[i])) < 1e-6 * max(1, abs(numeric))


def test_a_step_size_for_every_layer_is_found() -> None:
    """Two layers that differ in scale: a precision of 4 and one of 100 want different steps."""

    class Quadratic:
        precision = torch.diag(torch.tensor([4.0, 4.0, 100.0], dtype=F64))

        def __call__(self, z: Tensor) -> Tensor:
            return -0.5 * (z @ self.precision * z).sum(-1)

        def second_order(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self(z), -z @ self.precision, (-self.precision).expand(*z.shape, 3)

    z, noise = exact.whitened(60, 3, 10, generator())
    target = Quadratic()
    found = choice.gradient_search(target, z, 0.02, 10, noise, iterations=80, layers=(2, 1))
    one = choice.gradient_search(target, z, 0.02, 10, noise, iterations=80)
    assert isinstance(found.step_size, list)
    for s, lam in zip(found.step_size, (4.0, 100.0), strict=True):
        lams = torch.tensor([lam], dtype=F64)
        known = theory.minimizer("frozen", lams, torch.zeros(1), 10, math.sqrt(2 / lam))[0]
        assert abs(s / known - 1) < 0.02
    least = [min(o.value for o in f.visited if o.value is not None) for f in (found, one)]
    assert least[0] < least[1] - 0.1


# ---- the network's derivatives by hand


@pytest.mark.parametrize("variant", ["gaussian", "wide", "ladder"])
@pytest.mark.parametrize("latent", [(5,), (3, 4, 5)])
def test_hand_written_derivatives(variant: str, latent: tuple[int, ...]) -> None:
    network = TopDown(latent, 20, 16, generator(), variant=variant)  # type: ignore[arg-type]
    network = network.double().requires_grad_(False)
    draws = generator(1)
    x = torch.randn(6, 20, generator=draws, dtype=F64)
    z = 1.5 * torch.randn(2, 6, sum(latent), generator=draws, dtype=F64)
    mask = (torch.rand(6, 20, generator=draws) > 0.3).double()
    for m in (None, mask):
        plain, fast = LogJoint(network, x, 0.3, m), TopDownLogJoint(network, x, 0.3, m)
        for a, b in zip(second_order(plain, z), second_order(fast, z), strict=True):
            assert float((a - b).abs().max()) < 1e-9 * max(1.0, float(a.abs().max()))
        assert torch.allclose(score(fast, z), score(plain, z), rtol=1e-10, atol=1e-10)
        assert torch.allclose(fast(z), plain(z), rtol=1e-12)
        v = torch.randn(z.shape, generator=draws, dtype=F64)
        product = fast.linearize(z)[1](v)
        assert torch.allclose(product, (second_order(plain, z)[2] @ v[..., None])[..., 0])


def test_layers_are_non_centred() -> None:
    """A lower layer's noise leaves the latents above untouched, and the prior's score is -z."""
    network = TopDown((2, 3, 4), 10, 8, generator()).double().requires_grad_(False)
    z = torch.randn(1, 9, generator=generator(1), dtype=F64)
    moved = z.clone()
    moved[:, 5:] += 1
    h = network.feature(0, z[:, :2], None)
    assert torch.equal(h, network.feature(0, moved[:, :2], None))
    assert not torch.equal(network(z), network(moved))
    hidden = log_joint(network, torch.zeros(1, 10, dtype=F64), 0.3, torch.zeros(10))
    assert torch.allclose(score(hidden, z), -z)


def test_wide_layers_have_a_standard_deviation_of_at_least_one() -> None:
    h = 5 * torch.randn(50, 8, generator=generator(), dtype=F64)
    for variant, low, high in (("wide", 1.0, math.inf), ("gaussian", math.exp(-3), math.exp(2))):
        network = TopDown((2, 3), 10, 8, generator(), variant=variant).double()  # type: ignore[arg-type]
        std = network.conditional(1, h)[1]
        assert bool(((std >= low) & (std <= high)).all())


# ---- the learning fixed point


@pytest.mark.parametrize(
    ("s", "steps", "noisy", "root"),
    [
        (0.2, 25, True, 1.31742),
        (0.3, 25, True, 1.16767),
        (0.3, 100, True, 1.15536),
        (0.1, 100, True, 1.35441),
        (0.1, 400, True, 1.21716),
        (0.05, 2000, True, 1.22278),
        (0.1, 25, False, 13.340),
        (0.2, 25, False, 6.72456),
        (0.3, 25, False, 4.48577),
        (0.3, 100, False, 4.63338),
        (0.1, 100, False, 13.97098),
        (0.1, 400, False, 14.08546),
    ],
)
def test_stable_roots_of_the_learning_map(s: float, steps: int, noisy: bool, root: float) -> None:
    stable = [w for w, good in theory.fixed_points(2, 0.5, s, steps, noisy) if good]
    assert len(stable) == 1
    assert abs(stable[0] - root) < (1e-3 if root == 13.340 else 1.1e-5)


def test_collapse_and_the_unstable_root() -> None:
    assert theory.fixed_points(2, 0.5, 0.1, 25, True) == []
    roots = theory.fixed_points(2, 0.5, 0.1, 25, False)
    assert [good for _, good in roots] == [False, True]
    assert abs(roots[0][0] - 1.749) < 1e-3
    for (s, steps), slope in {(0.1, 25): 0.471, (0.2, 25): 1.576, (0.3, 25): 2.679}.items():
        assert abs(theory.collapse_slope(2, 0.5, s, steps, True) - slope) < 6e-4
        near = theory.learning_map(1e-5, 2, 0.5, s, steps, True) / 1e-5
        assert abs(near - theory.collapse_slope(2, 0.5, s, steps, True)) < 1e-6


def test_the_noise_free_root_at_the_edge_of_stability() -> None:
    """s = 0.05, K = 2000: the sheet found none; there is one, within 0.1 % of the edge."""
    (root, stable), *more = theory.fixed_points(2, 0.5, 0.05, 2000, False)
    assert not more
    assert stable
    edge = math.sqrt(0.5 * (4 / 0.05**2 - 1))
    assert 0.999 < root / edge < 1
    assert abs(theory.learning_map(root, 2, 0.5, 0.05, 2000, False) - root) < 1e-9


def test_more_and_smaller_steps_approach_maximum_likelihood() -> None:
    target = math.sqrt(1.5)
    roots = [
        theory.fixed_points(2, 0.5, s, k, True)[0][0]
        for s, k in ((0.2, 100), (0.1, 400), (0.05, 2000))
    ]
    errors = [abs(w - target) for w in roots]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.002


@pytest.mark.parametrize(("s", "steps", "known"), [(0.2, 25, 1.3174), (0.3, 25, 1.1684)])
def test_learning_by_the_chain_itself(s: float, steps: int, known: float) -> None:
    """The same recursion with the method's own chain, 100,000 draws an update."""
    kept = exact.learn(generator(), s, steps, 60, 100_000)[20:]
    mean = sum(kept) / len(kept)
    assert abs(mean - theory.fixed_points(2, 0.5, s, steps, True)[0][0]) < 2e-3
    assert abs(mean - known) < 3e-3


def test_learning_collapses_where_the_slope_says_so() -> None:
    """s = 0.1, K = 25: from its maximum-likelihood value the weight goes to zero."""
    assert abs(exact.learn(generator(), 0.1, 25, 40, 10_000)[-1]) < 0.05


def test_without_noise_the_weight_grows() -> None:
    found = exact.learn(generator(), 0.3, 25, 60, 10_000, noisy=False)[-1]
    assert abs(found / theory.fixed_points(2, 0.5, 0.3, 25, False)[-1][0] - 1) < 0.05


# ---- bad input


def test_bad_step_sizes_are_refused() -> None:
    case = exact.reference()
    z = torch.zeros(3, 2, dtype=F64)
    for s in (0.0, -0.1, math.nan, math.inf, torch.tensor([0.1, 0.0])):
        with pytest.raises(UsageError, match="step_size"):
            sri.short_run(case.log_joint, z, s, 3)


@pytest.mark.parametrize("s", [0.5, 0.7, 30.0])
def test_no_objective_past_injectivity_or_stability(s: float) -> None:
    case = exact.reference()
    z, noise = sri.draw((20, 2), 200, generator(), F64)
    found = sri.objective(case.log_joint, z, s, 200, noise)
    assert found.value is None
    assert found.se is None
    assert found.reason is not None
    assert "step_size" in found.reason
    assert "2" in found.reason


def test_a_gradient_search_that_starts_too_far_is_refused_with_the_eigenvalue() -> None:
    case = exact.reference()
    z, noise = sri.draw((20, 2), 10, generator(), F64)
    with pytest.raises(UsageError, match=r"eigenvalue .* -0.25"):
        choice.gradient_search(case.log_joint, z, 0.5, 10, noise)


def test_the_guard_holds_the_gradient_search_back() -> None:
    """Never is a step size visited at which an eigenvalue is below the guard."""
    case = exact.reference()
    z, noise = exact.whitened(60, 2, 10, generator())
    found = choice.gradient_search(
        case.log_joint, z, 0.3, 10, noise, learning_rate=1.0, iterations=10, guard=0.3
    )
    assert all(o.smallest >= 0.3 for o in found.visited)
    assert len(found.visited) == 11


def test_bad_observations_are_refused() -> None:
    network = TopDown((2,), 5, 4, generator())
    x = torch.zeros(3, 5)
    for sigma in (0, -1.0, math.nan):
        with pytest.raises(UsageError, match="sigma"):
            log_joint(network, x, sigma)
    with pytest.raises(UsageError, match="mask of shape"):
        log_joint(network, x, 0.3, torch.ones(4))
    with pytest.raises(UsageError, match="mask: values"):
        log_joint(network, x, 0.3, torch.full((5,), 0.5))
    with pytest.raises(UsageError, match="latent"):
        TopDown((), 5, 4, generator())
    with pytest.raises(UsageError, match="variant"):
        TopDown((2,), 5, 4, generator(), variant="narrow")  # type: ignore[arg-type]


def test_closed_forms_beyond_stability_are_refused() -> None:
    with pytest.raises(UsageError, match="stable below 4"):
        theory.divergences(torch.tensor([50.0]), None, 0.3, 5)
