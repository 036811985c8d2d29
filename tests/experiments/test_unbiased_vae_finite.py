"""The finite case: the sheet's digits, the package's kernels against it, and the driver."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lmcnb.experiments import unbiased_vae_finite as finite
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased import unbiased_expectation
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels

F64 = torch.float64
EDGES = torch.special.ndtri(finite.Q.cumsum(0)[:-1])  # xi ~ N(0, 1) falls between them as q


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values_of(points: Tensor) -> Tensor:
    """States 0 ... 3 of xi `(..., 1)`, `(...)`: the finite case as a case of the real kernel."""
    return torch.bucketize(points[..., 0].contiguous(), EDGES)


def log_weight(points: Tensor) -> Tensor:
    return (finite.PI / finite.Q).log()[values_of(points)]


def average(state: disir.State, rows: Tensor) -> Tensor:
    return (disir.weights(state) * finite.H[values_of(state.points)]).sum(-1)


def at(value: int, n: int, seed: int) -> disir.State:
    """States with that selected value, somewhere within its interval; seeds below 100."""
    state = disir.start((n, finite.K, 1), log_weight, generator(seed), F64)
    uniform = torch.rand(n, generator=generator(100 + seed), dtype=F64)
    below = finite.Q[:value].sum()
    points = state.points.clone()
    points[torch.arange(n), state.selected, 0] = torch.special.ndtri(
        below + finite.Q[value] * uniform
    )
    return disir.init(points, state.selected, log_weight)


def selected_value(state: disir.State) -> Tensor:
    return values_of(state.points).gather(-1, state.selected[:, None])[:, 0]


# ---- by enumeration


def test_the_sheets_digits() -> None:
    found = finite.errors()
    wrong = {name: error for name, error in found.items() if not abs(error) <= 1e-10}
    assert wrong == {}
    assert set(finite.SHEET) <= set(found)
    assert len(finite.SHEET) == 20
    exact = [error for name, error in found.items() if name not in finite.SHEET]
    assert len(exact) == 4 + 3 * 6
    assert max(map(abs, exact)) < 1e-12


def test_bounds_of_the_paper() -> None:
    """Total variation falls at least like rho_K; E[tau] stays below L + 1 / P(meet)."""
    largest = float((finite.PI / finite.Q).max())
    rate = 1 - (finite.K - 1) / (2 * largest + finite.K - 2)
    assert abs(rate - 7 / 9) < 1e-15
    assert finite.found()["ISIR/eigenvalue"] < rate
    least = (1 - 1 / finite.K) / largest
    for lag in finite.LAGS:
        assert finite.steps("composite", lag, whole=True) < 1 / least
        assert finite.steps("ISIR", lag, whole=True) < 1 + 1 / least


def test_a_chance_of_having_met_grows_to_one_at_the_tails_rate() -> None:
    for name in ("ISIR", "composite"):
        left = [1 - finite.met_by(name, 1, n) for n in range(30)]
        assert all(a > b > 0 for a, b in pairwise(left))
        assert abs(left[20] / left[19] - finite.found()[f"{name}/tail"]) < 1e-4
        total = finite.steps(name, 1)
        assert abs(sum(left) - total) < 1e-3 * total


def test_sources_are_the_recursion_of_keeping() -> None:
    """Slot by slot along both arms; a column is the retained point or another slot, in order."""
    for aux in range(finite.K):
        others = [k for k in range(finite.K) if k != aux]
        column = {aux: 0} | {k: 1 + i for i, k in enumerate(others)}
        for code, kept in enumerate(finite.KEEP.tolist()):
            keep = dict(zip(others, kept, strict=True))
            known = column.copy()
            for k in range(aux + 1, finite.K):
                known[k] = known[k - 1] if keep[k] else column[k]
            for k in range(aux - 1, -1, -1):
                known[k] = known[k + 1] if keep[k] else column[k]
            assert finite.sources()[aux, code].tolist() == [known[k] for k in others]


# ---- the package's kernels: with a step function for w they are the finite case


def far(frequency: Tensor, p: Tensor, n: int) -> float:
    """Largest distance in standard errors, of cells that are seen often enough."""
    often = p * n > 20
    assert float(frequency[p < 1e-12].sum()) == 0
    return float(((frequency - p) / (p * (1 - p) / n).sqrt())[often].abs().max())


def test_isir_has_the_enumerated_transition_matrix() -> None:
    n = 60_000
    for value in range(finite.COUNT):
        new, _ = disir.step(at(value, n, value), log_weight, 0.0, generator(9))
        found = torch.bincount(selected_value(new), minlength=finite.COUNT).double() / n
        assert far(found, finite.step(0.0).T[value], n) < 4
        h = average(new, torch.arange(n))
        error = float(h.std()) / math.sqrt(n)
        assert abs(float(h.mean()) - float(finite.step(0.0).g[value])) < 4 * error


def test_coupled_isir_has_the_enumerated_pairs() -> None:
    """All 256 probabilities; equal values, whose points differ, stay equal, and are not joined."""
    n, same = 20_000, finite.step(0.0).pairs
    none = torch.zeros(n, dtype=torch.bool)
    for a in range(finite.COUNT):
        for b in range(finite.COUNT):
            pair = Pair(at(a, n, 2 * a), at(b, n, 2 * b + 1), none, none)
            pair, _ = disir.coupled_step(pair, log_weight, 0.0, generator(16 * a + b))
            i, j = (selected_value(s) for s in pair[:2])
            found = torch.bincount(4 * i + j, minlength=16).double() / n
            assert far(found, same[4 * a + b], n) < 4
            one_point = (pair.first.points == pair.second.points).gather(
                1, pair.first.selected[:, None, None]
            )[:, 0, 0] & (pair.first.selected == pair.second.selected)
            assert torch.equal(pair.joined, one_point)


@pytest.mark.parametrize("cap", [1, 5])
@pytest.mark.parametrize("lag", finite.LAGS)
def test_the_papers_kernel_with_a_cap_has_the_tabled_bias(lag: int, cap: int) -> None:
    """A capped mean does not depend on the coupling: C-ISIR as it is meets the sheet's digits."""
    n, stream = 20_000, generator(lag + cap)
    pair = kernels(lambda p, rows: log_weight(p), Coupling(samples=3, composite=False), 0.0, stream)
    first, second = (disir.start((n, 3, 1), log_weight, stream, F64) for _ in range(2))
    with pytest.warns(UserWarning, match=f"cap={cap}"):
        value = unbiased_expectation(*pair, average, first, second, lag=lag, cap=cap).value
    error = float(value.std()) / math.sqrt(n)
    known = finite.EXACT + finite.SHEET[f"ISIR/L={lag}/cap={cap}"]
    assert abs(float(value.mean()) - known) < 4 * error
    if cap == 1:
        assert finite.EXACT - float(value.mean()) > 8 * error


@pytest.mark.parametrize(
    ("composite", "lag", "start"), [(False, 1, 1), (True, 10, 1), (True, 3, 5)]
)
def test_the_papers_kernels_are_unbiased(composite: bool, lag: int, start: int) -> None:
    n, stream = 20_000, generator(7)
    coupling = Coupling(samples=3, composite=composite)
    pair = kernels(lambda p, rows: log_weight(p), coupling, finite.BETA, stream)
    first, second = (disir.start((n, 3, 1), log_weight, stream, F64) for _ in range(2))
    value = unbiased_expectation(*pair, average, first, second, lag=lag, start=start).value
    error = float(value.std()) / math.sqrt(n)
    assert abs(float(value.mean()) - finite.EXACT) < 4 * error


# ---- the driver


def test_the_driver_has_the_exact_means_and_meeting_times() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = finite.driver(generator(), 20_000)
    assert len(found) == 4 * (4 + 3 + 2)
    known = {name: z for name, z in found.items() if not name.endswith("/rejects")}
    assert max(map(abs, known.values())) < 4
    for at_lag in ("ISIR/L=1", "ISIR/L=10", "composite/L=1", "composite/L=10"):
        assert found[f"{at_lag}/cap=1/rejects"] < -8
    for lag in finite.LAGS:
        assert found[f"ISIR/L={lag}/premature/rejects"] < -4


@pytest.mark.slow
def test_the_driver_rejects_every_biased_estimate() -> None:
    found = finite.driver(generator(1), 1_000_000)
    rejects = {name: z for name, z in found.items() if name.endswith("/rejects")}
    assert max(map(abs, (z for name, z in found.items() if name not in rejects))) < 4
    assert len(rejects) == 12
    assert max(rejects.values()) < -4
