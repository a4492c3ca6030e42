"""`bench speed report`: how long the report of a thousand cells takes, and how soon its page is there."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..common.errors import UsageError
from .speed import Wanted, wanted_lines

if TYPE_CHECKING:
    from ...reports.speed import Build

SECONDS, MEMORY, LOAD = 30, 1.5e9, 2.0
OPENED = 3  # times
FIRST = "all cells are new to MLflow"
#: What is built, one after the other -> whether with the import into MLflow's file.
BUILDS = {FIRST: True, "again, nothing has changed": True, "again, without MLflow": False}
LEAST_SEEDS, MOST_SEEDS = 2, 100


def report(seeds: int = 25) -> int:
    """Make 40 × `seeds` cells of 40 rows in a temporary folder, measure, print. Exit status 0, whatever is found.

    Raises UsageError for an impossible number of seeds, and where the report or the browser fails.
    """
    if not LEAST_SEEDS <= seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds is {seeds}, must be from {LEAST_SEEDS} to {MOST_SEEDS}")
    from ...reports import speed
    from ...reports.synthetic import Size

    size = Size(seeds=seeds)
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        out = Path(folder)
        spent = speed.make_cells(out, size)
        print(f"cells     {size.cells:,} × {size.rows} rows, made up in {spent:.0f} s", flush=True)
        try:
            built = {}
            for about, mlflow in BUILDS.items():
                built[about] = speed.build(out, mlflow=mlflow)
                print(build_line(about, built[about]), flush=True)
            together = speed.memory_together(out, mlflow=True)
            print(memory_line(together), flush=True)
            program = speed.browser()
            loads = [speed.load_seconds(out / "report.html", program) for _ in range(OPENED)] if program else []
        except (subprocess.SubprocessError, RuntimeError) as error:
            raise UsageError(f"nothing to measure: {error}") from None
    print(load_line(built[FIRST].page, loads), "", *wanted_lines(wanted(built, together, loads)), sep="\n", flush=True)
    return 0


def build_line(about: str, built: Build) -> str:
    """What was measured of one `bench report`."""
    spent = f"{built.seconds:.1f} s of the clock, {built.cpu:.1f} s of a core"
    return f"report    {spent}, {built.peak / 1e9:.2f} GB in its largest process; {about}"


def memory_line(together: int | None) -> str:
    """What was measured of all processes of a report."""
    if together is None:
        return "memory    of all processes together was not measured: this system has no /proc/PID/smaps_rollup"
    return f"memory    {together / 1e9:.2f} GB at most, of all processes together; built once more, not timed"


def load_line(page: int, loads: list[float]) -> str:
    """What was measured of the page, `page` bytes long."""
    size = f"page      {page / 1e6:.1f} MB"
    if not loads:
        return f"{size}; opening it was not measured: there is no Chromium here (apt-get install chromium)"
    times = ", ".join(f"{seconds:.2f}" for seconds in loads)
    return f"{size}; {times} s to the load event in headless Chromium, from disk, 1400 × 900"


def wanted(built: Mapping[str, Build], together: int | None, loads: list[float]) -> list[Wanted]:
    """The figures that have a bound: it holds for every way of building."""
    seconds = max(one.seconds for one in built.values())
    peak = max(together or 0, *(one.peak for one in built.values()))
    found = [
        Wanted("bench report", f"{seconds:.1f} s", f"< {SECONDS} s", seconds < SECONDS),
        Wanted("its memory", f"{peak / 1e9:.2f} GB", f"< {MEMORY / 1e9:g} GB", peak < MEMORY),
    ]
    if loads:
        load = median(loads)
        found.append(Wanted("page opens", f"{load:.2f} s", f"< {LOAD:g} s", load < LOAD))
    return found
