"""`results.csv`: the numbers of the leaderboard, and text that no spreadsheet works out."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.tables import Board, leaderboard, seed_values
from consistency_bench.reports.build import build_report
from consistency_bench.reports.pages.spreadsheet import COLUMNS, _field, results_csv

from ..conftest import Sweep


def board_of(out: Path) -> Board:
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), {})


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_row_and_metric_is_a_line_with_the_numbers_of_the_board(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for method in ("ect", "vct"):
        for seed in range(3):
            sweep.cell(method, seed)
    sweep.cell("sct", 0)
    sweep.cell("sct", 1, state="diverged")
    board = board_of(tmp_path)
    lines = read(results_csv([board]))
    assert len(lines) == len(board.rows) * len(board.metrics)
    assert tuple(lines[0]) == COLUMNS
    found = {(line["method"], int(line["nfe"]), line["metric"]): line for line in lines}
    for row in board.rows:
        for metric in board.metrics:
            line, score = found[row.entry.method, row.nfe, metric], row.scores[metric]
            assert float(line["mean"]) == score.mean
            assert int(line["seeds"]) == score.n
            assert (line["low"] == "") == (score.low is None)
            if score.low is not None:
                assert float(line["low"]) == score.low
    contest = board.contests[1, "fd_digits_2k"]
    assert contest.leader == "vct"
    assert {line["behind_unit"] for line in lines if line["metric"] == "fd_digits_2k"} == {"%"}
    logs = [sum(map(math.log, contest.family.values[label].values())) / 3 for label in ("ect", "vct")]
    assert float(found["ect", 1, "fd_digits_2k"]["behind"]) == pytest.approx(100 * math.expm1(logs[0] - logs[1]))
    behind = float(found["ect", 1, "kd_digits_2k"]["behind"])
    assert behind == pytest.approx(
        float(found["ect", 1, "kd_digits_2k"]["mean"]) - float(found["vct", 1, "kd_digits_2k"]["mean"])
    )
    assert found["sct", 1, "fd_digits_2k"]["diverged"] == "1"
    assert found["vct", 1, "fd_digits_2k"]["behind"] == "0.0"
    # A metric where more is better: what is behind is behind by a positive number, too.
    classes = [float(line["behind"]) for line in lines if line["metric"] == "classes_digits_2k" and line["behind"]]
    assert min(classes) == 0 <= max(classes)


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)", "＝1", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "\n +1", "  =1"]
)
def test_text_that_would_be_a_formula_is_text(text: str) -> None:
    assert _field(text) == "'" + text.strip()


@pytest.mark.parametrize(("text", "field"), [("a;=1", "a;'=1"), ("a, -1", "a, '-1"), ("fd\r=1+1", "fd =1+1")])
def test_nor_where_another_character_parts_fields(text: str, field: str) -> None:
    assert _field(text) == field


@pytest.mark.parametrize(
    ("value", "field"), [(-1.5, -1.5), (0.1, 0.1), (None, ""), (math.nan, ""), (3, 3), ("ect+ot", "ect+ot")]
)
def test_numbers_and_names_stay_as_they_are(value: object, field: object) -> None:
    assert _field(value) == field


def test_no_field_of_a_hostile_folder_begins_a_formula(tmp_path: Path) -> None:
    harm = '=HYPERLINK("http://x","y")'
    for seed in range(2):
        Sweep(tmp_path).cell("ect", seed, metrics=(harm, "+cmd"), level=1.0)
        Sweep(tmp_path).cell("ect", seed, metrics=(harm, "+cmd"), level=1.0, variant="-2+3=1, " + harm)
    build_report(tmp_path, mlflow=False)
    text = (tmp_path / "results.csv").read_text(encoding="utf-8")
    lines = read(text)
    assert {line["metric"] for line in lines} == {"'" + harm, "'+cmd"}
    for line in lines:
        for name, field in line.items():
            assert not field.startswith(("=", "+", "@")), name
            assert not field.startswith("-") or float(field) < 0, name


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for seed in range(2):
        Sweep(tmp_path).cell("ect", seed)
    assert results_csv([board_of(tmp_path)]) == results_csv([board_of(tmp_path)])
