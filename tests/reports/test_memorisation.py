"""Samples beside the training images nearest to them: the numbers, the picture, and what the leaderboard says."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistency_bench.benchmarks.runs.folder import cells_in
from consistency_bench.reports.analysis.cells import reference_values, survey
from consistency_bench.reports.analysis.memorisation import memorisation, read_nearest
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.plots.memorisation import nearest_plot
from consistency_bench.reports.plots.style import styles

METRICS = ("fd_digits_2k", "authenticity_digits_1k")
BASELINE = np.linspace(2, 6, 41, dtype=np.float32)  # median 4, and 1 % of it lies below 2.04


def arrays(distances, *, baseline=BASELINE, pairs: int = 3, grey: int = 90) -> dict[str, np.ndarray]:
    """What a cell keeps: samples all of `grey`, training images a hundred levels brighter."""
    distances = np.asarray(distances, np.float32)
    return {
        "distances": distances,
        "baseline": np.asarray(baseline, np.float32),
        "samples": np.full((pairs, 1, 8, 8), grey, np.uint8),
        "training": np.full((pairs, 1, 8, 8), grey + 100, np.uint8),
        "pair_distances": np.sort(distances)[:pairs],
    }


def kept(sweep, method: str, seed: int, distances, nfe: int = 1, *, cell: dict | None = None, **kwargs) -> Path:
    """A cell that has kept its nearest pairs at `nfe`."""
    folder = sweep.cell(method, seed, metrics=METRICS, **(cell or {}))
    np.savez(folder / "samples" / f"nearest-nfe{nfe}.npz", **arrays(distances, **kwargs))
    return folder


def board_of(out):
    cells, _ = survey(cells_in(out))  # files that a cell lacks are named, and the rest is shown
    return leaderboard(cells, seed_values(cells), reference_values(out, "digits"))


def figure_of(out):
    figure = nearest_plot(board_of(out))
    assert figure is not None
    return figure


def canvas_of(figure) -> np.ndarray:
    (image,) = [image for axes in figure.axes for image in axes.images]
    return np.asarray(image.get_array())


def test_numbers_are_medians_over_seeds(sweep):
    for seed, distances in enumerate(([1, 8, 9], [5, 6, 20, 30])):
        kept(sweep, "ect", seed, distances)
        kept(sweep, "vct", seed, [4, 4, 4])
    found = memorisation(board_of(sweep.out))
    assert found is not None
    assert (found.nfe, found.metrics) == (1, ("authenticity_digits_1k",))
    ect, vct = sorted(found.rows, key=lambda row: row.label)
    assert ect.median.mean == pytest.approx(statistics.mean([8, 13]))
    assert (ect.median.n, ect.baseline) == (2, pytest.approx(4))
    assert ect.tail == pytest.approx((1 / 3 + 0) / 2)
    assert (vct.median.mean, vct.tail) == (4, 0)
    row = next(row for row in board_of(sweep.out).rows if (row.entry.label, row.nfe) == ("ect", 1))
    assert ect.authenticity == {"authenticity_digits_1k": row.scores["authenticity_digits_1k"]}


def test_the_smallest_number_of_steps_with_files_counts(sweep):
    kept(sweep, "ect", 0, [7, 7, 7], nfe=2)
    found = memorisation(board_of(sweep.out))
    assert found is not None
    assert found.nfe == 2
    kept(sweep, "ect", 0, [8, 8, 8], nfe=1)
    kept(sweep, "vct", 0, [9, 9, 9], nfe=2)
    found = memorisation(board_of(sweep.out))
    assert found is not None
    assert [(found.nfe, row.label, row.median.mean) for row in found.rows] == [(1, "ect", 8)]


def test_only_finished_cells_count(sweep):
    kept(sweep, "ect", 0, [7, 7, 7])
    (sweep.cell("ect", 1, metrics=METRICS, state="diverged") / "samples").mkdir(exist_ok=True)
    kept(sweep, "ect", 1, [1, 1, 1], cell={"state": "diverged"})
    kept(sweep, "vct", 0, [1, 1, 1], cell={"state": "running"})
    found = memorisation(board_of(sweep.out))
    assert found is not None
    assert [(row.label, row.median.mean, row.median.n) for row in found.rows] == [("ect", 7, 1)]


def test_without_files_there_is_no_section(sweep):
    sweep.cell("ect", 0, metrics=METRICS)
    board = board_of(sweep.out)
    assert memorisation(board) is None
    assert nearest_plot(board) is None
    paths = build_report(sweep.out, mlflow=False)
    assert "Nearest" not in paths.leaderboard.read_text(encoding="utf-8")
    assert not [path for path in paths.plots if "nearest" in path.name]


def test_the_report_shows_picture_and_numbers(sweep):
    for seed in range(2):
        kept(sweep, "ect", seed, np.linspace(4, 12, 21))
        kept(sweep, "vct", seed, [0.0] * 3 + [8.0] * 7)
    with (sweep.out / "digits" / "reference.jsonl").open("a") as file:
        file.write(json.dumps({"what": "halves", "metric": "authenticity_digits_1k", "value": 0.541}) + "\n")
    paths = build_report(sweep.out, mlflow=False)
    text = paths.leaderboard.read_text(encoding="utf-8")
    assert "### Nearest training images" in text
    assert "to their nearest training image is 2.00 times the median of the baseline" in text
    assert "0.0 % (ect) to 30.0 % (vct) of the samples are nearer than 99 % of the real images." in text
    assert "**Not proven:**" in text
    assert re.search(r"\| ect \| 8\.00 ± 0\.00 \(n=2\) \| 4\.00 \| \S+ ± \S+ \(n=2\) \|", text)
    assert "| *real-vs-real baseline* | *–* | *–* | *0.541* |" in text
    assert "(plots/digits-nearest.png)" in text
    assert [path.name for path in paths.plots] == [
        f"digits-{kind}.png" for kind in ("bars", "forest", "curves", "cost", "nfe", "samples", "nearest")
    ]
    with Image.open(paths.plots[-1]) as image:
        assert np.asarray(image.convert("L")).std() > 10
    before = [path.read_bytes() for path in paths.plots]
    assert [path.read_bytes() for path in build_report(sweep.out, mlflow=False).plots] == before


def test_a_baseline_of_duplicates_divides_nothing(sweep):
    kept(sweep, "ect", 0, [1, 2, 3], baseline=np.zeros(9))
    text = build_report(sweep.out, mlflow=False).leaderboard.read_text(encoding="utf-8")
    assert "is not to be expressed in the median of the baseline" in text


def test_curves_are_the_empirical_distributions(sweep):
    rng = np.random.default_rng(2)
    drawn = {"ect": rng.gamma(9, 1, 200), "sct": np.concatenate((np.zeros(50), rng.gamma(5, 1, 150)))}
    for method, distances in drawn.items():
        kept(sweep, method, 0, distances)
    sweep.cell("ict", 0, metrics=METRICS)  # has kept nothing, and changes no other colour
    axes = figure_of(sweep.out).axes[-1]
    style = styles(["ect", "ict", "sct"])
    for method, distances in {**drawn, "baseline": BASELINE}.items():
        color = style[method].color if method in style else "0.75"
        (line,) = [line for line in axes.lines if line.get_color() == color and line.get_linestyle() != "None"]
        x, y = (np.asarray(values, float) for values in line.get_data())
        assert (x[0], y[0], y[-1]) == (np.float32(min(distances)), 0, 1)
        for at in np.linspace(0.01, max(distances), 30):
            height = y[np.searchsorted(x, at, side="right") - 1] if at >= x[0] else 0
            assert height == pytest.approx(np.mean(np.asarray(distances, np.float32) <= at))
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlabel().endswith("(features: digits)")


def test_the_lowest_seed_that_all_share_is_shown(sweep):
    kept(sweep, "ict", 0, [5, 5, 5], grey=31)
    kept(sweep, "ict", 1, [5, 5, 5], grey=32)
    kept(sweep, "ect", 1, [5, 5, 5], grey=33)
    levels = set(np.unique(canvas_of(figure_of(sweep.out))))
    assert levels == {32, 132, 33, 133, 255}


def test_a_pair_is_a_sample_above_its_training_image_in_the_order_of_the_file(sweep):
    folder = sweep.cell("ect", 0, metrics=METRICS)
    content = arrays([1, 2, 3], pairs=3)
    content["samples"] += np.arange(3, dtype=np.uint8)[:, None, None, None]
    np.savez(folder / "samples" / "nearest-nfe1.npz", **content)
    figure = figure_of(sweep.out)
    canvas = canvas_of(figure)[..., 0]
    assert [canvas[:8, place * 9 : place * 9 + 8].tolist() for place in range(3)] == [
        [[90 + place] * 8] * 8 for place in range(3)
    ]
    assert (canvas[9:17, :8] == 190).all()
    (grid,) = [axes for axes in figure.axes if axes.images]
    assert [text.get_text() for text in grid.texts] == ["1.00", "2.00", "3.00"]


def test_points_in_the_plane_get_no_grid(sweep):
    folder = sweep.cell("ect", 0, metrics=METRICS)
    points = np.zeros((3, 2), np.float32)
    content = arrays([1, 2, 3]) | {"samples": points, "training": points}
    np.savez(folder / "samples" / "nearest-nfe1.npz", **content)
    figure = figure_of(sweep.out)
    assert len(figure.axes) == 1
    assert not figure.axes[0].images


def test_another_space_has_a_panel_of_its_own(sweep):
    kept(sweep, "ect", 0, [5, 5, 5])
    kept(sweep, "vct", 0, [9, 9, 9])
    kept(sweep, "sct", 0, [50, 50, 50], baseline=10 * BASELINE)
    figure = figure_of(sweep.out)
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == 2
    assert sorted(axes.get_xlim()[1] > 20 for axes in panels) == [False, True]


@pytest.mark.parametrize(
    ("metrics", "space"),
    [
        (("authenticity10k",), "\n(features: inception)"),
        (("authenticity2k_clean", "authenticity2k_ref2k"), "\n(features: inception)"),
        (("authenticity_dinov2_2k_ref2k",), "\n(features: dinov2)"),
        (("authenticity_module:function_500",), "\n(features: module:function)"),
        (("authenticity10k", "authenticity_digits_1k"), ""),
    ],
)
def test_the_axis_names_the_space_where_there_is_one(sweep, metrics, space):
    folder = sweep.cell("ect", 0, metrics=metrics)
    np.savez(folder / "samples" / "nearest-nfe1.npz", **arrays([1, 2, 3]))
    (label,) = [axes.get_xlabel() for axes in figure_of(sweep.out).axes if axes.lines]
    assert label == f"distance to the nearest training image{space}"


@pytest.mark.slow
def test_many_configurations_still_fit(sweep, recwarn):
    for place in range(30):
        kept(sweep, "ect", 0, [5, 6, 7], cell={"variant": f"method.coupling.kl_weight={place}"})
    assert "digits-nearest.png" in [path.name for path in build_report(sweep.out, mlflow=False).plots]
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no archive",
        {"distances": None},
        {"distances": np.zeros((3, 1), np.float32)},
        {"distances": np.zeros(0, np.float32)},
        {"distances": np.zeros(3, int)},
        {"distances": np.array([1, np.nan], np.float32)},
        {"distances": np.array([1, np.inf], np.float32)},
        {"baseline": np.array([-1.0], np.float32)},
        {"pair_distances": np.zeros(4, np.float32)},
        {"samples": np.zeros((3, 5, 8, 8), np.uint8), "training": np.zeros((3, 5, 8, 8), np.uint8)},
        {"samples": np.zeros((3, 1, 8, 8), np.float32), "training": np.zeros((3, 1, 8, 8), np.float32)},
        {"training": np.zeros((2, 1, 8, 8), np.uint8)},
    ],
)
def test_damage_is_named(sweep, damage):
    path = kept(sweep, "ect", 0, [1, 2, 3]) / "samples" / "nearest-nfe1.npz"
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        content = {name: array for name, array in (arrays([1, 2, 3]) | damage).items() if array is not None}
        np.savez(path, **content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_nearest(path)
    assert "\n" not in str(caught.value)
