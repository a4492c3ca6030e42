"""`bench cancel`: end the jobs of some cells, or of all."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...slurm import queue
from ...slurm.status import FINAL, poll
from ...slurm.sweeps import Task
from ..common.errors import UsageError
from ..runs.folder import find_cells
from .cells import resolve


def cancel(out: Path, names: Sequence[str], *, every: bool) -> int:
    """Exit status: 0 cancelled, or nothing to cancel; 1 SLURM does not answer.

    names: of cells. A job that holds other cells, too, is cancelled all the same, which is said. What the cells have
    computed is kept; `bench retry` goes on from there. Raises UsageError without names unless `every`, with both, and
    for unknown names.
    """
    if every == bool(names):
        raise UsageError("name the cells whose jobs are to be cancelled, or --all, and not both")
    named = {cell.path for cell in resolve(names, out)}
    # All cells and not only the named ones: what else their jobs hold is to be said.
    view = poll(find_cells(out), out)
    if view.unreachable:
        raise UsageError(f"{view.unreachable}: nothing was cancelled")
    jobs: dict[str, Task] = {}
    for cell in view.cells:
        if cell.files.path in named:
            jobs |= {job.id: task for task, job in cell.live}
    if not jobs:
        here = [cell.name for cell in view.cells if cell.files.path in named and cell.held]
        print("there is nothing to cancel: no job holds them" if names else f"no jobs of {out} wait or run")
        for name in here:
            print(f"{name} is at work in a process outside SLURM; end it there")
        return 0
    if every:
        jobs, foreign = _own(jobs)
        if foreign:
            print(f"left alone, since others submitted them: {', '.join(foreign)}; name their cells to cancel them")
        if not jobs:
            return 0
    try:
        queue.cancel(list(jobs))
    except OSError as error:
        raise UsageError(f"{error}; see `bench status` for what was cancelled") from None
    states = {cell.name: cell for cell in view.cells}
    for number, task in jobs.items():
        others = [
            name
            for name in task.cells
            if name in states and states[name].files.path not in named and states[name].state not in FINAL
        ]
        stopped = ", ".join(name for name in task.cells if name not in others)
        print(f"cancelled {number}: {stopped}" + (f"; it held also {', '.join(others)}" if others else ""))
    return 0


def _own(jobs: Mapping[str, Task]) -> tuple[dict[str, Task], list[str]]:
    """The jobs that this person submitted, and the numbers of the others."""
    me = getpass.getuser()
    own = {number: task for number, task in jobs.items() if task.sweep.user == me}
    return own, [number for number in jobs if number not in own]
