"""`bench wait`: until nobody works on the cells any more, with the leaderboard kept up to date meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...slurm import queue
from ...slurm.status import FINAL, Poller, View
from ..common.errors import UsageError
from .board import footer
from .cells import resolve
from .report import check_mlflow_uri, show_report
from .status import Lines, exit_status, remarks

LOOK_SECONDS = 2.0
REPORT_SECONDS = 30.0


def wait(out: Path, names: Sequence[str] = (), *, timeout: float | None, mlflow: bool, mlflow_uri: str | None) -> int:
    """Exit status: 0 all done, 1 a cell failed, diverged or was left, or the time was over.

    timeout: in minutes, None for ever. A controller that does not answer is waited for, too. Raises UsageError where
    there is no such cell, and where cells are in jobs that this machine cannot ask after.
    """
    check_mlflow_uri(mlflow_uri)
    poller, lines, report = Poller(lambda: resolve(names, out), out), Lines(), _Report(out)
    deadline = None if timeout is None else time.monotonic() + 60 * timeout
    while True:
        view = poller()
        if view.unreachable and not queue.is_installed():
            raise UsageError(f"{view.unreachable}: wait for the jobs in {out} on a machine of the cluster")
        lines.show(view)
        if poller.has_ended(view):
            break
        if deadline is not None and time.monotonic() >= deadline:
            print(f"{footer(view)}; still at work after {timeout:g} minutes", flush=True)
            return 1
        report.update(view)
        time.sleep(LOOK_SECONDS)
    show_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri)
    print(footer(view), flush=True)
    for line in remarks(view, out):
        print(line, file=sys.stderr)
    return exit_status(view)


class _Report:
    """The leaderboard, written again when more cells are finished than in the last one, and not too often."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.finished: set[str] | None = None
        self.last = time.monotonic()

    def update(self, view: View) -> None:
        finished = {cell.name for cell in view.cells if cell.state in FINAL}
        if self.finished is None:  # what was there before is the business of whoever finished it
            self.finished = finished
        if finished - self.finished and time.monotonic() - self.last >= REPORT_SECONDS:
            show_report(self.out, mlflow=False, mlflow_uri=None)
            self.finished, self.last = finished, time.monotonic()
