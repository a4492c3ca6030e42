"""`bench retry`: run failed or interrupted cells again, with their stored configurations."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...slurm import clusters
from ...slurm.clusters import Cluster
from ...slurm.status import poll
from ...slurm.sweeps import Sweep, read, tasks
from ..common.errors import UsageError
from ..common.redact import typed
from ..common.text import plain
from ..runs.damage import Damage, damage_of
from ..runs.folder import find_cells
from ..runs.starts import awaited
from ..runs.view import CellStatus, View
from . import options
from .board import variants
from .cells import resolve, say_damage
from .display import exit_status, remarks, watch_local
from .submission import is_confirmed, poll_ended

if TYPE_CHECKING:
    from ..execution.launch import Slots

app = typer.Typer()


@app.command()
def retry(
    cells: options.NamedCells = None,
    include: options.Include = None,
    out: options.Out = Path("runs"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Only cells that failed, were interrupted or cancelled, or are lost.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Name or file of a cluster. Default: that of the last sweep.")
    ] = None,
    launcher: Annotated[
        Literal["local", "slurm"] | None, typer.Option("--launcher", help="Where to run. Default: as before.")
    ] = None,
) -> int:
    """Run cells again that are neither done, diverged nor active. They resume with their stored configurations.

    Cells with a damaged configuration are named and left out.

    Exit status: 0 submitted, done, or nothing to retry; 1 a cell failed or diverged, or a configuration is damaged;
    130 interrupted.
    """
    from ..runs.stored import trusted

    if not failed and not cells:
        raise UsageError("name the cells to run again, or give --failed for all that failed or were interrupted")
    if launcher == "local" and cluster:
        raise UsageError("--cluster is for jobs: leave it out with --launcher local")
    damages: list[Damage] = []
    view = poll_ended(resolve(cells or [], out), out, damages)
    if view.unreachable and launcher == "local":
        print(
            f"{view.unreachable}: cells that no process holds are run here, assuming that their jobs are gone. "
            "A job that does start skips cells that are done or held",
            file=sys.stderr,
        )
    elif view.unreachable:  # a cell must not be in two jobs
        raise UsageError(
            f"{view.unreachable}: whether the cells are in jobs is unknown; nothing was submitted. If the cluster is "
            "gone, --launcher local runs them here"
        )
    wanted = [cell for cell in view.cells if (cell.needs_rerun if failed else _is_open(cell))]
    if damages:
        print(
            "the jobs of a damaged sweep are not known: a cell may get a second job, which ends at once where the cell "
            "is done or held",
            file=sys.stderr,
        )
        say_damage(damages, out)  # all cells are retried nonetheless
    damages = [
        damage
        for cell in wanted
        for damage in damage_of(cell.run.path, cell.run.config_file, lambda run=cell.run: run.config)
    ]
    damaged = say_damage(damages, out)
    wanted = [cell for cell in wanted if cell.run.path not in {item.folder for item in damages}]
    if not wanted:
        print(f"nothing to retry: {_why(view)}")
        return damaged
    wanted = [*_first(wanted, out), *wanted]
    for cell in wanted:
        trusted(cell.run)  # refuses what may not be run from a file of results, before anything is changed
    last = _last_sweep(wanted, out)
    if (launcher or ("slurm" if cluster or last else "local")) == "local":
        return _run_here(wanted, out) or damaged
    if cluster is None and last is None:
        raise UsageError(
            f"these cells were in no sweep: name a cluster with --cluster ({', '.join(clusters.choices())})"
        )
    target = clusters.load(cluster) if cluster else clusters.from_record(last.cluster if last else {})
    return _submit(wanted, out, target, pack=last.pack if last else 1, share=last.share if last else 1) or damaged


def _first(wanted: Sequence[CellStatus], out: Path) -> list[CellStatus]:
    """The open cells that have to be trained before these, and are not among them."""
    needed = {first.path.absolute() for cell in wanted if (first := awaited(cell.run.path, cell.run.config))}
    needed -= {cell.run.path.absolute() for cell in wanted}
    runs = [run for run in find_cells(out) if run.path.absolute() in needed]
    return [cell for cell in poll_ended(runs, out, []).cells if _is_open(cell)] if runs else []


def _is_open(cell: CellStatus) -> bool:
    return not cell.state.is_final and not cell.is_active


def _why(view: View) -> str:
    if len(view.cells) == 1:
        return f"the cell is {view.cells[0].state}"
    return ", ".join(f"{count} {state}" for state, count in view.counts().items())


def _last_sweep(wanted: Sequence[CellStatus], out: Path) -> Sweep | None:
    """The newest sweep that held one of the cells; None if none did."""
    held_by = tasks(read(out, []))
    sweeps = [held_by[cell.name][-1].sweep for cell in wanted if cell.name in held_by]
    return max(sweeps, key=lambda sweep: (sweep.created, sweep.sweep)) if sweeps else None


def _submit(wanted: Sequence[CellStatus], out: Path, cluster: Cluster, *, pack: int, share: int) -> int:
    from ...slurm.submit import submit_cells
    from .submission import note_variables

    note_variables()
    # The stored configuration as it is: a later version might compose another one.
    cells = [(cell.run.path, cell.run.config) for cell in wanted]
    submission = submit_cells(cells, out, cluster, pack=pack, share=share, command=typed())
    submitted = {name for array in submission.sweep.arrays for cells in array.elements for name in cells}
    jobs = sum(len(array.elements) for array in submission.sweep.arrays)
    print(f"cells: {len(submitted)}, jobs: {jobs} on {plain(cluster.name)}, sweep {submission.sweep.sweep}")
    for cell in wanted:
        if cell.name in submitted:
            print(f"  {cell.name} was {cell.state}{f': {cell.reason}' if cell.reason else ''}")
    if not is_confirmed(submission, len(wanted)):
        return 1
    print("`bench status` shows their progress")
    return 0


def _run_here(wanted: Sequence[CellStatus], out: Path) -> int:
    from ..execution.launch import devices, enqueue, run_local

    for cell in wanted:
        enqueue(cell.run, cell.run.config)
    for count in sorted({devices(cell.run.config) for cell in wanted}):
        alike = [cell for cell in wanted if devices(cell.run.config) == count]
        slots = _slots(alike, count)
        print(f"cells: {len(alike)} ({slots.jobs} at once, threads per cell: {slots.threads})", flush=True)
        each = variants([cell.run.config.cell for cell in alike])
        with watch_local({cell.run: own for cell, own in zip(alike, each, strict=True)}, out, slots.jobs) as tick:
            if run_local([cell.run for cell in alike], slots, tick):
                raise KeyboardInterrupt
    after = poll([cell.run for cell in wanted], out, [])
    for line in remarks(after, out):
        print(line, file=sys.stderr)
    print("`bench report` adds the new rows to the leaderboard")
    return exit_status(after)


def _slots(wanted: Sequence[CellStatus], processes: int) -> Slots:
    """As many threads per cell as before, since rounding depends on them; else those of a new grid of these cells."""
    from ..execution.launch import default_slots

    before = {cell.run.history["attempts"][-1]["threads"] for cell in wanted if cell.run.history["attempts"]}
    threads = before.pop() if len(before) == 1 else None
    return default_slots(len(wanted), processes=processes, threads=threads, device=wanted[0].run.config.run.device)
