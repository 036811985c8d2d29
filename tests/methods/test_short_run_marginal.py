"""The bracket of the chain's own divergence against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments import short_run_exact as exact
from lmcnb.experiments import short_run_quadrature as quadrature
from lmcnb.methods import short_run as sri
from lmcnb.methods.short_run_marginal import marginal_bounds, marginal_search
from lmcnb.methods.short_run_theory import divergences, minimizer
from lmcnb.models.observed import LogJoint

F64 = torch.float64


def ends(s: float, chains: int, repeats: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Both ends plus log p(x), over repeats, at the reference instance, and the exact value."""
    case = exact.reference()
    stream = torch.Generator().manual_seed(0)
    found = []
    for _ in range(repeats):
        z, noise = sri.draw((chains, 1, 2), 10, stream, F64)
        own = marginal_bounds(case.log_joint, z, s, 10, noise)
        found.append((own.lower + case.log_marginal, own.upper + case.log_marginal))
    lower, upper = torch.tensor(found, dtype=F64).T
    return lower, upper, divergences(case.precision, case.mean, s, 10).marginal


@pytest.mark.parametrize("s", [0.1, 0.2, 0.33])
def test_the_exact_divergence_lies_between_at_any_number_of_chains(s: float) -> None:
    for chains in (10, 200):
        lower, upper, known = ends(s, chains, 200)
        se = [float(v.std()) / math.sqrt(len(v)) for v in (lower, upper)]
        assert float(lower.mean()) < known + 4 * se[0]
        assert float(upper.mean()) > known - 4 * se[1]


def test_the_bracket_closes_with_more_chains_and_is_not_the_published_objective() -> None:
    lower, upper, known = ends(0.33, 2000, 20)
    assert float((upper - lower).mean()) < 0.01
    assert abs(float(upper.mean()) - known) < 0.01
    wide = ends(0.33, 20, 100)
    assert float((wide[1] - wide[0]).mean()) > 0.1
    case = exact.reference()
    assert divergences(case.precision, case.mean, 0.33, 10).frozen > known + 2


@pytest.mark.parametrize("s", [0.2, 0.4])
def test_one_dimension_by_quadrature(s: float) -> None:
    """Also beyond injectivity, where the published objective means nothing."""
    target = quadrature.posterior()
    grid = torch.linspace(-9, 9, 3601, dtype=F64)
    log_z = float(torch.logsumexp(target(grid[:, None]), 0)) + math.log(float(grid[1] - grid[0]))
    z, noise = sri.draw((3000, 8, 1), quadrature.STEPS_1D, torch.Generator().manual_seed(1), F64)
    found = marginal_bounds(target, z, s, quadrature.STEPS_1D, noise)
    known = quadrature.one_dimensional(s).marginal
    assert found.lower + log_z < known + 4 * found.lower_se
    assert found.upper + log_z > known - 4 * found.upper_se
    assert found.upper - found.lower < 0.02


def test_images_are_independent_and_few_chains_are_refused() -> None:
    case = exact.reference()
    z, noise = sri.draw((30, 3, 2), 4, torch.Generator().manual_seed(0), F64)
    whole = marginal_bounds(case.log_joint, z, 0.2, 4, noise)
    alone = [
        marginal_bounds(case.log_joint, z[:, i : i + 1], 0.2, 4, noise[:, :, i : i + 1])
        for i in range(3)
    ]
    assert abs(whole.upper - sum(a.upper for a in alone) / 3) < 1e-10
    for bad, steps in ((z[:1], 4), (z[:, 0], 4), (z, 0)):
        with pytest.raises(UsageError, match="chains"):
            marginal_bounds(case.log_joint, bad, 0.2, steps, noise)


def test_the_search_finds_the_own_laws_minimizer_and_not_the_published_one() -> None:
    case = exact.reference()
    known, _ = minimizer("marginal", case.precision, case.mean, 10, exact.STEEP)
    published, _ = minimizer("frozen", case.precision, case.mean, 10, exact.STEEP)
    grid = [0.05 * i for i in range(1, 9)]
    z, noise = sri.draw((2000, 1, 2), 10, torch.Generator().manual_seed(0), F64)
    found = marginal_search(case.log_joint, z, grid, 10, noise)
    assert found.step_size == min(grid, key=lambda s: abs(s - known)) == grid[6]
    assert found.step_size > 2 * published
    assert [o.step_size for o in found.visited] == grid
    least = min(o.value for o in found.visited if o.value is not None)
    exactly = divergences(case.precision, case.mean, grid[6], 10).marginal - case.log_marginal
    assert abs(least - exactly) < 0.05
    assert all(o.se is None and math.isnan(o.negative) for o in found.visited)  # one image


def test_a_chain_that_explodes_is_unusable_and_a_kink_is_not() -> None:
    case = exact.reference()
    z, noise = sri.draw((20, 1, 2), 400, torch.Generator().manual_seed(0), F64)
    found = marginal_search(case.log_joint, z, [0.3, 3.0], 400, noise)
    assert found.step_size == 0.3
    assert found.visited[1].value is None
    assert "not finite" in str(found.visited[1].reason)
    assert marginal_search(case.log_joint, z, [3.0], 400, noise).step_size is None
    kinked = LogJoint(lambda u: torch.relu(u), torch.zeros(1, 2, dtype=F64), 0.5)
    assert marginal_search(kinked, z, [0.1, 0.3], 5, noise[:5]).step_size is not None
    with pytest.raises(UsageError, match="grid"):
        marginal_search(case.log_joint, z, [], 4, noise)


def test_the_notebooks_check_of_the_bounds() -> None:
    found = exact.own_law(torch.Generator().manual_seed(3))
    assert found["outside"] < 4
    assert 0 < found["width"] < 0.05
    assert exact.own_law(torch.Generator().manual_seed(3), 20, 100)["width"] > 0.1
