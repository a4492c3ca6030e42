"""Pictures that helper processes draw: the same bytes, errors that arrive, and nothing that stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from consistency_bench.reports import build
from consistency_bench.reports.painting import helped, save_figure

from .conftest import Sweep

LOOK = {"font.size": 9}


def figure() -> Figure:
    found = Figure(figsize=(2, 2))
    found.subplots().plot([1, 2, 3], label="a")
    return found


def impossible() -> Figure:
    """Fails when it is drawn, not before: there are no names of ticks."""
    found = figure()
    found.axes[0].xaxis.set_major_formatter(FuncFormatter(getattr))
    return found


def children() -> set[int]:
    """Of this process, dead ones too."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def test_a_report_has_the_same_bytes_whoever_draws_its_pictures(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.default()
    for level in (1.0, 3.0):
        for seed in range(2):
            variant = f"method.coupling.kl_weight={level:g}"
            sweep.cell("vct", seed, variant=variant, settings={"method.coupling.kl_weight": level})
    build.build_report(sweep.out, mlflow=False)
    files = [path for path in sweep.out.rglob("*") if path.is_file()]
    drawn = [path for path in files if path.suffix == ".png"]
    assert len(drawn) > 6
    before = {path: path.read_bytes() for path in files}
    for path in drawn:
        path.unlink()
    given: list[int] = []
    monkeypatch.setattr(build, "LARGE", 1)
    monkeypatch.setattr("consistency_bench.slurm.launch.available_cores", lambda: given.append(1) or 2)
    build.build_report(sweep.out, mlflow=False)
    assert given == [1]
    assert {path: path.read_bytes() for path in sweep.out.rglob("*") if path.is_file()} == before


def test_helpers_write_all_and_are_gone(tmp_path: Path) -> None:
    there = children()
    with helped(2):
        for number in range(5):
            save_figure(figure(), tmp_path / f"{number}.png", LOOK)
        assert len(children() - there) in (1, 2)
    assert children() == there
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.png" for number in range(5)]
    save_figure(figure(), tmp_path / "here.png", LOOK)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {(tmp_path / "here.png").read_bytes()}


def draw(*wanted: tuple[Figure, Path]) -> None:
    with helped(1):
        for one, path in wanted:
            save_figure(one, path, LOOK)


def test_what_goes_wrong_is_raised_and_nothing_half_written(tmp_path: Path) -> None:
    there = children()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileExistsError, match="file"):
        draw((figure(), tmp_path / "file" / "a.png"))
    with pytest.raises(TypeError, match="attribute name must be string"):
        draw((impossible(), tmp_path / "b.png"), (figure(), tmp_path / "c.png"))

    def fail() -> None:
        with helped(1):
            save_figure(figure(), tmp_path / "d.png", LOOK)
            raise KeyError("meanwhile")

    with pytest.raises(KeyError, match="meanwhile"):
        fail()
    assert children() == there
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "c.png", "d.png"}


def test_a_helper_that_dies_is_named(tmp_path: Path) -> None:
    there = children()

    def kill() -> None:
        with helped(1):
            save_figure(figure(), tmp_path / "a.png", LOOK)
            while not (tmp_path / "a.png").exists():
                time.sleep(0.01)
            (helper,) = children() - there
            os.kill(helper, signal.SIGKILL)
            save_figure(figure(), tmp_path / "b.png", LOOK)

    with pytest.raises(ChildProcessError, match="a process that draws pictures ended with status -9"):
        kill()
    assert children() == there
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


HELPED = """
import sys, time
from pathlib import Path
from matplotlib.figure import Figure
from consistency_bench.reports.painting import helped, save_figure
with helped(2):
    for number in range(2):
        save_figure(Figure(figsize=(1, 1)), Path(sys.argv[1]) / f"{number}.png", {})
    print("drawing", flush=True)
    time.sleep(600)
"""


def test_helpers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HELPED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "drawing\n"
    while len(list(tmp_path.glob("[01].png"))) < 2:
        time.sleep(0.05)
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    helpers = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    assert len(helpers) == 2
    process.kill()
    process.communicate()
    for helper in helpers:
        while Path(f"/proc/{helper}").exists() and "(zombie)" not in Path(f"/proc/{helper}/status").read_text():
            time.sleep(0.05)
