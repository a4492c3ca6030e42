"""`bench retry`: run again what failed or was left, with the configuration it was submitted with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...slurm import clusters
from ...slurm.clusters import Cluster
from ...slurm.status import FINAL, CellStatus, View, poll
from ...slurm.sweeps import Sweep, read, tasks
from ..common.errors import UsageError, unknown
from ..common.redact import typed
from ..common.text import plain
from ..runs.stored import stored
from .cells import resolve
from .status import INTERRUPTED, exit_status, remarks

if TYPE_CHECKING:
    from ..execution.launch import Slots

LAUNCHERS = ("local", "slurm")


def retry(out: Path, names: Sequence[str], *, failed: bool, cluster: str | None, launcher: str | None) -> int:
    """Exit status: 0 submitted, done, or nothing to retry; run here: 1 a cell failed or diverged, 130 interrupted.

    names: of cells, which are retried unless they are done, have diverged or are at work; with `failed`, those of them
    that failed or were left, or of all without names. cluster: None for the one they were last submitted to. launcher:
    None for slurm where one of them was in a sweep or a cluster is named, and else local. Raises UsageError for bad
    input, and where SLURM does not answer: a cell must not be in two jobs.
    """
    if not failed and not names:
        raise UsageError("name the cells to run again, or --failed for all that failed or were left")
    if launcher is not None and launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
    if launcher == "local" and cluster:
        raise UsageError("--cluster is for jobs: leave it out with --launcher local")
    view = poll(resolve(names, out), out)
    if view.unreachable:
        raise UsageError(f"{view.unreachable}: whether the cells are in jobs is not known; nothing was submitted")
    wanted = [cell for cell in view.cells if (cell.needs_rerun if failed else _is_open(cell))]
    if not wanted:
        print(f"there is nothing to retry: {_why(view)}")
        return 0
    for cell in wanted:
        stored(cell.files)  # raises for what only a stranger would have written, before anything is changed
    last = _last_sweep(wanted, out)
    if launcher is None:
        launcher = "slurm" if cluster or last else "local"
    if launcher == "local":
        return _run_here(wanted, out)
    if cluster is None and last is None:
        raise UsageError(
            f"these cells were in no sweep: name a cluster with --cluster ({', '.join(clusters.choices())})"
        )
    place = clusters.load(cluster) if cluster else clusters.from_record(last.cluster if last else {})
    return _submit(wanted, out, place, pack=last.pack if last else 1, share=last.share if last else 1)


def _is_open(cell: CellStatus) -> bool:
    return cell.state not in FINAL and not cell.is_active


def _why(view: View) -> str:
    if len(view.cells) == 1:
        return f"the cell is {view.cells[0].state}"
    return ", ".join(f"{count} {state}" for state, count in view.counts().items())


def _last_sweep(wanted: Sequence[CellStatus], out: Path) -> Sweep | None:
    """The newest sweep that held one of the cells; None where none did."""
    held_by = tasks(read(out))
    sweeps = [held_by[cell.name][-1].sweep for cell in wanted if cell.name in held_by]
    return max(sweeps, key=lambda sweep: (sweep.created, sweep.sweep)) if sweeps else None


def _submit(wanted: Sequence[CellStatus], out: Path, cluster: Cluster, *, pack: int, share: int) -> int:
    from ...slurm.submit import submit_cells
    from ..execution.launch import enqueue, restore_if_refused

    # The stored configuration as it is: what a later version would compose may be another cell.
    cells = [(cell.files.path, cell.files.config) for cell in wanted]
    with restore_if_refused([folder for folder, _ in cells]):
        for folder, config in cells:
            enqueue(folder, config)
        sweep = submit_cells(cells, out, cluster, pack=pack, share=share, command=typed())
    jobs = sum(len(array.elements) for array in sweep.arrays)
    print(f"cells: {len(wanted)}, jobs: {jobs} on {plain(cluster.name)}, sweep {sweep.sweep}")
    for cell in wanted:
        print(f"  {cell.name} was {cell.state}{f': {cell.reason}' if cell.reason else ''}")
    print("`bench status` shows how far they are")
    return 0


def _run_here(wanted: Sequence[CellStatus], out: Path) -> int:
    from ..execution.launch import devices, enqueue, run_local
    from .progress import watch

    for cell in wanted:
        enqueue(cell.files.path, cell.files.config)
    for count in sorted({devices(cell.files.config) for cell in wanted}):
        alike = [cell for cell in wanted if devices(cell.files.config) == count]
        slots = _slots(alike, count)
        print(f"cells: {len(alike)} ({slots.jobs} at once, threads of each: {slots.threads})", flush=True)
        folders = [cell.files.path for cell in alike]
        with watch(folders, out) as tick:
            if run_local(folders, slots, tick):
                return INTERRUPTED
    after = poll([cell.files for cell in wanted], out)
    for line in remarks(after, out):
        print(line, file=sys.stderr)
    print("`bench report` puts the new rows into the leaderboard")
    return exit_status(after)


def _slots(wanted: Sequence[CellStatus], processes: int) -> Slots:
    """As many threads a cell as it had before, which its rounding depends on; else as a new grid of them would get."""
    from ..common.system import available_cores
    from ..execution.launch import default_slots

    usual = default_slots(len(wanted), processes=processes)
    before = {cell.files.run["attempts"][-1]["threads"] for cell in wanted if cell.files.run["attempts"]}
    if len(before) != 1:
        return usual
    (threads,) = before
    jobs = usual.jobs if usual.gpus else max(1, min(available_cores() // (threads * processes), len(wanted)))
    return replace(usual, jobs=jobs, threads=threads)
