"""Intervals: how often they are wrong when nothing is there, and whether they see what is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compose.errors import ShapeError
from compose.evaluate.bootstrap import (
    Interval,
    difference_interval,
    expanded_tail,
    independent_difference,
    mean_interval,
    ratio_interval,
    student,
)
from compose.evaluate.statistics import wilson

RUNS = 200
SLACK = 1.96 * math.sqrt(0.05 * 0.95 / RUNS)  # of a rate of 5 %, measured in as many runs


def pictures(
    rng: np.random.Generator, units: int, each: int, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How likely each unit is to come right, [units]; a picture's unit, [n]; and its luck, [n].

    Units differ widely, as pairs of characters do.
    """
    easy = rng.beta(3 * share, 3 * (1 - share), size=units)
    unit = np.repeat(np.arange(units), each)
    return easy, unit, rng.random(units * each)


@pytest.mark.parametrize(
    ("units", "each", "share"), [(50, 4, 0.5), (25, 4, 0.1), (15, 4, 0.5), (200, 1, 0.02)]
)
def test_no_difference_is_rarely_called_one(units: int, each: int, share: float) -> None:
    alarms = 0
    for run in range(RUNS):
        rng = np.random.default_rng([run, units])
        easy, unit, _ = pictures(rng, units, each, share)
        one, other = ((rng.random(len(unit)) < easy[unit]).astype(float) for _ in range(2))
        found = difference_interval(one, other, unit, share=True)
        alarms += found.above or found.below
    assert alarms / RUNS <= 0.05 + SLACK


def test_a_bootstrap_over_pictures_would_cry_wolf() -> None:
    """What a method does to a pair of adapters is alike in all its seeds: the reason for units."""
    alarms = {"units": 0, "pictures": 0}
    for run in range(RUNS):
        rng = np.random.default_rng(run)
        effect = np.repeat(rng.normal(0, 0.3, size=25), 8)  # zero in the mean over combinations
        change = effect + rng.normal(0, 0.3, size=200)
        for name, unit in (("units", np.repeat(np.arange(25), 8)), ("pictures", np.arange(200))):
            found = difference_interval(change, np.zeros(200), unit, share=False)
            alarms[name] += found.above or found.below
    assert alarms["units"] / RUNS <= 0.05 + SLACK
    assert alarms["pictures"] / RUNS > 0.2


def test_six_units_are_enough_not_to_cry_wolf() -> None:
    """Where plain percentiles are wrong about three times as often as they say."""
    alarms = {"ours": 0, "plain": 0}
    for run in range(RUNS):
        change = np.random.default_rng([run, 6]).normal(size=6)
        found = difference_interval(change, np.zeros(6), np.arange(6), share=False)
        alarms["ours"] += found.above or found.below
        drawn = np.random.default_rng(run).choice(change, size=(1000, 6)).mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        alarms["plain"] += low > 0 or high < 0
    assert alarms["ours"] / RUNS <= 0.05 + SLACK < alarms["plain"] / RUNS


@pytest.mark.parametrize(("units", "each"), [(50, 4), (200, 1)])
def test_a_loss_of_ten_points_is_seen(units: int, each: int) -> None:
    """One in five right pictures of a half that is right goes wrong, and one in twenty flips."""
    seen = wrong = 0
    for run in range(RUNS):
        rng = np.random.default_rng([run, units])
        easy, unit, luck = pictures(rng, units, each, 0.5)
        before = (luck < easy[unit]).astype(float)
        after = before * (rng.random(len(unit)) >= 0.2)
        flipped = rng.random(len(unit)) < 0.05
        after = np.where(flipped, 1 - after, after)
        found = difference_interval(after, before, unit, share=True)
        seen += found.below
        wrong += found.above
    assert seen / RUNS >= 0.8 and wrong == 0


@pytest.mark.parametrize(
    ("units", "each", "share"), [(50, 4, 0.02), (50, 4, 0.5), (15, 4, 0.1), (24, 8, 0.9)]
)
def test_intervals_of_shares_hold_the_truth(units: int, each: int, share: float) -> None:
    held = 0
    for run in range(RUNS):
        rng = np.random.default_rng([run, each])
        easy, unit, luck = pictures(rng, units, each, share)
        found = mean_interval((luck < easy[unit]).astype(float), unit, share=True)
        held += found.low <= share <= found.high
    assert held / RUNS >= 0.95 - SLACK


def test_pictures_that_are_independent_have_wilsons_interval() -> None:
    values = np.array([1.0] * 15 + [0.0] * 133)
    found = mean_interval(values, np.arange(148), share=True)
    assert (found.low, found.high) == wilson(15, 148)
    assert (found.value, found.n, found.units) == (15 / 148, 148, 148)
    assert mean_interval(np.zeros(25), np.arange(25), share=True).low == 0.0
    assert mean_interval(np.ones(10), np.arange(10), share=True).high == 1.0


def test_nothing_but_zeros_is_no_certainty() -> None:
    units = np.repeat(np.arange(50), 4)
    found = mean_interval(np.zeros(200), units, share=True)
    assert found.value == found.low == 0 and 0.015 < found.high < 0.035
    apart = difference_interval(np.zeros(200), np.zeros(200), units, share=True)
    assert apart.value == 0 and apart.low < 0 < apart.high < 0.03


def test_real_numbers_have_the_interval_of_their_mean() -> None:
    """One number a unit, 60 units: the interval is Student's."""
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, size=60)
    found = mean_interval(values, np.arange(60), share=False)
    half = 2.0010 * values.std(ddof=1) / math.sqrt(60)  # Student's 97.5 % at 59 degrees
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_one_unit_says_nothing_of_others() -> None:
    found = mean_interval(np.array([1.0, 0.0, 1.0]), np.zeros(3, int), share=True)
    assert (found.value, found.low, found.high) == (2 / 3, None, None)
    assert not found.above and not found.below


def test_larger_units_count_by_their_pictures() -> None:
    values, units = np.array([1.0] * 9 + [0.0]), np.array([0] * 9 + [1])
    assert mean_interval(values, units, share=False).value == 0.9


@given(arrays(float, st.integers(2, 40), elements=st.sampled_from([0.0, 0.5, 1.0])), st.data())
def test_the_value_lies_inside_and_turning_signs_turns_the_interval(values, data) -> None:
    units = data.draw(arrays(np.int64, len(values), elements=st.integers(0, 6)))
    found = mean_interval(values, units, share=False)
    if found.low is not None:
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12
    there = difference_interval(values, np.zeros_like(values), units, share=False)
    back = difference_interval(np.zeros_like(values), values, units, share=False)
    assert there.value == -back.value
    if there.low is not None:
        assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)


def test_draws_are_seeded() -> None:
    values, units = np.arange(40.0), np.repeat(np.arange(10), 4)
    first = mean_interval(values, units, share=False, seed=1)
    assert first == mean_interval(values, units, share=False, seed=1)
    assert first != mean_interval(values, units, share=False, seed=2)


def test_newcombes_difference_of_shares() -> None:
    """Newcombe 1998 (differences), table II, case (a): 56/70 and 48/80, method 10."""
    one = Interval(56 / 70, *wilson(56, 70), 70, 70)
    other = Interval(48 / 80, *wilson(48, 80), 80, 80)
    found = independent_difference(one, other)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    unknown = Interval(0.5, None, None, 3, 1)
    assert independent_difference(one, unknown).low is None


def test_ratio_of_a_known_whole_is_a_scaled_interval() -> None:
    whole = Interval(0.8, 0.8, 0.8, 100, 100)
    found = ratio_interval(Interval(0.4, 0.3, 0.52, 50, 25), whole)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.375, 0.65))
    assert (found.n, found.units) == (50, 25)


def test_ratio_limits_are_where_the_difference_touches_zero() -> None:
    part, whole = Interval(0.3, 0.22, 0.4, 80, 20), Interval(0.9, 0.8, 0.95, 80, 20)
    found = ratio_interval(part, whole)
    for ratio, end in ((found.low, "low"), (found.high, "high")):
        scaled = Interval(ratio * 0.9, ratio * 0.8, ratio * 0.95, 80, 20)
        assert getattr(independent_difference(part, scaled), end) == pytest.approx(0, abs=1e-12)


def test_ratio_to_what_may_be_nothing_has_no_upper_end() -> None:
    none = Interval(0.0, 0.0, 0.1, 50, 25)
    assert ratio_interval(none, none) is None
    found = ratio_interval(Interval(0.0, 0.0, 0.1, 50, 25), Interval(0.02, 0.0, 0.1, 50, 25))
    assert (found.value, found.low, found.high) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (400, 1.966)]
)
def test_students_quantile(degrees: int, quantile: float) -> None:
    assert student(degrees) == pytest.approx(quantile, rel=0.01)


def test_fewer_units_leave_out_less() -> None:
    tails = [expanded_tail(units) for units in (5, 10, 50, 1000)]
    assert tails == sorted(tails) and tails[-1] == pytest.approx(0.025, abs=2e-4)


def test_shapes_that_do_not_fit_are_refused() -> None:
    three, two = np.zeros(3), np.zeros(2)
    with pytest.raises(ShapeError, match="3 values against 2"):
        difference_interval(three, two, np.arange(3), share=False)
    with pytest.raises(ShapeError, match="3 values of 2 units"):
        mean_interval(three, np.arange(2), share=False)
    with pytest.raises(ShapeError, match="0 values of 0 units; expected as many, at least one"):
        mean_interval(np.zeros(0), np.zeros(0, int), share=True)
