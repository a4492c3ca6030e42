"""`bench logs`: what a cell said, or the job that it did not come to say anything in."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from ...slurm.status import CellStatus, poll
from ...slurm.sweeps import Task, read, tasks
from ..common.text import visible
from .board import LOG
from .cells import resolve

FOLLOW_SECONDS, LOOK_SECONDS = 0.5, 5.0


def logs(name: str, out: Path, *, follow: bool, job: bool) -> int:
    """Exit status: 0 something was printed, 1 there is nothing yet.

    follow: go on printing while the cell is at work. job: what its last job wrote, and not what the cell did; both are
    printed where the cell ended with its job. Raises UsageError for a name that is no cell's.
    """
    (files,) = resolve([name], out)
    (cell,) = poll([files], out).cells
    log = files.path / LOG
    held_by = tasks(read(out)).get(cell.name, [])
    if job and not held_by:
        print(f"{cell.name} was in no job; `bench logs {name}` prints its own log", file=sys.stderr)
        return 1
    paths = [] if job else [log] if log.exists() else []
    if job or (held_by and (cell.failed_in_job or (not paths and not follow))):
        paths += job_logs(out, held_by[-1], cell)
    for path in paths:
        if len(paths) > 1 or path != log:
            print(f"==> {path} <==", flush=True)
        _copy(path)
    if follow and not job:
        _follow(log, cell, files.path, out)
        return 0
    if not paths:
        reason = f": {cell.reason}" if cell.reason else ""
        whose = "the job of " if job else ""
        print(f"{whose}{cell.name} has no log, the cell is {cell.state}{reason}", file=sys.stderr)
    return 0 if paths else 1


def job_logs(out: Path, task: Task, cell: CellStatus) -> list[Path]:
    """What the task wrote, .out and .err of each of its processes; empty files are left out.

    Files are called by job, task and process, `123_4_0_log.out`; a job that is no array has no task.
    """
    folder = task.sweep.folder(out, task.array)
    number = task.array.job or cell.job.partition("_")[0] or r"\d+"
    known = re.compile(rf"{number}(_{task.index})?_\d+_log\.(out|err)")
    found = [path for path in sorted(folder.glob("*_log.*")) if known.fullmatch(path.name)]
    return [path for path in found if path.stat().st_size]


def _copy(path: Path, start: int = 0) -> int:
    """Print a file from an offset on, and return where it ends now."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    if content:
        sys.stdout.write(visible(content.decode("utf-8", errors="replace")))
        sys.stdout.flush()
    return start + len(content)


def _follow(log: Path, cell: CellStatus, folder: Path, out: Path) -> None:
    """Print what is added to a log, until the cell is at work no more."""
    end, last = log.stat().st_size if log.exists() else 0, time.monotonic()
    while cell.is_active:
        time.sleep(FOLLOW_SECONDS)
        if log.exists():
            end = _copy(log, end)
        if time.monotonic() - last >= LOOK_SECONDS:  # the queue is not asked each time
            (cell,) = poll([cell.files], out).cells
            last = time.monotonic()
    if log.exists():
        _copy(log, end)
