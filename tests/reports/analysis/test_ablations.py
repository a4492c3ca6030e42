"""Ablations found in configurations: their values, differences and pages."""

from __future__ import annotations

import itertools
import json
import math
import random
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from PIL import Image

from consistency_bench.benchmarks.config import compose
from consistency_bench.reports.analysis.ablations import Ablation, Value, ablations, natural_order
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.statistics import t_interval
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.pages.ablations import ablation_page
from consistency_bench.reports.plots.ablations import curves, heat_map, value_plot

KEY = "method.coupling.kl_weight"
FIRST = (1, "fd_digits_2k")
KL = {1: [40.0, 44.0, 45.0], 3: [30.0, 33.0, 36.0], 10: [25.0, 27.0, 32.0], 30: [26.0, 26.0, 35.0]}


def found(out) -> list[Ablation]:
    cells = read_cells(out)
    values = seed_values(cells)
    return list(ablations(leaderboard(cells, values, reference_values(out, cells[0].benchmark)), values))


def only(out) -> Ablation:
    (ablation,) = found(out)
    return ablation


def shown(ablation: Ablation) -> list[str]:
    return [point.value.text for point in ablation.points]


def page_of(out, place: int = 0) -> str:
    return build_report(out, mlflow=False).ablations[place].read_text(encoding="utf-8")


def grid_of(sweep, method: str, rows: dict[str, list], defaults: dict[str, object], skip=()) -> None:
    """Two seeds of every combination of `rows`, those in `skip` left out."""
    for combination in itertools.product(*rows.values()):
        settings = dict(zip(rows, combination, strict=True))
        if combination not in skip:
            variant = ", ".join(f"{key}={value}" for key, value in settings.items() if value != defaults[key])
            for seed in range(2):
                sweep.cell(method, seed, variant=variant, settings=settings)


def reading(ablation: Ablation) -> str:
    return ablation_page(ablation, []).reading


def mean_log_ratio(first, second) -> float:
    return float(np.log(np.divide(first, second)).mean())


# Finding them


def test_a_swept_key_is_an_ablation(sweep):
    ablation = only(sweep.sweep("vct", KEY, dict(reversed(KL.items())), 10).out)
    assert (ablation.factor.key, ablation.method, ablation.fixed, ablation.grid) == (KEY, "vct", (), None)
    assert shown(ablation) == ["1", "3", "10", "30"]
    assert ablation_page(ablation, []).values == "1, 3, 10 (default), 30"
    assert [point.scores[FIRST] for point in ablation.points] == [t_interval(KL[value]) for value in (1, 3, 10, 30)]
    first, _, reference, last = ablation.points
    assert reference.differences is None
    assert first.differences is not None
    assert first.differences[FIRST].shown()[0].mean == pytest.approx(
        100 * (math.exp(mean_log_ratio(KL[1], KL[10])) - 1)
    )
    assert last.differences is not None
    assert last.differences[FIRST].interval.mean == pytest.approx(mean_log_ratio(KL[30], KL[10]))


def test_methods_alone_are_no_ablation(sweep):
    assert found(sweep.default().out) == []


@pytest.mark.parametrize(
    "more", [{"version": 2}, {"settings": {"eval.ema": "p"}}, {"settings": {"benchmark.version": 2}}]
)
def test_what_cannot_be_compared_is_not(sweep, more):
    sweep.cell("vct", 0)
    settings = {**more.get("settings", {}), KEY: 30}
    sweep.cell("vct", 0, **{**more, "variant": f"{KEY}=30", "settings": settings})
    assert found(sweep.out) == []


@pytest.mark.parametrize("usual", [10.0, None])
def test_without_its_default_the_first_value_is_compared_with(sweep, usual, monkeypatch):
    monkeypatch.setattr(compose, "default_of", lambda config, preset, key: usual)
    sweep.sweep("vct", KEY, {3: [30.0, 33.0], 30: [20.0, 23.0]}, default=10)
    ablation = only(sweep.out)
    assert not ablation.is_default
    absent = f"The default{'' if usual is None else ', 10,'} is not among them"
    assert ablation_page(ablation, []).values == f"3, 30. {absent}"
    assert ablation.points[0].differences is None
    text = page_of(sweep.out)
    assert f"{absent}; differences are to 3." in text
    assert "(default)" not in text


def test_a_default_that_was_not_on_the_line_is_not_claimed(sweep):
    grid_of(sweep, "vct", {KEY: [10], "train.lr": [1]}, {KEY: 10, "train.lr": 1})
    grid_of(sweep, "vct", {KEY: [3, 30], "train.lr": [2]}, {KEY: 10, "train.lr": 1})
    ablation = only(sweep.out)
    assert (ablation.factor.key, shown(ablation), ablation.is_default) == (KEY, ["3", "30"], False)
    assert [(key, value.text) for key, value in ablation.fixed] == [("train.lr", "2")]


def test_two_keys_are_compared_along_the_other_s_default_and_make_a_grid(sweep):
    defaults = {KEY: 10, "train.lr": 0.1}
    grid_of(sweep, "vct", {KEY: [3, 10, 30], "train.lr": [0.1, 0.2]}, defaults, skip=[(30, 0.2)])
    first, second = found(sweep.out)
    assert (first.factor.key, shown(first), [value.text for _, value in first.fixed]) == (
        KEY,
        ["3", "10", "30"],
        ["0.1"],
    )
    assert (second.factor.key, shown(second), [value.text for _, value in second.fixed]) == (
        "train.lr",
        ["0.1", "0.2"],
        ["10"],
    )
    assert first.grid is not None
    assert first.grid == second.grid
    assert set(first.grid.scores) == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}
    text = build_report(sweep.out, mlflow=False).leaderboard.read_text(encoding="utf-8")
    assert text.count("-grid.png") == 1


def test_one_key_at_a_time_needs_no_grid(sweep):
    grid_of(sweep, "vct", {KEY: [3, 10], "train.lr": [1, 2]}, {KEY: 10, "train.lr": 1}, skip=[(3, 2)])
    assert [ablation.grid for ablation in found(sweep.out)] == [None, None]


def test_three_keys_have_tables_and_no_grid(sweep):
    rows = {KEY: [3, 10], "train.lr": [1, 2], "network.depth": [4, 5]}
    grid_of(sweep, "vct", rows, {KEY: 10, "train.lr": 1, "network.depth": 4})
    results = found(sweep.out)
    assert [ablation.factor.key for ablation in results] == [KEY, "network.depth", "train.lr"]
    assert {ablation.grid for ablation in results} == {None}
    assert [value.text for _, value in results[0].fixed] == ["4", "1"]


def test_where_the_defaults_have_one_value_the_longest_line_is_taken(sweep):
    """A sweep at a small budget beside one cell at the full one."""
    sweep.cell("vct", 0, settings={KEY: 10, "train.images": 1_024_000})
    for value in (1, 3, 30):
        settings = {KEY: value, "train.images": 512_000}
        sweep.cell("vct", 0, variant=f"{KEY}={value}, train.images=512000", settings=settings, budget=512_000)
    ablation = only(sweep.out)
    assert shown(ablation) == ["1", "3", "30"]
    assert [(key, value.text) for key, value in ablation.fixed] == [("train.images", "512000")]


def test_a_key_that_never_changes_alone_is_not_compared(sweep):
    for weight, rate in [(1, 1), (2, 2), (1, 3)]:
        sweep.cell("vct", 0, variant=f"{KEY}={weight}, train.lr={rate}", settings={KEY: weight, "train.lr": rate})
    ablation = only(sweep.out)
    assert (ablation.factor.key, shown(ablation)) == ("train.lr", ["1", "3"])
    assert [(key, value.text) for key, value in ablation.fixed] == [(KEY, "1")]


def test_keys_that_change_together_are_one(sweep):
    for value in (40, 80):
        settings = {"method.process.sigma_max": value, "method.times.sigma_max": value}
        sweep.cell(
            "ect", 0, variant="" if value == 80 else ", ".join(f"{key}=40" for key in settings), settings=settings
        )
    ablation = only(sweep.out)
    assert ablation.factor.key == "method.process.sigma_max"
    assert ablation.factor.along == ("method.times.sigma_max",)
    assert "so their effects cannot be separated: method.times.sigma_max." in page_of(sweep.out)


def test_a_tuning_with_its_own_budget_is_named_by_its_initial_weights(sweep):
    sweep.cell("ect", 0)
    sweep.cell("ect", 0, budget=512_000, variant="train.images=512000, train.init=edm", settings={"train.init": "edm"})
    ablation = only(sweep.out)
    assert (ablation.factor.key, ablation.factor.along) == ("train.init", ("train.images",))
    assert [point.value.text for point in ablation.points][ablation.reference] == "null"


def test_options_that_follow_from_a_kind_are_not_swept(sweep):
    sweep.cell("ect", 0, settings={"method.times": {"kind": "a", "k": 8, "p": 1}})
    kind = "method.times.kind=b, method.times.k=9, method.times.q=2"
    sweep.cell("ect", 0, variant=kind, settings={"method.times": {"kind": "b", "k": 9, "q": 2}})
    kind = "method.times.kind=c, method.times.k=9"
    sweep.cell("ect", 0, variant=kind, settings={"method.times": {"kind": "c", "k": 9}})
    assert only(sweep.out).factor.key == "method.times.kind"


def test_values_come_in_natural_order():
    raw = [30, 0.5, True, None, "learned", "fixed:10", "fixed:3", "fixed:0.09", 100, -2, [1, 2]]
    values = [Value(item, item if isinstance(item, str) else json.dumps(item)) for item in raw]
    expected = ["-2", "0.5", "30", "100", "[1, 2]", "fixed:0.09", "fixed:3", "fixed:10", "learned", "null", "true"]
    for seed in range(5):
        random.Random(seed).shuffle(values)
        assert [value.text for value in natural_order(values)] == expected


def test_whole_numbers_have_one_spelling(sweep):
    sweep.cell("vct", 0, settings={KEY: 2.0})
    sweep.cell("vct", 1, variant=f"{KEY}=2", settings={KEY: 2})
    assert found(sweep.out) == []


# What they say


def test_diverged_seeds_are_counted(sweep):
    sweep.sweep("vct", KEY, {3: [30.0, math.nan, 36.0], 10: [25.0, 27.0, 32.0], 30: [math.nan] * 3}, 10)
    ablation = only(sweep.out)
    assert [(point.scores[FIRST].n, point.scores[FIRST].lost) for point in ablation.points] == [(2, 1), (3, 0), (0, 3)]
    text = page_of(sweep.out)
    assert re.search(r"\| 3 \| 2 finished, 1 diverged \| 33\.0 ± 38\.1 \(n=2, 1 diverged\) \| \+16\.2 % \(n=2\) ", text)
    assert "| 30 | 3 diverged | diverged | – | diverged | – |" in text


def test_one_seed_has_neither_interval_nor_certainty(sweep):
    sweep.sweep("vct", KEY, {3: [30.0], 10: [25.0]}, 10)
    text = page_of(sweep.out)
    assert "| 3 | 1 finished | 30.0 (n=1) | +20.0 % (n=1) |" in text
    assert "No value has 3 seeds in common with 10 (default), so no difference can be tested." in text


def test_nothing_finished_is_said(sweep):
    for value in (3, 10):
        sweep.cell("vct", 0, state="queued", variant=f"{KEY}={value}", settings={KEY: value})
    assert reading(only(sweep.out)) == "No training of these has finished yet."
    paths = build_report(sweep.out, mlflow=False)
    assert len(paths.ablations) == 1
    assert paths.plots == ()


def test_the_reading_says_what_is_certain_and_which_way(sweep):
    values = {1: [35.0, 36.0, 37.1], 3: [29.0, 31.0, 30.0], 10: [30.0, 31.0, 32.0], 30: [25.0, 26.1, 27.0]}
    assert reading(only(sweep.sweep("vct", KEY, values, 10).out)) == (
        "At NFE 1, the value 30 has the lowest mean fd_digits_2k, 26.0 ± 2.5 (n=3). Significantly different from 10 "
        "(default): 1 (worse: +16.2 % (11.4 to 21.3) (n=3)), 30 (better: −16.0 % (−19.5 to −12.4) (n=3)). Exploratory "
        "columns with significant differences: fd_digits_2k at NFE 2 (1, 30), kd_digits_2k at NFE 1 (1, 30), "
        "kd_digits_2k at NFE 2 (1, 30)."
    )


def test_higher_is_better_reads_the_other_way(sweep):
    values = {3: [7.0, 7.1, 7.2], 10: [5.0, 5.1, 5.21]}
    sweep.sweep("vct", KEY, values, 10, metrics=("modes_points_2k",))
    text = reading(only(sweep.out))
    assert "the value 3 has the highest mean modes_points_2k" in text
    assert "3 (better: +2.00 (1.98 to 2.01) (n=3))" in text


def test_an_unknown_direction_differs_and_is_not_judged(sweep):
    sweep.sweep("vct", KEY, {3: [7.0, 7.1, 7.0], 10: [5.0, 5.1, 5.01]}, 10, metrics=("something",))
    assert "Significantly different from 10 (default): 3 (differs: +2.00 (1.98 to 2.01) (n=3))" in reading(
        only(sweep.out)
    )


def test_equal_values_cannot_be_told_apart(sweep):
    sweep.sweep("vct", KEY, {3: [7.0, 7.1, 7.3], 10: [7.0, 7.1, 7.3]}, 10)
    assert "No value differs significantly from 10 (default)" in reading(only(sweep.out))


@pytest.mark.parametrize("seed", range(12))
def test_the_reading_says_what_the_tables_show(sweep, seed):
    """Of any records: the best value, and every significant difference at every NFE and no other."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(1, 6)
    base = 30 + 3 * rng.standard_normal(seeds)
    values = {
        value: list(base * np.exp(rng.choice([0.0, 0.3]) + rng.choice([0.01, 0.1]) * rng.standard_normal(seeds)))
        for value in (1, 3, 10, 30)
    }
    values[3] = [math.nan if rng.random() < 0.2 else value for value in values[3]][: rng.integers(1, 6)]
    ablation = only(sweep.sweep("vct", KEY, values, 10).out)
    page = ablation_page(ablation, [])
    bold, best = {}, None
    for table in page.tables:
        for column in range(2, len(table.header) - page.penalty, 2):
            lines = [[getattr(cell, "text", ""), getattr(cell, "mark", "")] for cell in (r[column] for r in table.rows)]
            gaps = [row[column + 1] for row in table.rows]
            nfe = int(re.findall(r"\d+", table.header[column])[0])
            names = [getattr(row[0], "text", "").removesuffix(" (default)") for row in table.rows]
            bold[table.name, nfe] = [name for name, gap in zip(names, gaps, strict=True) if gap.mark == "**"]
            if (nfe, table.name) == FIRST:
                means = {n: float(text.split()[0]) for n, (text, _) in zip(names, lines, strict=True) if "n=" in text}
                ranked = {n: m for n, m in means.items() if "±" in dict(zip(names, lines, strict=True))[n][0]} or means
                best = min(ranked.values())
    named = re.search(r"the value (\S+) has the lowest mean fd_digits_2k", page.reading)
    assert named
    assert ranked[named[1]] == best
    headline, _, others = page.reading.partition("Exploratory columns with significant differences: ")
    told = re.findall(r"(?:: |, )(\d+) \((?:better|worse): ", headline)
    assert told == bold.pop(FIRST[::-1])
    assert ("No value" in headline) == (not told)
    listed = {(m, int(n)): v.split(", ") for m, n, v in re.findall(r"(\S+) at NFE (\d+) \(([^)]*)\)", others)}
    assert listed == {key: found for key, found in bold.items() if found}


def test_the_penalty_is_that_of_the_last_row_and_of_methods_that_have_one(sweep):
    for value, penalties in {3: (0.5, 0.7), 10: (0.1, 0.2)}.items():
        variant = "" if value == 10 else f"{KEY}={value}"
        for seed, penalty in enumerate(penalties):
            sweep.cell("vct", seed, variant=variant, settings={KEY: value}, penalty=penalty)
    sweep.sweep("ect", "train.lr", {1: [30.0], 2: [40.0]}, 1, penalty=0.0)
    plain, learned = found(sweep.out)
    assert [point.penalty for point in plain.points] == [None, None]
    assert [point.penalty for point in learned.points] == [t_interval([0.5, 0.7]), t_interval([0.1, 0.2])]
    paths = build_report(sweep.out, mlflow=False)
    without, text = (path.read_text(encoding="utf-8") for path in paths.ablations)
    assert "| KL |" not in without
    assert "nats" not in without
    assert text.count("| KL |") == 1  # once, not in the table of every metric
    assert "| 0.60 ± 1.27 (n=2) |" in text


def test_a_damaged_training_log_is_named(sweep):
    sweep.sweep("vct", KEY, {3: [30.0], 10: [25.0]}, 10)
    path = next(sweep.out.glob("digits/vct/*/train.jsonl"))
    path.write_text('{"images": 1, "penalty": "much"}\n')
    paths = build_report(sweep.out, mlflow=False)
    assert [item.file for item in paths.damages] == [path]
    assert len(paths.ablations) == 1  # the numbers stay


# Pages


def test_pages_are_linked_and_show_what_they_link(sweep):
    defaults = {KEY: 10, "train.lr": 0.1}
    grid_of(sweep, "ict+vc", {KEY: [3, 10], "train.lr": [0.1, 0.2]}, defaults)
    paths = build_report(sweep.out, mlflow=False)
    names = [f"digits-ict-vc-{key}" for key in defaults]
    assert [path.name for path in paths.ablations] == [f"{name}.md" for name in names]
    text = paths.leaderboard.read_text(encoding="utf-8")
    assert re.findall(r"\]\((ablations/[^)]*)\)", text) == [f"ablations/{name}.md" for name in names]
    assert "### Ablations" in text
    for page in (paths.leaderboard, *paths.ablations):
        links = re.findall(r"\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
        assert links
        for link in links:
            assert (page.parent / link).is_file()
    assert {path.name for path in paths.plots if "ablation-" in path.name} == {
        *(f"ablation-{name}-{kind}.png" for name in names for kind in ("values", "curves")),
        f"ablation-{names[0]}-grid.png",  # both pages show the one heat map
    }
    for path in paths.plots:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10


def test_variants_stay_rows_of_the_leaderboard(sweep):
    text = build_report(sweep.sweep("vct", KEY, KL, 10).out, mlflow=False).leaderboard.read_text(encoding="utf-8")
    assert text.count("| vct v1 | method.coupling.kl_weight=") == (2 * 2 + 1) * 3  # two tables an NFE, and the costs
    assert text.count("| vct v1 |  |") == 2 * 2 + 1


def test_tables_are_rectangular_and_values_marked(sweep):
    text = page_of(sweep.sweep("vct", KEY, KL, 10).out)
    assert text.count("| 10 (default) |") == 3  # a table for each metric
    assert "| kl_weight | seeds | NFE 1 ↓ | NFE 1: difference to 10 | NFE 2 ↓ | NFE 2: difference to 10 |" in text
    assert "| 1 | 3 finished | 43.0 ± 6.6 (n=3) | **+54.2 % (19.3 to 99.2) (n=3)** |" in text
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("<table>") == 3
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        assert len({row.count("</t") for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)}) == 1


def test_names_that_become_one_file_stay_apart(sweep):
    for method in ("a+b", "a b"):
        sweep.sweep(method, KEY, {3: [30.0], 10: [25.0]}, 10)
    paths = build_report(sweep.out, mlflow=False)
    assert [path.name for path in paths.ablations] == [f"digits-a-b-{KEY}.md", f"digits-a-b-{KEY}-2.md"]
    assert len(set(paths.plots)) == len(paths.plots)


HOSTILE = "<img src=x onerror=alert(1)>|**y**\n# heading `z` [a](http://b) $q$ \x1b[31m\u202e"


def test_hostile_keys_and_values_stay_text(sweep):
    for seed, value in itertools.product(range(2), ("plain", HOSTILE, HOSTILE * 20)):
        sweep.cell("vct", seed, variant=f"x={value}", settings={f"network.{'../' * 9}{HOSTILE} k_": value})
    paths = build_report(sweep.out, mlflow=False)
    (page,) = paths.ablations
    assert page.parent == sweep.out / "ablations"
    assert re.fullmatch(r"[\w.-]+", page.name, re.ASCII)
    for path in (paths.leaderboard, page):
        text = path.read_text(encoding="utf-8")
        assert "<" not in text.replace("&lt;", "")
        assert "\x1b" not in text
        assert "\u202e" not in text
        html = MarkdownIt("commonmark").enable("table").render(text)
        assert html.count("<h1>") == 1
        assert set(re.findall(r"<a href=\"((?!digits/vct/s)[^\"]*)\"", html)) == (
            {"report.html", f"ablations/{page.name}"} if path == paths.leaderboard else {"../leaderboard.md"}
        )
        assert all(link.lstrip("./").startswith("plots/") for link in re.findall(r"<img src=\"([^\"]*)\"", html))


# Pictures


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([1, 3, 10], "log", ["1", "3", "10"]),
        ([0.001, 0.01], "log", ["0.001", "0.01"]),
        ([2, 3, 5], "linear", ["2", "3", "5"]),
        ([-1, 0, 1], "linear", ["-1", "0", "1"]),
        ([0, 1, 10, 100], "linear", ["0", "1", "10", "100"]),
        (["fixed:1", "learned"], "linear", ["fixed:1", "learned"]),
        ([False, True], "linear", ["false", "true"]),
    ],
)
def test_the_axis_suits_the_values(sweep, values, scale, ticks):
    figure = drawn(value_plot(only(sweep.sweep("vct", KEY, {value: [30.0, 33.0] for value in values}, values[0]).out)))
    axes = figure.axes[0]
    assert axes.get_xscale() == scale
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks
    if 100 in values or isinstance(values[0], str):
        assert list(axes.get_xticks()) == list(range(len(values)))


def test_every_seed_is_a_dot_and_every_loss_a_cross(sweep):
    values = {3: [30.0, math.nan, 36.0], 10: [25.0, 27.0, 32.0], 30: [math.nan] * 3}
    axes = drawn(value_plot(only(sweep.sweep("vct", KEY, values, 10).out))).axes[0]
    dots = [np.asarray(dots.get_offsets()) for dots in axes.collections if np.asarray(dots.get_offsets()).size > 2]
    assert sorted(float(value) for points in dots for value in points[:, 1]) == [25.0, 27.0, 30.0, 32.0, 36.0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [3, 30]
    assert [text.get_text() for text in axes.texts] == ["1", "3"]
    low, high = axes.get_ylim()
    assert low < 25.0 < 36.0 < high


def test_curves_name_the_values(sweep):
    ablation = only(sweep.sweep("vct", KEY, KL, 10).out)
    figure = drawn(curves(ablation, seed_values(ablation.board.cells)))
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "kl_weight"
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["1", "3", "10 (default)", "30", "real-vs-real baseline (4.00, beyond the axis)"]
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines[:4]]
    assert ends == pytest.approx([np.mean(KL[value]) for value in (1, 3, 10, 30)])


def test_the_heat_map_says_what_is_missing(sweep):
    defaults = {KEY: 10, "train.lr": 1}
    grid_of(sweep, "vct", {KEY: [3, 10, 30], "train.lr": [1, 2]}, defaults, skip=[(30, 2)])
    sweep.cell("vct", 0, variant=f"{KEY}=3, train.lr=2", settings={KEY: 3, "train.lr": 2}, state="diverged")
    sweep.cell("vct", 1, variant=f"{KEY}=3, train.lr=2", settings={KEY: 3, "train.lr": 2}, state="diverged")
    grid = found(sweep.out)[0].grid
    assert grid is not None
    axes = drawn(heat_map(grid)).axes[0]
    texts = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert texts[1, 2] == "not run"
    assert texts[1, 0] == "diverged"
    assert re.fullmatch(r"[\d.]+\n± [\d.]+", texts[0, 1])
    assert len(axes.patches) == 2  # the frame of the default


def test_settings_common_to_all_change_no_ablation(sweep, tmp_path):
    other = type(sweep)(tmp_path / "other")
    for out, prefix in ((sweep, ""), (other, "train.batch=256, ")):
        for seed in range(3):
            for lr in (0.001, 0.01):
                variant = f"{prefix}{'train.lr=0.01' if lr == 0.01 else ''}".removesuffix(", ")
                level = 30.0 + seed + 100 * lr
                out.cell("ect", seed, variant=variant, level=level, settings={"train.lr": lr})
    pages = [build_report(out.out, mlflow=False).ablations for out in (sweep, other)]
    assert len(pages[0]) == 1
    assert [page.read_text() for page in pages[0]] == [page.read_text() for page in pages[1]]
    assert "0.001 (default)" in pages[0][0].read_text()
