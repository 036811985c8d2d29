"""Each rule at its edges: a number just inside holds, one just outside does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcnb.lab import rules
from lmcnb.lab.rules import DIRECTION_ONLY, NOT_REPRODUCED, REPRODUCED


def entries(*values, se=0.1):
    """One entry a seed; None is a diverged seed."""
    return [
        {"seed": i, "value": v, "se": None if v is None else se, "diverged": v is None}
        for i, v in enumerate(values)
    ]


def verdict(rule, *samples, **parameters):
    return rule(list(samples), **parameters).verdict


def test_estimate_is_the_mean_and_the_larger_of_spread_and_monte_carlo_error():
    spread = rules.estimate(entries(1.0, 2.0, 3.0, se=0.1))
    assert spread.value == 2.0
    assert spread.standard_error == pytest.approx(1.0 / math.sqrt(3))
    alike = rules.estimate(entries(2.0, 2.0, 2.0, se=0.3))
    assert alike.standard_error == pytest.approx(0.3 / math.sqrt(3))
    single = rules.estimate(entries(5.0, se=0.2))
    assert (single.value, single.standard_error, single.seeds) == (5.0, 0.2, 1)
    assert rules.estimate(entries(5.0, se=None)).standard_error is None


def test_estimate_keeps_diverged_seeds_in_the_count_and_out_of_the_mean():
    some = rules.estimate(entries(1.0, None, 3.0))
    assert (some.value, some.seeds, some.diverged) == (2.0, 3, 1)
    none = rules.estimate(entries(None, None))
    assert (none.value, none.seeds, none.diverged) == (None, 2, 2)
    assert rules.estimate(entries(1.0, math.nan)).diverged == 1


@pytest.mark.parametrize(
    ("rule", "sign"), [(rules.at_least, 1.0), (rules.at_most, -1.0)], ids=["at_least", "at_most"]
)
def test_bounds(rule, sign):
    def judged(value, **more):
        return verdict(rule, entries(sign * value), value=sign * 2.0, **more)

    assert judged(2.0) == REPRODUCED
    assert judged(1.99) == NOT_REPRODUCED
    assert judged(1.99, tolerance=0.02) == REPRODUCED
    assert judged(1.97, tolerance=0.02) == NOT_REPRODUCED
    assert judged(1.71, standard_errors=3.0) == REPRODUCED
    assert judged(1.69, standard_errors=3.0) == NOT_REPRODUCED
    assert judged(0.5, direction=0.0) == DIRECTION_ONLY
    assert judged(-0.5, direction=0.0) == NOT_REPRODUCED


def test_bounds_take_the_first_minus_the_second():
    high, low = entries(5.0, 5.2), entries(3.0, 3.2)
    assert verdict(rules.at_least, high, low, value=1.9) == REPRODUCED
    assert verdict(rules.at_least, low, high, value=1.9) == NOT_REPRODUCED
    ours = rules.at_least([high, low], value=1.9).ours
    assert ours.value == pytest.approx(2.0)
    assert ours.standard_error == pytest.approx(math.hypot(0.1, 0.1))


def test_interval():
    def judged(value, **more):
        return verdict(rules.interval, entries(value), value=-10.0, **more)

    assert judged(-10.3, tolerance=0.31) == REPRODUCED
    assert judged(-10.3, tolerance=0.29) == NOT_REPRODUCED
    assert judged(-9.7, tolerance=0.29) == NOT_REPRODUCED
    assert judged(-13.0, below=4.0, above=1.0) == REPRODUCED
    assert judged(-8.5, below=4.0, above=1.0) == NOT_REPRODUCED
    assert judged(-8.0, tolerance=0.3, direction="above") == DIRECTION_ONLY
    assert judged(-12.0, tolerance=0.3, direction="above") == NOT_REPRODUCED
    assert judged(-12.0, tolerance=0.3, direction="below") == DIRECTION_ONLY


def test_ordering_wants_every_step_beyond_the_noise():
    assert verdict(rules.ordering, entries(3.0), entries(2.0), entries(1.0)) == REPRODUCED
    assert verdict(rules.ordering, entries(3.0), entries(1.0), entries(2.0)) == NOT_REPRODUCED
    noise = rules.NOISE * math.hypot(0.1, 0.1)
    assert verdict(rules.ordering, entries(noise + 0.001), entries(0.0)) == REPRODUCED
    assert verdict(rules.ordering, entries(noise - 0.001), entries(0.0)) == DIRECTION_ONLY
    assert verdict(rules.ordering, entries(1.0), entries(1.0)) == NOT_REPRODUCED
    assert verdict(rules.ordering, entries(3.0), entries(2.0), margin=0.5) == REPRODUCED
    assert verdict(rules.ordering, entries(3.0), entries(2.0), margin=1.1) == NOT_REPRODUCED


def test_ordering_without_a_standard_error_is_direction_only():
    assert verdict(rules.ordering, entries(3.0, se=None), entries(2.0)) == DIRECTION_ONLY


def test_ordering_reports_the_tightest_step():
    outcome = rules.ordering([entries(9.0), entries(5.0), entries(4.5)])
    assert outcome.ours.value == pytest.approx(0.5)
    assert outcome.slack == pytest.approx(0.5)


@given(power=st.floats(-3, 3), scale=st.floats(0.1, 10))
def test_slope_of_a_power_law_is_its_power(power, scale):
    x = [8, 16, 32, 64]
    samples = [entries(scale * v**power, se=0.0) for v in x]
    outcome = rules.slope(samples, x=x, low=power - 1e-6, high=power + 1e-6)
    assert outcome.verdict == REPRODUCED
    assert outcome.ours.value == pytest.approx(power, abs=1e-9)


def test_slope_of_the_gap_to_an_offset_and_its_bounds():
    x = [8, 16, 32]
    samples = [entries(-3.0 - 5.0 / v, se=1e-4) for v in x]  # the gap to -3 falls like 1/K
    assert verdict(rules.slope, *samples, x=x, offset=-3.0, high=-0.9) == REPRODUCED
    assert verdict(rules.slope, *samples, x=x, offset=-3.0, high=-1.1) == DIRECTION_ONLY
    assert verdict(rules.slope, *samples, x=x, offset=-3.0, high=-1.1, tolerance=0.2) == REPRODUCED
    assert verdict(rules.slope, *samples[::-1], x=x, offset=-3.0, high=-0.9) == NOT_REPRODUCED
    assert verdict(rules.slope, *samples, x=x, offset=-4.0, high=-0.9) == NOT_REPRODUCED


def test_a_slope_within_the_noise_of_its_bound_is_direction_only():
    x = [8, 16, 32, 64]
    samples = [entries(10.0 / v**0.5, se=0.05) for v in x]
    error = rules.slope(samples, x=x, high=0.0).ours.standard_error
    assert verdict(rules.slope, *samples, x=x, high=-0.5 + 2.1 * error) == REPRODUCED
    near = rules.slope(samples, x=x, high=-0.5 + 1.9 * error)
    assert (near.verdict, near.note) == (DIRECTION_ONLY, "within the noise")
    assert rules.slope(samples, x=x, high=-0.6).note == ""


def test_slope_error_is_the_one_of_repeated_draws():
    import numpy as np

    rng = np.random.default_rng(0)
    x, se = [8, 16, 32, 64], 0.05
    draws = []
    for _ in range(2000):
        noisy = [entries(10.0 / v**0.5 + se * rng.standard_normal(), se=se) for v in x]
        draws.append(rules.slope(noisy, x=x, high=0.0).ours)
    spread = np.std([d.value for d in draws])
    assert np.mean([d.standard_error for d in draws]) == pytest.approx(spread, rel=0.1)


def test_exact_judges_every_seed_and_no_mean():
    assert verdict(rules.exact, entries(1e-12, -1e-12), tolerance=1e-10) == REPRODUCED
    assert verdict(rules.exact, entries(1e-12, 1e-9), tolerance=1e-10) == NOT_REPRODUCED
    assert verdict(rules.exact, entries(-3.0, 3.0), tolerance=2.0) == NOT_REPRODUCED
    assert verdict(rules.exact, entries(0.0), entries(0.1), tolerance=0.01) == NOT_REPRODUCED
    assert verdict(rules.exact, entries(7.0), value=7.0, tolerance=0.0) == REPRODUCED
    assert rules.exact([entries(1.0, -3.0)], tolerance=4.0).ours.value == -3.0


HOLDING = {
    "at_least": ([3.0], {"value": 2.0}),
    "at_most": ([1.0], {"value": 2.0}),
    "interval": ([2.0], {"value": 2.0, "tolerance": 0.1}),
    "ordering": ([3.0, 1.0], {}),
    "slope": ([1.0, 2.0], {"x": [1.0, 2.0], "low": 0.5, "high": 1.5}),
    "exact": ([2.0], {"value": 2.0, "tolerance": 0.1}),
}


@pytest.mark.parametrize("name", rules.RULES)
def test_a_diverged_seed_is_never_reproduced(name):
    values, parameters = HOLDING[name]
    rule = rules.RULES[name]
    assert rule([entries(v, v, v) for v in values], **parameters).verdict == REPRODUCED
    one_lost = rule([entries(v, v, None) for v in values], **parameters).verdict
    assert one_lost == (NOT_REPRODUCED if name == "exact" else DIRECTION_ONLY)
    most_lost = rule([entries(v, None, None) for v in values], **parameters)
    assert most_lost.verdict == NOT_REPRODUCED
    all_lost = rule([entries(None, None, None) for _ in values], **parameters)
    assert all_lost.verdict == NOT_REPRODUCED
    assert all_lost.ours.value is None


def test_the_worse_side_of_a_difference_counts_its_diverged_seeds():
    five, three = entries(1.0, 1.0, 1.0, None, None), entries(3.0, 3.0, 3.0)
    outcome = rules.ordering([three, five])
    assert (outcome.ours.diverged, outcome.ours.seeds) == (2, 5)
    assert outcome.verdict == DIRECTION_ONLY
    assert rules.ordering([five, entries(0.0, 0.0, 0.0)]).verdict == DIRECTION_ONLY


def test_seeds_that_diverge_in_different_metrics_add_up():
    first, second = entries(3.0, 3.0, None), entries(None, 1.0, 1.0)
    for outcome in (
        rules.ordering([first, second]),
        rules.at_least([first, second], value=1.0),
        rules.slope([second, first], x=[1.0, 2.0], low=0.1),
    ):
        assert (outcome.ours.seeds, outcome.ours.diverged) == (3, 2)
        assert outcome.verdict == NOT_REPRODUCED
        assert outcome.note == "2 of 3 seeds diverged"


def test_the_majority_is_one_of_the_metric_with_fewest_seeds():
    most_lost, whole = entries(3.0, None, None), entries(1.0, 1.0, 1.0, 1.0, 1.0)
    assert verdict(rules.ordering, most_lost, whole) == NOT_REPRODUCED
    one = [{"seed": 7, "value": 3.0, "se": 0.1, "diverged": False}]
    assert rules.ordering([one, entries(1.0, 1.0, 1.0)]).ours.seeds == 1


def test_half_the_seeds_are_no_majority():
    assert verdict(rules.at_least, entries(3.0, None), value=1.0) == NOT_REPRODUCED
    assert verdict(rules.at_least, entries(3.0, 3.0, None, None), value=1.0) == NOT_REPRODUCED


def test_an_order_takes_two_standard_errors():
    above, below = entries(1.0, se=0.0), entries(0.0, se=0.0)
    for se, expected in ((0.49, REPRODUCED), (0.51, DIRECTION_ONLY)):
        above[0]["se"] = se
        assert verdict(rules.ordering, above, below) == expected


def test_an_error_that_is_no_number_is_unknown():
    assert rules.estimate(entries(5.0, se=math.nan)).standard_error is None
    assert rules.estimate(entries(5.0, 5.0, se=math.nan)).standard_error == 0.0


def test_a_diverged_baseline_does_not_help_the_winner():
    assert verdict(rules.ordering, entries(3.0, 3.0), entries(None, None)) == NOT_REPRODUCED
    assert (
        verdict(rules.ordering, entries(3.0, 3.0, 3.0), entries(1.0, 1.0, None)) == DIRECTION_ONLY
    )
