"""Pictures that copies of the process draw: the same bytes, errors that arrive, and nothing that stays behind.

Copies are made by a process of one thread alone, which a test is not: what makes them runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import seaborn
from matplotlib.figure import Figure

from consistency_bench.reports import build
from consistency_bench.reports.plots.painting import beside, save_figure
from consistency_bench.reports.plots.style import save_figures

from ..conftest import Sweep

BEGIN = """
import os, signal, sys, threading, time
from pathlib import Path
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from consistency_bench.reports import build, painting
from consistency_bench.reports.plots.painting import beside, save_figure

def figure(panels=1):
    found = Figure(figsize=(2 * panels, 2 * panels), layout="constrained")
    for axes in found.subplots(panels, panels, squeeze=False).flat:
        axes.plot([1, 2, 3], label="a")
    return found

made = []
fork = os.fork

def counted():
    if process := fork():
        made.append(process)
    return process

os.fork = counted
out = Path(sys.argv[1])
"""
#: Nothing is left that could be waited for.
END = """
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("made", len(made))
"""


def start(out: Path, script: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(script) + END, str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(out: Path, script: str) -> str:
    """What it prints; nothing is said on the standard error."""
    said, errors = start(out, script).communicate(timeout=300)
    assert errors == ""
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_report_has_the_same_bytes_whoever_draws_its_pictures(sweep: Sweep) -> None:
    sweep.default()
    for level in (1.0, 3.0):
        for seed in range(2):
            variant = f"method.coupling.kl_weight={level:g}"
            sweep.cell("vct", seed, variant=variant, settings={"method.coupling.kl_weight": level})
    build.build_report(sweep.out, mlflow=False)
    before = {path: path.read_bytes() for path in sweep.out.rglob("*") if path.is_file()}
    drawn = [path for path in before if path.suffix == ".png"]
    assert len(drawn) > 6
    for path in drawn:
        path.unlink()
    said = run(
        sweep.out,
        """
        from consistency_bench.benchmarks import machine
        build.LARGE, machine.available_cores = 1, lambda: 2
        build.build_report(out, mlflow=False)
        """,
    )
    assert said == f"made {len(drawn)}\n"
    assert {path: path.read_bytes() for path in sweep.out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("cores", "configurations", "expected"), [(2, 12, 2), (8, 40, 2), (1, 40, 0), (8, 11, 0)])
def test_copies_are_for_many_configurations_on_several_cores(
    cores: int, configurations: int, expected: int, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in range(configurations):
        sweep.cell("vct", 0, variant=f"network.width={width}", settings={"network.width": width})
    asked: list[int] = []
    monkeypatch.setattr("consistency_bench.benchmarks.common.system.available_cores", lambda: cores)
    monkeypatch.setattr(
        "consistency_bench.reports.plots.painting.beside", lambda count: asked.append(count) or beside(0)
    )
    monkeypatch.setattr("consistency_bench.reports.plots.painting.save_figure", lambda *_: None)
    monkeypatch.setattr("consistency_bench.reports.plots.style.save_figure", lambda figure, path: path.write_bytes(b""))
    (sweep.out / "plots").mkdir(parents=True)
    build.build_report(sweep.out, mlflow=False)
    assert asked == [expected]


def test_so_many_at_a_time_write_all_and_are_gone(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        with beside(2):
            for number in range(5):
                save_figure(figure(), out / f"{number}.png")
                running = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                assert running and len(running) <= 2, running
        save_figure(figure(), out / "here.png")
        """,
    )
    assert said == "made 5\n"
    assert names(tmp_path) == [*(f"{number}.png" for number in range(5)), "here.png"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {(tmp_path / "here.png").read_bytes()}


def test_what_a_copy_cannot_do_is_done_by_its_maker(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        with beside(1):
            save_figure(figure(4), out / "a.png")
            os.kill(made[-1], signal.SIGKILL)
            save_figure(figure(4), out / "b.png")
        """,
    )
    assert said == "made 2\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_copy_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        maker, written = os.getpid(), Figure.savefig

        def killed(self, path, **options):
            written(self, path, **options)
            if os.getpid() != maker:
                print("killed", len(list(out.iterdir())), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        Figure.savefig = killed
        with beside(1):
            save_figure(figure(), out / "a.png")
        """,
    )
    assert said == "killed 1\nmade 1\n"
    assert names(tmp_path) == ["a.png"]


def test_without_processes_or_their_ends_pictures_are_drawn_here(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        def refused():
            raise BlockingIOError(11, "Resource temporarily unavailable")

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with beside(1):
            save_figure(figure(), out / "a.png")
            os.fork = refused
            save_figure(figure(), out / "b.png")
        """,
    )
    assert said == "made 1\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


WRONG = {
    "FileExistsError": """
        (out / "file").write_text("no folder")
        save_figure(figure(), out / "file" / "a.png")
        """,
    "TypeError": """
        impossible = figure()  # to draw, not to make: there are no names of ticks
        impossible.axes[0].xaxis.set_major_formatter(FuncFormatter(getattr))
        save_figure(impossible, out / "a.png")
        """,
    "KeyError": """
        save_figure(figure(4), out / "b.png")
        raise KeyError("meanwhile")
        """,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_raised_once_and_nothing_is_half_written(name: str, tmp_path: Path) -> None:
    wrong = textwrap.indent(textwrap.dedent(WRONG[name]), "        ")
    said = run(tmp_path, f"try:\n    with beside(1):{wrong}\nexcept {name} as error:\n    print(type(error).__name__)")
    assert said == f"{name}\nmade 1\n"
    assert set(names(tmp_path)) <= {"file", "b.png"}


def test_a_process_that_is_killed_leaves_whole_pictures_alone(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        large = figure(4)
        with beside(2):
            for number in range(100):
                save_figure(large, out / f"{number}.png")
                print(number, flush=True)
        """,
    )
    assert process.stdout
    assert [process.stdout.readline() for _ in range(4)] == [f"{number}\n" for number in range(4)]
    process.kill()
    _, errors = process.communicate(timeout=300)  # until its copies have closed it, too
    assert errors == ""
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert 2 <= len(files) < 100
    assert len(set(files)) == 1
    assert all(name.endswith(".png") for name in names(tmp_path))


def test_copies_of_a_process_that_is_gone_write_nothing_over_a_later_report(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        with beside(2):
            for number in range(2):
                save_figure(figure(4), out / f"{number}.png")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert process.communicate(timeout=300) == ("", "")  # until its copies have closed them, too
    assert names(tmp_path) == []


def test_a_process_of_several_threads_draws_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    monkeypatch.delattr(os, "fork")
    other.start()
    try:
        with beside(2):
            save_figure(Figure(figsize=(1, 1)), tmp_path / "a.png")
            assert names(tmp_path) == ["a.png"]
    finally:
        over.set()
        other.join()


def crowded(layout: str | None) -> Figure:
    found = Figure(figsize=(4, 3), layout=layout)
    left, right = found.subplots(1, 2)
    left.semilogy([1, 20, 300], label="a long name")
    left.set_title("a title that is wider than its panel")
    found.colorbar(right.imshow(np.arange(12.0).reshape(3, 4)), ax=right)
    found.legend(loc="outside lower center") if layout == "constrained" else left.legend()
    return found


@pytest.mark.parametrize("layout", ["constrained", "tight", None])
def test_a_picture_is_the_one_that_matplotlib_cuts_by_itself(layout: str | None, tmp_path: Path) -> None:
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), "font.size": 9}):
        save_figure(crowded(layout), tmp_path / "a.png")
        crowded(layout).savefig(tmp_path / "b.png", dpi=150, metadata={"Software": None}, bbox_inches="tight")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("setting", ["figure.autolayout", "figure.constrained_layout.use"])
def test_pictures_do_not_depend_on_a_users_layout(setting: str, tmp_path: Path) -> None:
    usual = save_figures({"a": lambda: crowded("constrained")}, tmp_path, "usual")["a"]
    with matplotlib.rc_context({setting: True}):
        own = save_figures({"a": lambda: crowded("constrained")}, tmp_path, "own")["a"]
    assert own.read_bytes() == usual.read_bytes()
