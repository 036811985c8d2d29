"""The driver of coupled chains against eq. 14 written out row by row, its reports, and bad input.

The toy chain lives on integers and all its randomness stands in tables, one entry a row and step.
A joint step looks both chains up under the first one's time. Then values are exact, and a plain
loop over one row at a time must give the same.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import unbiased_vae_finite as finite
from lmcnb.kernels.coupling import Pair
from lmcnb.methods import unbiased
from lmcnb.methods.unbiased import couple, rows_of, take, unbiased_expectation

F64 = torch.float64
SIZE, ROWS, HORIZON = 7, 60, 80
H = torch.tensor([0.0, 1.5, -2.25, 4.0, 0.125, 8.0, -0.5], dtype=F64)  # sums of these are exact


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Inner(NamedTuple):
    place: Tensor  # (rows,), 0 ... 6
    twice: Tensor  # (rows, 2), its copies, so that shapes differ


class State(NamedTuple):
    inner: Inner
    time: Tensor  # (rows,)


class Toy:
    """x moves on by a shift of the row and time, or jumps to a place that does not depend on x."""

    def __init__(self, jump: float = 0.25, rows: int = ROWS, seed: int = 0) -> None:
        stream = generator(seed)
        self.jumps = torch.rand(rows, HORIZON, generator=stream) < jump
        self.target = torch.randint(SIZE, (rows, HORIZON), generator=stream)
        self.shift = torch.randint(SIZE, (rows, HORIZON), generator=stream)
        self.start = torch.randint(SIZE, (2, rows), generator=stream)

    def first(self) -> State:
        return self.state(self.start[0], torch.zeros(len(self.jumps), dtype=torch.int64))

    def second(self) -> State:
        return self.state(self.start[1], torch.zeros(len(self.jumps), dtype=torch.int64))

    @staticmethod
    def state(x: Tensor, time: Tensor) -> State:
        return State(Inner(x, torch.stack([x, x], -1)), time)

    def moved(self, state: State, rows: Tensor, clock: Tensor) -> State:
        x = (state.inner.place + self.shift[rows, clock]) % SIZE
        x = torch.where(self.jumps[rows, clock], self.target[rows, clock], x)
        return self.state(x, state.time + 1)

    def kernel(self, state: State, rows: Tensor) -> State:
        return self.moved(state, rows, state.time)

    def coupled(self, pair: Pair, rows: Tensor) -> Pair:
        clock = pair.first.time
        met = pair.met | self.jumps[rows, clock]
        first, second = (self.moved(s, rows, clock) for s in pair[:2])
        joined = torch.ones_like(met)  # the driver goes by `met`
        return Pair(first, second, joined, met)


def h(state: State, rows: Tensor) -> Tensor:
    assert bool((state.inner.twice == state.inner.place[:, None]).all())
    return H[state.inner.place] + 16.0 * rows


def equal(first: State, second: State) -> Tensor:
    return first.inner.place == second.inner.place


class Row(NamedTuple):
    value: float
    joint_steps: int
    capped: bool
    cut: float
    in_batch: int


def by_hand(toy: Toy, row: int, lag: int, start: int, cap: int | None, coincide: bool) -> Row:
    """Eq. 14 of one row, from whole paths of both chains."""

    def path(x: int, offset: int) -> list[int]:
        xs = [x]
        for t in range(offset, HORIZON):
            if toy.jumps[row, t]:
                xs.append(int(toy.target[row, t]))
            else:
                xs.append((xs[-1] + int(toy.shift[row, t])) % SIZE)
        return xs

    u, v = path(int(toy.start[0, row]), 0), path(int(toy.start[1, row]), lag)
    tau = next((t + 1 for t in range(lag, HORIZON) if toy.jumps[row, t]), math.inf)
    if coincide and u[lag] == v[0]:
        tau = lag
    last = start + lag - 1
    end = math.inf if cap is None else last + cap
    value = lambda x: float(H[x]) + 16.0 * row  # noqa: E731
    total = sum(value(u[t]) for t in range(start, last + 1))
    terms = []
    t = start + lag
    while t <= min(tau - 1, end):
        terms.append(value(u[t]) - value(v[t - lag]))
        t += 1
    stop = max(lag, end)  # the pair exists from t = L on
    capped = tau > stop
    steps = int(min(tau, stop)) - lag
    cut = abs(terms[-1]) / lag if capped and terms else 0.0
    return Row((total + sum(terms)) / lag, steps, capped, cut, max(steps, last - lag, 0))


@pytest.mark.filterwarnings("ignore:cap=")
@pytest.mark.parametrize("coincide", [False, True])
@pytest.mark.parametrize("cap", [None, 0, 1, 3])
@pytest.mark.parametrize(
    ("start", "lag"), [(0, 1), (0, 4), (1, 1), (1, 10), (5, 1), (5, 3), (2, 2)]
)
def test_the_estimate_is_eq_14(start: int, lag: int, cap: int | None, coincide: bool) -> None:
    """Values, meeting times, caps and costs, to the last bit, with compaction and without."""
    toy = Toy()
    known = [by_hand(toy, row, lag, start, cap, coincide) for row in range(ROWS)]
    assert len({row.joint_steps for row in known}) > 1 or cap in (0, 1)
    for compact in (True, False):
        found = unbiased_expectation(
            toy.kernel,
            toy.coupled,
            h,
            toy.first(),
            toy.second(),
            lag=lag,
            start=start,
            cap=cap,
            equal=equal if coincide else None,
            compact=compact,
        )
        assert found.value.tolist() == [row.value for row in known]
        assert found.meeting.joint_steps.tolist() == [row.joint_steps for row in known]
        assert found.meeting.capped.tolist() == [row.capped for row in known]
        assert found.cut.tolist() == [row.cut for row in known]
        calls = max(row.in_batch for row in known)
        assert found.meeting.calls == calls
        batch = sum(row.in_batch for row in known) if compact else calls * ROWS
        assert found.meeting.row_steps == batch


def test_values_of_any_shape_and_type() -> None:
    toy = Toy()

    def wide(state: State, rows: Tensor) -> Tensor:
        x = H[state.inner.twice].float()
        return torch.stack([x, x + 1, -x], -1)

    plain = unbiased_expectation(
        toy.kernel, toy.coupled, lambda s, rows: H[s.inner.place], toy.first(), toy.second(), lag=4
    ).value.float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unbiased_expectation(
            toy.kernel, toy.coupled, wide, toy.first(), toy.second(), lag=4
        )
    assert found.value.shape == (ROWS, 2, 3)
    assert found.value.dtype == torch.float32
    for i in range(2):
        assert torch.equal(found.value[:, i, 0], plain)
        assert torch.equal(found.value[:, i, 1], plain + 1)  # weights of every row add up to one
        assert torch.equal(found.value[:, i, 2], -plain)
    assert not bool(found.cut.any())


@pytest.mark.filterwarnings("ignore:cap=")
def test_what_was_cut_is_the_norm_of_the_last_correction() -> None:
    toy, cap, lag = Toy(), 2, 4

    def wide(state: State, rows: Tensor) -> Tensor:
        x = H[state.inner.place]
        return torch.stack([3 * x, 4 * x], -1)[:, None]

    one, two = (
        unbiased_expectation(
            toy.kernel, toy.coupled, f, toy.first(), toy.second(), lag=lag, cap=cap
        )
        for f in (lambda s, rows: H[s.inner.place], wide)
    )
    assert bool(one.cut.any())
    assert torch.equal(two.cut, 5 * one.cut)
    assert not bool(one.cut[~one.meeting.capped].any())


def test_terms_come_at_their_times_and_without_a_graph() -> None:
    toy, lag, start = Toy(), 4, 3
    averages: list[int] = []
    corrections: list[int] = []
    toy_first = toy.first()

    def average(state: State, rows: Tensor) -> None:
        assert torch.equal(rows, torch.arange(ROWS))
        averages.extend(state.time.unique().tolist())

    def correct(first: State, second: State, rows: Tensor) -> None:
        assert not torch.is_grad_enabled()
        assert torch.equal(second.time, first.time - lag)
        assert len(rows) == len(first.time) == len(second.inner.twice)
        corrections.extend(first.time.unique().tolist())

    meeting = couple(
        toy.kernel, toy.coupled, toy_first, toy.second(), average, correct, lag=lag, start=start
    )
    assert averages == list(range(start, start + lag))
    longest = int(meeting.joint_steps.max())
    assert corrections == list(range(start + lag, lag + longest))
    assert torch.is_grad_enabled()
    assert bool((toy_first.time == 0).all())  # states that are given are left alone


def test_rows_are_taken_from_nested_states() -> None:
    state = Toy().first()
    part = take(state, torch.tensor([3, 1]))
    assert isinstance(part, State)
    assert isinstance(part.inner, Inner)
    assert torch.equal(part.inner.twice, state.inner.twice[[3, 1]])
    assert torch.equal(rows_of(state), torch.arange(ROWS))


def test_the_mean_is_the_same_with_compaction_and_without() -> None:
    """With random kernels the streams differ, the law does not."""
    n, stream = 20_000, generator()
    for compact in (True, False):
        value = unbiased_expectation(
            *finite.kernels("composite", False, stream),
            lambda state, rows: finite.average(state),
            finite.start(n, stream),
            finite.start(n, stream),
            lag=3,
            start=2,
            compact=compact,
        ).value
        error = float(value.std()) / math.sqrt(n)
        assert abs(float(value.mean()) - finite.EXACT) < 4 * error


# ---- chains that do not meet, and that have met


def test_a_cap_ends_chains_that_never_meet() -> None:
    toy = Toy(jump=0.0)
    with pytest.warns(UserWarning, match=r"cap=3: 100\.00% of the rows had not met") as record:
        found = unbiased_expectation(
            toy.kernel, toy.coupled, h, toy.first(), toy.second(), lag=2, start=4, cap=3
        )
    assert len(record) == 1
    assert found.meeting.joint_steps.tolist() == [4 + 3 - 1] * ROWS  # t from L to t0 + L - 1 + cap
    assert bool(found.meeting.capped.all())
    assert found.meeting.calls == 6
    assert found.meeting.row_steps == 6 * ROWS


def test_the_warning_says_how_many() -> None:
    toy = Toy()
    known = sum(by_hand(toy, row, 1, 1, 1, False).capped for row in range(ROWS)) / ROWS
    assert 0.2 < known < 0.8
    with pytest.warns(UserWarning, match=f"cap=1: {known:.2%} of the rows"):
        unbiased_expectation(
            toy.kernel, toy.coupled, h, toy.first(), toy.second(), lag=1, start=1, cap=1
        )


@pytest.mark.parametrize("cap", [None, 0, 60])
def test_nothing_is_said_without_a_cap_or_where_it_is_meant_or_not_reached(cap: int | None) -> None:
    toy = Toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unbiased_expectation(toy.kernel, toy.coupled, h, toy.first(), toy.second(), lag=2, cap=cap)


def test_rows_that_are_equal_from_the_start_take_no_step() -> None:
    toy = Toy()

    def refuse(pair: Pair, rows: Tensor) -> Pair:
        raise AssertionError("a joint step")

    def every(first: State, second: State) -> Tensor:
        return torch.ones(len(first.time), dtype=torch.bool)

    found = unbiased_expectation(
        toy.kernel, refuse, h, toy.first(), toy.second(), lag=4, equal=every
    )
    assert not bool(found.meeting.joint_steps.any())
    assert (found.meeting.calls, found.meeting.row_steps) == (0, 0)
    plain = unbiased_expectation(
        toy.kernel, toy.coupled, h, toy.first(), toy.second(), lag=4, cap=0
    )
    assert torch.equal(found.value, plain.value)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lag": 0}, "lag=0: an integer of at least 1"),
        ({"lag": 2.0}, r"lag=2\.0: an integer"),
        ({"lag": True}, "lag=True: an integer"),
        ({"start": -1}, "start=-1: an integer of at least 0"),
        ({"cap": -1}, "cap=-1: an integer of at least 0"),
        ({"cap": 1.5}, r"cap=1\.5: an integer"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    toy = Toy()
    with pytest.raises(UsageError, match=message):
        unbiased_expectation(toy.kernel, toy.coupled, h, toy.first(), toy.second(), **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s, rows: H[s.inner.place].sum(), r"test_function: \(\); a tensor \(60, \.\.\.\)"),
        (lambda s, rows: H[s.inner.place][:-1], r"test_function: \(59,\); a tensor \(60, \.\.\.\)"),
        (lambda s, rows: 3.0, r"test_function: float; a tensor \(60, \.\.\.\)"),
        (
            lambda s, rows: torch.zeros(len(rows), 2 + int(s.time[0] == 2)),
            r"test_function: \(3,\) a row now, \(2,\) before",
        ),
    ],
)
def test_test_functions_of_a_wrong_shape_are_refused(wrong: Any, message: str) -> None:
    toy = Toy()
    with pytest.raises(UsageError, match=message):
        unbiased_expectation(toy.kernel, toy.coupled, wrong, toy.first(), toy.second(), lag=3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    """In one row, at one time, in a correction."""
    toy = Toy()
    lag = 2
    row = next(r for r in range(ROWS) if by_hand(toy, r, lag, 1, None, False).joint_steps >= 3)

    def once(state: State, rows: Tensor) -> Tensor:
        value = H[state.inner.place]
        return torch.where((rows == row) & (state.time == lag + 1), bad, value)

    with pytest.raises(UsageError, match=r"not finite; does the proposal have support"):
        unbiased_expectation(toy.kernel, toy.coupled, once, toy.first(), toy.second(), lag=lag)


def test_a_kernel_that_returns_diagnostics_too_is_refused() -> None:
    toy = Toy()
    for options, name in (
        ({"kernel": lambda state, rows: (toy.kernel(state, rows), 1.0)}, "kernel"),
        ({"coupled": lambda pair, rows: (toy.coupled(pair, rows), 1.0)}, "coupled_kernel"),
    ):
        k, c = options.get("kernel", toy.kernel), options.get("coupled", toy.coupled)
        with pytest.raises(UsageError, match=f"^{name}: it returned a tuple; a (State|Pair), as"):
            unbiased_expectation(k, c, h, toy.first(), toy.second(), lag=2)


def test_a_word_is_said_where_no_row_ever_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and only if none has met."""
    monkeypatch.setattr(unbiased, "PATIENCE", 8)
    for jump, warned in ((0.0, True), (0.25, False)):
        toy = Toy(jump)
        toy.jumps[:, 60:] = True
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            unbiased_expectation(toy.kernel, toy.coupled, h, toy.first(), toy.second(), lag=2)
        assert [str(w.message) for w in said] == warned * [
            "none of 60 rows has met after 8 joint steps; does coupled_kernel set `met`? "
            "A cap ends it"
        ]


def test_the_example_of_the_module_runs_and_is_right() -> None:
    lines = [
        line for line in str(unbiased.__doc__).splitlines() if line.startswith("    ") or not line
    ]
    begin = next(i for i, line in enumerate(lines) if "class State" in line)
    names: dict[str, Any] = vars(unbiased) | {"NamedTuple": NamedTuple}
    exec(textwrap.dedent("\n".join(lines[begin:])), names)
    value = names["found"].value
    assert abs(float(value.mean()) - 6) < 4 * float(value.std()) / len(value) ** 0.5
    assert float(value.std()) / len(value) ** 0.5 < 0.05
