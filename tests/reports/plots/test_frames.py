"""`consistency_bench.plots`: the pictures of the report from a table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.frames import load_results
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.plots import frames
from consistency_bench.reports.plots.bars import bars
from consistency_bench.reports.plots.costs import network_calls, training_cost
from consistency_bench.reports.plots.curves import curves
from consistency_bench.reports.plots.forest import forest
from consistency_bench.reports.plots.style import look

from ..conftest import Sweep


@pytest.fixture
def mixed(sweep: Sweep) -> Path:
    """Configurations with a diverged, a failed and an unfinished cell, one with several sampling seeds."""
    for seed in range(4):
        sweep.cell("ect", seed, draws=2)
        sweep.cell("vct", seed, level=20 + seed / 10, variant="train.lr=0.1", settings={"train.lr": 0.1})
    sweep.cell("sct", 0)
    sweep.cell("sct", 1, state="diverged")
    sweep.cell("ict", 0, state="running")
    sweep.cell("ict", 1, state="failed")
    return sweep.out


def check(figure: Figure, draw: Callable[[float | None], Figure | None], width: float) -> None:
    """Both have the same size, axes, texts, lines, bars and bands."""
    with matplotlib.rc_context(look(width)):
        other = draw(width)
        assert other is not None
        other.draw_without_rendering()
    assert list(figure.get_size_inches()) == list(other.get_size_inches())
    assert [(text.get_text(), text.get_fontsize()) for text in figure.findobj(Text)] == [
        (text.get_text(), text.get_fontsize()) for text in other.findobj(Text)
    ]
    for own, expected in zip(points(figure), points(other), strict=True):
        np.testing.assert_allclose(own, expected)


def points(figure: Figure) -> Iterator[np.ndarray]:
    for axes in figure.axes:
        yield np.array([axes.get_xlim(), axes.get_ylim()])
        yield from (line.get_xydata() for line in axes.lines)
        yield from (np.array(bar.get_bbox()) for bar in axes.patches)
        for shape in axes.collections:
            yield from (np.array(path.vertices) for path in shape.get_paths())
            yield np.array(shape.get_offsets())


def test_the_pictures_of_a_table_are_those_of_the_report(mixed: Path) -> None:
    width = 3.25
    cells = read_cells(mixed)
    values = seed_values(cells)
    board = leaderboard(cells, values, {})
    results = load_results(mixed, snapshots="all")
    check(frames.bars(results, width=width), lambda width: bars(board, width), width)
    check(frames.forest(results, width=width), lambda width: forest(board, width), width)
    check(frames.network_calls(results, width=width), lambda width: network_calls(board, width), width)
    check(frames.curves(results, width=width), lambda width: curves(board, values, width), width)
    check(frames.training_cost(results, width=width), lambda width: training_cost(board, values, width), width)


def test_a_selection_of_rows_is_drawn_as_it_is(mixed: Path) -> None:
    results = load_results(mixed)
    figure = frames.forest(results.query("method != 'ict'"), "kd_digits_2k", 2, "ect", width="8cm")
    (axes,) = figure.axes
    assert (axes.get_title(), figure.get_figwidth()) == ("NFE 2", pytest.approx(8 / 2.54))
    assert [tick.get_text().split()[0] for tick in axes.get_yticklabels()] == ["vct", "ect", "sct"]
    assert "difference to the baseline" in axes.get_xlabel()


def test_what_cannot_be_drawn_is_said(mixed: Path, sweep: Sweep) -> None:
    results = load_results(mixed)
    sweep.cell("ect", 0, benchmark="toy2d", metrics=("w2_toy2d",))
    for draw, message in (
        (lambda: frames.bars(load_results(mixed)), r"rows of 2 benchmarks \(digits, toy2d\): a plot shows one"),
        (lambda: frames.bars(results.iloc[:0]), "no rows of cells"),
        (lambda: frames.bars(results, "fd_digit_2k"), "unknown metric 'fd_digit_2k'. Did you mean: fd_digits_2k"),
        (lambda: frames.bars(results, nfe=3), "unknown NFE '3'. Available: 1, 2"),
        (lambda: frames.forest(results, baseline="ekt"), "unknown baseline 'ekt'"),
        (lambda: frames.network_calls(results.query("nfe == 1")), "one NFE"),
        (lambda: frames.curves(results), "one snapshot of each training"),
        (lambda: frames.bars(results.query("method == 'ict'")), "no configuration has a value of fd_digits_2k"),
        (lambda: frames.bars(results, width="3"), "width is '3', must be a number with one of the units"),
        (lambda: frames.bars(results, width=1), "the width is 1 in, must be from 2.5"),
        (lambda: frames.bars(results.drop(columns="label")), "the table lacks label"),
    ):
        with pytest.raises(UsageError, match=message):
            draw()
