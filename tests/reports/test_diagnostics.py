"""Variances by noise level: what is read from the cells, how pairs are compared, and what the report shows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from consistency_bench.benchmarks.common.files import DamagedError, read_jsonl
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.diagnostics import Profile, compared, pairs, profiles, ratio_interval
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.plots.diagnostics import by_level, course
from consistency_bench.reports.plots.style import styles

from .conftest import write_lines

EDGES = (0.01, 0.1, 1.0, 10.0)
LEVELS = {"ict": 5.0, "ect": 4.0, "sct": 2.0, "vct": 3.0}


def row(what: str, k: int, value: float | None, **changes: Any) -> dict[str, Any]:
    usual = {
        "images": 1_024_000,
        "weights": "averaged",
        "ratio": None,
        "bins": 3,
        "samples": 64,
        "repeats": 8,
        "t_low": EDGES[k],
        "t_high": EDGES[k + 1],
        "what": what,
        "value": value,
        "error": None if value is None else 0.1 * value,
    }
    return usual | changes


def diagnosed(sweep, method: str, seed: int, *, level: float | None = None, **changes: Any) -> Path:
    """A cell with rows: values grow with the noise level, and a seed is 10 % above the one before it."""
    folder = sweep.cell(method, seed)
    level = LEVELS[method] if level is None else level
    rows = []
    for k in range(3):
        value = level * 1.1**seed * 10**k
        rows += [row(what, k, value, **changes) for what in ("gradient_variance", "gradient_ratio", "loss", "distance")]
        # The stable target has no variance, and a coupling without density none that is defined.
        target = {"sct": 1e-15, "ict": None}.get(method, value)
        rows.append(row("target_variance", k, target, **changes))
    path = folder / "diagnostics.jsonl"
    write_lines(path, [*read_jsonl(path), *rows])
    return folder


@pytest.fixture
def four(sweep):
    for method in LEVELS:
        for seed in range(3):
            diagnosed(sweep, method, seed)
    return sweep


def found(sweep) -> list[Profile]:
    cells = read_cells(sweep.out)
    return profiles(leaderboard(cells, seed_values(cells), reference_values(sweep.out, "digits")))


def test_values_are_read_by_label_quantity_bin_and_seed(four) -> None:
    (profile,) = found(four)
    assert profile.bins == ((0.01, 0.1), (0.1, 1.0), (1.0, 10.0))
    assert set(profile.labels) == set(LEVELS)
    assert profile.values["vct"]["loss"][1.0, 10.0] == pytest.approx({0: 300, 1: 330, 2: 363})
    assert all(math.isnan(value) for value in profile.values["ict"]["target_variance"][0.1, 1.0].values())


def test_only_the_last_rows_of_a_cell_count_and_settings_stay_apart(sweep) -> None:
    diagnosed(sweep, "ect", 0, images=512_000, level=99.0)
    diagnosed(sweep, "ect", 0)
    diagnosed(sweep, "ect", 0, ratio=0.9, level=7.0)
    diagnosed(sweep, "ect", 0, weights="trained", level=8.0)
    diagnosed(sweep, "ect", 0, weights="shared abc", level=9.0)
    first, second, shared, trained = found(sweep)
    assert [p.values["ect"]["loss"][0.01, 0.1][0] for p in (first, second, shared, trained)] == [4, 7, 9, 8]
    assert first.images == (1_024_000,)
    assert "r = 0.9 t for all" in second.setting.text
    assert "one network for all methods" in shared.setting.text
    assert trained.setting.weights == "trained"


def test_the_ratio_s_interval_is_scipy_s_t_interval_of_logarithms() -> None:
    a, b = np.array([1.0, 2.5, 1.7, 3.0]), np.array([2.0, 2.6, 2.5, 2.9])
    ratio = ratio_interval(list(zip(a, b, strict=True)))
    logs = np.log(a / b)
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert ratio.mean == pytest.approx(stats.gmean(a) / stats.gmean(b))
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.significant == (not low <= 0 <= high)
    assert ratio_interval([(1.0, 2.0)]).low is None
    assert not ratio_interval([(1.0, 2.0)]).significant


def test_pairs_share_their_seeds(sweep) -> None:
    for seed, level in ((0, 2.0), (1, 3.0), (2, 2.5)):
        diagnosed(sweep, "ect", seed, level=level)
    for seed, level in ((1, 6.0), (2, 5.5), (3, 1.0)):
        diagnosed(sweep, "vct", seed, level=level)
    (profile,) = found(sweep)
    ratio = compared(profile, "loss", "vct", "ect")[0.1, 1.0]
    assert ratio is not None
    assert ratio.n == 2
    assert ratio.mean == pytest.approx(math.sqrt(6 / 3 * 5.5 / 2.5))


def test_zero_and_undefined_have_no_ratio(four) -> None:
    (profile,) = found(four)
    assert set(compared(profile, "target_variance", "sct", "ect").values()) == {None}
    assert set(compared(profile, "target_variance", "ict", "ect").values()) == {None}
    ratio = compared(profile, "target_variance", "vct", "ect")[0.01, 0.1]
    assert ratio is not None
    assert ratio.mean == pytest.approx(0.75)


def test_of_many_configurations_each_is_compared_with_the_first(four) -> None:
    (profile,) = found(four)
    assert len(pairs(profile)) == 6
    for seed in range(2):
        folder = four.cell("ect", seed, variant="train.lr=1")
        write_lines(folder / "diagnostics.jsonl", [row("loss", 0, 1.0)])
    (profile,) = found(four)
    assert [second for _, second in pairs(profile)] == ["ect"] * 4


def test_the_page_says_what_was_measured(four) -> None:
    paths = build_report(four.out, mlflow=False)
    (page,) = paths.diagnostics
    text = page.read_text(encoding="utf-8")
    setting = "averaged weights of each training; r by each method's rule; 64 points a bin, gradients of 8 batches of 8"
    assert f"## {setting}" in text
    assert "after 1.02 M images" in text
    assert "sct against ect lower in 3, higher in 0 of 3 bins" in text
    assert "| vct / ect (n=3) | **0.75 (0.75 to 0.75)** |" in text
    assert re.search(r"\| sct \| 0 \| 0 \| 0 \|", text)
    assert re.search(r"\| ict \| – \| – \| – \|", text)
    for link in re.findall(r"!?\[[^]]*\]\(([^)]*)\)", text):
        assert (page.parent / link).resolve().is_file()
    board = paths.leaderboard.read_text(encoding="utf-8")
    assert "### Variance by noise level" in board
    assert "](diagnostics/digits.md)" in board
    widths = set()
    for line in text.splitlines():
        if line.startswith("|"):
            widths.add(line.count("|"))
    assert widths == {5}


@pytest.mark.slow
def test_pages_and_pictures_repeat_byte_for_byte_and_follow_the_files(four) -> None:
    paths = build_report(four.out, mlflow=False)
    files = [*paths.diagnostics, *(path for path in paths.plots if "diagnostics" in path.name)]
    assert [path.name for path in files] == [
        "digits.md",
        "digits-diagnostics-1-variance.png",
        "digits-diagnostics-1-losses.png",
    ]
    before = [path.read_bytes() for path in files]
    assert report_is_current(four.out, mlflow=False)
    build_report(four.out, mlflow=False)
    assert [path.read_bytes() for path in files] == before
    diagnosed(four, "ect", 0, ratio=0.5)
    assert not report_is_current(four.out, mlflow=False)


def test_without_diagnostics_there_is_no_section(sweep) -> None:
    sweep.cell("ect", 0)
    paths = build_report(sweep.out, mlflow=False)
    assert paths.diagnostics == ()
    assert "Variance by noise level" not in paths.leaderboard.read_text(encoding="utf-8")


def test_a_line_is_the_mean_in_the_middle_of_each_bin_in_the_method_s_style(four) -> None:
    (profile,) = found(four)
    figure = by_level(profile, ("gradient_variance",))
    assert figure is not None
    (axes,) = figure.axes
    look = styles(profile.labels)
    lines = {line.get_color(): line for line in axes.lines}
    line = lines[look["sct"].color]
    assert line.get_marker() == look["sct"].marker
    np.testing.assert_allclose(line.get_xdata(), np.sqrt([0.001, 0.1, 10]))
    np.testing.assert_allclose(line.get_ydata(), 2 * np.mean([1, 1.1, 1.21]) * np.array([1, 10, 100]))


def test_quantities_without_values_are_not_drawn(sweep) -> None:
    folder = sweep.cell("ect", 0)
    write_lines(folder / "diagnostics.jsonl", [row("target_variance", 0, None), row("loss", 0, 1.0)])
    (profile,) = found(sweep)
    assert by_level(profile, ("target_variance",)) is None
    figure = by_level(profile, ("target_variance", "loss"))
    assert figure is not None
    assert len(figure.axes) == 1


def test_the_course_has_a_column_for_each_configuration_and_a_line_for_each_bin(sweep) -> None:
    for images in (128_000, 256_000, 384_000):
        for method in ("ect", "vct"):
            diagnosed(sweep, method, 0, weights="trained", images=images)
    (profile,) = found(sweep)
    figure = course(profile)
    assert figure is not None
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ect", "vct"]
    for axes in figure.axes:
        assert len(axes.lines) == 3
        assert list(axes.lines[0].get_xdata()) == [128_000, 256_000, 384_000]
    paths = build_report(sweep.out, mlflow=False).plots
    (path,) = (path for path in paths if path.name.endswith("course.png"))
    assert np.asarray(Image.open(path)).std() > 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"value": "many"}, "row 1 has value 'many'"),
        ({"t_low": 2.0, "t_high": 1.0}, "no bin of the noise level"),
        ({"images": None}, "images None, which is no count"),
    ],
)
def test_damage_is_named_with_its_file(sweep, changes: dict[str, Any], complaint: str) -> None:
    folder = sweep.cell("ect", 0)
    write_lines(folder / "diagnostics.jsonl", [row("loss", 0, 1.0) | changes])
    with pytest.raises(DamagedError) as caught:
        found(sweep)
    assert complaint in str(caught.value)
    assert str(folder / "diagnostics.jsonl") in str(caught.value)


def test_a_missing_entry_is_named(sweep) -> None:
    folder = sweep.cell("ect", 0)
    broken = row("loss", 0, 1.0)
    del broken["weights"]
    write_lines(folder / "diagnostics.jsonl", [broken])
    with pytest.raises(DamagedError, match="weights"):
        found(sweep)
