"""Paired differences to the best: the numbers, and how their picture shows significance."""

from __future__ import annotations

import math
import statistics
import warnings
from dataclasses import replace

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.markers import CARETRIGHT

from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.rivals import Rival, rivals
from consistency_bench.reports.analysis.tables import Board, leaderboard, seed_values
from consistency_bench.reports.pages.captions import CAPTIONS
from consistency_bench.reports.pages.html_data import chart_data
from consistency_bench.reports.plots.forest import MOST_ROWS, WIDE, forest, span
from consistency_bench.reports.plots.style import save_figures

DARK, WHITE = to_rgb("0.15"), to_rgb("white")


def board_of(out) -> Board:
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, cells[0].benchmark))


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def filled(sweep, levels, **kwargs) -> Board:
    """method -> the level of each seed, NaN where it diverged."""
    for method, own in levels.items():
        for seed, level in enumerate(own):
            state = "diverged" if math.isnan(level) else "done"
            sweep.cell(method, seed, level=50.0 if math.isnan(level) else level, state=state, **kwargs)
    return board_of(sweep.out)


def rival(mean, half=None, label="x") -> Rival:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Rival(label, 3, mean, (low, high), low, high, False, "")


def markers(axes):
    """Markers of means from top to bottom: (height, mean, face)."""
    points = [line for line in axes.lines if line.get_marker() in set("osD^vPX*") and len(line.get_xdata()) == 1]
    return sorted((line.get_ydata()[0], line.get_xdata()[0], to_rgb(line.get_mfc())) for line in points)


def bars(axes):
    """The coloured intervals from top to bottom: (height, left, right)."""
    (found,) = [lines for lines in axes.collections if lines.get_linewidth() == [WIDE]]
    return sorted((float(ends[0][1]), float(ends[0][0]), float(ends[1][0])) for ends in found.get_segments())


def percent(ratios):
    """The geometric mean of ratios as a difference in per cent."""
    return 100 * (math.prod(ratios) ** (1 / len(ratios)) - 1)


LEVELS = {"ect": [30.0, 31.0, 32.0], "vct": [40.1, 40.9, 42.0], "sct": [29.0, 33.0, 36.0]}
VCT, SCT = ([value / best for value, best in zip(LEVELS[name], LEVELS["ect"], strict=True)] for name in ("vct", "sct"))


def test_rivals_by_hand(sweep):
    board = filled(sweep, LEVELS)
    sct, vct = rivals(board.contests[1, "fd_digits_2k"]).values()
    assert (sct.label, vct.label) == ("sct", "vct")
    assert (vct.mean, vct.n, vct.worse, vct.percent) == (pytest.approx(percent(VCT)), 3, True, True)
    # The t quantile of 2 degrees of freedom is 4.302653.
    logs = [math.log(ratio) for ratio in VCT]
    centre, half = statistics.fmean(logs), 4.302653 * statistics.stdev(logs) / math.sqrt(3)
    assert vct.plain == tuple(pytest.approx(100 * math.expm1(end)) for end in (centre - half, centre + half))
    assert vct.low is not None
    assert vct.low < vct.plain[0] < vct.plain[1] < vct.high
    assert (sct.mean, sct.worse, sct.reason) == (pytest.approx(percent(SCT)), False, "the interval includes zero")


def test_more_is_worse_where_higher_is_better_too(sweep):
    board = filled(sweep, LEVELS, metrics=("precision_digits_1k",))
    contest = board.contests[1, "precision_digits_1k"]
    assert contest.leader == "vct"
    assert [(found.label, found.mean) for found in rivals(contest).values()] == [
        ("sct", pytest.approx(25 / 3)),
        ("ect", pytest.approx(10.0)),
    ]
    ect = rivals(contest)["ect"]
    assert ect.plain[0] < 10 < ect.plain[1]
    assert ect.worse


def test_the_page_and_the_picture_have_the_same_numbers(sweep):
    board = filled(sweep, LEVELS)
    (contest, *_) = chart_data(board, seed_values(board.cells), 8)["contests"]
    found = rivals(board.contests[1, "fd_digits_2k"]).values()
    assert [item["mean"] for item in contest["rivals"]] == pytest.approx([item.mean for item in found], rel=1e-5)
    assert [item["worse"] for item in contest["rivals"]] == [False, True]


def test_verdicts_are_filled_or_hollow(sweep):
    board = filled(sweep, LEVELS)
    figure = drawn(forest(board))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ect", "sct", "vct"]
    assert markers(axes) == [(1, pytest.approx(percent(SCT)), WHITE), (2, pytest.approx(percent(VCT)), DARK)]
    sct, vct = rivals(board.contests[1, "fd_digits_2k"]).values()
    assert bars(axes) == [(1, *map(pytest.approx, sct.plain)), (2, *map(pytest.approx, vct.plain))]
    assert [text.get_text() for text in axes.texts] == ["n = 3", "best mean"]
    assert axes.get_xlim()[0] < 0 < percent(VCT) < axes.get_xlim()[1]
    assert axes.get_xlabel() == "Fréchet distance:\ndifference to the best mean in %\n(digits features, 2k samples)"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best row is on top
    assert [text.get_text() for text in figure.legends[0].get_texts()][:4] == [
        *("95 % interval", "of all pairs at once", "significantly worse", "inconclusive")
    ]


def test_a_significant_winner_is_labelled(sweep):
    figure = drawn(forest(filled(sweep, {name: LEVELS[name] for name in ("ect", "vct")})))
    assert "significantly best" in [text.get_text() for text in figure.axes[0].texts]


def test_a_single_seed_has_no_interval(sweep):
    axes = drawn(forest(filled(sweep, {"ect": [30.0], "vct": [24.0]}))).axes[0]
    assert bars(axes) == []
    assert markers(axes) == [(1, pytest.approx(25.0), WHITE)]
    assert [text.get_text() for text in axes.texts] == ["n = 1", "best mean"]


def test_what_cannot_be_compared_says_why(sweep):
    for seed in range(2):
        sweep.cell("vct", seed, level=20.0 + seed)
        sweep.cell("sct", seed, level=40.0 + 1.1 * seed)
        sweep.cell("ict", seed, state="diverged")
        sweep.cell("ect", seed, state="queued")
    axes = drawn(forest(board_of(sweep.out))).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vct", "sct", "ect", "ict"]
    assert [text.get_text() for text in axes.texts] == ["n = 2", "best mean", "no common seed", "diverged"]


def test_different_numbers_of_common_seeds_stand_beside_their_rows(sweep):
    axes = drawn(forest(filled(sweep, {**LEVELS, "ict": [60.0, 61.5]}))).axes[0]
    assert [text.get_text() for text in axes.texts] == ["n", "3", "3", "2", "best mean"]


def test_nothing_to_compare_makes_no_picture(sweep):
    sweep.cell("ect", 0)
    assert forest(board_of(sweep.out)) is None
    sweep.cell("vct", 0, state="queued")
    assert forest(board_of(sweep.out)) is None


def test_a_wide_interval_does_not_flatten_the_others():
    low, high = span([rival(1.0, 0.5), rival(2.0, 0.4), rival(3.0, 60.0)])
    assert -5.0 < low < -1.0
    assert 5.0 < high < 9.0
    assert span([rival(1.0, 0.5)]) == pytest.approx((-0.06, 1.56))
    assert span([rival(0.0)])[0] < 0 < span([rival(0.0)])[1]
    found = [rival(1.0, 0.5), rival(2.0, 0.4)]
    corrected = [replace(item, low=-90.0, high=90.0) for item in found]
    assert span(corrected) == pytest.approx((-3.3, 5.3), abs=0.1)
    low, high = span([rival(-2.0), rival(4.0)])
    assert low < -2 < 4 < high


def test_an_interval_beyond_the_axis_ends_in_an_arrow(sweep):
    levels = {"ect": [30.0, 31.0, 32.0], "vct": [33.0, 34.1, 35.0], "ict": [28.0, 900.0, 29.0]}
    figure = drawn(forest(filled(sweep, levels)))
    axes = figure.axes[0]
    (beyond,) = (line for line in axes.lines if line.get_marker() == CARETRIGHT)  # no ratio is below −100 %
    assert list(zip(*beyond.get_data(), strict=True))[-1] == (axes.get_xlim()[1], 2)
    assert figure.legends[0].get_texts()[-1].get_text() == "interval extends beyond the axis"


def test_of_many_configurations_the_best_are_shown(sweep):
    for place in range(MOST_ROWS + 4):
        for seed in range(2):
            sweep.cell("ect", seed, variant=f"train.lr={place}", level=30 + place + 0.1 * seed * place)
    figure = drawn(forest(board_of(sweep.out)))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"ect lr={place}" for place in range(MOST_ROWS)]
    assert f"the first {MOST_ROWS}" in CAPTIONS["forest"]


def test_formulas_in_names_are_no_formulas(sweep, tmp_path):
    for seed in range(2):
        sweep.cell("ect", seed, variant=r"x=$\frac{$")
        sweep.cell("ect", seed, variant="x=<b>|\n**y**")
    board = board_of(sweep.out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = save_figures({"forest": lambda _: forest(board)}, tmp_path, "a")["forest"].read_bytes()
    assert first == save_figures({"forest": lambda _: forest(board)}, tmp_path, "b")["forest"].read_bytes()
