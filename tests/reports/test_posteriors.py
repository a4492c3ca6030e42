"""What couplings have learned: the numbers, the pictures, and what the report says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.collections import EllipseCollection, LineCollection
from PIL import Image

from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.posteriors import divergences, learned, read_posterior
from consistency_bench.reports.analysis.statistics import t_interval
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.plots import posteriors as posterior_plots
from consistency_bench.reports.plots.posteriors import MOST_SHOWN, SIGNED, SPREAD, divergence_plot, posterior_plot
from consistency_bench.reports.plots.style import styles

from .conftest import write_lines


def images(mean: float = 0.5, std: float = 0.25, kl: float = 2.0, *, channels: int = 1, size: int = 8) -> dict:
    """Laws of 16 images: every other mean is −`mean`."""
    signs = np.where(np.arange(16) % 2, -1, 1)[:, None, None, None]
    shape = (16, channels, size, size)
    return {
        "x": np.broadcast_to(np.arange(size, dtype=np.uint8) * 30, shape),
        "mean": np.broadcast_to(signs * mean, shape).astype(np.float32),
        "std": np.full(shape, std, np.float32),
        "kl": np.full(16, kl, np.float32),
    }


def points(std: float = 0.25) -> dict:
    """Laws of 40 points in two modes and far from both; μ = 2 x."""
    x = np.linspace(-0.5, 0.5, 80, dtype=np.float32).reshape(40, 2)
    modes = np.where(np.arange(40) % 3, np.arange(40) % 2, -1)
    laws = {"mean": 2 * x, "std": np.broadcast_to(np.array([std, 2 * std], np.float32), x.shape)}
    return {"x": x, **laws, "kl": np.full(40, 1.5, np.float32), "modes": modes}


def kept(sweep, method: str, seed: int, arrays: dict | None = None, **kwargs) -> Path:
    """A cell that has kept what its coupling learned."""
    folder = sweep.cell(method, seed, **{"penalty": 0.5, **kwargs})
    np.savez(folder / "samples" / "posterior.npz", **(images() if arrays is None else arrays))
    return folder


def logged(sweep, method: str, seed: int, penalties: dict[int, float | None], **kwargs) -> Path:
    """A cell of 512 images with these penalties in its log, by images seen."""
    folder = sweep.cell(method, seed, **{"budget": 512, **kwargs})
    write_lines(folder / "train.jsonl", [{"images": images, "penalty": p} for images, p in penalties.items()])
    return folder


def board_of(out: Path, benchmark: str = "digits"):
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, benchmark))


def drawn(draw: Callable[[Any], Any], out: Path):
    figure = draw(board_of(out))
    assert figure is not None
    return figure


# Numbers


def test_numbers_are_means_over_samples_and_intervals_over_seeds(sweep):
    for seed, kl in enumerate((2.0, 3.0, 7.0)):
        kept(sweep, "vct", seed, images(mean=0.5 + seed, std=0.25, kl=kl))
    kept(sweep, "sct+vc", 0, images(kl=5.0))
    sweep.cell("ect", 0)
    vct, sct = sorted(learned(board_of(sweep.out)), key=lambda row: row.label, reverse=True)
    assert (vct.label, sct.label) == ("vct", "sct+vc")
    assert vct.kl == t_interval([2, 3, 7])
    assert vct.mean == t_interval([0.5, 1.5, 2.5])  # of |μ|: its signs cancel out
    assert (vct.std.mean, vct.std.n, vct.std.half_width) == (0.25, 3, 0)
    assert (sct.kl.mean, sct.kl.n, sct.kl.low) == (5, 1, None)


def test_only_finished_cells_count(sweep):
    kept(sweep, "vct", 0)
    for seed, state in enumerate(("diverged", "running", "failed"), start=1):
        (sweep.cell("vct", seed, state=state) / "samples").mkdir(exist_ok=True)
        kept(sweep, "vct", seed, images(kl=99.0), state=state)
    (row,) = learned(board_of(sweep.out))
    assert (row.kl.mean, row.kl.n) == (2, 1)


def test_the_course_is_that_of_the_coupled_rows(sweep):
    logged(sweep, "vct", 0, {256: 4.0, 512: 2.0})
    logged(sweep, "vct", 1, {256: 6.0, 512: None})
    logged(sweep, "ict+vc", 0, {256: 1.0, 512: 0.5}, settings={"method.coupling.share": 0.25})
    logged(sweep, "ect", 0, {256: 0.0, 512: 0.0})
    found = divergences(board_of(sweep.out))
    assert {label: course.steady for label, course in found.items()} == {
        "vct": {256: [4.0, 6.0], 512: [2.0]},
        "ict+vc": {256: [4.0], 512: [2.0]},
    }


def test_of_a_stretch_that_was_logged_twice_the_later_line_counts(sweep):
    folder = sweep.cell("vct", 0, budget=1024)
    stretches = ((256, 1.0), (512, 2.0), (256, 3.0), (1024, 4.0))
    write_lines(folder / "train.jsonl", [{"images": images, "penalty": penalty} for images, penalty in stretches])
    assert divergences(board_of(sweep.out))["vct"].steady == {256: [3.0], 512: [2.0], 1024: [4.0]}


def test_a_seed_that_diverged_stands_apart(sweep):
    logged(sweep, "vct", 0, {256: 4.0, 512: 2.0})
    logged(sweep, "vct", 1, {256: 5.0}, state="diverged")
    found = divergences(board_of(sweep.out))["vct"]
    assert (found.steady, found.lost) == ({256: [4.0], 512: [2.0]}, ({256: 5.0},))
    axes = drawn(divergence_plot, sweep.out).axes[0]
    lines = {tuple(line.get_xdata()): line for line in axes.lines}
    assert list(lines[256, 512].get_ydata()) == [4, 2]
    assert {line.get_marker() for line in axes.lines} == {styles(["vct"])["vct"].marker, "None", "x"}


# What the report says


def test_the_report_shows_pictures_and_numbers(sweep):
    for seed in range(2):
        kept(sweep, "vct", seed, images(kl=2.0 + seed))
        sweep.cell("ect", seed, penalty=0.0)
        write_lines(sweep.cell("ect", seed) / "train.jsonl", [{"images": 256, "penalty": 0.0}])
    paths = build_report(sweep.out, mlflow=False)
    text, page = (path.read_text(encoding="utf-8") for path in (paths.leaderboard, paths.html))
    assert "### Learned couplings" in text
    assert "| configuration | KL, nats per sample | mean \\|μ\\| | mean s |" in text
    assert "| vct | 2.50 ± 6.35 (n=2) | 0.500 ± 0.000 (n=2) | 0.250 ± 0.000 (n=2) |" in text
    assert "| ect | 2" not in text
    assert "<h3>Learned couplings</h3>" in page
    assert '<td>vct</td><td class="number">2.50 ± 6.35 (n=2)</td>' in page
    assert own(paths) == ["digits-posterior.png", "digits-kl.png"]
    for path in paths.plots:
        assert f"(plots/{path.name})" in text
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10
    before = [path.read_bytes() for path in paths.plots]
    assert [path.read_bytes() for path in build_report(sweep.out, mlflow=False).plots] == before


def test_the_report_shows_the_parts_of_the_divergence(sweep):
    for seed, information in enumerate((0.25, 0.35)):
        parts = {"part_images": 1797, "part_kl": 0.5, "part_information": information, "part_variance": 0.64}
        kept(sweep, "vct", seed, {**images(), **{name: np.float64(value) for name, value in parts.items()}})
    kept(sweep, "sct+vc", 0)  # of an older version
    paths = build_report(sweep.out, mlflow=False)
    text, page = (path.read_text(encoding="utf-8") for path in (paths.leaderboard, paths.html))
    parts = ("0.500 ± 0.000", "0.300 ± 0.635", "0.200 ± 0.635", "0.640 ± 0.000", "0.800 ± 0.000")
    assert f"| vct | {' | '.join(f'{part} (n=2)' for part in parts)} |" in text
    assert "over 1,797 samples of the data" in text
    assert "ln(1,797) = 7.5 nats" in page
    assert "Parts of the KL divergence" in page


@pytest.mark.parametrize("bad", [{"part_kl": np.float64("nan")}, {"part_variance": np.zeros(2)}])
def test_parts_that_are_no_numbers_are_damage(sweep, bad):
    path = kept(sweep, "vct", 0, {**images(), **bad}) / "samples" / "posterior.npz"
    with pytest.raises(DamagedError, match="is no finite number"):
        read_posterior(path)


def own(paths) -> list[str]:
    """The pictures of this section."""
    return [path.name for path in paths.plots if path.stem.endswith(("-posterior", "-kl"))]


def test_without_a_learned_coupling_there_is_no_section(sweep):
    for method, penalty in (("ect", None), ("ict", 0.0)):
        write_lines(sweep.cell(method, 0, budget=256) / "train.jsonl", [{"images": 256, "penalty": penalty}])
    board = board_of(sweep.out)
    assert (learned(board), divergences(board), posterior_plot(board), divergence_plot(board)) == ((), {}, None, None)
    paths = build_report(sweep.out, mlflow=False)
    for path in (paths.leaderboard, paths.html):
        assert "Learned couplings" not in path.read_text(encoding="utf-8")
    assert own(paths) == []


def test_cells_of_an_older_version_show_their_course_alone(sweep):
    sweep.cell("vct", 0, penalty=0.5)
    paths = build_report(sweep.out, mlflow=False)
    text = paths.leaderboard.read_text(encoding="utf-8")
    assert own(paths) == ["digits-kl.png"]
    assert "### Learned couplings" in text
    assert "| KL, nats" not in text


# Pictures


def canvas_of(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_strips_hold_images_means_and_deviations_on_common_scales(sweep):
    kept(sweep, "vct", 0, images(mean=0.5, std=0.25))
    kept(sweep, "sct+vc", 0, images(mean=2.0, std=0.75))
    figure = drawn(posterior_plot, sweep.out)
    canvas, axes = canvas_of(figure), figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["data", "mean μ", "std s"] * 2
    bars = {axes.get_xlabel(): axes.get_xlim() for axes in figure.axes[1:]}
    assert bars == {"mean μ (prior: 0)": (-2, 2), "std s (prior: 1)": (0.25, 0.75)}
    expected = {"vct": (0.5, 0.0), "sct+vc": (2.0, 1.0)}
    for place, text in enumerate(axes.texts):
        mean, std = expected.pop(text.get_text())
        data, means, stds = (canvas[round(y), [4, 13]] for y in axes.get_yticks()[3 * place :][:3])  # of two images
        assert (data == 120).all()
        assert np.array_equal(means, SIGNED([0.5 + mean / 4, 0.5 - mean / 4], bytes=True)[:, :3])
        assert np.array_equal(stds, SPREAD([std, std], bytes=True)[:, :3])
    assert expected == {}


def test_scales_can_be_read_in_grey():
    for colors in (SIGNED, SPREAD):
        grey = colors(np.linspace(0, 1, 65))[:, :3] @ [0.299, 0.587, 0.114]
        assert (np.diff(grey) > 0).all()
    red, green, blue, _ = SIGNED(0.5)
    assert max(red, green, blue) - min(red, green, blue) < 0.02  # 0 has no colour


def test_the_lowest_seed_that_all_share_is_shown(sweep):
    kept(sweep, "vct", 0, images(std=0.1))
    kept(sweep, "vct", 1, images(std=0.3))
    kept(sweep, "sct+vc", 1, images(std=0.5))
    assert drawn(posterior_plot, sweep.out).axes[2].get_xlim() == (pytest.approx(0.3), 0.5)


def test_of_colours_the_mean_is_shown(sweep):
    law = images(channels=3)
    law["mean"][:] = np.array([0.2, 0.4, -0.9], np.float32)[:, None, None] * np.sign(law["mean"])
    kept(sweep, "vct", 0, law, shape=(64, 3, 8, 8))
    assert drawn(posterior_plot, sweep.out).axes[1].get_xlim() == (pytest.approx(-0.1), pytest.approx(0.1))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (3e38, 3e38), (1e-30, 1e-30)])
def test_scales_of_extremes_have_a_width(sweep, mean, std):
    kept(sweep, "vct", 0, images(mean=mean, std=std))
    figure = drawn(posterior_plot, sweep.out)
    for axes in figure.axes[1:]:
        low, high = axes.get_xlim()
        assert low < high
    assert build_report(sweep.out, mlflow=False).plots


def test_points_have_lines_to_their_means_and_ellipses_of_their_deviations(sweep):
    kept(sweep, "vct", 0, points(), benchmark="toy2d", metrics=("w2_toy2d",), shape=(256, 2))
    figure = posterior_plot(board_of(sweep.out, "toy2d"))
    assert figure is not None
    figure.draw_without_rendering()
    (axes,) = figure.axes
    law = points()
    (lines,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    assert np.allclose(np.array(lines.get_segments()), np.stack((law["x"], law["mean"]), 1))
    (ellipses,) = [artist for artist in axes.collections if isinstance(artist, EllipseCollection)]
    assert np.allclose(np.asarray(ellipses.get_offsets()), law["mean"][:24])
    assert np.allclose(np.asarray(ellipses.get_transforms())[:, [0, 1], [0, 1]], law["std"][:24])  # half-axes
    first, second, third = (tuple(color[:3]) for color in np.asarray(lines.get_colors())[[0, 1, 2]])
    assert first[0] == first[1] == first[2]  # far from every mode
    assert second != third
    assert axes.get_xlim()[1] > 1  # the prior is within


def test_points_without_modes_have_the_method_s_colour(sweep):
    law = {name: array for name, array in points().items() if name != "modes"}
    kept(sweep, "vct", 0, law, benchmark="toy2d", metrics=("w2_toy2d",), shape=(256, 2))
    figure = posterior_plot(board_of(sweep.out, "toy2d"))
    assert figure is not None
    (lines,) = [artist for artist in figure.axes[0].collections if isinstance(artist, LineCollection)]
    assert {tuple(color[:3]) for color in np.asarray(lines.get_colors())} == {styles(["vct"])["vct"].color}


@pytest.mark.parametrize("make", [images, points])
def test_many_configurations_still_fit(sweep, make, recwarn):
    for place in range(MOST_SHOWN + 4):
        kept(sweep, "vct", 0, make(), variant=f"method.coupling.kl_weight={place}")
    figure = drawn(posterior_plot, sweep.out)
    shown = len(figure.axes[0].texts) if make is images else len(figure.axes)
    assert shown == MOST_SHOWN
    assert own(build_report(sweep.out, mlflow=False)) == ["digits-posterior.png", "digits-kl.png"]
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_data_of_another_size_or_kind_are_not_drawn_beside(sweep):
    kept(sweep, "vct", 0, images(), level=1.0)
    kept(sweep, "vct", 0, images(size=16), level=2.0, variant="x=1")
    kept(sweep, "vct", 0, points(), level=3.0, variant="x=2")
    assert [text.get_text() for text in drawn(posterior_plot, sweep.out).axes[0].texts] == ["vct"]
    assert len(learned(board_of(sweep.out))) == 3
    assert build_report(sweep.out, mlflow=False).plots


def test_the_course_is_drawn_with_mean_and_band(sweep):
    for seed, factor in enumerate((1.0, 3.0)):
        logged(sweep, "vct", seed, {256: 4.0 * factor, 512: 3.0 * factor})
    axes = drawn(divergence_plot, sweep.out).axes[0]
    assert list(axes.lines[0].get_ydata()) == [8, 6]
    (band,) = axes.collections
    vertices = band.get_paths()[0].vertices
    assert {4.0, 12.0, 3.0, 9.0} <= set(np.asarray(vertices)[:, 1])
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0)


def test_a_course_over_decades_is_drawn_on_a_logarithmic_axis(sweep):
    logged(sweep, "vct", 0, {256: 40.0, 512: 0.04, 1024: 0.0}, budget=1024)
    axes = drawn(divergence_plot, sweep.out).axes[0]
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_ydata()) == [40, 0.04, 40 * posterior_plots.DEEPEST]


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no archive",
        {"mean": None},
        {"kl": None},
        {"x": np.zeros((16, 1, 8, 8), np.float32)},
        {"x": np.zeros((16, 5, 8, 8), np.uint8)},
        {"x": np.zeros((0, 1, 8, 8), np.uint8), "kl": np.zeros(0, np.float32)},
        {"x": np.full((16, 2), np.nan, np.float32)},
        {"x": np.zeros((16, 2))},
        {"mean": np.zeros((16, 1, 8, 7), np.float32)},
        {"mean": np.zeros((16, 1, 8, 8))},
        {"mean": np.full((16, 1, 8, 8), np.nan, np.float32)},
        {"std": np.full((16, 1, 8, 8), np.inf, np.float32)},
        {"std": np.zeros((16, 1, 8, 8), np.float32)},
        {"std": np.full((16, 1, 8, 8), -1, np.float32)},
        {"kl": np.zeros(15, np.float32)},
        {"kl": np.full(16, -1, np.float32)},
        {"kl": np.array(["<script>"] * 16)},
        {"modes": np.zeros(15, int)},
        {"modes": np.zeros(16)},
        {"mean": np.array([{}], dtype=object)},
    ],
)
def test_damage_is_named(sweep, damage):
    path = kept(sweep, "vct", 0) / "samples" / "posterior.npz"
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.savez(path, **{name: array for name, array in (images() | damage).items() if array is not None})
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_posterior(path)
    assert "\n" not in str(caught.value)


def test_damage_is_named_in_the_report(sweep):
    path = kept(sweep, "vct", 0) / "samples" / "posterior.npz"
    path.write_bytes(b"")
    assert [item.file for item in build_report(sweep.out, mlflow=False).damages] == [path]


@pytest.mark.parametrize(
    "row",
    [
        {"images": 1, "penalty": "much"},
        {"images": 1, "penalty": float("nan")},
        {"images": 1, "penalty": float("inf")},
        {"images": 1, "penalty": 10**400},
        {"images": float("inf"), "penalty": 1.0},
        {"images": None, "penalty": 1.0},
        {"penalty": 1.0},
        [],
    ],
)
def test_a_damaged_log_is_named(sweep, row):
    path = sweep.cell("vct", 0, penalty=0.5) / "train.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        divergences(board_of(sweep.out))


@pytest.mark.parametrize("share", [0, -1, 2, "half", None, [1]])
def test_an_impossible_share_is_named(sweep, share):
    path = sweep.cell("vct", 0, penalty=0.5, settings={"method.coupling.share": share}) / "config.yaml"
    with pytest.raises(ValueError, match=re.escape(str(path))):
        divergences(board_of(sweep.out))


@pytest.mark.parametrize("coupling", [None, "variational", []])
def test_a_coupling_that_is_none_is_named(sweep, coupling):
    path = sweep.cell("vct", 0, penalty=0.5) / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["method"]["coupling"] = coupling
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        divergences(board_of(sweep.out))
