"""Intervals against hand-computed values, scipy, and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.reports.statistics import Interval, paired_interval, seed_mean, t_interval

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


def test_three_seeds_by_hand():
    # mean 2, deviation 1, standard error 1/√3, t quantile of 2 degrees of freedom 4.302653
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert (interval.n, interval.lost) == (3, 0)


@given(values)
def test_agrees_with_scipy(sample: list[float]):
    interval = t_interval(sample)
    scale = scipy.stats.sem(sample)
    if scale > 0:
        low, high = scipy.stats.t.interval(0.95, len(sample) - 1, loc=np.mean(sample), scale=scale)
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


@given(values, st.randoms())
def test_order_of_seeds_changes_no_digit(sample: list[float], random):
    shuffled = list(sample)
    random.shuffle(shuffled)
    assert t_interval(shuffled) == t_interval(sample)


@given(values, st.floats(-1e6, 1e6))
def test_a_shift_of_the_values_shifts_the_interval(sample: list[float], shift: float):
    plain, shifted = t_interval(sample), t_interval([value + shift for value in sample])
    expected = (plain.mean + shift, plain.low + shift, plain.high + shift)
    assert (shifted.mean, shifted.low, shifted.high) == pytest.approx(expected, rel=1e-6, abs=1e-3)


@given(values)
def test_pairing_with_itself_gives_exactly_zero(sample: list[float]):
    seeds = dict(enumerate(sample))
    assert paired_interval(seeds, seeds) == Interval(0.0, 0.0, 0.0, len(sample))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert t_interval([7.0]) == Interval(7.0, None, None, 1)
    assert t_interval([7.0]).half_width is None
    empty = t_interval([])
    assert math.isnan(empty.mean)
    assert empty.n == empty.lost == 0


def test_values_that_are_not_finite_are_counted():
    interval = t_interval([1.0, math.nan, 3.0, math.inf])
    assert (interval.mean, interval.n, interval.lost) == (2.0, 2, 2)


def test_draws_of_one_seed_are_one_value():
    assert seed_mean([1.0, 2.0, 6.0]) == 3.0
    assert math.isnan(seed_mean([1.0, math.nan]))


def test_pairs_are_the_common_seeds():
    difference = paired_interval({0: 5.0, 1: 7.0, 9: 100.0}, {1: 4.0, 0: 4.0, 8: -100.0})
    assert (difference.mean, difference.n) == (2.0, 2)
    assert paired_interval({0: 1.0, 1: math.nan}, {0: 1.0, 1: 1.0}).lost == 1


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_the_truth_as_often_as_they_claim(n: int):
    rng = np.random.default_rng(7)
    covered = [
        interval.low <= 30.0 <= interval.high
        for sample in rng.normal(30.0, 3.0, (4000, n))
        for interval in [t_interval(sample)]
    ]
    assert 0.93 <= np.mean(covered) <= 0.97
