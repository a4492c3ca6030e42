"""`bench logs`: the log of a cell, or the SLURM output of its job."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ...slurm.status import poll
from ...slurm.sweeps import Task, read, tasks
from ..common.redact import without_password
from ..common.text import visible
from ..runs.view import CellStatus
from . import options
from .cells import resolve

LONGEST_LINE = 4096  # bytes of a line that are shown
UNFINISHED = re.compile(r":[^\s'\"]*\Z")  # of a line that is cut
FOLLOW_SECONDS, LOOK_SECONDS = 0.5, 5.0

app = typer.Typer()


@app.command()
def logs(
    name: options.Cell,
    out: options.Out = Path("runs"),
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added while the cell runs.")
    ] = False,
    is_job: Annotated[bool, typer.Option("--job", help="Print the SLURM output of its last job instead.")] = False,
) -> int:
    """Print the log of a cell (--job: its SLURM output). Both are printed for a cell that failed with its job.

    Exit status: 0 something was printed, 1 there is nothing yet.
    """
    (run,) = resolve([name], out)
    (cell,) = poll([run], out).cells
    log = run.log_file
    held_by = tasks(read(out)).get(cell.name, [])
    if is_job and not held_by:
        print(f"{cell.name} was in no job; `bench logs {name}` prints its own log", file=sys.stderr)
        return 1
    paths = [log] if log.is_file() and not is_job else []
    if is_job or (held_by and (cell.failed_in_job or (not paths and not is_followed))):
        paths += job_logs(out, held_by[-1], cell)
    for path in paths:
        if len(paths) > 1 or path != log:
            print(f"==> {path} <==", flush=True)
        _copy(path)
    if is_followed and not is_job:
        _follow(log, cell, out)
        return 0
    if not paths:
        reason = f": {cell.reason}" if cell.reason else ""
        whose = "the job of " if is_job else ""
        print(f"{whose}{cell.name} has no log; the cell is {cell.state}{reason}", file=sys.stderr)
    return 0 if paths else 1


def job_logs(out: Path, task: Task, cell: CellStatus) -> list[Path]:
    """Standard output and error of each process of the task, without empty files.

    Files are named by job, task and process, `123_4_0_log.out`; those of a job outside an array have no task.
    """
    folder = task.sweep.folder(out, task.array)
    number = task.array.job or cell.job.partition("_")[0] or r"\d+"
    known = re.compile(rf"{number}(_{task.index})?_\d+_log\.(out|err)")
    found = [path for path in sorted(folder.glob("*_log.*")) if known.fullmatch(path.name)]
    return [path for path in found if path.stat().st_size]


def _copy(path: Path, start: int = 0) -> int:
    """Print a file from byte `start` on, without the ends of very long lines, and return its end."""
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline(LONGEST_LINE):
            rest, more = line, 0
            while not rest.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
                more += len(rest)
            text = visible(without_password(line.decode("utf-8", errors="replace")))
            if more:  # the end may be half an address, with a password and without the @ that tells
                text = UNFINISHED.sub(":", text)
            sys.stdout.write(f"{text}… ({more:,} more bytes)\n" if more else text)
        sys.stdout.flush()
        return file.tell()


def _follow(log: Path, cell: CellStatus, out: Path) -> None:
    """Print what is added to a log while the cell is active."""
    end, last = log.stat().st_size if log.is_file() else 0, time.monotonic()
    while cell.is_active:
        time.sleep(FOLLOW_SECONDS)
        if log.is_file():
            end = _copy(log, end)
        if time.monotonic() - last >= LOOK_SECONDS:  # SLURM is not asked each time
            (cell,) = poll([cell.run], out).cells
            last = time.monotonic()
    if log.is_file():
        _copy(log, end)
