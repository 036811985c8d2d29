"""The rules by which numbers judge a claim: pure functions of per-seed metric entries.

A rule takes `samples`, one list of entries (`{seed, value, se, diverged, ...}`) for each metric of
a claim's cell, and its own parameters; it returns an `Outcome`.

All seeds count. "Ours" is the mean over the seeds that have a value; its standard error is
`sqrt(max(s^2, m^2) / n)`, with s the spread between seeds (it contains the Monte Carlo noise) and m
the root mean square of the seeds' own Monte Carlo errors (a floor, since the spread of few seeds is
often small by chance). One seed has its Monte Carlo error only. A diverged seed is a
counter-example: with one, nothing is `reproduced`; if the others agree and are the majority it is
`direction only`, otherwise `not reproduced`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPRODUCED = "reproduced"
DIRECTION_ONLY = "direction only"
NOT_REPRODUCED = "not reproduced"
NOT_RUN = "not run"
NOT_TESTABLE = "not testable here"
VERDICTS = (REPRODUCED, DIRECTION_ONLY, NOT_REPRODUCED, NOT_RUN, NOT_TESTABLE)

NOISE = 2.0
"""An order holds beyond the noise when the difference exceeds this many standard errors.

Of ties, about one in fifty passes for an order if the error is Monte Carlo's, about one in eighteen
if it is the spread between three seeds (Student's t); with one seed the spread is unknown.
"""

Entries = Sequence[Mapping[str, Any]]
Samples = Sequence[Entries]


@dataclass(frozen=True)
class Estimate:
    """A number from several seeds; `value` is None when every seed diverged."""

    value: float | None
    standard_error: float | None
    of: frozenset[int]
    """The seeds behind it."""
    lost: frozenset[int] = frozenset()
    """Those among them that diverged, in any of the metrics behind the number."""

    @property
    def seeds(self) -> int:
        """How many seeds."""
        return len(self.of)

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return len(self.lost)


@dataclass(frozen=True)
class Outcome:
    """What a rule says about one cell.

    Attributes:
        verdict: reproduced, direction only, or not reproduced.
        ours: the judged quantity: the value, a difference, the smallest difference of an order, a
            slope, or the worst error.
        slack: by how much the rule holds (negative: fails), in the quantity's unit.
        note: what is worth saying besides.
    """

    verdict: str
    ours: Estimate
    slack: float
    note: str = ""


def estimate(entries: Entries) -> Estimate:
    """The mean over seeds and its standard error (see the top of this file)."""
    alive = [e for e in entries if _alive(e)]
    of = frozenset(int(e["seed"]) for e in entries)
    lost = of - {int(e["seed"]) for e in alive}
    if not alive:
        return Estimate(None, None, of, lost)
    values = [float(e["value"]) for e in alive]
    errors = [e.get("se") for e in alive]
    mean = math.fsum(values) / len(values)
    errors = [None if s is None or not math.isfinite(s) else float(s) for s in errors]
    own = math.fsum(s**2 for s in errors if s is not None) / len(values)
    if len(values) == 1:
        error = errors[0]
    else:
        spread = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
        error = math.sqrt(max(spread, own) / len(values))
    return Estimate(mean, error, of, lost)


def at_least(
    samples: Samples,
    *,
    value: float,
    tolerance: float = 0.0,
    standard_errors: float = 0.0,
    direction: float | None = None,
) -> Outcome:
    """The metric (or the first minus the second) is at least `value`.

    Args:
        samples: one metric, or two for their difference.
        value: the bound.
        tolerance: how far below the bound still reproduces it.
        standard_errors: this many standard errors are allowed besides.
        direction: above this smaller number the direction holds.
    """
    ours = _quantity(samples)
    slack = _number(ours) - value + tolerance + standard_errors * (ours.standard_error or 0.0)
    weaker = direction is not None and _number(ours) > direction
    return _outcome(slack >= 0, weaker, ours, slack)


def at_most(
    samples: Samples,
    *,
    value: float,
    tolerance: float = 0.0,
    standard_errors: float = 0.0,
    direction: float | None = None,
) -> Outcome:
    """The metric (or the first minus the second) is at most `value`; the mirror of `at_least`."""
    ours = _quantity(samples)
    slack = value - _number(ours) + tolerance + standard_errors * (ours.standard_error or 0.0)
    weaker = direction is not None and _number(ours) < direction
    return _outcome(slack >= 0, weaker, ours, slack)


def interval(
    samples: Samples,
    *,
    value: float,
    tolerance: float = 0.0,
    below: float | None = None,
    above: float | None = None,
    direction: str | None = None,
) -> Outcome:
    """The metric (or the first minus the second) lies in [value - below, value + above].

    Args:
        samples: one metric, or two for their difference.
        value: the paper's number.
        tolerance: the default of `below` and `above`.
        below: how far under the value.
        above: how far over the value.
        direction: "above" or "below": outside on this side the direction still holds.
    """
    ours = _quantity(samples)
    under = _number(ours) - value + (tolerance if below is None else below)
    over = value + (tolerance if above is None else above) - _number(ours)
    weaker = (direction == "above" and under >= 0) or (direction == "below" and over >= 0)
    return _outcome(min(under, over) >= 0, weaker, ours, min(under, over))


def ordering(samples: Samples, *, margin: float = 0.0) -> Outcome:
    """The metrics stand from the highest to the lowest, each beyond the noise above the next.

    Reproduced: every step exceeds `margin` by more than `NOISE` standard errors. Direction only:
    every step exceeds `margin`, some not beyond the noise (or with no standard error known).
    """
    estimates = [estimate(entries) for entries in samples]
    steps = [_minus(high, low) for high, low in itertools.pairwise(estimates)]
    clear, weak = True, True
    for step in steps:
        excess = _number(step) - margin
        weak = weak and excess > 0
        noise = math.inf if step.standard_error is None else NOISE * step.standard_error
        clear = clear and excess > noise
    tightest = min(steps, key=lambda step: -math.inf if step.value is None else step.value)
    ours = Estimate(tightest.value, tightest.standard_error, **_seeds(estimates))
    note = "within the noise" if weak and not clear else ""
    return _outcome(clear, weak, ours, _number(tightest) - margin, note)


def slope(
    samples: Samples,
    *,
    x: Sequence[float],
    offset: float | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    tolerance: float = 0.0,
) -> Outcome:
    """The slope of log y against log x lies in [low, high]; y is the metric, or `offset` minus it.

    Reproduced: within the bounds by more than `NOISE` standard errors. The direction holds when the
    slope has the sign that the bounds ask for. A y that is not positive has no logarithm: not
    reproduced. An unknown standard error counts as 0: exact numbers have none.
    """
    estimates = [estimate(entries) for entries in samples]
    seeds = _seeds(estimates)
    y = [_number(e) if offset is None else offset - _number(e) for e in estimates]
    if not all(0.0 < v < math.inf for v in y):
        failed = Estimate(None, None, **seeds)
        return Outcome(NOT_REPRODUCED, failed, -math.inf, "a value without logarithm")
    logs = [math.log(v) for v in x]
    centre = math.fsum(logs) / len(logs)
    square = math.fsum((u - centre) ** 2 for u in logs)
    weights = [(u - centre) / square for u in logs]
    number = math.fsum(w * math.log(v) for w, v in zip(weights, y, strict=True))
    errors = [(e.standard_error or 0.0) / v for e, v in zip(estimates, y, strict=True)]
    error = math.sqrt(math.fsum((w * s) ** 2 for w, s in zip(weights, errors, strict=True)))
    slack = min(number - low, high - number) + tolerance
    sign_holds = (high <= 0 and number < 0) or (low >= 0 and number > 0)
    note = "within the noise" if 0 <= slack < NOISE * error else ""
    clear = slack >= NOISE * error
    return _outcome(clear, sign_holds, Estimate(number, error, **seeds), slack, note)


def exact(samples: Samples, *, value: float = 0.0, tolerance: float) -> Outcome:
    """Every entry of every seed is within `tolerance` of `value`; no mean, no direction."""
    entries = [entry for group in samples for entry in group]
    seeds = _seeds([estimate(group) for group in samples])
    if seeds["lost"]:
        return Outcome(NOT_REPRODUCED, Estimate(None, None, **seeds), -math.inf, "diverged")
    worst = max(entries, key=lambda e: abs(float(e["value"]) - value))
    slack = tolerance - abs(float(worst["value"]) - value)
    ours = Estimate(float(worst["value"]), None, **seeds)
    return Outcome(REPRODUCED if slack >= 0 else NOT_REPRODUCED, ours, slack)


RULES: dict[str, Callable[..., Outcome]] = {
    rule.__name__: rule for rule in (at_least, at_most, interval, ordering, slope, exact)
}


def _alive(entry: Mapping[str, Any]) -> bool:
    value = entry.get("value")
    return not entry.get("diverged") and value is not None and math.isfinite(float(value))


def _quantity(samples: Samples) -> Estimate:
    first = estimate(samples[0])
    return first if len(samples) == 1 else _minus(first, estimate(samples[1]))


def _minus(a: Estimate, b: Estimate) -> Estimate:
    seeds = _seeds([a, b])
    if a.value is None or b.value is None:
        return Estimate(None, None, **seeds)
    errors = (a.standard_error, b.standard_error)
    known = [e for e in errors if e is not None]
    error = math.hypot(*known) if len(known) == 2 else None
    return Estimate(a.value - b.value, error, **seeds)


def _seeds(estimates: Sequence[Estimate]) -> dict[str, frozenset[int]]:
    """The seeds behind several numbers (of the one with fewest), and those lost in any of them."""
    lost: frozenset[int] = frozenset().union(*(e.lost for e in estimates))
    return {"of": min((e.of for e in estimates), key=len) | lost, "lost": lost}


def _number(e: Estimate) -> float:
    """The value; NaN, with which every comparison is false, when there is none."""
    return math.nan if e.value is None else e.value


def _outcome(holds: bool, weaker: bool, ours: Estimate, slack: float, note: str = "") -> Outcome:
    slack = -math.inf if math.isnan(slack) else slack
    verdict = REPRODUCED if holds else DIRECTION_ONLY if weaker else NOT_REPRODUCED
    if ours.diverged:
        majority = 2 * ours.diverged < ours.seeds
        agree = verdict != NOT_REPRODUCED and majority
        verdict = DIRECTION_ONLY if agree else NOT_REPRODUCED
        note = f"{ours.diverged} of {ours.seeds} seeds diverged"
    return Outcome(verdict, ours, slack, note)
