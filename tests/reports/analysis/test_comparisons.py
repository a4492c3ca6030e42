"""All pairs of a table: against scipy, by hand, and against leaderboards in which every method is the same."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.reports.analysis.comparisons import SEED_VARIATION, among, compare_pairs, family, ranks
from consistency_bench.reports.analysis.power import detectable, power, seeds_for
from consistency_bench.reports.analysis.simultaneous import critical, exceedance, guard_level
from consistency_bench.reports.analysis.statistics import paired_interval

from .simulation import coverage, draw, error_rate, found_by_holm, found_by_rule

LOWER, HIGHER = -1, 1


def table_of(rows):
    """label -> seed -> value of an array [methods, seeds]."""
    return {str(label): dict(enumerate(map(float, row))) for label, row in enumerate(rows)}


@pytest.mark.parametrize(("k", "df"), [(2, 2), (3, 2), (4, 6), (8, 63), (20, 38)])
def test_tukeys_quantile_is_that_of_scipy(k, df):
    assert critical(k, df, baseline=False) == pytest.approx(
        scipy.stats.studentized_range.ppf(0.95, k, df) / math.sqrt(2), abs=1e-6
    )
    assert exceedance(3.0, k, df, baseline=False) == pytest.approx(
        scipy.stats.studentized_range.sf(3 * math.sqrt(2), k, df), abs=1e-6
    )


@pytest.mark.parametrize(("others", "df", "published"), [(2, 5, 3.03), (3, 10, 2.76), (2, 20, 2.38), (9, 60, 2.77)])
def test_dunnetts_quantile_is_that_of_his_table(others, df, published):
    """Dunnett 1964, New tables for multiple comparisons with a control, two-sided, 5 %."""
    assert critical(others + 1, df, baseline=True) == pytest.approx(published, abs=0.006)


def test_the_residual_is_that_of_least_squares_where_seeds_are_missing():
    rng = np.random.default_rng(1)
    rows = rng.normal(30, 3, (5, 7))
    rows[rng.random(rows.shape) < 0.2] = math.nan
    values = table_of(rows)
    compared = family(values, LOWER)
    known = [(i, seed) for i in range(5) for seed in range(7) if np.isfinite(rows[i, seed])]
    design = np.array([[*(i == row for i in range(5)), *(j == seed for j in range(7))] for row, seed in known], float)
    observed = np.array([rows[place] for place in known])
    left = observed - design @ np.linalg.lstsq(design, observed)[0]
    df = len(known) - np.linalg.matrix_rank(design)
    assert compared.pairs.df == df
    assert compared.pairs.sd == pytest.approx(math.sqrt(left @ left / df))
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
        assert found.pairs == compared.size


def test_the_corrected_interval_is_the_wider_of_two():
    rows = np.array([[10.0, 11.0, 12.5, 10.2], [20.0, 21.1, 22.5, 20.3], [14.0, 15.2, 13.0, 9.0]])
    compared = family(table_of(rows), LOWER)
    residual = rows - rows.mean(1, keepdims=True) - rows.mean(0) + rows.mean()
    sd = math.sqrt((residual**2).sum() / 6)
    together = scipy.stats.studentized_range.ppf(0.95, 3, 6) * sd / math.sqrt(4)
    near = compared.between("0", "1").adjusted  # the two differ by nearly the same on every seed: Tukey's is wider
    assert near.half_width == pytest.approx(together, rel=1e-6)
    gaps = rows[0] - rows[2]
    alone = scipy.stats.t.ppf(1 - 0.05 * 2.5 / 3 / 2, 3) * gaps.std(ddof=1) / 2
    assert alone > together
    assert compared.between("0", "2").adjusted.half_width == pytest.approx(alone)


def with_erratic_row(sd, seeds=5, shift=0.0):
    """Five rows with sd 1, of which the second is worse, and a sixth one."""
    rng = np.random.default_rng(3)
    rows = 30 + rng.normal(0, 1, (6, seeds)) + 10 * (np.arange(6) == 1)[:, None]
    rows[5] = 40 + shift + sd * rng.permutation(np.linspace(-1, 1, seeds))
    return rows


@pytest.mark.parametrize("baseline", [None, "1"])
def test_an_erratic_row_is_not_part_of_the_residual_of_the_others(baseline):
    rows = with_erratic_row(40)
    compared, without = (family(table_of(own), LOWER, baseline=baseline) for own in (rows, rows[:5]))
    assert (compared.erratic, without.erratic) == (["5"], [])
    assert compared.pairs.sd == pytest.approx(without.pairs.sd)
    assert compared.pairs.df == without.pairs.df == 16
    found, alone = (own.between("0", "1") for own in (compared, without))
    assert found.verdict == alone.verdict == "better"
    together = critical(6, 16, baseline=baseline is not None) * float(compared.pairs.sd) * math.sqrt(2 / 5)
    own = scipy.stats.t.ppf(1 - guard_level(6) / 2, 4) * (rows[0] - rows[1]).std(ddof=1) / math.sqrt(5)
    assert found.adjusted.half_width == pytest.approx(max(together, own))  # it counts as one of six rows


@pytest.mark.parametrize(("baseline", "pairs"), [(None, 15), ("1", 5), ("5", 5)])
def test_differences_to_an_erratic_row_have_bonferronis_correction(baseline, pairs):
    reach = scipy.stats.t.ppf(1 - 0.025 / pairs, 4)
    for shift in (0, 400):
        rows = with_erratic_row(40, shift=shift)
        found = family(table_of(rows), LOWER, baseline=baseline).between("5", "1")
        gaps = rows[5] - rows[1]
        assert found.adjusted.half_width == pytest.approx(reach * gaps.std(ddof=1) / math.sqrt(5))
        assert found.corrected == pytest.approx(min(1, pairs * found.p))
        assert (found.corrected < 0.05) == found.adjusted.excludes_zero == (shift == 400)


@pytest.mark.parametrize("seeds", [5, 10])
def test_a_row_is_erratic_above_the_quantile_of_f(seeds):
    """On differences that are orthogonal to those of the others, so that the variances are exact."""
    basis = scipy.linalg.null_space(np.ones((1, seeds)))[:, :4] * math.sqrt(seeds - 1)  # mean 0, variance 1
    factor = scipy.stats.f.ppf(0.999, seeds - 1, seeds - 1)
    for share, expected in ((0.99, []), (1.01, ["3"])):
        rows = 30 + basis.T * np.sqrt([1, 1, 1, 2 * factor * share - 1])[:, None]
        assert family(table_of(rows), LOWER).erratic == expected


def test_missing_seeds_of_another_row_do_not_hide_an_erratic_one():
    rows = with_erratic_row(30, 10)
    rows[0, 3:] = math.nan
    assert family(table_of(rows), LOWER).erratic == ["5"]
    rows[5, 2:] = math.nan  # no pair of it is compared any more
    assert family(table_of(rows), LOWER).erratic == []


def test_rows_are_erratic_among_four_or_more_and_up_to_a_quarter():
    rng = np.random.default_rng(3)
    for rows, wide, expected in ((3, 1, 0), (4, 1, 1), (6, 2, 0), (8, 2, 2)):
        table = rng.normal(30, 1, (rows, 6))
        table[:wide] = rng.normal(30, 50, (wide, 6))
        assert len(family(table_of(table), LOWER).erratic) == expected


def test_rows_that_differ_by_a_constant_make_no_other_row_erratic():
    base = np.array([10.0, 11.0, 12.5, 10.2, 13.0])
    rows = [base, 1.1 * base, 1.21 * base, base * [1, 2, 1, 3, 1]]
    assert family(table_of(rows), LOWER, log=True).erratic == []


def test_two_rows_are_a_paired_t_test():
    found = family(table_of([[10.0, 11.0, 12.5], [10.4, 13.0, 12.9]]), LOWER).between("0", "1")
    assert found.adjusted.half_width == pytest.approx(found.interval.half_width)
    assert found.corrected == pytest.approx(found.p)


def test_distances_are_compared_by_their_ratios():
    first = np.array([10.0, 12.0, 30.0, 20.0])
    second = first * np.array([1.2, 1.21, 1.19, 1.2])
    found = family(table_of([first, second]), LOWER, log=True).between("0", "1")
    ratio = math.exp(np.log(first / second).mean())
    alone, corrected = found.shown()
    back, _ = found.shown(reverse=True)
    assert found.log
    assert alone.mean == pytest.approx(100 * (ratio - 1))
    assert back.mean == pytest.approx(100 * (1 / ratio - 1))
    assert alone.low < alone.mean < alone.high
    assert (1 + back.low / 100) * (1 + alone.high / 100) == pytest.approx(1)
    assert corrected.low == pytest.approx(alone.low)
    assert found.verdict == "better"
    assert not family(table_of([first, second - 12]), LOWER, log=True).log  # one value is 0


def test_against_a_baseline_only_its_pairs_are_compared():
    rows = [[10.0, 11.0, 12.5, 10.2], [20.0, 21.1, 22.5, 20.3], [15.0, 16.2, 17.6, 15.1]]
    found = family(table_of(rows), LOWER, baseline="2")
    assert found.size == 2
    assert found.between("2", "0").verdict == "worse"
    assert found.between("0", "1").reason == "only differences to 2 are tested"
    everything = family(table_of(rows), LOWER).between("2", "0")
    assert found.between("2", "0").corrected <= everything.corrected
    assert family(table_of(rows), LOWER, baseline="unknown").size == 3


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
    assert (there.p, there.corrected) == (back.p, back.corrected)
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
    assert verdict(wide, [20.0, 21.2]) == ("inconclusive", "needs 3 common seeds")
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


def test_bonferroni_takes_significance_away_and_never_adds_it():
    near, far = [5.0, 4.0, 1.0, 6.0, 3.0], [50.0, 48.0, 51.0, 50.5, 49.5]  # p = 0.009 and 1e-6
    base = np.array([30.0, 33.0, 28.0, 31.0, 29.5])
    alone = [family(table_of([base, base + gap]), LOWER).between("0", "1") for gap in (near, far)]
    assert {found.verdict for found in alone} == {"better"}
    assert among(alone[0], 1) == alone[0]
    together = [among(found, 7) for found in alone]
    assert [(found.verdict, found.reason) for found in together] == [
        ("inconclusive", "the interval includes zero"),
        ("better", ""),
    ]
    assert together[0].corrected == pytest.approx(7 * alone[0].p)
    for found in together:
        assert (found.corrected <= 0.05) == found.adjusted.excludes_zero


@given(tables)
def test_interval_p_value_and_verdict_agree(rows):
    compared = family(table_of(rows), LOWER)
    for i, j in itertools.combinations(compared.labels, 2):
        found = compared.between(i, j)
        if found.corrected is not None and abs(found.corrected - 0.05) > 1e-6:
            assert (found.corrected < 0.05) == found.adjusted.excludes_zero
        if found.verdict != "inconclusive":
            assert found.adjusted.excludes_zero
        if found.adjusted.half_width is not None:
            assert found.adjusted.half_width >= found.interval.half_width


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
    assert compared.between("a", "b").reason == "needs 3 common seeds"
    assert compared.between("a", "b").improvement == 1.0
    assert compared.between("a", "c").improvement is None


TRIALS = 2000
MARGIN = 2.33 * math.sqrt(0.06 * 0.94 / TRIALS)  # 99 % of the simulation's own error


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("pattern", ["equal", "one ×3", "one ×10"])
@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_equal_methods_are_seldom_called_different(k, seeds, pattern, shared):
    """Family-wise error of whole tables, of all pairs and against a baseline, also if it is what varies more."""
    tables = draw(k, seeds, TRIALS, pattern=pattern, shared=shared)
    for baseline in (None, 0, 1):
        assert error_rate(tables, baseline) <= 0.06 + MARGIN


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 8])
def test_intervals_of_all_pairs_hold_at_once(k, seeds):
    assert coverage(draw(k, seeds, TRIALS))[1] >= 0.94 - MARGIN


def test_tables_at_once_and_one_by_one_are_the_same():
    tables = draw(5, 8, 20, pattern="one ×10", shared=1.0)
    together, _ = compare_pairs(tables)
    assert together.erratic.any()
    for table, half, significant in zip(tables, together.half, together.significant, strict=True):
        alone = family(table_of(table + 1000), LOWER)
        upper = np.triu_indices(5, 1)
        assert alone.pairs.half[upper] == pytest.approx(half[upper])
        assert np.array_equal(alone.pairs.significant, significant)


def test_six_seeds_find_more_than_holms_correction_did():
    """Of a difference of 2 sd among 4 and 8 methods."""
    for k, least in ((4, 1.3), (8, 2.5)):
        tables = draw(k, 6, TRIALS)
        assert found_by_rule(tables, 2) > least * found_by_holm(tables, 2)


@pytest.mark.parametrize(("k", "seeds", "baseline"), [(2, 6, False), (4, 3, False), (4, 6, True), (8, 6, False)])
def test_power_is_that_of_the_simulation(k, seeds, baseline):
    tables, error = draw(k, seeds, TRIALS), 2.33 * math.sqrt(0.25 / TRIALS)
    assert power(2, k, seeds, baseline=baseline) == pytest.approx(
        found_by_rule(tables, 2, 0 if baseline else None), abs=error
    )
    effect = detectable(k, seeds, baseline=baseline)
    assert found_by_rule(tables, effect, 0 if baseline else None) == pytest.approx(0.8, abs=error)
    assert seeds_for(effect + 1e-3, k, baseline=baseline) == seeds
    assert seeds_for(effect - 1e-2, k, baseline=baseline) == seeds + 1


def test_values_on_a_grid_make_no_winners():
    """Counts of classes agree or differ by one: their differences are often all the same, which is no certainty."""
    rng = np.random.default_rng(4)
    trials = 3000
    rows = 10 - rng.binomial(1, 0.5, (trials, 4, 3))
    wrong = sum(bool(family(table_of(own), HIGHER).verdicts.any()) for own in rows)
    assert wrong / trials <= 0.05


def test_the_best_of_four_is_called_best():
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
