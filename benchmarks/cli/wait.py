"""`bench wait`: return when no cell is active any more, and update the leaderboard meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ...slurm import queue
from ..common.errors import UsageError
from ..runs.view import View
from . import options
from .board import footer
from .cells import resolve
from .display import exit_status, remarks, watch
from .report import Tracking, show_report, update_reports

REPORT_SECONDS = 30.0

app = typer.Typer()


@app.command()
def wait(
    cells: options.Cells = None,
    out: options.Out = Path("runs"),
    study: options.StudyName = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Minutes. Default: no limit.")] = None,
    mlflow: options.Mlflow = True,
    mlflow_uri: options.MlflowUri = None,
) -> int:
    """Wait until no cell is active any more. Update the leaderboard meanwhile.

    Exit status: 0 all cells are done, 1 one failed, diverged or is unfinished, or the time limit was reached.
    """
    tracking, report = Tracking(mlflow, mlflow_uri), _Report(out)
    deadline = float("inf") if timeout is None else time.monotonic() + 60 * timeout

    def stop(view: View) -> bool:
        if view.unreachable and not queue.is_installed():
            raise UsageError(f"{view.unreachable}: wait for the jobs in {out} on a machine of the cluster")
        report.update(view)
        return time.monotonic() >= deadline

    view, has_ended = watch(lambda: resolve(cells or [], out, study), out, stop)
    if not has_ended:
        print(f"{footer(view)}; unfinished after {timeout:g} minutes", flush=True)
        return 1
    damaged = show_report(out, tracking)
    print(footer(view), flush=True)
    for line in remarks(view, out):
        print(line, file=sys.stderr)
    return exit_status(view) or damaged


class _Report:
    """The leaderboard, rewritten when more cells are finished than in the last one, at most every REPORT_SECONDS."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.finished: set[str] | None = None
        self.last = time.monotonic()

    def update(self, view: View) -> None:
        finished = {cell.name for cell in view.cells if cell.state.is_final}
        if self.finished is None:  # cells that were finished before have been reported by other commands
            self.finished = finished
        if finished - self.finished and time.monotonic() - self.last >= REPORT_SECONDS:
            update_reports(self.out, Tracking(False, None))
            self.finished, self.last = finished, time.monotonic()
