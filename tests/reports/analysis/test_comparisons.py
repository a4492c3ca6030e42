"""All pairs of a table: against scipy, by hand, and against leaderboards in which every method is the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.reports.analysis.comparisons import SEED_VARIATION, family, holm_steps, one_family, ranks
from consistency_bench.reports.analysis.statistics import paired_interval

LOWER, HIGHER = -1, 1


def table_of(rows):
    """label -> seed -> value of an array [methods, seeds]."""
    return {str(label): dict(enumerate(map(float, row))) for label, row in enumerate(rows)}


def test_holm_by_hand():
    # Sorted: 0.01 × 4, 0.02 × 3, 0.03 × 2 (no smaller than before), 0.5; the second is the first that stays.
    adjusted, level = holm_steps(np.array([0.5, 0.02, math.nan, 0.01, 0.03]))
    assert adjusted[[3, 1, 4, 0]] == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert level[[3, 1, 4, 0]] == pytest.approx([0.05 / 4, 0.05 / 3, 0.05 / 3, 0.05 / 3])
    assert math.isnan(adjusted[2])
    assert holm_steps(np.array([math.nan]))[1] == pytest.approx([0.05])
    assert holm_steps(np.array([]))[0].size == 0


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12))
def test_holm_lies_between_nothing_and_bonferroni(p):
    adjusted, level = holm_steps(np.array(p))
    assert np.all(adjusted >= np.array(p))
    assert np.all(adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12)
    assert np.array_equal(adjusted <= 0.05, np.array(p) <= level)  # the interval at that level says the same


def test_pairs_agree_with_scipy_where_seeds_are_missing():
    rng = np.random.default_rng(1)
    rows = rng.normal(30, 3, (5, 7))
    rows[rng.random(rows.shape) < 0.2] = math.nan
    values = table_of(rows)
    compared = family(values, LOWER)
    for i, j in [(0, 1), (3, 2), (4, 0)]:
        found = compared.between(str(i), str(j))
        both = np.isfinite(rows[i]) & np.isfinite(rows[j])
        assert found.p == pytest.approx(scipy.stats.ttest_rel(rows[i][both], rows[j][both]).pvalue)
        alone = paired_interval(values[str(i)], values[str(j)])
        assert (found.interval.low, found.interval.high, found.interval.n, found.interval.lost) == (
            pytest.approx(alone.low),
            pytest.approx(alone.high),
            alone.n,
            alone.lost,
        )
        assert (found.holm, found.pairs) == (pytest.approx(min(1, found.holm)), 10)
        assert found.adjusted.low < found.interval.low < found.interval.high < found.adjusted.high


tables = st.integers(2, 5).flatmap(
    lambda seeds: st.lists(
        st.lists(st.floats(1, 100) | st.just(math.nan), min_size=seeds, max_size=seeds), min_size=2, max_size=5
    )
)


@given(tables, st.sampled_from([LOWER, HIGHER]))
def test_a_comparison_is_the_mirror_image_of_its_reverse(rows, sign):
    compared = family(table_of(rows), sign)
    assert np.array_equal(compared.verdicts, -compared.verdicts.T)
    there, back = compared.between("0", "1"), compared.between("1", "0")
    assert (there.verdict, back.verdict) in {("better", "worse"), ("worse", "better"), ("inconclusive",) * 2}
    assert (there.p, there.holm) == (back.p, back.holm)
    if there.improvement is not None:
        assert there.improvement + back.improvement == pytest.approx(1)


@given(tables, st.randoms())
def test_the_order_of_rows_and_seeds_changes_no_verdict(rows, random):
    values = table_of(rows)
    labels = list(values)
    random.shuffle(labels)
    seeds = list(range(len(rows[0])))
    random.shuffle(seeds)
    shuffled = {label: {seed: values[label][seed] for seed in seeds} for label in labels}
    one, other = family(values, LOWER), family(shuffled, LOWER)
    assert one.between("0", "1").verdict == other.between("0", "1").verdict
    assert {label: rank.place for label, rank in ranks(one).items()} == {
        label: rank.place for label, rank in ranks(other).items()
    }


def verdict(first, second, sign=LOWER):
    found = family({"a": dict(enumerate(first)), "b": dict(enumerate(second))}, sign).between("a", "b")
    return found.verdict, found.reason


def test_verdicts_and_their_reasons():
    wide, near = [10.0, 11.0, 10.4], [10.05, 11.06, 10.44]
    assert verdict(wide, [20.0, 21.2, 20.3]) == ("better", "")
    assert verdict(wide, [20.0, 21.2, 20.3], HIGHER) == ("worse", "")
    assert verdict(wide, [9.0, 12.0, 11.0]) == ("inconclusive", "the interval includes zero")
    assert verdict(wide, near) == ("inconclusive", "the difference is within 1.3 % of the value")
    assert verdict(wide, [20.0]) == ("inconclusive", "fewer than two common seeds")
    assert verdict([10.0, 11.0, 10.5, math.nan], [20.0, 21.2, 20.3, 20.1]) == (
        "inconclusive",
        "seeds of the better one diverged",
    )
    assert verdict([10.0, 11.0, 10.5, 10.1], [20.0, 21.2, 20.3, math.nan])[0] == "better"
    assert verdict(wide, wide) == ("inconclusive", "equal on every seed")
    assert verdict([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])[1] == "the same difference on every seed: no spread"
    assert verdict(wide, [20.0, 21.2, 20.3], 0) == ("inconclusive", "no better direction is known")


def test_the_margin_is_a_share_of_the_value():
    base = np.array([100.0, 101.0, 99.0, 100.5, 100.2])
    shift = np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    assert SEED_VARIATION == 0.013
    assert verdict(base, base + 1.2 + shift)[0] == "inconclusive"
    assert verdict(base, base + 1.5 + shift)[0] == "better"


def test_a_family_takes_certainty_away_and_never_adds_it():
    near, far = [5.0, 4.0, 1.0, 6.0, 3.0], [50.0, 48.0, 51.0, 50.5, 49.5]  # p = 0.009 and 1e-6
    base = np.array([30.0, 33.0, 28.0, 31.0, 29.5])
    alone = [family(table_of([base, base + gap]), LOWER).between("0", "1") for gap in (near,) * 6 + (far,)]
    together = one_family(alone)
    assert {found.verdict for found in alone} == {"better"}
    assert [found.verdict for found in together] == ["inconclusive"] * 6 + ["better"]
    assert {found.reason for found in together[:6]} == {"the interval includes zero"}
    assert {found.pairs for found in together} == {7}
    assert together[0].holm == pytest.approx(6 * alone[0].p)
    for found in together:
        assert (found.holm <= 0.05) == (not found.adjusted.low <= 0 <= found.adjusted.high)


def test_ranks():
    rows = [[10.0, 10.1, 10.2], [10.1, 10.0, 10.3], [50.0, 50.2, 50.1], [5.0, math.nan, math.nan]]
    found = ranks(family(table_of(rows), LOWER))
    assert [found[label].place for label in "0123"] == [1, 2, 3, None]  # a single seed heads no table
    assert [(found[label].low, found[label].high) for label in "012"] == [(1, 2), (1, 2), (3, 3)]
    assert [found[label].bootstrap for label in "012"] == [(1, 2), (1, 2), (3, 3)]
    assert [rank.place for rank in ranks(family(table_of(rows), HIGHER)).values()] == [3, 2, 1, None]
    assert {rank.place for rank in ranks(family(table_of(rows), 0)).values()} == {None}


def test_ties_share_their_rank():
    found = ranks(family(table_of([[1.0, 1.0], [2.0, 2.0], [2.0, 2.0], [3.0, 3.0]]), HIGHER))
    assert [rank.place for rank in found.values()] == [4, 2, 2, 1]
    assert [rank.bootstrap for rank in found.values()] == [(4, 4), (2, 2), (2, 2), (1, 1)]


def test_rows_without_common_seeds_are_ranked_and_not_compared():
    compared = family({"a": {0: 1.0, 1: 1.1}, "b": {7: 9.0, 8: 9.1}, "c": {}}, LOWER)
    assert [rank.place for rank in ranks(compared).values()] == [1, 2, None]
    assert compared.between("a", "b").reason == "fewer than two common seeds"
    assert compared.between("a", "b").improvement == 1.0
    assert compared.between("a", "c").improvement is None


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("methods", [2, 4, 10])
@pytest.mark.parametrize("common", [0.0, 2.0])
def test_equal_methods_are_seldom_called_better(methods, seeds, common):
    """Whole tables of equal methods: how often any of them is called better than any other, the best included.

    common: how many times as much the seeds add to all methods alike as each has of its own.
    """
    rng = np.random.default_rng([methods, seeds, int(common)])
    trials = 3000
    noise = 3 * rng.standard_normal((trials, methods, seeds)) + 3 * common * rng.standard_normal((trials, 1, seeds))
    wrong = sum(bool(family(table_of(30 + rows), LOWER).verdicts.any()) for rows in noise)
    assert wrong / trials <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / trials)  # 99 % of the simulation's own error


def test_values_on_a_grid_make_no_winners():
    """Counts of classes agree or differ by one: their differences are often all the same, which is no certainty."""
    rng = np.random.default_rng(4)
    trials = 3000
    rows = 10 - rng.binomial(1, 0.5, (trials, 4, 3))
    wrong = sum(bool(family(table_of(own), HIGHER).verdicts.any()) for own in rows)
    assert wrong / trials <= 0.05


def test_a_method_that_is_better_is_found():
    rng = np.random.default_rng(5)
    trials = 300
    rows = 30 + 3 * rng.standard_normal((trials, 1, 5)) + 0.5 * rng.standard_normal((trials, 4, 5))
    rows[:, 0] -= 5
    found = sum(bool((family(table_of(own), LOWER).verdicts[0, 1:] == 1).all()) for own in rows)
    assert found / trials > 0.8


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_all_places_of_all_rows_hold_at_once(seeds):
    """The true ranks of unequal methods lie among the places that the verdicts leave open."""
    rng = np.random.default_rng(seeds)
    true = np.array([30.0, 30.0, 33.0, 40.0])
    trials, held = 1000, 0
    for _ in range(trials):
        rows = true[:, None] + rng.normal(0, 2, (4, seeds)) + rng.normal(0, 4, seeds)
        found = ranks(family(table_of(rows), LOWER)).values()
        least = [1 + (true < own).sum() for own in true]
        most = [(true <= own).sum() for own in true]
        held += all(rank.low <= m and rank.high >= a for rank, a, m in zip(found, least, most, strict=True))
    assert held / trials >= 0.95 - 2.33 * math.sqrt(0.05 * 0.95 / trials)
