"""The coupled gradient estimator: what it collects, counts and marks, and bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from lmcnb.errors import UsageError
from lmcnb.experiments.unbiased_vae_exact_models import Case, reference
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods import unbiased_vae as uv
from lmcnb.methods.unbiased import Unbiased, unbiased_expectation
from lmcnb.methods.unbiased_vae_kernels import Coupling

F64 = torch.float64
CASE = reference()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def collected(
    coupling: Coupling, rows: int, beta: float | Tensor = 0.5, seed: int = 0
) -> uv.Weighted:
    return uv.weighted_points(CASE.log_weight(rows), rows, 2, coupling, beta, generator(seed), F64)


def starts(
    rows: int, samples: int, log_weight: uv.RowLogWeight, stream: torch.Generator
) -> list[disir.State]:
    every = torch.arange(rows)
    shape = (rows, samples, 2)
    return [disir.start(shape, lambda p: log_weight(p, every), stream, F64) for _ in range(2)]


def gradient(state: disir.State, rows: Tensor) -> Tensor:
    """h(u) = sum_k w~_k grad log p(x, z_k)."""
    return (disir.weights(state).unsqueeze(-1) * CASE.gradient(state.points, rows)).sum(-2)


def by_driver(
    coupling: Coupling,
    rows: int,
    beta: float | Tensor = 0.5,
    seed: int = 0,
    compact: bool = True,
) -> Unbiased:
    """The same with `unbiased_expectation`."""
    stream, log_weight = generator(seed), CASE.log_weight(rows)
    kernel, joint = uv.kernels(log_weight, coupling, beta, stream)
    u, v = starts(rows, coupling.samples, log_weight, stream)
    return unbiased_expectation(
        kernel,
        joint,
        gradient,
        u,
        v,
        lag=coupling.lag,
        start=coupling.start,
        cap=coupling.cap,
        compact=compact,
    )


SETTINGS = [
    Coupling(4),
    Coupling(4, composite=False),
    Coupling(3, lag=2, start=4),
    Coupling(3, lag=1, start=0),
    Coupling(4, cap=0),
    Coupling(4, lag=1, cap=1),
    Coupling(4, lag=2, start=3, cap=2, composite=False),
    Coupling(4, rule="index"),
    Coupling(2, lag=3, composite=False, rule="index"),
]
each = pytest.mark.parametrize("coupling", SETTINGS, ids=str)
reaches_its_cap = pytest.mark.filterwarnings("ignore:cap=")


# ---- settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": 1}, "samples=1: an integer of at least 2"),
        ({"samples": 3.0}, "samples=3.0"),
        ({"samples": True}, "samples=True"),
        ({"lag": 0}, "lag=0: an integer of at least 1"),
        ({"lag": 1.5}, "lag=1.5"),
        ({"start": -1}, "start=-1: an integer of at least 0"),
        ({"cap": -1}, "cap=-1: an integer of at least 0"),
        ({"cap": 2.0}, "cap=2.0"),
        ({"rule": "both"}, "rule='both': strict or index"),
    ],
)
def test_impossible_settings(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Coupling(**changed)
    assert said in str(caught.value)


def test_the_defaults_are_the_papers() -> None:
    assert Coupling() == Coupling(10, True, 10, 1, None, "strict")


@pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
def test_impossible_correlations(beta: float) -> None:
    log_weight = CASE.log_weight(3)
    for wrong in (beta, torch.tensor([0.5, beta, 0.5])):
        with pytest.raises(UsageError, match="in \\[0, 1\\)"):
            uv.kernels(log_weight, Coupling(4), wrong, generator())
    with pytest.raises(UsageError, match="one a row"):
        uv.kernels(log_weight, Coupling(4), torch.full((3, 1), 0.5), generator())


# ---- what is collected


@each
def test_weights_of_every_row_add_up_to_one(coupling: Coupling) -> None:
    """Whatever the cap: a correction adds and takes one."""
    w = collected(coupling, 300)
    total = torch.zeros(300, dtype=F64).index_add_(0, w.rows, w.weights.sum(-1))
    assert float((total - 1).abs().max()) < 1e-12
    assert w.points.shape == (len(w.rows), coupling.samples, 2)
    assert w.weights.shape == w.points.shape[:2]
    ones = uv.expectation(w, lambda p, rows: torch.ones(p.shape[:2], dtype=F64), 77)
    assert float((ones - 1).abs().max()) < 1e-12


@each
@reaches_its_cap
def test_the_points_give_what_the_driver_gives(coupling: Coupling) -> None:
    """Same draws: values, meetings and what was cut off."""
    w, known = collected(coupling, 300), by_driver(coupling, 300)
    found = uv.expectation(w, CASE.gradient, 100)
    assert float((found - known.value).abs().max()) < 1e-11
    assert torch.equal(w.meeting.joint_steps, known.meeting.joint_steps)
    assert torch.equal(w.meeting.capped, known.meeting.capped)
    cut = w._replace(**{k: getattr(w, k)[w.last] for k in ("rows", "points", "weights")})
    if bool(w.last.any()):
        size = uv.expectation(cut, CASE.gradient).norm(dim=1)
        assert float((size - known.cut).abs().max()) < 1e-11


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_the_expectation_does_not_depend_on_its_chunks(chunk: int) -> None:
    w = collected(Coupling(4), 40)
    by = torch.zeros(40, 9, dtype=F64)
    for row, points, weights in zip(w.rows, w.points, w.weights, strict=True):
        by[row] += weights @ CASE.gradient(points, row)
    assert float((uv.expectation(w, CASE.gradient, chunk) - by).abs().max()) < 1e-11
    flat = uv.expectation(w, lambda p, rows: p[..., 0], chunk)
    assert flat.shape == (40,)


@each
def test_log_weights_are_counted(coupling: Coupling) -> None:
    rows, K = 200, coupling.samples
    calls = 0

    def log_weight(points: Tensor, own: Tensor) -> Tensor:
        nonlocal calls
        assert len(points) == len(own)
        calls += points.shape[0] * points.shape[1]
        return CASE.log_weight(rows)(points, own)

    w = uv.weighted_points(log_weight, rows, 2, coupling, 0.5, generator(), F64)
    one, two = (2, 3) if coupling.composite else (1, 1)
    known = 2 * K * rows + coupling.lag * rows * one * (K - 1)
    known += w.meeting.row_steps * two * (K - 1)
    assert w.n_weights == known == calls


def test_a_decoder_evaluation_is_saved_where_the_slots_are_shared() -> None:
    """K = 10: 2 (K - 1) a single iteration of the composite, 3 (K - 1) a joint one."""
    counter = uv.Counter()
    kernel, joint = uv.kernels(CASE.log_weight(5), Coupling(10), 0.5, generator(), counter)
    u, v = starts(5, 10, CASE.log_weight(5), generator())
    rows = torch.arange(5)
    kernel(u, rows)
    assert counter.weights == 5 * 18
    none = torch.zeros(5, dtype=torch.bool)
    joint(Pair(u, v, none, none), rows)
    assert counter.weights == 5 * (18 + 27)


@pytest.mark.parametrize(("start", "cap"), [(1, 2), (1, 3), (4, 2)])
def test_the_last_corrections_of_capped_rows_are_marked(start: int, cap: int) -> None:
    coupling = Coupling(4, lag=1, start=start, cap=cap, composite=False)
    w = collected(coupling, 400)
    capped = w.meeting.capped
    assert 0 < int(capped.sum()) < 400
    assert torch.equal(torch.bincount(w.rows[w.last], minlength=400), 2 * capped.long())
    signs = w.weights.sum(-1)
    for row in capped.nonzero().flatten().tolist():
        entries = (w.rows == row).nonzero().flatten()
        assert len(entries) == coupling.lag + 2 * cap
        assert w.last[entries].tolist() == [False] * (len(entries) - 2) + [True, True]
        assert torch.allclose(signs[entries[-2:]], torch.tensor([1.0, -1.0], dtype=F64))
    done = ~capped
    joint = w.meeting.joint_steps
    corrections = (torch.bincount(w.rows, minlength=400) - coupling.lag) // 2
    assert torch.equal(corrections[done], (joint[done] - start).clamp(min=0))


@pytest.mark.parametrize("cap", [None, 0])
def test_nothing_is_marked_without_a_correction_that_was_cut(cap: int | None) -> None:
    w = collected(Coupling(4, cap=cap), 50)
    assert not bool(w.last.any())
    assert bool(w.meeting.capped.all()) == (cap == 0)


def test_effective_samples_are_those_of_the_first_chain_in_the_window() -> None:
    coupling = Coupling(4, lag=3, start=2)
    w = collected(coupling, 100)
    window = 3 * 100  # entries of the averages; corrections of start + lag and later follow
    positive = w.weights[:window] * 3
    assert float((positive.sum(-1) - 1).abs().max()) < 1e-12
    known = torch.zeros(100, dtype=F64)
    known.index_add_(0, w.rows[:window], 1 / positive.square().sum(-1) / 3)
    assert float((w.effective - known).abs().max()) < 1e-12


def test_points_have_the_type_that_was_asked_for() -> None:
    for dtype in (torch.float32, F64):
        log_weight = CASE.log_weight(5)
        w = uv.weighted_points(log_weight, 5, 2, Coupling(3), 0.5, generator(), dtype)
        assert w.points.dtype == dtype
        assert w.weights.dtype == w.effective.dtype == F64
        assert not w.points.requires_grad


def test_no_graph_is_kept() -> None:
    """Of parameters that need gradients: those are for the weighted points, afterwards."""
    mean = CASE.mean.expand(5, 2).clone().requires_grad_()
    log_weight = uv.gaussian_log_weight(
        lambda z, rows: -z.square().sum(-1), mean, CASE.std.expand(5, 2)
    )
    w = uv.weighted_points(log_weight, 5, 2, Coupling(3), 0.5, generator(), F64)
    assert not w.weights.requires_grad
    assert not w.points.requires_grad


# ---- rows


def test_a_constant_beta_a_row_is_one_beta() -> None:
    a = collected(Coupling(4), 200, 0.8)
    b = collected(Coupling(4), 200, torch.full((200,), 0.8, dtype=F64))
    assert torch.equal(a.meeting.joint_steps, b.meeting.joint_steps)
    assert float((a.points - b.points).abs().max()) < 1e-12
    assert float((a.weights - b.weights).abs().max()) < 1e-12


def test_every_row_has_its_own_beta() -> None:
    """Without compaction a row's draws do not depend on the others."""
    beta = torch.tensor([0.2, 0.9], dtype=F64).repeat(100)
    mixed = by_driver(Coupling(4), 200, beta, compact=False)
    low, high = (by_driver(Coupling(4), 200, b, compact=False).value for b in (0.2, 0.9))
    assert mixed.meeting.calls > 2
    assert float((mixed.value[::2] - low[::2]).abs().max()) < 1e-11
    assert float((mixed.value[1::2] - high[1::2]).abs().max()) < 1e-11
    assert float((low - high).abs().max()) > 0.1


def test_rows_that_are_left_keep_their_beta_and_their_weight() -> None:
    """Kernels are given the numbers of the rows: here 5 and 2, by other names."""
    beta = torch.linspace(0.1, 0.9, 6, dtype=F64)
    shift = torch.arange(6, dtype=F64)

    def log_weight(points: Tensor, rows: Tensor) -> Tensor:
        return -(points[..., 0] - shift[rows].unsqueeze(-1)).square()

    left = torch.tensor([5, 2])

    def alone(points: Tensor, rows: Tensor) -> Tensor:
        return log_weight(points, left[rows])

    u, v = starts(2, 4, alone, generator())
    none = torch.zeros(2, dtype=torch.bool)
    found, known = (
        (k(u, rows), j(Pair(u, v, none, none), rows))
        for (k, j), rows in (
            (uv.kernels(log_weight, Coupling(4), beta, generator(1)), left),
            (uv.kernels(alone, Coupling(4), beta[left], generator(1)), torch.arange(2)),
        )
    )
    for a, b in zip((found[0], *found[1][:2]), (known[0], *known[1][:2]), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_rows_of_two_posteriors_do_not_mix() -> None:
    """Rows meet at different times and are taken out; each keeps its own observation."""
    n = 40_000
    odd = (torch.arange(n) % 2).bool()
    other = Case(CASE.weight, CASE.intercept, 0.5, -CASE.x, -CASE.mean, CASE.std)
    x = torch.where(odd[:, None], other.x, CASE.x) - CASE.intercept
    mean = torch.where(odd[:, None], other.mean, CASE.mean)

    def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
        return -(x[rows].unsqueeze(1) - z @ CASE.weight.T).square().sum(-1)

    log_weight = uv.gaussian_log_weight(log_likelihood, mean, CASE.std.expand(n, 2))
    w = uv.weighted_points(log_weight, n, 2, Coupling(4, lag=2), 0.5, generator(), F64)

    def squares(points: Tensor, rows: Tensor) -> Tensor:
        z = mean[rows].unsqueeze(1) + CASE.std * points
        return torch.cat([z, z.square()], -1)

    found = uv.expectation(w, squares)
    for rows, case in ((~odd, CASE), (odd, other)):
        value = found[rows]
        z = (value.mean(0) - case.moments()) / value.std(0) * math.sqrt(len(value))
        assert bool((z.abs() < 4).all()), z


@pytest.mark.parametrize("composite", [True, False])
def test_taking_rows_out_does_not_change_their_law(composite: bool) -> None:
    n, coupling = 20_000, Coupling(4, composite=composite, lag=1)
    out, kept = (by_driver(coupling, n, 0.5, seed, seed == 0) for seed in (0, 1))
    assert out.meeting.row_steps == int(out.meeting.joint_steps.sum())
    assert kept.meeting.row_steps == n * kept.meeting.calls

    def apart(a: Tensor, b: Tensor) -> float:
        se = ((a.var(0) + b.var(0)) / n).sqrt()
        return float(((a.mean(0) - b.mean(0)) / se).abs().max())

    steps = [m.meeting.joint_steps.double() for m in (out, kept)]
    assert apart(*steps) < 4
    assert apart(*(s.square() for s in steps)) < 4
    assert apart(out.value, kept.value) < 4
    assert apart(out.value.square(), kept.value.square()) < 4
    for found in (out, kept):
        z = (found.value.mean(0) - CASE.exact()) / found.value.std(0) * math.sqrt(n)
        assert bool((z.abs() < 4).all())


# ---- what counts as a meeting


def test_the_index_rule_stops_c_isir_one_iteration_early() -> None:
    """With the same draws: the selected points are one, the slot l_aux is not."""
    strict, early = (
        by_driver(Coupling(4, composite=False, rule=rule), 2000, compact=False)
        for rule in ("strict", "index")
    )
    assert torch.equal(strict.meeting.joint_steps, early.meeting.joint_steps + 1)
    assert int(early.meeting.joint_steps.min()) == 1


def test_the_index_rule_counts_where_beta_is_positive() -> None:
    strict, early = (
        by_driver(Coupling(4, lag=1, rule=rule), 2000, 0.9, compact=False)
        for rule in ("strict", "index")
    )
    fewer = strict.meeting.joint_steps - early.meeting.joint_steps
    assert int(fewer.min()) == 0
    assert 0.2 < float((fewer > 0).double().mean()) < 0.9


@pytest.mark.parametrize("composite", [True, False])
@pytest.mark.parametrize("rule", ["strict", "index"])
def test_the_whole_states_are_equal_where_the_strict_rule_says_so(
    composite: bool, rule: uv.Rule
) -> None:
    """And stay equal; where the index rule says so, some are not."""
    stream, n = generator(), 500
    log_weight = CASE.log_weight(n)
    kernel, joint = uv.kernels(log_weight, Coupling(4, composite=composite, rule=rule), 0.5, stream)
    u, v = starts(n, 4, log_weight, stream)
    rows, none = torch.arange(n), torch.zeros(n, dtype=torch.bool)
    pair, wrong = Pair(kernel(u, rows), v, none, none), 0
    for _ in range(50):
        before = pair.met
        pair = joint(pair, rows)
        same = torch.stack(
            [(a == b).reshape(n, -1).all(1) for a, b in zip(pair.first, pair.second, strict=True)]
        ).all(0)
        assert not bool((before & ~pair.met).any())
        if rule == "strict":
            assert torch.equal(same, pair.met)
        wrong += int((pair.met & ~same).sum())
    assert bool(pair.met.all())
    assert (wrong > 0) == (rule == "index")


@pytest.mark.parametrize("composite", [True, False])
def test_the_index_rule_is_biased(composite: bool) -> None:
    """Seen at once with L = 1; the strict rule passes the same test."""
    n = 60_000
    worst = {}
    for rule in ("strict", "index"):
        coupling = Coupling(4, composite=composite, lag=1, rule=rule)  # type: ignore[arg-type]
        found = uv.expectation(collected(coupling, n, 0.9), CASE.gradient, 1 << 16)
        z = (found.mean(0) - CASE.exact()) / found.std(0) * math.sqrt(n)
        worst[rule] = float(z.abs().max())
    assert worst["strict"] < 4 < worst["index"], worst


# ---- beta between runs, and the weight


def test_beta_moves_towards_the_target_between_runs() -> None:
    beta = torch.tensor([0.5, 0.5, 0.5, 0.001, 0.999], dtype=F64)
    share = torch.tensor([0.3, 0.5, 0.1, 1.0, 0.1], dtype=F64)
    found = uv.adapted(beta, share)
    known = torch.tensor([0.5, 0.48, 0.52, 1e-6, 1 - 1e-6], dtype=F64)
    assert float((found - known).abs().max()) < 1e-12
    # the paper's rule: 0.01 (ESS - 0.3 K) for K = 10
    paper = 0.5 - 0.01 * (4.2 - 3)
    assert float(uv.adapted(beta[0], torch.tensor(0.42))) == pytest.approx(paper)
    other = uv.adapted(beta[0], torch.tensor(0.5), target=0.4, gain=0.5)
    assert float(other) == pytest.approx(0.45)
    assert uv.adapted(beta.float(), share).dtype == torch.float32


def test_log_weights_are_those_of_the_densities() -> None:
    """log p(x | z) + log p(z) - log q(z | x), row by row, constants included."""
    stream = generator()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream, dtype=F64)

    n, K, dim = 7, 3, 4
    x, mean, std = normal(n, 5), normal(n, dim), normal(n, dim).exp()
    W = normal(5, dim)

    def likelihood(z: Tensor, rows: Tensor) -> Tensor:
        pixels = Independent(Normal(z @ W.T, 0.7), 1)
        return pixels.log_prob(x[rows].unsqueeze(1).expand(*z.shape[:-1], 5))

    points, rows = normal(n, K, dim), torch.tensor([3, 1, 4, 1, 5, 0, 6])
    found = uv.gaussian_log_weight(likelihood, mean, std)(points, rows)
    z = mean[rows].unsqueeze(1) + std[rows].unsqueeze(1) * points
    q = Independent(Normal(mean[rows].unsqueeze(1), std[rows].unsqueeze(1)), 1)
    prior = MultivariateNormal(torch.zeros(dim, dtype=F64), torch.eye(dim, dtype=F64))
    known = likelihood(z, rows) + prior.log_prob(z) - q.log_prob(z)
    assert found.shape == (n, K)
    assert float((found - known).abs().max()) < 1e-11


def test_the_weight_estimates_the_likelihood() -> None:
    n = 50_000
    points = torch.randn(n, 1, 2, generator=generator(), dtype=F64)
    w = CASE.log_weight(n)(points, torch.arange(n)).exp()
    z = (float(w.mean()) - math.exp(-3.3976473566)) / float(w.std()) * math.sqrt(n)
    assert abs(z) < 4


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan])
def test_a_proposal_without_support_is_refused(bad: float) -> None:
    std = torch.tensor([[1.0, bad]])
    with pytest.raises(UsageError, match="it must be positive"):
        uv.gaussian_log_weight(lambda z, rows: z.sum(-1), torch.zeros(1, 2), std)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_row_that_could_never_meet_is_refused_without_a_cap(bad: float, when: str) -> None:
    """With one it is marked by weights that are not numbers, and no other row is touched."""

    def log_weight(points: Tensor, rows: Tensor) -> Tensor:
        first = points.shape[1] == 4  # K points at the start, K - 1 in a step
        wrong = (rows == 7) & (first == (when == "at the start"))
        return torch.where(wrong[:, None], bad, CASE.log_weight(10)(points, rows))

    with pytest.raises(UsageError, match=r"log_weight: NaN or \+inf"):
        uv.weighted_points(log_weight, 10, 2, Coupling(4), 0.5, generator(), F64)
    found = uv.weighted_points(log_weight, 10, 2, Coupling(4, cap=3), 0.5, generator(), F64)
    lost = found.rows[found.weights.isnan().any(-1)]
    assert set(lost.tolist()) == {7}
    h = uv.expectation(found, lambda points, rows: points)
    assert h.isnan().any(-1).tolist() == [row == 7 for row in range(10)]


def test_a_row_that_starts_where_the_target_is_zero_is_refused() -> None:
    def log_weight(points: Tensor, rows: Tensor) -> Tensor:
        return torch.where(points[..., 0] > 1.5, 0.0, -math.inf)

    with pytest.raises(UsageError, match="-inf at all 4 starting points of .* rows"):
        uv.weighted_points(log_weight, 50, 1, Coupling(4), 0.5, generator(), F64)


def test_log_weights_and_correlations_of_a_wrong_shape_are_refused() -> None:
    def summed(points: Tensor, rows: Tensor) -> Tensor:
        return CASE.log_weight(5)(points, rows).sum(-1)

    with pytest.raises(UsageError, match=r"log_weight: \(5,\); \(5, 4\) is needed"):
        uv.weighted_points(summed, 5, 2, Coupling(4), 0.5, generator(), F64)
    for n in (4, 6):
        with pytest.raises(UsageError, match=rf"beta of shape \({n},\): one a row, \(5,\)"):
            collected(Coupling(4), 5, torch.full((n,), 0.5))


def test_a_correlation_may_be_a_scalar_tensor() -> None:
    known, found = (collected(Coupling(4), 5, b) for b in (0.5, torch.tensor(0.5)))
    assert torch.equal(known.points, found.points)
    with pytest.raises(UsageError, match="beta="):
        collected(Coupling(4), 5, torch.tensor(1.0))


def test_test_functions_of_a_wrong_shape_are_refused() -> None:
    points = collected(Coupling(4), 5)
    n = len(points.rows)
    for wrong in (lambda p, r: torch.tensor(1.0), lambda p, r: p[..., 0].sum(-1)):
        with pytest.raises(UsageError, match=rf"^h: .* \({n}, 4, '...'\) is needed"):
            uv.expectation(points, wrong)
