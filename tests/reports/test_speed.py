"""`bench speed report`: cells that nobody trained, what is measured of their report, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli import speed_report as command
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports import speed
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.speed import Build
from consistency_bench.reports.synthetic import Size, write_cells

from ..conftest import require

SMALL = Size(variants=2, seeds=2)
QUICK = Build(seconds=12.0, cpu=11.0, peak=600_000_000, page=9_000_000)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Build]:
    """A small report, built in a process of its own."""
    out = tmp_path_factory.mktemp("synthetic")
    write_cells(out, SMALL)
    return out, speed.build(out, mlflow=True)


def test_the_default_size_is_that_of_the_goal():
    assert (Size().cells, Size().rows) == (1000, 40)


def test_cells_are_as_many_as_said_and_the_same_every_time(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        write_cells(folder, SMALL)
    cells = read_cells(folders[0])
    assert len(cells) == SMALL.cells == 16
    assert {len(cell.files.records) for cell in cells} == {SMALL.rows}
    files = [path for path in folders[0].rglob("*") if path.is_file()]
    assert len(files) > 16
    for path in files:
        assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes()


def test_a_report_is_measured_in_a_process_of_its_own(measured):
    out, built = measured
    assert (out / "leaderboard.md").is_file()
    assert (out / "mlflow.db").is_file()
    assert list((out / "ablations").glob("synthetic-*.md"))
    assert built.page == (out / "report.html").stat().st_size
    assert built.seconds > 0
    assert built.cpu > 0
    assert 50e6 < built.peak < 4e9  # bytes, whatever unit the system counts in


@pytest.mark.parametrize("measure", [speed.build, speed.memory_together])
def test_a_report_that_fails_is_no_figure(measure, tmp_path, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        measure(tmp_path, mlflow=False)
    assert "there are no cells" in capfd.readouterr().err


def test_memory_is_that_of_all_processes(monkeypatch, tmp_path):
    hold = "import os, time; held = bytearray({size}); {then}"
    alone, forks = (
        hold.format(size=size, then=then)
        for size, then in (
            (300_000_000, "time.sleep(1)"),
            (50_000_000, ("child = os.fork(); more = bytearray(300_000_000); time.sleep(1); child and os.wait()")),
        )
    )
    for script, low, high in ((alone, 300e6, 400e6), (forks, 650e6, 750e6)):
        monkeypatch.setattr(speed, "_command", lambda *_, script=script: [sys.executable, "-c", script])
        together = speed.memory_together(tmp_path, mlflow=False)
        assert together is not None
        assert low < together < high  # what was there before the fork counts once


def test_the_page_is_opened_by_a_browser(measured):
    program = speed.browser()
    require(program is not None, "Chromium", "apt-get install chromium")
    assert program is not None
    assert speed.load_seconds(measured[0] / "report.html", program) > 0


def test_a_browser_that_opens_nothing_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="echo has not opened the page"):
        speed.load_seconds(tmp_path / "report.html", "echo")


def test_figures_are_held_against_their_bounds():
    twice = {"new": QUICK, "again": QUICK}
    assert [figure.met for figure in command.wanted(twice, 900_000_000, [5.0, 1.0, 1.5])] == [True] * 3
    slow = Build(seconds=31.0, cpu=31.0, peak=1_600_000_000, page=1)
    assert [figure.met for figure in command.wanted({"new": QUICK, "again": slow}, None, [2.5])] == [False] * 3
    assert [figure.met for figure in command.wanted(twice, 1_600_000_000, [])] == [True, False]
    assert len(command.wanted({"new": QUICK}, None, [])) == 2


def test_what_was_not_measured_is_said():
    assert "not measured" in command.load_line(1, [])
    assert "not measured" in command.memory_line(None)
    assert command.memory_line(760_000_000).startswith("memory    0.76 GB at most")
    assert command.load_line(9_600_000, [0.5, 0.25]).startswith("page      9.6 MB; 0.50, 0.25 s to the load event")


@pytest.mark.parametrize("seeds", [1, 101])
def test_impossible_sizes_are_refused(seeds):
    with pytest.raises(UsageError, match=f"--seeds is {seeds}, must be from 2 to 100"):
        command.report(seeds)
