"""Performance profiles: ratios and shares by hand, which problems are compared, and what the report shows."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.profiles import (
    PerformanceProfile,
    Problem,
    Solver,
    largest_table,
    median,
    performance_profile,
    ratios,
    share,
    steps,
)
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.plots.profiles import profile_plot

LOWER, HIGHER = -1, 1
INF, NAN = math.inf, math.nan


def profile_of(out) -> PerformanceProfile | None:
    cells = read_cells(out)
    boards = []
    for benchmark in sorted({cell.benchmark for cell in cells}):
        own = [cell for cell in cells if cell.benchmark == benchmark]
        boards.append(leaderboard(own, seed_values(own), reference_values(out, benchmark)))
    return performance_profile(boards)


def known(out) -> PerformanceProfile:
    profile = profile_of(out)
    assert profile is not None
    return profile


def filled(sweep, levels, benchmark="digits", metric="fd_digits_2k", **kwargs):
    """method -> the level of each seed, NaN where it diverged, None where it was not run."""
    for method, own in levels.items():
        for seed, level in enumerate(own):
            if level is not None:
                state = "diverged" if math.isnan(level) else "done"
                level = 50.0 if math.isnan(level) else level
                more = {"level": level, "state": state, "benchmark": benchmark, "metrics": (metric,), **kwargs}
                sweep.cell(method, seed, **more)
    return sweep


# Ratios


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([20.0, 21.0, 40.0], LOWER, [1.0, 1.05, 2.0]),
        ([8.0, 10.0, 5.0], HIGHER, [1.25, 1.0, 2.0]),
        ([7.0, 7.0, 14.0], LOWER, [1.0, 1.0, 2.0]),  # a tie is won by both
        ([NAN, 3.0, 6.0], LOWER, [INF, 1.0, 2.0]),
        ([NAN, 3.0, 6.0], HIGHER, [INF, 2.0, 1.0]),
        ([NAN, NAN, NAN], LOWER, [INF, INF, INF]),
        ([2.0**-600, 2.0**600, 1.0], LOWER, [1.0, INF, 2.0**600]),
    ],
)
def test_ratios_by_hand(values, sign, expected):
    assert list(ratios(dict(zip("abc", values, strict=True)), sign).values()) == expected


def test_shares_by_hand():
    found = [1.0, 31.5 / 30, 1.1000001, 3.0, INF]
    assert [share(found, tau) for tau in (1.0, 1.05, 1.1, 3.0, 1e9)] == [0.2, 0.4, 0.4, 0.8, 0.8]
    assert steps(found) == [(1.0, 0.2), (1.05, 0.4), (1.1000001, 0.6), (3.0, 0.8)]
    assert steps([2.0, INF]) == [(1.0, 0.0), (2.0, 0.5)]
    assert (median([1.0, 2.0, INF]), median([1.0, INF]), median([1.0, 1.5, 2.5, INF])) == (2.0, INF, 2.0)


def test_the_last_bit_of_a_quotient_decides_nothing():
    assert all(share([1.05 * best / best], 1.05) == 1.0 for best in np.linspace(0.1, 99.0, 1000))
    assert share([1.05 + 1e-9], 1.05) == 0.0


positive = st.floats(1e-6, 1e6) | st.just(NAN)


@given(
    st.integers(2, 4).flatmap(
        lambda count: st.lists(st.lists(positive, min_size=count, max_size=count), min_size=1, max_size=8)
    ),
    st.sampled_from([LOWER, HIGHER]),
)
def test_shares_rise_from_the_winners_to_those_that_did_not_diverge(problems, sign):
    each = [ratios(dict(enumerate(map(float, values))), sign) for values in problems]
    curves = {label: [found[label] for found in each] for label in each[0]}
    for label, own in curves.items():
        rises = steps(own)
        shares = [at for _, at in rises]
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] <= 1
        assert shares[-1] == sum(math.isfinite(values[label]) for values in problems) / len(problems)
        assert all(ratio >= 1 for ratio in own)
    solved = any(math.isfinite(value) for values in problems for value in values)
    assert any(share(own, 1.0) > 0 for own in curves.values()) == solved


# What is compared


def table(**problems):
    """The largest table of methods, each with the problems it was run on: letters."""
    outcomes = {Solver(name, 1): {Problem(place, 0): 1.0 for place in own} for name, own in problems.items()}
    found = largest_table(outcomes)
    return None if found is None else ("".join(s.method for s in found[0]), "".join(p.benchmark for p in found[1]))


def test_the_largest_table_without_gaps_is_compared():
    assert table(a="12345", b="12345") == ("ab", "12345")
    assert table(a="1234", b="1234") is None
    assert table(a="12345") is None
    assert table(a="12345", b="67890") is None
    # Two configurations of ten problems rather than three of five, and three of seven rather than two of ten.
    assert table(a="0123456789", b="0123456789", c="01234") == ("ab", "0123456789")
    assert table(a="0123456789", b="0123456789", c="0123456") == ("abc", "0123456")
    # Those that share problems, wherever they stand.
    assert table(a="12345", b="67890", c="12345", d="67890x") == ("ac", "12345")
    assert table(a="12345", b="67890xy", c="12345", d="67890x") == ("bd", "06789x")


def test_problems_of_all_benchmarks_count_alike(sweep):
    filled(sweep, {"ect": [20.0, 22.0, 30.0], "vct": [21.0, 20.0, 10.0]})
    filled(sweep, {"ect": [0.5, 0.8], "vct": [0.8, 0.4]}, "second", "precision_digits_1k")
    profile = known(sweep.out)
    assert profile.metrics == {"digits": "fd_digits_2k", "second": "precision_digits_1k"}
    assert profile.problems == tuple(Problem("digits", seed) for seed in range(3)) + tuple(
        Problem("second", seed) for seed in range(2)
    )
    assert profile.labels == ("ect", "vct")
    assert profile.ratios[1]["ect"] == pytest.approx([1.0, 1.1, 3.0, 1.6, 1.0])
    assert profile.ratios[1]["vct"] == pytest.approx([1.05, 1.0, 1.0, 1.0, 2.0])
    assert list(profile.ratios) == [1, 2]


def test_diverged_and_failed_trainings_lose_their_problem(sweep):
    filled(sweep, {"ect": [20.0] * 6, "vct": [NAN, 30.0, 10.0, 10.0, 10.0, None]})
    sweep.cell("vct", 5, state="failed", metrics=("fd_digits_2k",))
    profile = known(sweep.out)
    assert profile.ratios[1]["vct"] == (INF, 1.5, 1.0, 1.0, 1.0, INF)
    assert share(profile.ratios[1]["vct"], 1e9) == pytest.approx(4 / 6)
    assert profile.ratios[1]["ect"] == (1.0, 1.0, 2.0, 2.0, 2.0, 1.0)


def test_unfinished_trainings_are_no_problem_yet(sweep):
    filled(sweep, {"ect": [20.0] * 6, "vct": [10.0] * 5})
    sweep.cell("vct", 5, state="running", metrics=("fd_digits_2k",))
    assert len(known(sweep.out).problems) == 5


def test_a_configuration_without_all_problems_is_named(sweep):
    filled(sweep, {"ect": [20.0] * 9, "vct": [10.0] * 9, "ect+ot": [10.0] * 5})
    profile = known(sweep.out)
    assert (profile.labels, profile.left_out) == (("ect", "vct"), ("ect+ot",))


def test_settings_of_one_s_own_take_part_in_nothing(sweep):
    filled(sweep, {"ect": [20.0] * 5, "vct": [10.0] * 5})
    filled(sweep, {"vct": [1.0] * 5}, variant="train.lr=2", settings={"train.lr": 2})
    assert known(sweep.out).ratios[1]["vct"] == (1.0,) * 5
    assert known(sweep.out).ratios[1]["ect"] == (2.0,) * 5


def test_settings_common_to_all_are_in_no_variant(sweep):
    filled(sweep, {"ect": [20.0] * 5, "vct": [10.0] * 5}, variant="train.batch=8")
    assert known(sweep.out).labels == ("ect", "vct")


def test_versions_are_different_configurations(sweep):
    filled(sweep, {"ect": [20.0] * 5})
    filled(sweep, {"ect": [10.0] * 5}, version=2)
    assert known(sweep.out).labels == ("ect v1", "ect v2")


def test_a_ratio_needs_positive_values_and_a_direction(sweep):
    filled(sweep, {"ect": [20.0] * 6, "vct": [10.0] * 6})
    path = next((sweep.out / "digits" / "vct").glob("s0-*/records.jsonl"))
    path.write_text(path.read_text().replace('"value": 10.0', '"value": -0.001'))
    assert [problem.seed for problem in known(sweep.out).problems] == [1, 2, 3, 4, 5]
    filled(sweep, {"ect": [20.0] * 9, "vct": [10.0] * 9}, "second", "mine:unknown")
    assert "second" not in known(sweep.out).metrics


def test_an_nfe_without_all_values_has_no_panel(sweep):
    filled(sweep, {"ect": [20.0] * 5, "vct": [10.0] * 5})
    settings = {"eval.nfe": [1]}
    path = sweep.cell("vct", 0, level=10.0, metrics=("fd_digits_2k",), settings=settings) / "records.jsonl"
    rows = [line for line in path.read_text().splitlines() if json.loads(line)["nfe"] == 1]
    path.write_text("\n".join(rows) + "\n")
    assert list(known(sweep.out).ratios) == [1]
    assert len(profile_plot(known(sweep.out)).axes) == 1


@pytest.mark.parametrize("levels", [{"ect": [20.0] * 4, "vct": [10.0] * 4}, {"ect": [20.0] * 9}])
def test_too_little_makes_no_profile(sweep, levels):
    assert profile_of(filled(sweep, levels).out) is None
    paths = build_report(sweep.out, mlflow=False)
    assert "Performance profile" not in paths.leaderboard.read_text(encoding="utf-8")
    assert "Performance profile" not in paths.html.read_text(encoding="utf-8")
    assert not [path for path in paths.plots if "profile" in path.name]


# What is shown


def test_the_picture_shows_the_shares(sweep):
    filled(sweep, {"ect": [20.0] * 5, "vct": [10.0, 20.0, 21.0, 60.0, NAN]})
    figure = profile_plot(known(sweep.out))
    for axes in figure.axes:
        ect, vct = axes.lines
        assert list(ect.get_ydata()) == pytest.approx([0.8, 1.0, 1.0])
        assert list(vct.get_xdata())[:-1] == pytest.approx([1.0, 1.05, 3.0])
        assert list(vct.get_ydata()) == pytest.approx([0.4, 0.6, 0.8, 0.8])
        assert {line.get_drawstyle() for line in axes.lines} == {"steps-post"}
        assert vct.get_xdata()[-1] == axes.get_xlim()[1] > 3.0
        assert axes.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ect", "vct"]


def test_all_alike_make_a_picture(sweep):
    filled(sweep, {"ect": [20.0] * 5, "vct": [20.0] * 5})
    axes = profile_plot(known(sweep.out)).axes[0]
    assert axes.get_xlim() == (1, pytest.approx(1.02))
    assert all(set(line.get_ydata()) == {1.0} for line in axes.lines)


def test_problems_that_none_solves_make_a_picture(sweep):
    filled(sweep, {"ect": [NAN] * 5, "vct": [NAN] * 5})
    assert all(set(line.get_ydata()) == {0.0} for line in profile_plot(known(sweep.out)).axes[0].lines)


def test_the_report_shows_picture_and_table(sweep):
    filled(sweep, {"ect": [20.0, 20.0, 20.0, 20.0], "vct": [10.0, 20.0, 21.0, NAN]})
    filled(sweep, {"ect": [0.5], "vct": [0.8]}, "second", "precision_digits_1k")
    paths = build_report(sweep.out, mlflow=False)
    text = paths.leaderboard.read_text(encoding="utf-8")
    section = text[text.index("## Performance profile") :]
    assert text.index("## second") < text.index("## Performance profile")
    assert "here 5, each judged" in section
    assert "fd_digits_2k ↓ of digits (4 seeds), precision_digits_1k ↑ of second (1 seed)" in section
    assert "| 1 | ect | 60 % | 60 % | 60 % | 1.00 | 0 |\n| 1 | vct | 60 % | 80 % | 80 % | 1.00 | 1 |" in section
    assert "a picture and not a test" in section
    assert "![performance: profile](plots/performance-profile.png)" in section
    picture = paths.plots[-1]
    assert picture.name == "performance-profile.png"
    with Image.open(picture) as image:
        assert np.asarray(image.convert("L")).std() > 10
    page = paths.html.read_text(encoding="utf-8")
    section = page[page.index('<section id="performance-profile"') :]
    assert len(re.findall(r"<img src=\"data:image/png;base64,", section)) == 1
    assert "<td>vct</td>" in section
    assert 'href="#performance-profile"' in page
    files = (paths.leaderboard, paths.html, picture)
    before = [path.read_bytes() for path in files]
    build_report(sweep.out, mlflow=False)
    assert [path.read_bytes() for path in files] == before


def test_a_report_of_nothing_solved_says_so(sweep):
    filled(sweep, {"ect": [NAN] * 5, "vct": [NAN] * 5})
    text = build_report(sweep.out, mlflow=False).leaderboard.read_text(encoding="utf-8")
    assert "| 1 | ect | 0 % | 0 % | 0 % | ∞ | 5 |" in text


def test_hostile_methods_stay_text(sweep):
    filled(sweep, {"e$c^t$<b>|*x*": [20.0] * 5, "vct": [10.0] * 5})
    paths = build_report(sweep.out, mlflow=False)
    section = paths.leaderboard.read_text(encoding="utf-8").partition("## Performance profile")[2]
    assert "<b>" not in section
    assert "<b>" not in paths.html.read_text(encoding="utf-8").partition('<section id="performance-profile"')[2]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert MarkdownIt("commonmark").enable("table").render(section).count("<tr>") == 5
