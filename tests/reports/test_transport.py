"""Lines of points in the plane: how many cross, and what the report shows of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.analysis.transport import (
    Lines,
    coupling_lines,
    crossing_share,
    crossings,
    independent_crossings,
    sample_lines,
)
from consistency_bench.reports.build import build_report
from consistency_bench.reports.plots.style import styles
from consistency_bench.reports.plots.transport import coupling_plot, sample_plot

ENDS = np.array([[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]], np.float32)


def lines(start, end) -> Lines:
    return Lines(np.array(start, np.float32), np.array(end, np.float32), None)


def points_cell(
    sweep, method: str, seed: int = 0, *, coupled: bool = False, modes: bool = True, tangled: bool = True, **kwargs
) -> Path:
    """A cell of points in the plane: four lines, of which a sixth or none of the pairs cross."""
    folder = sweep.cell(method, seed, benchmark="toy2d", metrics=("w2_toy2d",), shape=(256, 2), **kwargs)
    near = 0.1 * ENDS
    ends = near[[1, 0, 2, 3]] if tangled else near
    marks = {"modes": np.array([0, 1, 0, -1])} if modes else {}
    np.savez(folder / "samples" / "nfe1.npz", samples=ends, latents=ENDS, **marks)
    if coupled:
        apart = ENDS[[1, 0, 3, 2]]
        np.savez(folder / "samples" / "coupling.npz", x=near, noise=apart, coupled=ENDS, **marks)
    return folder


def board_of(out):
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, "toy2d"))


@pytest.mark.parametrize(
    ("start", "end", "share"),
    [
        ([[0, 0], [0, 1]], [[1, 1], [1, 0]], 1.0),
        ([[0, 0], [0, 1]], [[1, 0], [1, 1]], 0.0),  # parallel
        ([[0, 0], [0, 0]], [[1, 1], [1, 0]], 0.0),  # a common end is no crossing
        ([[0, 0], [0.4, 0.6]], [[1, 1], [0, 1]], 0.0),  # one ends before it reaches the other
        ([[0, 0], [0, 1], [5, 5]], [[1, 1], [1, 0], [6, 6]], 1 / 3),
        ([[0, 0]], [[1, 1]], 0.0),
    ],
)
def test_crossings_by_hand(start, end, share):
    assert crossing_share(lines(start, end)) == share


def brute_force(start, end) -> float:
    """Solve p + a (q - p) = r + b (s - r) for every pair."""
    count, pairs = 0, 0
    for i in range(len(start)):
        for j in range(i):
            pairs += 1
            matrix = np.stack((end[i] - start[i], start[j] - end[j]), axis=1)
            if abs(np.linalg.det(matrix)) > 1e-12:
                a, b = np.linalg.solve(matrix, start[j] - start[i])
                count += 0 < a < 1 and 0 < b < 1
    return count / pairs


def test_crossings_agree_with_solving_for_the_point():
    rng = np.random.default_rng(5)
    for count in (2, 3, 20, 60):
        start, end = rng.normal(size=(2, count, 2))
        assert crossing_share(Lines(start, end, None)) == pytest.approx(brute_force(start, end))


coordinates = arrays(float, (6, 2), elements=st.integers(-50, 50).map(float))


@given(coordinates, coordinates, st.permutations(range(6)))
def test_neither_order_nor_direction_nor_scale_matters(start, end, order):
    share = crossing_share(Lines(start, end, None))
    assert crossing_share(Lines(end, start, None)) == share
    assert crossing_share(Lines(start[order], end[order], None)) == share
    assert crossing_share(Lines(8 * start, 8 * end, None)) == share


def test_the_measure_is_taken_over_seeds(sweep):
    for seed in range(3):
        points_cell(sweep, "vct", seed, coupled=True, tangled=seed > 0)
        points_cell(sweep, "ect", seed, tangled=False)
    board = board_of(sweep.out)
    vct, ect = sorted(crossings(board), key=lambda row: row.label, reverse=True)
    assert vct.samples.mean == pytest.approx((0 + 2 * crossing_share(lines(ENDS, 0.1 * ENDS[[1, 0, 2, 3]]))) / 3)
    assert vct.samples.n == 3
    assert vct.coupled is not None
    assert (vct.coupled.mean, vct.coupled.n) == (0.0, 3)
    assert (ect.samples.mean, ect.coupled) == (0.0, None)
    apart = crossing_share(lines(0.1 * ENDS, ENDS[[1, 0, 3, 2]]))
    assert independent_crossings(board) == apart > 0


def test_the_report_shows_the_pictures_and_the_numbers(sweep):
    for seed in range(2):
        points_cell(sweep, "vct", seed, coupled=True, tangled=False)
        points_cell(sweep, "ect", seed, tangled=False)
    paths = build_report(sweep.out, mlflow=False)
    text = paths.leaderboard.read_text(encoding="utf-8")
    assert "### Transport: how many lines cross" in text
    assert "| vct | 0.0 ± 0.0 (n=2) | 0.0 ± 0.0 (n=2) |" in text
    assert re.search(r"\| ect \| 0\.0 ± 0\.0 \(n=2\) \| \d+\.\d \(independent\) \|", text)
    assert [path.name for path in paths.plots] == [
        f"toy2d-{kind}.png" for kind in ("bars", "forest", "curves", "cost", "nfe", "samples", "transport", "coupling")
    ]
    for path in paths.plots[-2:]:
        assert f"(plots/{path.name})" in text
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10
    before = [path.read_bytes() for path in paths.plots]
    assert [path.read_bytes() for path in build_report(sweep.out, mlflow=False).plots] == before


def test_without_a_coupling_there_is_no_picture_of_one(sweep):
    points_cell(sweep, "ect")
    board = board_of(sweep.out)
    assert coupling_plot(board) is None
    assert independent_crossings(board) is None
    assert re.search(r"\| ect \| [\d.]+ \(n=1\) \| – \|", build_report(sweep.out, mlflow=False).leaderboard.read_text())


@pytest.mark.parametrize(("benchmark", "shape"), [("digits", (64, 1, 8, 8)), ("toy2d", (64, 2))])
def test_cells_without_lines_have_no_section(sweep, benchmark, shape):
    sweep.cell("ect", 0, benchmark=benchmark, shape=shape, metrics=("w2_toy2d",))
    paths = build_report(sweep.out, mlflow=False)
    assert "Transport" not in paths.leaderboard.read_text(encoding="utf-8")
    assert not [path for path in paths.plots if "transport" in path.name]


def test_unfinished_and_diverged_cells_have_no_lines(sweep):
    points_cell(sweep, "ect", 0)
    points_cell(sweep, "ect", 1, state="diverged")
    (row,) = crossings(board_of(sweep.out))
    assert row.samples.n == 1


def test_a_distribution_without_modes_is_drawn_in_the_method_s_colour(sweep):
    points_cell(sweep, "ect", modes=False)
    figure = sample_plot(board_of(sweep.out))
    assert figure is not None
    (segments,) = [artist for artist in figure.axes[0].collections if hasattr(artist, "get_segments")]
    assert {tuple(color[:3]) for color in segments.get_colors()} == {styles(["ect"])["ect"].color}


def test_lines_far_from_every_mode_are_grey(sweep):
    points_cell(sweep, "ect")
    figure = sample_plot(board_of(sweep.out))
    assert figure is not None
    (segments,) = [artist for artist in figure.axes[0].collections if hasattr(artist, "get_segments")]
    first, second, third, far = (tuple(color[:3]) for color in segments.get_colors())
    assert first == third != second
    assert far[0] == far[1] == far[2]


@pytest.mark.parametrize(("cells", "on"), [(1, [True]), (5, [True] * 5 + [False]), (14, [True] * 12)])
def test_panels_fill_the_figure_up_to_a_number_that_can_be_told_apart(sweep, cells, on):
    for place in range(cells):
        points_cell(sweep, "ect", variant=f"x={place}")
    figure = sample_plot(board_of(sweep.out))
    assert figure is not None
    assert [axes.axison for axes in figure.axes] == on


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nfe1", {"samples": ENDS, "latents": ENDS[:3]}),
        ("nfe1", {"samples": ENDS, "latents": ENDS.astype(int)}),
        ("nfe1", {"samples": ENDS, "latents": np.full_like(ENDS, np.nan)}),
        ("nfe1", {"samples": ENDS, "latents": ENDS, "modes": np.zeros(3, int)}),
        ("nfe1", {"samples": ENDS, "latents": ENDS, "modes": np.zeros(4)}),
        ("nfe1", {"latents": ENDS}),
        ("coupling", {"x": ENDS, "noise": ENDS}),
        ("coupling", b"no archive"),
        ("coupling", b""),
    ],
)
def test_damaged_lines_are_named(sweep, name, content):
    path = points_cell(sweep, "vct", coupled=True) / "samples" / f"{name}.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        (sample_lines if name == "nfe1" else coupling_lines)(read_cells(sweep.out)[0])
