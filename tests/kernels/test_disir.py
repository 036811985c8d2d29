"""ISIR, DISIR and their coupling: proposals, selection, the invariant law, meetings, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.methods.unbiased_vae import gaussian_log_weight
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.models.linear_gaussian import LinearGaussian, log_gaussian

F64 = torch.float64
# the reference instance: x = offset + W z + N(0, .5 I), and its Gaussian proposal
W = torch.tensor([[1.0, 0.5], [0.3, -0.8], [-0.6, 0.4]], dtype=F64)
RESIDUAL = torch.tensor([0.8, -0.4, 0.5], dtype=F64)  # x less the offset
NOISE = 0.5 * torch.eye(3, dtype=F64)
M, S = torch.tensor([-0.3, 0.9], dtype=F64), torch.tensor([0.9, 0.9], dtype=F64)
MEAN, COVARIANCE = LinearGaussian(W, NOISE).posterior(RESIDUAL)
LEAST = 1 / 3.8611593  # p(x) / w_max


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_weight(points: Tensor) -> Tensor:
    """log w of the reference instance at xi `(..., 2)`, written out; it is called often."""
    z = M + S * points
    likelihood = -(RESIDUAL - z @ W.mT).square().sum(-1) - 1.5 * math.log(math.pi)
    return likelihood + 0.5 * (points.square() - z.square()).sum(-1) + S.log().sum()


def started(n: int, count: int = 4, seed: int = 1) -> disir.State:
    return disir.start((n, count, 2), log_weight, generator(seed), F64)


def selected(state: disir.State) -> Tensor:
    return state.points[torch.arange(len(state.points)), state.selected]


def z_score(sample: Tensor, exact: float | Tensor = 0.0) -> float:
    """Largest distance of the column means from `exact`, in standard errors."""
    error = sample.std(0) / math.sqrt(len(sample))
    return float(((sample.mean(0) - exact) / error).abs().max())


def retains(old: disir.State, new: disir.State) -> bool:
    """The first point and its weight are the old selected ones, to the last bit."""
    rows = torch.arange(len(old.selected))
    return torch.equal(new.points[:, 0], selected(old)) and torch.equal(
        new.log_weights[:, 0], old.log_weights[rows, old.selected]
    )


def equal_states(a: disir.State, b: disir.State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- proposals


def test_the_reference_instance_is_the_sheets() -> None:
    assert torch.allclose(MEAN, torch.tensor([0.18880911, 0.59111214], dtype=F64), atol=1e-8)
    # E_q[w] = p(x), and the bound on w
    points = torch.randn(200_000, 2, generator=generator(), dtype=F64)
    w = (log_weight(points) + 3.3976473566).exp()
    assert z_score(w[:, None], 1.0) < 4
    assert 3.5 < float(w.max()) < 3.8611594
    ours = gaussian_log_weight(
        lambda z, rows: log_gaussian(RESIDUAL - z @ W.mT, NOISE), M[None], S[None]
    )
    own = ours(points[None, :50], torch.zeros(1, dtype=torch.int64))[0]
    assert torch.allclose(own, log_weight(points[:50]), rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_arms_are_the_recursion(beta: float, count: int) -> None:
    """Algorithm 2 slot by slot, for every l_aux."""
    noise = torch.randn(count, 5, generator=generator(), dtype=F64)
    root = math.sqrt(1 - beta**2)
    for aux in range(count):
        by_hand = noise.clone()
        for k in range(aux + 1, count):
            by_hand[k] = beta * by_hand[k - 1] + root * noise[k]
        for k in range(aux - 1, -1, -1):
            by_hand[k] = beta * by_hand[k + 1] + root * noise[k]
        others = [k for k in range(count) if k != aux]
        order = [aux, *others]
        A = disir.arms(torch.tensor(aux), torch.tensor(beta, dtype=F64), count)
        torch.testing.assert_close(A @ noise[order], by_hand[others], rtol=1e-14, atol=1e-14)
        k = torch.tensor(order)
        correlation = torch.tensor(beta, dtype=F64) ** (k[:, None] - k).abs()
        whole = torch.cat([torch.eye(count, dtype=F64)[:1], A])
        torch.testing.assert_close(whole @ whole.mT, correlation, rtol=1e-14, atol=1e-14)


def test_every_chain_has_its_own_arms() -> None:
    """By l_aux and by beta, also where a table was made before, and of some rows."""
    aux = torch.tensor([[0, 2, 1], [3, 1, 0]])
    beta = torch.tensor([[0.1, 0.9, 0.5], [0.0, 0.7, 0.3]], dtype=F64)
    like = torch.zeros(1, dtype=F64)
    found = disir.arms(aux, beta, 4)
    table = disir.Arms.of(beta, 4, like)
    assert torch.equal(table.at(aux), found)
    assert torch.equal(table.take(torch.tensor([1])).at(aux[[1]]), found[[1]])
    one = disir.Arms.of(0.7, 4, like)
    assert one.take(torch.tensor([1])) is one
    for i in range(2):
        for j in range(3):
            assert torch.equal(found[i, j], disir.arms(aux[i, j], beta[i, j], 4))
    assert torch.equal(one.at(aux)[1, 1], found[1, 1])


@pytest.mark.parametrize("beta", [0.0, 0.6, 0.95])
def test_points_are_standard_normal_with_correlation_beta_to_their_distance(beta: float) -> None:
    """From a selected point of N(0, I); l_aux is uniform, so correlations are means over it."""
    n, K = 100_000, 4
    old = started(n, K)
    new, _ = disir.step(old, log_weight, beta, generator())
    exact = torch.zeros(K, K, dtype=F64)
    for aux in range(K):
        order = torch.tensor([aux, *(k for k in range(K) if k != aux)])
        exact += torch.tensor(beta, dtype=F64) ** (order[:, None] - order).abs() / K
    for dim in range(2):
        points = new.points[..., dim]
        assert z_score(points) < 4
        assert z_score(points**4, 3.0) < 4
        products = (points.unsqueeze(2) * points.unsqueeze(1)).flatten(1)
        assert z_score(products, exact.flatten()) < 4
    across = new.points[..., 0].unsqueeze(2) * new.points[..., 1].unsqueeze(1)
    assert z_score(across.flatten(1)) < 4  # coordinates are independent


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("beta", [0.0, 0.6, 1 - 1e-6])
def test_the_selected_point_and_its_weight_are_kept_to_the_last_bit(
    dtype: torch.dtype, beta: float
) -> None:
    def weigh(points: Tensor) -> Tensor:
        return log_weight(points.double())

    old = disir.start((5000, 5, 2), weigh, generator(1), dtype)
    for seed in range(3):
        new, info = disir.step(old, weigh, beta, generator(seed))
        assert new.points.dtype == dtype
        assert new.log_weights.dtype == F64
        assert retains(old, new)
        torch.testing.assert_close(new.log_weights, weigh(new.points), rtol=1e-12, atol=1e-12)
        assert torch.equal(info.moved, new.selected != 0)
        assert not bool(info.touched.any())
        old = new


def test_selection_follows_the_weights() -> None:
    n = 200_000
    new, _ = disir.step(started(n), log_weight, 0.5, generator())
    w = disir.weights(new)
    torch.testing.assert_close(w, new.log_weights.exp() / new.log_weights.exp().sum(-1)[:, None])
    chosen = torch.nn.functional.one_hot(new.selected, 4).double()
    assert z_score(chosen - w) < 4
    # not the same by chance only: it follows each weight, too
    assert z_score((chosen - w) * w) < 4
    torch.testing.assert_close(disir.effective_samples(new), 1 / (w**2).sum(-1))


def test_beta_zero_is_isir() -> None:
    """As a number or as a tensor: the points that are not retained are the noise itself."""
    old = started(5000)
    fresh = torch.randn(5000, 3, 2, generator=generator(), dtype=F64)
    for beta in (0.0, torch.zeros(5000, dtype=F64)):
        new, _ = disir.step(old, log_weight, beta, generator())
        assert retains(old, new)
        assert torch.equal(new.points[:, 1:], fresh)


def test_a_correlation_in_any_form_gives_the_same_chain() -> None:
    old = started(3000)
    rows = torch.full((3000,), 0.6, dtype=F64)
    number, _ = disir.step(old, log_weight, 0.6, generator())
    for beta in (rows, disir.Arms.of(0.6, 4, old.points), disir.Arms.of(rows, 4, old.points)):
        other, _ = disir.step(old, log_weight, beta, generator())
        assert torch.equal(number.selected, other.selected)
        torch.testing.assert_close(number.points, other.points, rtol=1e-14, atol=1e-14)


# ---- the invariant law


def from_the_extended_target(n: int, beta: float, count: int = 4) -> disir.State:
    """The selected point, here the first, from the posterior, the others by the arms from there."""
    stream = generator(5)
    e = torch.randn(n, 2, generator=stream, dtype=F64)
    xi = (MEAN + e @ torch.linalg.cholesky(COVARIANCE).mT - M) / S
    slot = torch.randint(count, (n,), generator=stream)
    points = torch.randn(n, count, 2, generator=stream, dtype=F64)
    points = torch.cat([xi.unsqueeze(1), points[:, 1:]], 1)
    others = disir.Arms.of(beta, count, points).at(slot) @ points
    return disir.init(torch.cat([points[:, :1], others], 1), torch.zeros_like(slot), log_weight)


def moments(z: Tensor) -> Tensor:
    """First and second ones, `(..., 5)`."""
    pairs = torch.stack([z[..., 0] ** 2, z[..., 1] ** 2, z[..., 0] * z[..., 1]], -1)
    return torch.cat([z, pairs], -1)


SECOND = COVARIANCE + torch.outer(MEAN, MEAN)
MOMENTS = torch.stack([*MEAN, SECOND[0, 0], SECOND[1, 1], SECOND[0, 1]])


@pytest.mark.parametrize("betas", [(0.0,), (0.5,), (0.9,), (0.0, 0.8)])
@pytest.mark.parametrize("count", [2, 4])
def test_the_posterior_stays_and_the_weighted_mean_has_its_moments(
    betas: tuple[float, ...], count: int
) -> None:
    n = 100_000
    old = state = from_the_extended_target(n, betas[0], count)
    before = moments(M + S * selected(old))
    assert z_score(before, MOMENTS) < 4
    w = disir.weights(old).unsqueeze(-1)
    assert z_score((w * moments(M + S * old.points)).sum(1), MOMENTS) < 4
    stream = generator(6)
    for beta in betas:
        state, info = disir.step(state, log_weight, beta, stream)
    assert 0.1 < float(info.moved.double().mean()) < 0.9
    after = moments(M + S * selected(state))
    assert z_score(after, MOMENTS) < 4
    assert z_score(after - before) < 4
    w = disir.weights(state).unsqueeze(-1)
    assert z_score((w * moments(M + S * state.points)).sum(1), MOMENTS) < 4


def test_a_state_that_is_not_invariant_moves_towards_it() -> None:
    """The check above would notice: draws of the proposal are far, and nearer after a step."""
    n = 200_000
    old = started(n)
    new, _ = disir.step(old, log_weight, 0.0, generator())
    far, near = (z_score(moments(M + S * selected(s)), MOMENTS) for s in (old, new))
    assert far > near > 10


# ---- pairs


def apart(a: disir.State, b: disir.State) -> Pair:
    none = torch.zeros(a.selected.shape, dtype=torch.bool)
    return Pair(a, b, none, none)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_either_chain_of_a_pair_moves_as_a_single_one(beta: float) -> None:
    """From two fixed states: moments after a coupled step against those after a step."""
    n, K = 100_000, 3
    starts = [started(1, K, seed) for seed in (11, 12)]
    a, b = (disir.State(*(t.expand(n, *t.shape[1:]) for t in s)) for s in starts)
    pair, info = disir.coupled_step(apart(a, b), log_weight, beta, generator(3))
    assert 0.1 < float((~info.touched).double().mean()) < 0.9
    for old, new, seed in ((a, pair.first, 4), (b, pair.second, 5)):
        single, _ = disir.step(old, log_weight, beta, generator(seed))
        assert retains(old, new)
        torch.testing.assert_close(new.log_weights, log_weight(new.points))
        found, known = (
            torch.cat(
                [
                    moments(selected(s)),
                    moments(s.points[:, 1:]).flatten(1),
                    torch.nn.functional.one_hot(s.selected, K).double()[:, 1:],
                    (selected(s) == selected(old)).all(-1, keepdim=True).double(),
                    (disir.weights(s)[..., None] * s.points).sum(1),
                ],
                -1,
            )
            for s in (new, single)
        )
        error = ((found.var(0) + known.var(0)) / n).sqrt()
        assert float(((found.mean(0) - known.mean(0)) / error).abs().max()) < 4.2


def test_the_first_of_a_pair_shares_the_proposal_of_a_single_chain() -> None:
    """The same generator gives the same l_aux and noise; the second gets them, too."""
    a, b = started(2000, seed=1), started(2000, seed=2)
    for beta in (0.0, 0.7):
        single, _ = disir.step(a, log_weight, beta, generator())
        pair, _ = disir.coupled_step(apart(a, b), log_weight, beta, generator())
        assert torch.equal(pair.first.points, single.points)
        assert retains(a, pair.first)
        assert retains(b, pair.second)
        single, _ = disir.step(b, log_weight, beta, generator())
        assert torch.equal(pair.second.points, single.points)


def test_meeting_probability_given_the_points() -> None:
    """S / (S + max(a, b)): a and b are weights of the selected points, S the sum of the others."""
    n = 300_000
    a, b = started(n, 3, 1), started(n, 3, 2)
    pair, info = disir.coupled_step(apart(a, b), log_weight, 0.0, generator())
    differ = (pair.first.points != pair.second.points).any(-1)
    assert bool(differ[:, 0].all())
    assert not bool(differ[:, 1:].any())
    own, other = (s.log_weights.exp() for s in pair[:2])
    S = own[:, 1:].sum(-1)
    largest = torch.maximum(own[:, 0], other[:, 0])
    gap = pair.joined.double() - S / (S + largest)
    assert z_score(gap[:, None]) < 4
    assert z_score((gap * S / largest)[:, None]) < 4
    same = (selected(pair.first) == selected(pair.second)).all(-1)
    assert torch.equal(pair.joined, same)
    assert torch.equal(pair.joined, info.touched)
    assert not bool(pair.met.any())


@pytest.mark.parametrize("composite", [False, True])
def test_joined_is_the_step_before_met_or_the_same(composite: bool) -> None:
    """C-ISIR meets exactly one iteration after it joined; the composite in the same."""
    n = 3000
    coupling = Coupling(samples=3, composite=composite)
    _, coupled = kernels(lambda p, rows: log_weight(p), coupling, 0.7, generator(3))
    pair, rows = apart(started(n, 3, 1), started(n, 3, 2)), torch.arange(n)
    before, differed = pair.joined, 0
    for t in range(8):
        pair = coupled(pair, rows)
        assert torch.equal(pair.met, pair.joined if composite else before)
        assert bool((pair.joined | ~before).all())  # once joined, for ever
        whole = (pair.first.points == pair.second.points).flatten(1).all(-1)
        whole &= pair.first.selected == pair.second.selected
        assert torch.equal(whole, pair.met)
        same = (selected(pair.first) == selected(pair.second)).all(-1)
        assert torch.equal(same, pair.joined)
        fresh = pair.joined & ~pair.met
        differed += int(fresh.sum())
        if t == 0:
            least = LEAST * (1 - 1 / 3)
            assert float(pair.joined.double().mean()) > least
        before = pair.joined
    assert (differed == 0) == composite


def test_the_index_rule_says_met_too_early() -> None:
    n = 3000
    coupling = Coupling(samples=3, rule="index")
    _, coupled = kernels(lambda p, rows: log_weight(p), coupling, 0.9, generator(3))
    strict = kernels(lambda p, rows: log_weight(p), Coupling(samples=3), 0.9, generator(3))[1]
    pair, rows = apart(started(n, 3, 1), started(n, 3, 2)), torch.arange(n)
    early, late = coupled(pair, rows), strict(pair, rows)
    assert equal_states(early.first, late.first)
    assert bool((early.met | ~late.met).all())
    wrong = early.met & ~late.met
    assert bool(wrong.any())
    assert bool((early.first.points != early.second.points)[wrong].any())


@pytest.mark.parametrize("composite", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_chains_that_met_are_identical_for_ever(composite: bool, tensor: bool) -> None:
    n = 400
    beta: float | Tensor = torch.linspace(0.1, 0.99, n, dtype=F64) if tensor else 0.7
    coupling = Coupling(samples=4, composite=composite)
    _, coupled = kernels(lambda p, rows: log_weight(p), coupling, beta, generator(3))
    pair, rows = apart(started(n, 4, 1), started(n, 4, 2)), torch.arange(n)
    for _ in range(3):
        pair = coupled(pair, rows)
    met = pair.met
    assert 0.2 < float(met.double().mean()) < 1
    for _ in range(50):
        pair = coupled(pair, rows)
        assert bool(pair.met[met].all())
        assert equal_states(*(disir.State(*(t[met] for t in s)) for s in pair[:2]))
    assert bool(pair.met.all())


def test_flags_decide_and_not_floats() -> None:
    """Where joined is said a step with beta > 0 makes one state of both, however they were rounded.

    Rounding is exaggerated here: the second chain's points and weights are other ones.
    """
    n = 2000
    joined = torch.arange(n) % 2 == 0
    a, b = started(n, 4, 1), started(n, 4, 2)
    pair, _ = disir.coupled_step(Pair(a, b, joined, ~joined), log_weight, 0.7, generator())
    one, two = (disir.State(*(t[joined] for t in s)) for s in pair[:2])
    assert equal_states(one, two)
    assert torch.equal(pair.joined, joined)
    assert torch.equal(pair.met, joined)
    apart_still = (pair.first.points != pair.second.points).flatten(1).any(-1)
    assert torch.equal(apart_still, ~joined)
    assert bool((pair.first.selected != pair.second.selected)[~joined].any())


@pytest.mark.parametrize("beta", [0.7, 0.0])
def test_only_a_beta_of_zero_joins(beta: float) -> None:
    """Shared noise contracts differences and never removes them."""
    pair = apart(started(500, 3, 1), started(500, 3, 2))
    for seed in range(20):
        pair, _ = disir.coupled_step(pair, log_weight, beta, generator(seed))
    assert bool(pair.joined.any()) == (beta == 0)


# ---- shapes, cost, bad input


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_leading_dimensions_are_chains(beta: float) -> None:
    flat = started(6, 3), started(6, 3, 2)
    deep = [disir.State(*(t.reshape(2, 3, *t.shape[1:]) for t in s)) for s in flat]
    one, _ = disir.step(flat[0], log_weight, beta, generator())
    two, info = disir.step(deep[0], log_weight, beta, generator())
    assert equal_states(one, disir.State(*(t.flatten(0, 1) for t in two)))
    assert info.moved.shape == (2, 3)
    pair, _ = disir.coupled_step(apart(*flat), log_weight, beta, generator())
    deep_pair, _ = disir.coupled_step(apart(*deep), log_weight, beta, generator())
    for a, b in zip(pair[:2], deep_pair[:2], strict=True):
        assert equal_states(a, disir.State(*(t.flatten(0, 1) for t in b)))
    assert torch.equal(pair.joined, deep_pair.joined.flatten())


def test_a_single_chain_needs_no_leading_dimension() -> None:
    state = disir.start((4, 2), log_weight, generator(), F64)
    for beta in (0.0, 0.6):
        state, _ = disir.step(state, log_weight, beta, generator())
        assert state.points.shape == (4, 2)
        assert state.selected.shape == ()


def test_rows_with_their_own_beta() -> None:
    old = started(2000)
    beta = torch.tensor([0.2, 0.9], dtype=F64).repeat(1000)
    both, _ = disir.step(old, log_weight, beta, generator())
    for b in (0.2, 0.9):
        one, _ = disir.step(old, log_weight, b, generator())
        assert torch.equal(both.points[beta == b], one.points[beta == b])


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_weights_evaluated_are_those_reported(beta: float) -> None:
    seen: list[int] = []

    def counting(points: Tensor) -> Tensor:
        seen.append(points.shape[:-1].numel())
        return log_weight(points)

    a, b = started(10, 5), started(10, 5, 2)
    _, info = disir.step(a, counting, beta, generator())
    assert sum(seen) == 10 * info.n_weights == 10 * 4
    seen.clear()
    _, info = disir.coupled_step(apart(a, b), counting, beta, generator())
    assert sum(seen) == 10 * info.n_weights == 10 * (4 if beta == 0 else 8)


def test_the_generator_decides() -> None:
    old = started(100)
    torch.manual_seed(0)
    a, _ = disir.step(old, log_weight, 0.5, generator(1))
    torch.manual_seed(1)
    b, _ = disir.step(old, log_weight, 0.5, generator(1))
    c, _ = disir.step(old, log_weight, 0.5, generator(2))
    assert equal_states(a, b)
    assert not torch.equal(a.points, c.points)


@pytest.mark.parametrize("beta", [1.0, -0.1, 1.5, math.nan, math.inf])
def test_bad_correlations_are_refused(beta: float) -> None:
    state = started(3)
    message = r"beta=.*: a correlation in \[0, 1\) is needed"
    calls: list[Callable[[], object]] = [
        lambda: disir.step(state, log_weight, beta, generator()),
        lambda: disir.coupled_step(apart(state, state), log_weight, beta, generator()),
        lambda: kernels(lambda p, rows: log_weight(p), Coupling(), beta, generator()),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(UsageError, match=r"beta of shape \(2,\): one a row"):
        row = torch.tensor([0.5, beta], dtype=F64)
        kernels(lambda p, rows: log_weight(p), Coupling(), row, generator())


def test_bad_shapes_are_refused() -> None:
    points = torch.zeros(3, 4, 2, dtype=F64)
    slots = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"K of at least 2 is needed; with K = 1 the chain never"):
        disir.init(points[:, :1], slots, log_weight)
    with pytest.raises(UsageError, match=r"points of shape \(2,\)"):
        disir.init(points[0, 0], slots, log_weight)
    with pytest.raises(UsageError, match=r"selected of shape \(3, 4\): \(3,\) is needed"):
        disir.init(points, torch.zeros(3, 4, dtype=torch.int64), log_weight)
    for count in (0, 1):
        with pytest.raises(UsageError, match="K of at least 2"):
            disir.start((3, count, 2), log_weight, generator(), F64)
    with pytest.raises(UsageError, match="samples=1: an integer of at least 2 is needed"):
        Coupling(samples=1)
