"""Pictures of the first metric against what training costs, and against network calls."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.markers import CARETUP

from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.learning_curves import Moment, learning_curves
from consistency_bench.reports.analysis.tables import Board, leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.pages.captions import CAPTIONS
from consistency_bench.reports.plots.costs import (
    TIME,
    WORK,
    network_calls,
    shifts,
    training_cost,
    unit_of,
)
from consistency_bench.reports.plots.curves import curves
from consistency_bench.reports.plots.style import MOST_LINES, save_figures

METRIC = "fd_digits_2k"


def board_of(out) -> Board:
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, cells[0].benchmark))


def cost_of(out) -> Figure | None:
    board = board_of(out)
    return training_cost(board, seed_values(board.cells))


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def lines(axes, marker="osD^vPX*"):
    """The lines of configurations."""
    return [line for line in axes.lines if line.get_marker() in marker and len(line.get_xdata()) > 1]


def only_nfe(sweep, nfe: int) -> None:
    """Forget every other NFE."""
    for path in sweep.out.glob("*/*/s*/records.jsonl"):
        rows = [line for line in path.read_text().splitlines() if json.loads(line)["nfe"] == nfe]
        path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("level", "is_beyond"), [(300.0, False), (30.0, True)])
def test_an_arrow_shows_that_a_seed_diverged_beyond_the_axis(sweep, level, is_beyond):
    for seed in range(3):
        sweep.cell("ect", seed, level=level)
    sweep.cell("ict", 0, state="diverged", level=10.0)
    board = board_of(sweep.out)
    for figure in (curves(board, seed_values(board.cells)), cost_of(sweep.out)):
        names = [text.get_text() for text in drawn(figure).legends[0].get_texts()]
        assert ("diverged beyond the axis" in names) == is_beyond
        for axes in drawn(figure).axes:
            arrows = [line for line in axes.lines if line.get_marker() == CARETUP]
            crosses = [line for line in axes.lines if line.get_marker() == "x"]
            top = axes.get_ylim()[1]
            assert [line.get_ydata()[0] for line in arrows] == [top for line in crosses if line.get_ydata()[0] > top]


# Courses


def test_learning_curves_by_hand(sweep):
    sweep.cell("ect", 0, level=20.0)
    sweep.cell("ect", 1, level=26.0)
    sweep.cell("ect", 2, level=90.0, state="diverged")
    found = learning_curves(seed_values(read_cells(sweep.out)))
    course = next(course for (_, metric, nfe), course in found.items() if (metric, nfe) == (METRIC, 1))
    assert len(course.moments) == 8
    assert course.moments[-1] == Moment(1_024_000, 23.0, 20.0, 26.0, 2)
    ((*_, last),) = course.lost
    assert last[0] == 512_000  # the row of the divergence has no value
    assert math.isfinite(last[1])


# The cost of training


def test_a_part_of_a_training_costs_its_share(sweep):
    for seed, seconds in ((0, 3000.0), (1, 5000.0)):
        sweep.cell("ect", seed, compute={"train_seconds": seconds, "flops_per_image": 2e6})
    time, work = drawn(cost_of(sweep.out)).axes
    assert time.get_xlabel() == "training time of one seed\n(device-minutes, cpu)"
    assert work.get_xlabel() == "network passes of one training\n(TFLOP)"
    (mean,) = lines(time)
    assert list(mean.get_xdata()) == pytest.approx([4000 / 60 * part / 8 for part in range(1, 9)])
    (mean,) = lines(work)
    assert list(mean.get_xdata()) == pytest.approx([2e6 * 1_024_000 / 1e12 * part / 8 for part in range(1, 9)])
    values = [row for row in seed_values(read_cells(sweep.out)) if (row.metric, row.nfe) == (METRIC, 1)]
    ends = [row.value for row in values if row.images == 1_024_000]
    assert mean.get_ydata()[-1] == pytest.approx(np.mean(ends))
    band = time.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 0].max()) == (pytest.approx(min(ends)), pytest.approx(4000 / 60))


@pytest.mark.parametrize(
    ("compute", "panels"),
    [
        ({"train_seconds": None}, ["TFLOP"]),
        ({"flops_per_image": None}, ["device-seconds"]),
        ({"flops_per_image": 0.0}, ["device-seconds"]),
        ({"flops_per_image": 0.0, "train_seconds": 0.0}, None),
        ({"flops_per_image": None, "train_seconds": None}, None),
    ],
)
def test_costs_that_are_not_known_are_not_drawn(sweep, compute, panels):
    sweep.cell("ect", 0, compute=compute)
    figure = cost_of(sweep.out)
    assert (figure is None) == (panels is None)
    if figure is not None:
        assert [axes.get_xlabel().partition("(")[2].split(",")[0].rstrip(")") for axes in figure.axes] == panels


def test_who_has_no_known_cost_is_not_in_the_legend(sweep):
    sweep.cell("ect", 0)
    sweep.cell("vct", 0, compute={"flops_per_image": None, "train_seconds": None})
    sweep.cell("ict", 0, compute={"train_seconds": None})
    figure = drawn(cost_of(sweep.out))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ect", "ict", "real-vs-real baseline (4.00, beyond the axis)"]
    assert [len(lines(axes)) for axes in figure.axes] == [1, 2]


def test_a_device_is_named_where_it_is_the_only_one(sweep):
    sweep.cell("ect", 0, compute={"device": "cuda"})
    sweep.cell("vct", 0)
    assert drawn(cost_of(sweep.out)).axes[0].get_xlabel().endswith("(device-seconds)")


def test_a_seed_that_diverged_is_drawn_up_to_a_cross(sweep):
    sweep.cell("ect", 0)
    sweep.cell("ect", 1, state="diverged")
    figure = drawn(cost_of(sweep.out))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [pytest.approx(50.0 / 2)]
    assert "seed that diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("kind", "largest", "name"),
    [
        (TIME, 3.0, "device-hours"),
        (TIME, 1.9, "device-minutes"),
        (TIME, 1.9 / 60, "device-seconds"),
        (TIME, 1e-9, "device-seconds"),
        (WORK, 5e7, "EFLOP"),
        (WORK, 5e4, "PFLOP"),
        (WORK, 9_999.0, "TFLOP"),
        (WORK, 0.93, "TFLOP"),
        (WORK, 0.05, "GFLOP"),
    ],
)
def test_units_suit_the_largest(kind, largest, name):
    unit = unit_of(largest, kind.units)
    assert unit.name == name
    assert kind.units[-1].least == 0
    assert largest / unit.size < 1e5 or unit is kind.units[0]


# Network calls


def bars(axes):
    """The vertical lines of intervals: (bottom, top)."""
    return [
        tuple(path.vertices[:, 1])
        for collection in axes.collections
        for path in collection.get_paths()
        if len(path.vertices) == 2
    ]


def test_means_and_intervals_stand_side_by_side(sweep):
    for seed, shift in enumerate((-1.0, 0.0, 1.0)):
        sweep.cell("ect", seed, level=30.0 + shift)
        sweep.cell("vct", seed, level=20.0 + shift)
    axes = drawn(network_calls(board_of(sweep.out))).axes[0]
    vct, ect = lines(axes, ("", "None"))
    assert list(ect.get_ydata()) == pytest.approx([30.0, 24.0])
    assert list(vct.get_ydata()) == pytest.approx([20.0, 16.0])
    assert (np.array(ect.get_xdata()) > np.array(vct.get_xdata())).all()
    assert np.sqrt(np.array(ect.get_xdata()) * np.array(vct.get_xdata())) == pytest.approx([1, 2])
    half = 4.302653 / math.sqrt(3)
    expected = [(mean - half * scale, mean + half * scale) for mean, scale in ((20, 1), (16, 0.8), (30, 1), (24, 0.8))]
    assert np.array(sorted(bars(axes))) == pytest.approx(np.array(sorted(expected)))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2"]


def test_a_single_seed_has_no_bar(sweep):
    sweep.cell("ect", 0)
    assert bars(drawn(network_calls(board_of(sweep.out))).axes[0]) == []


def test_a_mean_without_its_diverged_seeds_is_hollow(sweep):
    for seed in range(3):
        sweep.cell("ect", seed, state="diverged" if seed == 2 else "done")
        sweep.cell("vct", seed)
    figure = drawn(network_calls(board_of(sweep.out)))
    faces = {line.get_mfc() for line in figure.axes[0].lines if line.get_marker() == "s"}  # ect
    assert faces == {"white"}
    assert "white" not in {line.get_mfc() for line in figure.axes[0].lines if line.get_marker() == "^"}
    assert "seeds diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_nfe_makes_no_picture(sweep):
    for method in ("ect", "vct"):
        for seed in range(2):
            sweep.cell(method, seed, settings={"eval.nfe": [1]})
    only_nfe(sweep, 1)
    assert network_calls(board_of(sweep.out)) is None
    kinds = [path.stem.removeprefix("digits-") for path in build_report(sweep.out, mlflow=False).plots]
    assert kinds == ["bars", "forest", "curves", "cost", "samples"]


def test_shifts_keep_configurations_apart_and_nfes_together():
    for nfes in ([1, 2], [1, 2, 4, 8], [1, 2, 3, 4, 5, 6, 7, 8, 16], [1, 1000]):
        for count in (1, 4, MOST_LINES):
            found = shifts(nfes, count)
            assert math.prod(found) == pytest.approx(1)
            places = [nfe * shift for nfe in nfes for shift in found]
            assert places == sorted(places)
            assert len(set(places)) == len(places)
    assert shifts([1, 2], 1) == [1.0]


def test_nothing_finished_makes_no_pictures(sweep):
    sweep.cell("ect", 0, state="queued")
    board = board_of(sweep.out)
    assert training_cost(board, seed_values(board.cells)) is None
    assert network_calls(board) is None


def test_of_many_configurations_the_best_are_drawn_and_names_stay_text(sweep, tmp_path):
    for place in range(MOST_LINES + 3):
        for seed in range(2):
            sweep.cell("ect", seed, variant=rf"x=$\frac{place}, y=<b>", level=30.0 + place + seed)
    board = board_of(sweep.out)
    values = seed_values(board.cells)
    for figure in (training_cost(board, values), network_calls(board)):
        names = [text.get_text() for text in drawn(figure).legends[0].get_texts()]
        assert sum(name.startswith("ect") for name in names) == MOST_LINES
        assert r"\frac0" in names[0]
    for kind in ("cost", "nfe"):
        assert f"the first {MOST_LINES}" in CAPTIONS[kind]
    drawings = {"cost": lambda _: training_cost(board, values), "nfe": lambda _: network_calls(board)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = [path.read_bytes() for path in save_figures(drawings, tmp_path, "a").values()]
        again = [path.read_bytes() for path in save_figures(drawings, tmp_path, "b").values()]
    assert len(first) == 2
    assert first == again
