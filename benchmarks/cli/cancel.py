"""`bench cancel`: cancel the jobs of some cells, or all jobs."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ...slurm import queue
from ...slurm.status import poll
from ...slurm.sweeps import FOLDER
from ..common.errors import UsageError
from ..runs.folder import find_cells
from ..runs.view import LiveJob
from . import options
from .cells import resolve

app = typer.Typer()


@app.command()
def cancel(
    cells: options.NamedCells = None,
    out: options.Out = Path("runs"),
    every: Annotated[bool, typer.Option("--all", help="Cancel all your jobs of this folder.")] = False,
) -> int:
    """Cancel the jobs of cells. Results so far are kept, and `bench retry` resumes.

    Other cells of a cancelled job stop, too, and are listed.
    """
    if every == bool(cells):
        raise UsageError("name the cells whose jobs to cancel, or give --all, and not both")
    named = {cell.path for cell in resolve(cells or [], out)}
    view = poll(find_cells(out), out)  # all cells: their jobs may hold others than the named ones
    if view.unreachable:
        raise UsageError(f"{view.unreachable}: nothing was cancelled")
    jobs = {job.id: job for cell in view.cells if cell.run.path in named for job in cell.live}
    lost = {cell.status.job: cell.name for cell in view.cells if cell.run.path in named and cell.held and not cell.live}
    numbers = [number for number in lost if number and re.fullmatch(r"[0-9]+(_[0-9]+)?", number, re.ASCII)]
    for number in queue.writing(numbers, out / FOLDER):  # in no record, but the cell names its job
        jobs[number] = LiveJob(number, getpass.getuser(), (lost[number],))
    if not jobs:
        print("nothing to cancel: these cells have no jobs" if cells else f"nothing to cancel: no jobs in {out}")
        for cell in view.cells:
            if cell.run.path in named and cell.held:
                print(f"{cell.name} is running in a process outside SLURM; stop it there")
        return 0
    if every and not (jobs := _own(jobs)):
        return 0
    try:
        queue.cancel(list(jobs))
    except OSError as error:
        raise UsageError(f"{error}; see `bench status` for what was cancelled") from None
    unfinished = {cell.name: cell.run.path in named for cell in view.cells if not cell.state.is_final}
    for number, job in jobs.items():
        stopped = ", ".join(name for name in job.cells if unfinished.get(name))
        others = ", ".join(name for name in job.cells if unfinished.get(name) is False)
        print(f"cancelled {number}: {stopped}" + (f"; it also held {others}" if others else ""))
    return 0


def _own(jobs: Mapping[str, LiveJob]) -> dict[str, LiveJob]:
    """The jobs that this user submitted; the others are listed."""
    user = getpass.getuser()
    own = {number: job for number, job in jobs.items() if job.user == user}
    if others := [number for number in jobs if number not in own]:
        print(f"left alone, since other users submitted them: {', '.join(others)}; name their cells to cancel them")
    return own
