"""Pictures that helper processes draw: the same bytes, errors that arrive, and nothing that stays behind."""

from __future__ import annotations

import contextlib
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


def children(process: int | str = "self") -> set[int]:
    """Of a process, dead ones too that it has not waited for."""
    found = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def is_alive(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


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
    monkeypatch.setattr("consistency_bench.benchmarks.machine.available_cores", lambda: given.append(1) or 2)
    build.build_report(sweep.out, mlflow=False)
    assert given == [1, 1]
    assert {path: path.read_bytes() for path in sweep.out.rglob("*") if path.is_file()} == before


def test_helpers_write_all_and_are_gone(tmp_path: Path) -> None:
    there = children()
    with helped(2):
        for number in range(5):
            save_figure(figure(), tmp_path / f"{number}.png", LOOK)
        while not children() - there:
            time.sleep(0.01)
    assert children() <= there
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
    with pytest.raises(TypeError, match="attribute name must be string") as raised:
        draw((impossible(), tmp_path / "b.png"), (figure(), tmp_path / "c.png"))
    (note,) = raised.value.__notes__
    assert note.startswith(f"while drawing {tmp_path / 'b.png'}:\nTraceback")

    def fail() -> None:
        with helped(1):
            save_figure(figure(), tmp_path / "d.png", LOOK)
            raise KeyError("meanwhile")

    with pytest.raises(KeyError, match="meanwhile"):
        fail()
    assert children() <= there
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

    with pytest.raises(ChildProcessError) as raised:
        kill()
    # What `bench` makes a sentence of.
    assert raised.value.strerror == "the process that was to draw it ended with status -9"
    assert Path(raised.value.filename).parent == tmp_path
    assert children() <= there
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


HELPED = """
import sys, time
from pathlib import Path
from matplotlib.figure import Figure
from consistency_bench.reports.painting import helped, save_figure
figure = Figure(figsize=(10, 10))
for axes in figure.subplots(10, 10).flat:
    axes.plot(range(1000))  # a second of drawing, and more than a pipe holds
with helped(2):
    print("drawing", flush=True)
    for number in range(100):
        save_figure(figure, Path(sys.argv[1]) / f"{number}.png", {})
"""


@pytest.mark.parametrize("wait", ["their start", "a picture"])
def test_helpers_end_quietly_with_a_process_that_is_killed(tmp_path: Path, wait: str) -> None:
    command = [sys.executable, "-c", HELPED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "drawing\n"
        while len(helpers := children(process.pid)) < 2 or (wait == "a picture" and not any(tmp_path.glob("*.png"))):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
    said = process.communicate()  # until the helpers have closed it, too
    assert said == ("", "")
    while any(map(is_alive, helpers)):
        time.sleep(0.01)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".png"]
