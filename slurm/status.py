"""The status of each cell: from its files, and from what SLURM knows of the jobs that hold it.

Files decide what a cell has computed; its lock and the queue decide whether it will continue by itself. A cell is
active while its lock is held, or while a job that holds it is pending or running.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ..benchmarks.common.lock import is_held
from ..benchmarks.runs.damage import Damage
from ..benchmarks.runs.folder import Run
from ..benchmarks.runs.starts import waits_for
from ..benchmarks.runs.status import State
from ..benchmarks.runs.view import CellStatus, LiveJob, View, name_of
from . import queue, sweeps
from .queue import Job, Queue
from .sbatch import claimed
from .sweeps import Sweep, Task

#: The exit code of a job whose output file could not be opened: slurmd's error 4021, cut to a signal's range.
NO_LOG = "0:53"

#: Least time between two queries of the queue.
QUEUE_SECONDS = 5.0
#: The files of a sweep are written before its jobs exist; for so long they may be missing.
SUBMISSION = timedelta(minutes=1)
#: How long all cells must be inactive before a sweep counts as ended: a worker moves from cell to cell, and shared
#: file systems show changes late.
SETTLE_SECONDS = 10.0


def poll(cells: Sequence[Run], out: Path, damage: list[Damage] | None = None) -> View:
    """The status of the cells now. Raises DamagedError where a sweep.json is damaged.

    damage: where that goes instead; jobs of such a sweep are not known.
    """
    submitted = sweeps.read(out, damage)
    return combine(cells, out, submitted, _query(cells, out, submitted))


class Poller:
    """Polls repeatedly: files on each call, the queue every QUEUE_SECONDS in the background.

    A controller that is down takes ten seconds to fail: files are read meanwhile, with its last answer.

    find: returns the cells, called whenever the queue is queried. damage: files of sweeps that cannot be used; the jobs
    of these sweeps are not known.
    """

    def __init__(self, find: Callable[[], Sequence[Run]], out: Path) -> None:
        self.find, self.out = find, out
        self.damage: list[Damage] = []
        self._read()
        self._queue = _query(self._cells, out, self._sweeps)
        self._queried = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="squeue")
        self._answer: Future[Queue] | None = None
        self._settled_since: float | None = None

    def __call__(self) -> View:
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer.result(), None
            self._queue = replace(self._queue, unreachable=answer.unreachable) if answer.unreachable else answer
        if self._answer is None and time.monotonic() - self._queried >= QUEUE_SECONDS:
            self._read()
            self._queried = time.monotonic()
            self._answer = self._pool.submit(_query, self._cells, self.out, self._sweeps)
        view = combine(self._cells, self.out, self._sweeps, self._queue)  # files after the queue: they are not older
        if not view.is_settled:
            self._settled_since = None
        elif self._settled_since is None:
            self._settled_since = time.monotonic()
        return view

    def _read(self) -> None:
        self.damage.clear()
        self._cells, self._sweeps = self.find(), sweeps.read(self.out, self.damage)

    def has_ended(self, view: View) -> bool:
        """Whether the last view is final: all cells have results, or none has been active for SETTLE_SECONDS."""
        if all(cell.state.is_final for cell in view.cells):
            return True
        return self._settled_since is not None and time.monotonic() - self._settled_since >= SETTLE_SECONDS


def combine(cells: Sequence[Run], out: Path, submitted: Sequence[Sweep], jobs: Queue) -> View:
    """The status of the cells by these sweeps and this answer of SLURM."""
    held_by = sweeps.tasks(submitted)
    named = [(name_of(run, out), run) for run in cells]
    found = [resolve(name, run, is_held(run.lock_file), held_by.get(name, []), jobs) for name, run in named]
    submitting = {sweep.sweep for sweep in submitted if sweeps.is_submitting(out, sweep)}
    found = [_being_submitted(cell, held_by.get(cell.name, []), submitting) for cell in found]
    unknown = any(name in held_by for name, _ in named) and jobs.unreachable
    return View(tuple(found), unknown or None)


def _being_submitted(cell: CellStatus, tasks: Sequence[Task], submitting: Collection[str]) -> CellStatus:
    """The status of a cell, with that of one whose job a living process is submitting corrected."""
    if (
        cell.is_active
        or cell.state.is_final
        or not tasks
        or tasks[-1].array.job
        or tasks[-1].sweep.sweep not in submitting
    ):
        return cell
    return replace(cell, state=State.QUEUED, reason="being submitted", job="", submitting=True)


def resolve(name: str, run: Run, held: bool, tasks: Sequence[Task], jobs: Queue) -> CellStatus:
    """The status of one cell. held: whether its lock is. tasks: those that hold it, newest last."""
    status = run.status
    state = status.state
    number, node = status.job or "", status.node or ""
    cell = partial(CellStatus, name, run, status)
    if state.is_final:
        return cell(state, "", number, node, held=held)
    known = [(task, jobs.jobs[task.key]) for task in tasks if task.key in jobs.jobs]
    jobs_left = [job for _, job in known if job.is_live]
    live = tuple(LiveJob(job.id, task.sweep.user, task.cells, job.is_ending) for task, job in known if job.is_live)
    if held:
        if jobs_left and not number:
            number, node = jobs_left[-1].id, jobs_left[-1].node
        ended = bool(known) and not live and len(known) == len(tasks)
        return cell(State.RUNNING, "", number, node, live, held=True, job_ended=ended)
    if state in (State.FAILED, State.DAMAGED):  # a worker whose task holds other cells, too, does not try it again
        return cell(state, status.reason, number, node)
    if live:
        started = state is not State.QUEUED
        job = next((job for job in reversed(jobs_left) if job.is_running), jobs_left[-1])
        if job.is_ending:
            return cell(state, "its job is ending", job.id, job.node, live)
        starting = "its job starts" if started else "its job has not come to it yet"
        first = waits_for(run) if job.reason == "Dependency" else ""
        waiting = starting if job.is_running else first or job.reason
        return cell(State.REQUEUED if started else State.QUEUED, waiting, job.id, job.node, live)
    if not tasks or (jobs.unreachable and tasks[-1].key not in jobs.jobs):
        return cell(State.INTERRUPTED if state is State.RUNNING else state, "", number, node)
    task = tasks[-1]
    if task.key not in jobs.jobs:
        missing, reason = _missing(task, jobs)
        return cell(missing, reason, task.job or "", node, submitting=missing is State.QUEUED)
    job = jobs.jobs[task.key]
    ended, reason = _ended(job)
    return cell(ended, reason, job.id, job.node, failed_in_job=ended is State.FAILED)


def _missing(task: Task, jobs: Queue) -> tuple[State, str]:
    """State and reason of a cell whose task SLURM does not know."""
    if jobs.accounted and any(name == task.array.name for name, _ in jobs.jobs):
        # All tasks of an array are submitted at once, and those that ran are in the accounts. SLURM keeps no record of
        # a task that is cancelled while the rest of its array waits.
        return State.CANCELLED, "its job was cancelled while it waited"
    if datetime.now(UTC) - sweeps.submitted(task.sweep) < SUBMISSION:
        return State.QUEUED, "being submitted"
    if task.array.job is None:
        return State.LOST, "it was never submitted"
    if not jobs.accounted:
        return State.LOST, "its job has left the queue, and no accounts say how it ended"
    return State.LOST, "SLURM has no record of its job"


def _ended(job: Job) -> tuple[State, str]:
    """State and reason of a cell that its job left unfinished when it ended."""
    on = f" on {job.node}" if job.node else ""
    of = f" {job.node}" if job.node else ""
    status, _, number = job.exit_code.partition(":")
    known = {
        "CANCELLED": (State.CANCELLED, "its job was cancelled"),
        "REVOKED": (State.CANCELLED, "its job was cancelled"),
        "COMPLETED": (State.INTERRUPTED, f"its job ended{on} before the cell did"),
        "PREEMPTED": (State.INTERRUPTED, f"its job was preempted{on} and not requeued"),
        "TIMEOUT": (State.FAILED, f"its job reached its time limit{on}"),
        "OUT_OF_MEMORY": (State.FAILED, f"its job exceeded its memory limit{on}"),
        "NODE_FAIL": (State.FAILED, f"its node{of} failed"),
    }
    if job.state in known:
        return known[job.state]
    # SLURM's reason, JobLaunchFailure, also accompanies every signal.
    if job.exit_code == NO_LOG:
        return State.FAILED, f"its log folder could not be written{f' on node{of}' if of else ''}"
    if job.state != "FAILED":
        return State.FAILED, f"its job ended{on} as {job.state}"
    if number not in ("", "0"):
        return State.FAILED, f"its job was ended{on} by {_signal(number)}"
    return State.FAILED, f"its job ended{on} with exit status {status}"


def _signal(number: str) -> str:
    try:
        return f"signal {number} ({signal.Signals(int(number)).name})"
    except ValueError:
        return f"signal {number}"


def _query(cells: Sequence[Run], out: Path, submitted: Sequence[Sweep]) -> Queue:
    """What SLURM knows of the tasks that hold an unfinished cell."""
    held_by = sweeps.tasks(submitted)
    unfinished = [run for run in cells if not run.status.state.is_final]
    wanted = {task.key: task for run in unfinished for task in held_by.get(name_of(run, out), [])}
    if not wanted:
        return Queue()
    numbers = {}
    for task in wanted.values():
        if number := task.array.job or claimed(task.sweep.folder(out, task.array)):
            numbers[task.array.name] = number
    return queue.query(wanted.keys(), min(sweeps.submitted(task.sweep) for task in wanted.values()), numbers)
