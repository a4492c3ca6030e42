"""Submitting a grid of cells to SLURM, and what a dry run shows of its jobs."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...slurm.clusters import Cluster, load
from ...slurm.status import poll
from ..common.errors import UsageError
from ..common.redact import typed
from ..common.text import count, plain
from ..runs.damage import Damage
from ..runs.folder import Run
from ..runs.starts import name_of_first
from ..runs.view import View
from .costs import cost_lines

if TYPE_CHECKING:
    from ...slurm.submit import Submission
    from .run import Grid, Launch

#: Longer than a lock of a process that was killed needs to become stale.
ENDING_SECONDS, ENDING_PAUSE_SECONDS = 150.0, 1.0


def submit(grid: Grid, launch: Launch) -> int:
    """Submit the unfinished cells that are not active already, and print the jobs.

    Exit status: 0, or 1 where it is not known whether SLURM has them.
    """
    from ...slurm.submit import check_slurm, submit_cells
    from ..execution.launch import store

    check_slurm()
    note_variables()
    cluster, out, active = load(launch.cluster or ""), grid.out, _active(grid)
    new = [cell for cell in grid.pending if cell.name not in active]
    others = f", {len(active)} active already" if active else ""
    print(f"{grid.counts}{others}, {len(new)} to submit; output in {out}")
    if new:
        store(new, out)
        work = [(cell.path(out), cell.config) for cell in new]
        submission = submit_cells(work, out, cluster, pack=launch.pack, share=launch.share, command=typed())
        for array in submission.sweep.arrays:
            jobs = _jobs(array.elements, cluster)
            print(f"job {array.job or 'unknown'}: {jobs}; {_resources(array.resources, cluster.gpus_per_node)}")
        if not is_confirmed(submission, len(new)):
            return 1
    place = "" if out == Path("runs") else f" --out {shlex.quote(str(out))}"
    print(f"bench status --watch{place}    # shows their progress; bench wait{place} waits and reports")
    return 0


def note_variables() -> None:
    """Say which variables with options for sbatch are unset while it runs."""
    if names := sorted(name for name in os.environ if name.startswith("SBATCH_")):
        verb = "are" if len(names) > 1 else "is"
        print(f"{' and '.join(names)} {verb} set and ignored: the cluster file decides", file=sys.stderr)


def is_confirmed(submission: Submission, cells: int) -> bool:
    """Whether the jobs of all these cells are known; else one sentence says what to do."""
    if submission.unconfirmed is None:
        return True
    array = submission.sweep.arrays[-1]
    left = cells - sum(len(element) for array in submission.sweep.arrays for element in array.elements)
    print(
        f"bench: whether SLURM has the array {array.name} is unknown ({plain(submission.unconfirmed)}): `bench status` "
        "shows its jobs once it does, and `bench retry --failed` submits the cells again if it does not"
        + (f"; repeat this command later for {count(left, 'further cell')}" if left else ""),
        file=sys.stderr,
    )
    return False


def show_arrays(grid: Grid, launch: Launch) -> None:
    """Print the scripts that sbatch would get, and estimates of the costs."""
    from ...slurm.submit import make_plan, script

    note_variables()
    cluster = load(launch.cluster or "")
    work = [(cell.path(grid.out), cell.config) for cell in grid.pending]
    arrays = make_plan(work, cluster, pack=launch.pack, share=launch.share, most=1000)
    for number, (_, elements) in enumerate(arrays.arrays):
        first = ", ".join(name_of_first(Run(path)) for path in arrays.after(number))
        print(f"\n--- array {number}: {_jobs(elements, cluster)}{first and f', after {first}'}")
        print(script(arrays, number, grid.out).strip())
    print("", *cost_lines(grid.pending, grid.out, cluster.tflops), sep="\n")


def _active(grid: Grid) -> set[str]:
    """The unfinished cells that jobs or other processes hold. Raises UsageError if SLURM does not answer."""
    runs = [Run(cell.path(grid.out)) for cell in grid.pending]
    view = poll_ended([run for run in runs if run.config_file.exists()], grid.out)
    if view.unreachable:
        raise UsageError(f"{view.unreachable}: whether cells are in jobs already is unknown; nothing was submitted")
    return {cell.name for cell in view.cells if cell.is_active}


def poll_ended(cells: Sequence[Run], out: Path, damage: list[Damage] | None = None) -> View:
    """The status of the cells, once no job of theirs is ending any more, or after ENDING_SECONDS.

    damage: where damaged files of sweeps go, see `poll`.
    """
    deadline, told = time.monotonic() + ENDING_SECONDS, ""
    while True:
        if damage is not None:
            damage.clear()
        view = poll(cells, out, damage)
        ending = sorted({cell.job for cell in view.cells if cell.is_ending})
        if not ending or view.unreachable:
            return view
        if time.monotonic() > deadline:
            print(f"still ending after {ENDING_SECONDS:.0f} s, and left alone: {', '.join(ending)}", flush=True)
            return view
        if told != (told := f"waiting for jobs that are ending: {', '.join(ending)}"):
            print(told, flush=True)
        time.sleep(ENDING_PAUSE_SECONDS)


def _jobs(elements: Sequence[Sequence[object]], cluster: Cluster) -> str:
    at_once, most = min(len(elements), cluster.array_parallelism), max(map(len, elements))
    what = f"{count(len(elements), 'job')} of up to {most} cells" if most > 1 else count(len(elements), "cell")
    return f"{what}, {at_once} at once"


def _resources(resources: Mapping[str, Any], gpus: int) -> str:
    what = count(resources["devices"], "GPU") if gpus else count(resources["devices"], "process", "processes")
    spread = f" on {resources['nodes']} nodes" if resources["nodes"] > 1 else ""
    memory = "" if resources["memory"] is None else f" and {resources['memory'] / 1024:.3g} GB of memory"
    each = f"with {count(resources['cpus'], 'core')}{memory} each"
    return f"{what}{spread} {each}, at most {_duration(resources['time_limit'])} per job"


def _duration(minutes: int) -> str:
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = [f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if number]
    return " ".join(parts)
