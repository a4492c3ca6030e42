"""Results as tables: every number of the leaderboard, for any selection of rows."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd
import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.frame_leaderboard import leaderboard
from consistency_bench.reports.analysis.frames import load_results
from consistency_bench.reports.analysis.rivals import rivals
from consistency_bench.reports.analysis.tables import leaderboard as board_of
from consistency_bench.reports.analysis.tables import seed_values

from ..conftest import Sweep

KEY = "method.coupling.kl_weight"


@pytest.fixture
def mixed(sweep: Sweep) -> Path:
    """Cells in all states, with two sampling seeds, a swept key, and a metric that one configuration alone has."""
    for seed in range(4):
        sweep.cell("ect", seed, draws=2)
        sweep.cell("sct", seed, level=60 + seed, draws=2)
        sweep.cell("vct", seed, level=20 + seed / 10, variant=f"{KEY}=9", settings={KEY: 9})
    sweep.cell("vct", 0, metrics=("fd_digits_2k", "kd_digits_2k", "classes_digits_2k", "recall_digits_500"))
    sweep.cell("vct", 1, state="diverged")
    sweep.cell("ict", 0, state="running")
    sweep.cell("ict", 1, state="failed")
    sweep.cell("ict+ot", 0, state="diverged")
    return sweep.out


def equal(first: object, second: object) -> bool:
    missing = [value is None or value != value for value in (first, second)]
    return all(missing) or first == second


def test_the_leaderboard_of_a_table_is_that_of_the_report(mixed: Path) -> None:
    cells = read_cells(mixed)
    board = board_of(cells, seed_values(cells), {})
    results = load_results(mixed)
    for table in (leaderboard(results), leaderboard(load_results(mixed, "all"))):
        lines = {(line["label"], line["nfe"], line["metric"]): line for line in table.to_dict("records")}
        for row in board.rows:
            for metric, score in row.scores.items():
                line = lines.pop((row.entry.label, row.nfe, metric), None)
                if line is None:  # what no cell of the configuration was asked for
                    assert (score.n, score.lost, metric) == (0, 0, "recall_digits_500")
                    continue
                assert (line["seeds"], line["draws"]) == (score.n, row.spreads[metric].draws[1])
                for name, value in (("mean", score.mean), ("low", score.low), ("high", score.high)):
                    assert equal(line[name], value)
                assert [line[kind] for kind in ("diverged", "failed", "unfinished")] == [
                    row.entry.seeds.get(kind, 0) for kind in ("diverged", "failed", "unfinished")
                ]
                rank, rival = row.ranks[metric], rivals(board.contests[row.nfe, metric]).get(row.entry.label)
                assert all(
                    map(
                        equal,
                        (line[name] if pd.notna(line[name]) else None for name in ("rank", "rank_low", "rank_high")),
                        (rank.place, rank.low, rank.high),
                    )
                )
                if rival is not None:
                    verdict = "worse" if rival.worse else "inconclusive"
                    assert (line["verdict"], equal(line["difference"], rival.mean)) == (verdict, True)
                    assert equal(line["difference_low"], rival.low)
                assert (line["verdict"] == "best") == (metric in row.best)
        assert not lines
    assert "worse" in set(leaderboard(results)["verdict"])


def test_a_row_is_a_cell_a_step_count_a_metric_and_a_sampling_seed(mixed: Path) -> None:
    results = load_results(mixed)
    found = results[results["draw"].notna()]
    assert set(found["state"]) == {"finished"}
    assert found.groupby(["cell", "nfe", "metric"]).size().max() == 2
    assert (found["images"] == found["budget"]).all()
    assert not found.duplicated(["cell", "nfe", "metric", "draw"]).any()
    without = results[results["draw"].isna()]
    assert without["value"].isna().all()
    assert set(without["state"]) == {"diverged", "failed", "unfinished"}
    assert results[results["label"].str.contains("kl_weight")][KEY].unique().tolist() == [9]
    curves = load_results(mixed / "digits" / "ect", "all")
    assert curves.groupby("cell")["images"].nunique().unique().tolist() == [8]
    (tflop,) = curves["tflop"].div(curves["images"].astype(float)).round(12).unique()
    assert tflop > 0


def test_the_cost_of_a_pretraining_is_in_columns_of_its_own(sweep: Sweep) -> None:
    start = {"cell": "digits/edm/s0-x", "id": "x", "method": "edm", "images": 512_000}
    known = {"pretraining_images": 512_000, "pretraining_flops": 1e12}
    sweep.cell("ect", 0)
    sweep.cell("vct", 0, variant="train.init=edm", settings={"train.init": "edm", "cell.start": start}, compute=known)
    unknown = {"pretraining_images": None, "pretraining_flops": None}
    sweep.cell("sct", 0, variant="train.init=a", settings={"train.init": "a"}, compute=unknown)
    results = load_results(sweep.out, "all").groupby("label")
    more = (results["images_total"].first() - results["images"].first()).to_dict()
    work = (results["tflop_total"].first() - results["tflop"].first()).to_dict()
    tuned = "vct tuned from edm, 512,000 images"
    assert (more["ect"], more[tuned]) == (0, 512_000)
    assert pd.isna(more["sct train.init=a"])
    assert (work["ect"], work[tuned]) == (0, pytest.approx(1))
    assert pd.isna(work["sct train.init=a"])


def test_against_a_baseline_only_the_pairs_with_it_are_corrected_for(mixed: Path) -> None:
    results = load_results(mixed).query("nfe == 1 and metric == 'fd_digits_2k'")
    best, named = (leaderboard(results, baseline).set_index("label") for baseline in (None, "ect"))
    assert pd.isna(named.loc["ect", "difference"])
    vct = next(label for label in named.index if "kl_weight" in label)
    assert named.loc[vct, "verdict"] == "better"
    assert named.loc[vct, "difference"] == pytest.approx(100 / (1 + best.loc["ect", "difference"] / 100) - 100)
    assert named.loc["sct", "verdict"] == "worse"
    # Two tests instead of three.
    all_pairs, few = (
        table.loc["sct", "difference_high"] - table.loc["sct", "difference_low"]
        for table in (best, leaderboard(results, vct).set_index("label"))
    )
    assert few < all_pairs
    with pytest.raises(UsageError, match=r"unknown baseline 'etc'. Did you mean: ect\?"):
        leaderboard(results, "etc")
    with pytest.raises(UsageError, match="has two cells of seed 0"):
        leaderboard(pd.concat([results, results]))


def test_a_selection_and_a_file_give_the_same(mixed: Path, tmp_path: Path) -> None:
    results = load_results(mixed).query("seed < 2")
    results.to_csv(tmp_path / "results.csv", index=False)
    assert leaderboard(results)["seeds"].max() == 2
    again = leaderboard(pd.read_csv(tmp_path / "results.csv"))
    assert again["mean"].tolist() == pytest.approx(leaderboard(results)["mean"].tolist(), nan_ok=True)


def test_damaged_cells_are_left_out_and_named(mixed: Path) -> None:
    whole = load_results(mixed)
    file = next(mixed.glob("digits/ect/s0-*/records.jsonl"))
    file.write_text(file.read_text()[:-20])
    with pytest.warns(UserWarning, match=re.escape(str(file))):
        rest = load_results(mixed)
    assert set(whole["cell"]) - set(rest["cell"]) == {file.parent.name.partition("-")[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UsageError, match="no cells without damage"):
            load_results(file.parent)
    with pytest.raises(UsageError, match="there are no cells in"):
        load_results(mixed / "nowhere")
