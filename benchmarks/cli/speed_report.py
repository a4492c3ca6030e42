"""`bench speed report`: how long the report of a thousand cells takes, and how soon its page is there."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..errors import UsageError
from .speed import Wanted, wanted_lines

if TYPE_CHECKING:
    from ...reports.speed import Build

SECONDS, MEMORY, LOAD = 30, 1.5e9, 2.0
OPENED = 3  # times
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
            built = speed.build(out)
            print(*build_lines(built), sep="\n", flush=True)
            program = speed.browser()
            loads = [speed.load_seconds(out / "report.html", program) for _ in range(OPENED)] if program else []
        except (subprocess.SubprocessError, RuntimeError) as error:
            raise UsageError(f"nothing to measure: {error}") from None
    print(load_line(loads), "", *wanted_lines(wanted(built, loads)), sep="\n", flush=True)
    return 0


def build_lines(built: Build) -> list[str]:
    """What was measured of `bench report`."""
    return [
        f"report    {built.seconds:.1f} s of the clock, {built.cpu:.1f} s of a core, {built.peak / 1e9:.2f} GB at most",
        "          a process from its start to its end, without MLflow",
        f"page      report.html has {built.page / 1e6:.1f} MB",
    ]


def load_line(loads: list[float]) -> str:
    """What was measured of the page."""
    if not loads:
        return "browser   not measured: there is no Chromium here (apt-get install chromium)"
    times = ", ".join(f"{seconds:.2f}" for seconds in loads)
    return f"browser   {times} s to the load event in headless Chromium, from disk, 1400 × 900"


def wanted(built: Build, loads: list[float]) -> list[Wanted]:
    """The figures that have a bound."""
    found = [
        Wanted("bench report", f"{built.seconds:.1f} s", f"< {SECONDS} s", built.seconds < SECONDS),
        Wanted("its memory", f"{built.peak / 1e9:.2f} GB", f"< {MEMORY / 1e9:g} GB", built.peak < MEMORY),
    ]
    if loads:
        load = median(loads)
        found.append(Wanted("page opens", f"{load:.2f} s", f"< {LOAD:g} s", load < LOAD))
    return found
