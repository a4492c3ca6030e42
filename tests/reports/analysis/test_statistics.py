"""Intervals against hand-computed values, scipy, and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.reports.analysis.statistics import (
    Interval,
    improvement,
    paired_interval,
    seed_mean,
    spread,
    t_interval,
)

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


@pytest.mark.parametrize("n", [3, 5, 10])
def test_paired_intervals_cover_the_true_difference_as_often_as_they_claim(n: int):
    rng = np.random.default_rng(8)
    common = rng.normal(30.0, 6.0, (4000, 1, n))
    covered, narrow = 0, 0
    for first, second in common + rng.normal(0.0, 2.0, (4000, 2, n)) + np.array([[0.0], [1.5]]):
        interval = paired_interval(dict(enumerate(first)), dict(enumerate(second)))
        covered += interval.low <= -1.5 <= interval.high
        narrow += interval.half_width < t_interval(first).half_width
    assert 0.93 <= covered / 4000 <= 0.97
    assert narrow / 4000 > 0.8  # what the seeds share has cancelled


def seeds_of(table):
    return {seed: dict(enumerate(map(float, row))) for seed, row in enumerate(table)}


def test_nested_spread_by_hand():
    # Means 2 and 6; within: 4 over 2 degrees of freedom = 2; between: 2 · (4 + 4) / 1 = 16; (16 − 2) / 2 = 7.
    found = spread(seeds_of([[1, 3], [5, 7]]), shared=False)
    assert (found.seed, found.draw, found.total) == pytest.approx((math.sqrt(7), math.sqrt(2), math.sqrt(8)))
    assert (found.seeds, found.draws) == (2, (2, 2))


def test_crossed_spread_by_hand():
    # The draws differ by 2 for both seeds alike: that says nothing of the seeds, whose variance is all of 8.
    found = spread(seeds_of([[1, 3], [5, 7]]))
    assert (found.seed, found.draw) == pytest.approx((math.sqrt(8), math.sqrt(2)))


def test_what_cannot_be_split_is_none():
    assert spread({}) == spread({0: {}})
    one_draw = spread(seeds_of([[1], [3], [5]]))
    assert (one_draw.seed, one_draw.draw, one_draw.total) == (None, None, 2.0)
    one_seed = spread(seeds_of([[1, 3]]))
    assert (one_seed.seed, one_seed.total) == (None, None)
    assert one_seed.draw == pytest.approx(math.sqrt(2))
    apart = {0: {0: 1.0, 1: 2.0}, 1: {2: 5.0, 3: 6.0}}
    assert spread(apart).seed is None
    assert spread(apart, shared=False).seed is not None
    assert spread({0: {0: 1.0, 1: math.nan}, 1: {0: 2.0, 1: 3.0}}).seeds == 1


def test_draws_that_not_all_seeds_have_stay_out_of_the_split():
    uneven = {0: {0: 1.0, 1: 3.0, 2: 90.0}, 1: {0: 5.0, 1: 7.0}}
    assert spread(uneven).seed == spread(seeds_of([[1, 3], [5, 7]])).seed
    assert spread(uneven).draws == (2, 3)


def test_spread_where_draws_explain_everything_is_zero():
    assert spread(seeds_of([[0, 10], [10, 0]]), shared=False).seed == 0.0


@pytest.mark.parametrize("shared", [True, False])
def test_both_splits_find_the_true_variances(shared: bool):
    """Seeds of variance 4; draws of variance 9, the same for all seeds or of each seed's own, in unequal numbers."""
    rng = np.random.default_rng(9)
    seed, draw = [], []
    for _ in range(4000):
        own, common = rng.normal(0, 2, 6), rng.normal(0, 3, 4)
        numbers = [4] * 6 if shared else [2, 2, 3, 4, 5, 8]
        values = {
            s: dict(enumerate(own[s] + (common if shared else rng.normal(0, 3, m)))) for s, m in enumerate(numbers)
        }
        found = spread(values, shared=shared)
        seed.append(found.seed**2)
        draw.append(found.draw**2)
    # Cut at zero, the estimate of a nested variance is a little too high; its mean without the cut is exact.
    assert np.mean(seed) == pytest.approx(4, rel=0.05 if shared else 0.15)
    assert np.mean(draw) == pytest.approx(9, rel=0.05)


def test_draws_that_all_seeds_share_hide_seeds_from_the_nested_split():
    """Why the split knows of shared draws: as nested ones they would take a share of the variance between seeds."""
    rng = np.random.default_rng(10)
    found = {True: [], False: []}
    for _ in range(1000):
        values = seeds_of(rng.normal(0, 2, (6, 1)) + rng.normal(0, 3, (1, 2)) + rng.normal(0, 0.1, (6, 2)))
        for shared, seen in found.items():
            seen.append(spread(values, shared=shared).seed ** 2)
    assert np.mean(found[True]) == pytest.approx(4, rel=0.1)
    assert np.mean(found[False]) < 2.5


def test_probability_of_improvement_by_hand():
    assert improvement([1.0, 2.0], [2.0, 3.0], -1) == (1 + 1 + 0.5 + 1) / 4
    assert improvement([1.0, 2.0], [2.0, 3.0], 1) == 0.5 / 4
    assert improvement([1.0, math.nan], [5.0, math.nan], -1) == (1 + 1 + 0 + 0.5) / 4
    assert improvement([], [1.0], 1) is None


@given(values, values)
def test_probability_of_improvement_is_the_share_of_mann_and_whitney(first, second):
    statistic = scipy.stats.mannwhitneyu(first, second, alternative="two-sided", method="asymptotic").statistic
    assert improvement(first, second, 1) == pytest.approx(statistic / (len(first) * len(second)))
