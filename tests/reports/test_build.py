"""The whole report: leaderboard text, pictures, and when a rebuild is needed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from consistency_bench.benchmarks.common.files import DamagedError, write_jsonl
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.formatting import count_text, number, score_text
from consistency_bench.reports.analysis.statistics import Interval, t_interval
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.pages.text import escape
from consistency_bench.reports.plots.curves import curves
from consistency_bench.reports.plots.paper import Paper
from consistency_bench.reports.plots.samples import MOST_SHOWN
from consistency_bench.reports.plots.style import FIXED, styles

PLOTS = ("bars", "forest", "curves", "cost", "nfe", "samples")


def built(out):
    return build_report(out, mlflow=False).leaderboard.read_text(encoding="utf-8")


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_default_sweep_reads_well(sweep):
    text = built(sweep.default().out)
    page = "The same as a page with sorting and filters: [report.html](report.html)"
    assert text.startswith(f"# Leaderboard\n\n{page}\n\n## digits\n")
    assert "12 cells (10 finished, 1 diverged, 1 unfinished)" in text
    so_far = "**Verdict.** So far, with 1 of 12 cells unfinished: at NFE 1, no configuration is significantly better"
    assert f"{so_far} than all others. vct has the lowest fd_digits_2k, " in text
    assert "| 2 × 1, 1 diverged |" in text
    assert "| 2 × 1, 1 unfinished |" in text
    assert "**Small scale:**" in text
    assert "| *real-vs-real baseline* |" in text
    assert "*898*" in text
    assert "the loss was not finite at 640000 images" in text
    assert "### Published values of these methods (CIFAR-10, fid50k" in text
    assert "Hardware: Example CPU (2 cores)." in text
    for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (sweep.out / link).is_file()


def test_tables_are_rectangular(sweep):
    sweep.default().cell("ect", 0, variant="a|b `c` <script>\n| d |")
    width = None
    for line in built(sweep.out).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert width is None or cells is None or cells == width
        width = cells


def test_a_significant_winner_is_bold_and_called_best(sweep):
    for seed in range(3):
        sweep.cell("ict", seed, level=40.0 + 3 * seed)
        sweep.cell("ect", seed, level=30.0 + 3.1 * seed)
    text = built(sweep.out)
    assert "At NFE 1, ect is best, with the lowest fd_digits_2k, 33.1 ± 7.7 (n=3)." in text
    assert (
        "It is significantly better (family-wise 95 %) than ict, with a difference of +30.1 % (22.5 to 38.1)." in text
    )
    assert "| 1 | 1 | 1 | ect v1 | 3 × 1 | **33.1 ± 7.7 (n=3)** | – | best | – |" in text
    worse = "| 2 | 2 | 2 | ict v1 | 3 × 1 | 43.0 ± 7.5 (n=3) | +30.1 % (22.5 to 38.1) | significantly worse | 100 % |"
    assert worse in text
    assert "So far" not in text
    assert "unfinished" not in text


def test_one_seed_has_no_interval(sweep):
    sweep.cell("ect", 0, level=30.0)
    sweep.cell("ict", 0, level=40.0)
    text = built(sweep.out)
    assert "| 30.0 (n=1) |" in text
    assert "Inconclusive against ict: needs 3 common seeds." in text
    assert "| – | – | – | ect v1 | 1 × 1 | 30.0 (n=1) | – | – | – |" in text


def test_one_configuration_is_compared_with_nothing(sweep):
    sweep.cell("ect", 0)
    assert "It is the only configuration here" in built(sweep.out)


def test_nothing_finished_is_said(sweep):
    sweep.cell("ect", 0, state="queued")
    text = built(sweep.out)
    assert "There is nothing to rank: no training has finished yet." in text
    assert "![" not in text


@pytest.mark.slow
def test_same_records_same_bytes(sweep):
    sweep.default().sweep("vct", "train.lr", {1e-3: [30.0, 31.0], 1e-2: [25.0, math.nan]}, 1e-3)
    paths = build_report(sweep.out, mlflow=False)
    files = (paths.leaderboard, *paths.ablations, *paths.plots)
    # Of the defaults; of the other value, a ranking of one row, which has no forest; of the ablation.
    assert len(files) == 1 + 1 + len(PLOTS) + (len(PLOTS) - 1) + 2
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert not report_is_current(sweep.out, mlflow=False)
    build_report(sweep.out, mlflow=False)
    assert [path.read_bytes() for path in files] == before


def test_pretraining_is_said_where_there_was_one(sweep):
    sweep.cell("ect", 0, compute={"pretraining_images": 200_000_000})
    sweep.cell("sct", 0, compute={"pretraining_images": None})
    sweep.cell("ict", 0)
    text = built(sweep.out)
    for mimg in ("1.02 + 200", "1.02 + ?", "1.02"):
        assert f"| 141 k | {mimg} | 2 |" in text
    assert "- a + b in Mimg" in text
    sweep.cell("ect", 0)
    sweep.cell("sct", 0)
    assert "- a + b in Mimg" not in built(sweep.out)


def test_hostile_text_stays_text(sweep):
    for seed in range(2):
        sweep.cell("ect", seed, variant="x=<img src=x onerror=alert(1)>|**y**\n# heading `z` [a](http://b) $q$")
    sweep.cell("ict", 0, state="failed", error="Traceback\n  | <b>bold</b> | \x1b[31m\u202e" + "long " * 100)
    text = built(sweep.out)
    assert "<" not in text.replace("&lt;", "")
    assert "\n# heading" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\*\*y\*\* # heading \`z\` \[a\](http://b) \$q\$" in text
    assert max(len(line) for line in table_lines(text)) < 700
    page = MarkdownIt("commonmark").enable("table").render(text)
    kinds = [kind for kind in PLOTS if kind != "forest"]  # the other one has no value to compare
    assert re.findall(r"<img src=\"([^\"]*)\"", page) == [f"plots/digits-{kind}.png" for kind in kinds]
    assert len(re.findall(r"<a href=\"digits/[^\"]*\"", page)) == 3  # the records of each cell
    assert page.count("<a ") == 3 + page.count('<a href="report.html">') == 4
    assert page.count("<h1>") == 1
    assert page.count("<table>") == 7


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("fd_digits_2k", "fd_digits_2k"),
        ("_a_", r"\_a\_"),
        ("a|b", r"a\|b"),
        ("<&>", "&lt;&amp;&gt;"),
        ("a\nb\\", "a b\\\\"),
        ("\ud800", ""),
    ],
)
def test_escape(raw, shown):
    assert escape(raw) == shown


def test_numbers_have_three_digits():
    assert [number(value) for value in (0, 4.03, 31.24, 898.4, 12345.6, 0.00213, -7.5)] == [
        *("0", "4.03", "31.2", "898", "12,346", "0.00213", "−7.50")
    ]
    assert [count_text(count) for count in (12, 141_000, 1_024_000)] == ["12", "141 k", "1.02 M"]


def test_scores():
    assert score_text(t_interval([1.0, 2.0, 3.0])) == "2.00 ± 2.48 (n=3)"
    assert score_text(t_interval([5.0])) == "5.00 (n=1)"
    assert score_text(t_interval([5.0, float("nan")])) == "5.00 (n=1, 1 diverged)"
    assert score_text(t_interval([float("nan")])) == "diverged"
    assert score_text(Interval(float("nan"), None, None, 0)) == "–"


def test_published_values_stand_beside_ours(sweep):
    for method in ("ict", "vct"):
        sweep.cell(method, 0, benchmark="cifar10", metrics=("fid50k",), shape=(64, 3, 32, 32), budget=51_200_000)
    text = built(sweep.out)
    assert "### Published comparison" in text
    assert re.search(
        r"\| ict \| 1 \| fid50k \| .* \| 2\.83 \| \+.* \| budget, network differ \| – \| .* \| secondary", text
    )
    # What only others say of the paper of VCT is not shown.
    assert not re.search(r"\| vct \| \d \| fid50k ", text.partition("### Published comparison")[2])
    assert "orientation only" not in text
    assert "Small scale" not in text


@pytest.mark.parametrize(
    ("benchmark", "shape", "metric"),
    [
        ("digits", (64, 1, 8, 8), "fd_digits_2k"),
        ("cifar10", (64, 3, 32, 32), "fid50k"),
        ("toy2d", (200, 2), "w2_toy2d"),
    ],
)
def test_pictures_are_there_and_not_blank(sweep, benchmark, shape, metric):
    for method in ("ict", "ect"):
        for seed in range(2):
            sweep.cell(method, seed, benchmark=benchmark, shape=shape, metrics=(metric,))
    paths = build_report(sweep.out, mlflow=False).plots
    assert [path.name for path in paths] == [f"{benchmark}-{kind}.png" for kind in PLOTS]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
            assert not {"Software", "Creation Time"} & image.info.keys()
        assert pixels.shape[1] > 500
        assert pixels.std() > 10


def test_a_hundred_configurations_look_different_and_the_four_always_alike():
    look = styles([*FIXED, *(f"vct x={place}" for place in range(96))])
    assert len({(style.color, style.marker) for style in look.values()}) == 100
    assert len({(style.color, style.line) for style in look.values()}) >= 50
    assert {name: look[name] for name in FIXED} == styles(FIXED)


def test_grid_shows_the_lowest_seed_that_all_share(sweep):
    def filled(method, seed, grey):
        folder = sweep.cell(method, seed)
        np.savez(folder / "samples" / "nfe1.npz", samples=np.full((64, 1, 8, 8), grey, np.uint8))

    filled("ict", 0, 91)
    filled("ict", 1, 92)
    filled("ect", 1, 93)
    path = next(path for path in build_report(sweep.out, mlflow=False).plots if "samples" in path.name)
    with Image.open(path) as image:
        counts = np.bincount(np.asarray(image.convert("L")).ravel(), minlength=256)
    assert counts[92] > 10_000 < counts[93]
    assert counts[91] < 1000  # the edges of letters


@pytest.mark.slow
def test_many_configurations_still_fit(sweep):
    for place in range(40):
        sweep.cell("ect", 0, variant=f"method.coupling.kl_weight={place},train.learning_rate=0.001")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = build_report(sweep.out, mlflow=False).plots
    assert len([path for path in plots if not path.name.startswith("ablation-")]) == len(PLOTS)


@pytest.mark.parametrize("damage", [b"", b"no archive", "shape"])
def test_damaged_samples_are_named_and_left_out_alone(sweep, damage):
    path = sweep.cell("ect", 0) / "samples" / "nfe2.npz"
    if damage == "shape":
        np.savez(path, samples=np.zeros((4, 5)))
    else:
        path.write_bytes(damage)
    paths = build_report(sweep.out, mlflow=False)
    assert [item.file for item in paths.damages] == [path]
    text = paths.leaderboard.read_text(encoding="utf-8")
    assert "1 cells (1 finished)" in text or "1 cell (1 finished)" in text
    assert "nfe2.npz" in text
    assert any("samples" in plot.name for plot in paths.plots)  # of NFE 1


def test_no_cells(tmp_path):
    with pytest.raises(LookupError, match="there are no cells in"):
        build_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_currency_follows_every_input_and_output(sweep):
    folder = sweep.cell("ect", 0)
    assert not report_is_current(sweep.out)
    paths = build_report(sweep.out, mlflow=False)
    assert report_is_current(sweep.out, mlflow=False)
    assert not report_is_current(sweep.out)  # the MLflow import is still to be done
    for path in (folder / name for name in ("records.jsonl", "status.json", "run.json", "train.jsonl")):
        content = path.read_text()
        path.write_text(content.replace("0", "1", 1))
        assert not report_is_current(sweep.out, mlflow=False)
        path.write_text(content)
        assert report_is_current(sweep.out, mlflow=False)
    sweep.cell("ict", 0)
    assert not report_is_current(sweep.out, mlflow=False)
    build_report(sweep.out, mlflow=False)
    reference = sweep.out / "digits" / "reference.jsonl"
    reference.write_text(reference.read_text().replace("4.0", "5.0"))
    assert not report_is_current(sweep.out, mlflow=False)
    build_report(sweep.out, mlflow=False)
    paths.plots[0].unlink()
    assert not report_is_current(sweep.out, mlflow=False)


def test_figures_for_papers_are_kept_by_later_reports(sweep):
    sweep.cell("ect", 0)
    (plot, *_) = build_report(sweep.out, mlflow=False, paper=Paper(("svg",), 3.25)).plots
    assert plot.with_suffix(".svg").exists()
    assert (sweep.out / "leaderboard.tex").read_text().count(r"\begin{tabular}") == 2
    sweep.cell("ict", 0)
    plot.with_suffix(".svg").unlink()
    assert not report_is_current(sweep.out, mlflow=False)
    build_report(sweep.out, mlflow=False, only_changed=True)
    assert plot.with_suffix(".svg").exists()
    assert report_is_current(sweep.out, mlflow=False)


def test_another_version_of_the_package_rebuilds(sweep, monkeypatch):
    sweep.cell("ect", 0)
    build_report(sweep.out, mlflow=False)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99.0")
    assert not report_is_current(sweep.out, mlflow=False)


@pytest.mark.parametrize("stamp", ["{", "[]", '{"fingerprint": 1}'])
def test_an_unreadable_stamp_is_no_stamp(sweep, stamp):
    sweep.cell("ect", 0)
    (sweep.out / ".report.json").write_text(stamp)
    assert not report_is_current(sweep.out)


def test_the_check_imports_nothing_heavy(sweep):
    sweep.cell("ect", 0)
    code = (
        "import sys, json; from pathlib import Path; from consistency_bench.reports.build import report_is_current;"
        "report_is_current(Path(sys.argv[1])); print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(sweep.out)], capture_output=True, text=True, check=True)
    heavy = {"pandas", "matplotlib", "seaborn", "scipy", "mlflow", "torch", "numpy", "jinja2"}
    assert not heavy & set(json.loads(result.stdout))


def test_drawing_leaves_no_global_state(sweep):
    import matplotlib
    from matplotlib import pyplot

    sweep.cell("ect", 0)
    before = dict(matplotlib.rcParams)
    build_report(sweep.out, mlflow=False)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_common_settings_are_said_once(sweep):
    for method in ("ict", "ect"):
        for seed in range(2):
            sweep.cell(method, seed, variant="train.batch=8, train.ema.kind=halflife")
    text = built(sweep.out)
    assert " Common to all: train.batch=8, train.ema.kind=halflife.\nHardware" in text
    assert text.count("train.batch=8") == 1
    assert "| variant |" not in text.partition("### Published")[0]
    assert re.search(r"At NFE 1, no configuration is significantly better than all others\. \w+ has the lowest", text)


def test_a_verdict_names_no_long_list_of_rivals(sweep):
    for method in ("ict", "ect", "sct", "vct"):
        sweep.cell(method, 0)
    assert re.search(r"Inconclusive against (sct|ect), (sct|ect), ict: needs 3 common seeds\.", built(sweep.out))
    sweep.cell("ect+ot", 0, level=90.0)
    assert "Inconclusive against every other configuration: needs 3 common seeds." in built(sweep.out)


def test_the_sampling_error_stands_below_its_table(sweep):
    path = sweep.cell("ect", 0) / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["error"] = 0.1234 if (row["nfe"], row["metric"]) == (2, "fd_digits_2k") else None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = built(sweep.out).split("### NFE 2")
    line = "Sampling error (bootstrap or subsets) of one sampling draw: fd_digits_2k ± 0.123 (median over cells)"
    assert "Sampling error" not in first
    assert f"|\n\n{line}. This is a standard error" in second


def test_a_cell_of_several_kinds_of_device_is_named(sweep):
    out = sweep.default().out
    assert "more than one kind of device" not in built(out)
    cell = next(cell for cell in read_cells(out) if cell.records)
    rows = [{**row, "devices": ["NVIDIA H100", "CPU"]} for row in cell.records]
    write_jsonl(cell.run.records_file, rows)
    line = (
        "Computed on more than one kind of device (NVIDIA H100, then CPU), which a rerun does not repeat bit for bit: "
    )
    assert f"{line}{cell.method} s{cell.seed}-{cell.id}." in built(out).replace("\\", "")


def test_a_rival_that_diverged_on_every_seed_is_said_and_does_not_hide_the_winner(sweep):
    for seed in range(3):
        sweep.cell("ect", seed, level=30.0 + seed)
        sweep.cell("ict", seed, level=40.0 + 1.1 * seed)
        sweep.cell("vct", seed, state="diverged")
    text = built(sweep.out)
    assert "At NFE 1, ect is best" in text
    assert "vct diverged on every seed." in text
    assert re.search(r"\| – \| – \| – \| vct v1 \| 0, 3 diverged \| diverged \|", text)


def test_a_mean_over_survivors_is_never_best(sweep):
    for seed in range(4):
        sweep.cell("ect", seed, level=30.0 + seed, state="diverged" if seed == 3 else "done")
        sweep.cell("ict", seed, level=40.0 + 1.1 * seed)
    text = built(sweep.out)
    assert "| 31.0 ± 2.5 (n=3, 1 diverged) |" in text
    assert "**31.0" not in text
    assert (
        "Inconclusive against ict with a difference of +32.6 % (30.8 to 34.4): seeds of the better one diverged."
        in text
    )
    assert "Its mean excludes 1 of its seeds, which diverged." in text


def test_every_number_leads_to_its_records(sweep):
    text = built(sweep.default().out)
    links = re.findall(r"\[\d\]\(([^)]*)\)", text)
    assert len(links) == 12
    for link in links:
        assert (sweep.out / link).is_file()


README = "# Mine\r\n<!-- leaderboard:begin -->\nold\n<!-- leaderboard:end -->\nend, no line after"


def test_the_tables_go_between_the_markers_of_a_document(sweep, tmp_path):
    readme = tmp_path / "docs" / "README.md"
    readme.parent.mkdir()
    readme.write_bytes(README.encode())
    sweep.default()
    build_report(sweep.out, mlflow=False, readme=readme)
    once = readme.read_bytes()
    assert once.startswith(b"# Mine\r\n<!-- leaderboard:begin -->\n\n")
    assert once.endswith(b"\n\n<!-- leaderboard:end -->\nend, no line after")
    assert b"old" not in once
    text = once.decode()
    assert "**Verdict.** So far" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) == 1
    for link in links:
        assert (readme.parent / link).is_file()
    build_report(sweep.out, mlflow=False, readme=readme)
    assert readme.read_bytes() == once


@pytest.mark.parametrize(
    "content",
    [
        "nothing",
        "<!-- leaderboard:begin -->",
        "<!-- leaderboard:end --><!-- leaderboard:begin -->",
        "<!-- leaderboard:begin --><!-- leaderboard:begin --><!-- leaderboard:end -->",
    ],
)
def test_a_document_without_its_markers_is_left_alone(sweep, tmp_path, content):
    readme = tmp_path / "README.md"
    readme.write_text(content)
    sweep.cell("ect", 0)
    with pytest.raises(ValueError, match="must hold the line <!-- leaderboard:begin --> once"):
        build_report(sweep.out, mlflow=False, readme=readme)
    assert readme.read_text() == content
    assert not (sweep.out / "leaderboard.md").exists()


@pytest.mark.slow
def test_a_picture_of_samples_shows_so_many_configurations_at_most(sweep):
    for place in range(MOST_SHOWN + 6):
        sweep.cell("ect", 0, variant=f"train.lr={place}")
    path = next(path for path in build_report(sweep.out, mlflow=False).plots if path.name == "digits-samples.png")
    with Image.open(path) as image:
        per_row = image.width * 8 / (16 * 9)  # rows of 8 pixels, 16 columns of 9
        assert image.height < (2 * MOST_SHOWN + 6) * per_row


@pytest.mark.parametrize(
    ("looked_at", "titles"), [((1, 2), ["NFE 1", "NFE 2"]), ((1,), ["NFE 1"]), ((), ["NFE 1", "NFE 2"])]
)
def test_an_nfe_that_was_looked_at_once_has_no_course(sweep, looked_at, titles):
    folder = sweep.cell("ect", 0, settings={"eval.curve": list(looked_at)})
    path = folder / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [row for row in rows if row["images"] == 1_024_000 or row["nfe"] in looked_at]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    cells = read_cells(sweep.out)
    values = seed_values(cells)
    figure = curves(leaderboard(cells, values, {}), values)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == titles


@pytest.mark.parametrize("scale", [1e99, 1e-300])
def test_values_of_any_size_make_a_report(sweep, scale):
    for seed in range(3):
        for place, method in enumerate(("ect", "vct")):
            sweep.cell(method, seed, level=scale * (1 + place + seed / 10))
            sweep.cell(method, seed, level=scale * (1 + place + seed / 10), benchmark="second")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = built(sweep.out)
    assert "Performance profile" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [("value", 1e101), ("value", 10**200), ("nfe", 0), ("nfe", 10**200), ("images", -1), ("error", 1e200)],
)
def test_numbers_that_no_metric_gives_are_named(sweep, key, value):
    path = sweep.cell("ect", 0) / "records.jsonl"
    row, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(row) | {key: value}), *rest]) + "\n")
    with pytest.raises(DamagedError, match=rf"records.jsonl: row 1 .*{key}"):
        build_report(sweep.out, mlflow=False)


def test_a_report_is_not_written_through_a_link(sweep, tmp_path):
    sweep.cell("ect", 0)
    (tmp_path / "elsewhere").mkdir()
    (sweep.out / "plots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="plots is a link"):
        build_report(sweep.out, mlflow=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []
