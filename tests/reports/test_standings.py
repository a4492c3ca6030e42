"""The end of a command: the ranking of the leaderboard and its verdict in a terminal of any width."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli import outcome
from consistency_bench.benchmarks.cli.outcome import print_outcome, print_standing
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.build import STAMP, build_report, read_standings, report_is_current
from consistency_bench.reports.standings import Standing

from .conftest import Sweep


def said(out: Path, capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    """The lines that are printed of the report in `out`."""
    capsys.readouterr()
    print_outcome(out, **options)  # type: ignore[arg-type]
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_terminal_says_what_the_page_says(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.default()
    build_report(sweep.out, mlflow=False)
    page = (sweep.out / "leaderboard.md").read_text(encoding="utf-8")
    lines = said(sweep.out, capsys)
    assert lines[:2] == ["", "digits, fd_digits_2k at NFE 1"]
    assert lines[-2:] == [f"page: {sweep.out}/report.html", f"leaderboard: {sweep.out}/leaderboard.md"]
    assert all(len(line) <= 80 for line in lines[:-2])
    (standing,) = read_standings(sweep.out)
    table = page[page.index("\n| rank ") + 1 :].partition("\n\n")[0]
    rows = [line for line in lines if re.match(r" +\d  ", line)]
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    for row, written in zip(standing.rows, table.splitlines()[2:], strict=True):
        value = row[standing.header.index("fd_digits_2k ↓")]
        assert value in written.replace("*", "")
        assert any(value in line for line in rows)
    assert standing.verdict in " ".join(lines)
    assert standing.verdict in page


def test_many_configurations_show_the_top_and_count_the_rest(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in range(12):
        key = f"method.coupling.kl_weight={value}, method.coupling.encoder_variance=fixed:0.0{value}"
        for seed in range(2):
            sweep.cell("vct", seed, variant=key, level=20.0 + value + 0.1 * seed)
    cells = read_cells(sweep.out)
    standing = Standing.of(leaderboard(cells, seed_values(cells), {}))
    print_standing(standing, Path("runs/leaderboard.md"))
    narrow = capsys.readouterr().out
    assert "… 2 more rows in runs/leaderboard.md" in narrow.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in narrow.splitlines())
    for value in range(10):  # no setting is cut in two
        assert re.search(rf"kl_weight={value}\b", narrow)
        assert re.search(rf"encoder_variance=fixed:0\.0{value}\b", narrow)
    assert "difference to the best" not in narrow
    monkeypatch.setattr(outcome, "PLAIN_WIDTH", 160)
    print_standing(standing, Path("runs/leaderboard.md"))
    assert "difference to the best" in capsys.readouterr().out


def test_only_rankings_of_the_given_cells_are_shown(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    identity = sweep.cell("ect", 0).name.split("-")[1]
    build_report(sweep.out, mlflow=False)
    assert "digits, fd_digits_2k at NFE 1" in said(sweep.out, capsys, cells=[identity, "another"])
    assert len(said(sweep.out, capsys, cells=["another"])) == 2  # the paths


def test_a_stamp_of_another_kind_is_none(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.cell("ect", 0)
    build_report(sweep.out, mlflow=False)
    stamp = json.loads((sweep.out / STAMP).read_text())
    for standings in (None, 3, [{}], [{"title": "x", "rows": [[1]]}]):
        (sweep.out / STAMP).write_text(json.dumps({**stamp, "standings": standings}))
        assert len(said(sweep.out, capsys)) == 2
        assert report_is_current(sweep.out, mlflow=False) == isinstance(standings, list)
    (sweep.out / STAMP).write_text(json.dumps(stamp).replace("ect", "e\\u001b[2Jct"))
    assert len(said(sweep.out, capsys)) > 2
    assert "\x1b" not in "".join(said(sweep.out, capsys))
