"""What became of each cell: from its files, and from what SLURM says of the jobs that hold it.

Files are the truth for what a cell has computed; whether anybody will go on with it is for its lock and the queue to
say. A cell is at work while its lock is held, or while a job that holds it waits or runs.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from ..benchmarks.common.lock import is_held
from ..benchmarks.runs.folder import CellFiles
from . import queue, sweeps
from .queue import Job, Queue
from .sweeps import Place, Sweep

#: The states a cell is shown in, those that matter most first. On disk are but: queued, running, interrupted, failed,
#: diverged, done. The others: "requeued", in the queue again after it was begun; "cancelled", by hand; "lost", when
#: its job is gone and nobody knows how it ended.
STATES = (
    "running",
    "failed",
    "lost",
    "cancelled",
    "diverged",
    "interrupted",
    "requeued",
    "queued",
    "done",
)
FINAL = ("done", "diverged")
RERUN = ("failed", "cancelled", "lost", "interrupted", "queued")

#: Of a job whose output could not be opened: slurmd's error 4021, of which the accounts keep what a signal would be.
NO_LOG = "0:53"

#: The queue is asked no more often than that, whoever watches.
QUEUE_SECONDS = 5.0
#: Files of a sweep are there before its jobs: so long they may be missing.
SUBMISSION = timedelta(minutes=1)
#: Nothing is over before nothing has been at work for so long: a worker goes from cell to cell, and folders that
#: several machines share show what is new a while late.
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Shown:
    """One cell.

    name: its folder below that of all runs. status: what status.json holds. state: one of STATES. reason: why it waits,
    or what became of it; "" where the state says all. job, node: where it is or was at work, "" outside SLURM. live:
    the tasks that hold it and wait or run. held: a living process works on it. submitting: its job may come yet.
    failed_in_job: it ended with its job, and so cannot have said why itself.
    """

    name: str
    files: CellFiles
    status: Mapping[str, Any]
    state: str
    reason: str = ""
    job: str = ""
    node: str = ""
    live: tuple[tuple[Place, Job], ...] = ()
    held: bool = False
    submitting: bool = False
    failed_in_job: bool = False

    @property
    def at_work(self) -> bool:
        """Whether something happens to it yet without anybody's doing."""
        return self.held or self.submitting or bool(self.live)

    @property
    def needs_rerun(self) -> bool:
        """Whether a retry picks it: it failed or was left, and nobody is about to go on with it."""
        return self.state in RERUN and not self.at_work


@dataclass(frozen=True)
class View:
    """All cells that were looked at. silent: why nothing is known of their jobs, None where all is known."""

    cells: tuple[Shown, ...]
    silent: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is at work, as far as is known. While SLURM is silent, an unfinished cell may be."""
        return not any(cell.at_work or (self.silent and cell.state not in FINAL) for cell in self.cells)

    def counts(self) -> dict[str, int]:
        """How many cells are in each state, in the order of STATES, without those in which none is."""
        found = [cell.state for cell in self.cells]
        return {state: found.count(state) for state in STATES if state in found}


def look(cells: Sequence[CellFiles], out: Path) -> View:
    """What became of the cells, asked once. Raises DamagedError where a file of a sweep or a status is damaged."""
    submitted = sweeps.read(out)
    return survey(cells, out, submitted, _ask(cells, out, submitted))


class Lookout:
    """Looks again and again: at the files each time, at the queue every QUEUE_SECONDS and in the background.

    A controller that is down takes ten seconds to not answer: files are looked at meanwhile, and its last answer
    counts.

    find: the cells to look at, called as often as the queue is asked.
    """

    def __init__(self, find: Callable[[], Sequence[CellFiles]], out: Path) -> None:
        self.find, self.out = find, out
        self._cells, self._sweeps = find(), sweeps.read(out)
        self._queue = _ask(self._cells, out, self._sweeps)
        self._asked = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="squeue")
        self._answer: Future[Queue] | None = None
        self._over_since: float | None = None

    def __call__(self) -> View:
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer.result(), None
            # While SLURM is silent, what it said last is the best that is known.
            self._queue = replace(self._queue, silent=answer.silent) if answer.silent else answer
        if self._answer is None and time.monotonic() - self._asked >= QUEUE_SECONDS:
            self._cells, self._sweeps = self.find(), sweeps.read(self.out)
            self._asked = time.monotonic()
            self._answer = self._pool.submit(_ask, self._cells, self.out, self._sweeps)
        view = survey(self._cells, self.out, self._sweeps, self._queue)  # files after the queue: they are not older
        if not view.is_over:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = time.monotonic()
        return view

    def has_ended(self, view: View) -> bool:
        """Whether the view, the last one, is final: all cells have results, or nobody has been at work for a while."""
        if all(cell.state in FINAL for cell in view.cells):
            return True
        return self._over_since is not None and time.monotonic() - self._over_since >= SETTLE_SECONDS


def survey(cells: Sequence[CellFiles], out: Path, submitted: Sequence[Sweep], jobs: Queue) -> View:
    """What became of the cells, by these sweeps and this answer of SLURM."""
    held_by = sweeps.places(submitted)
    known = {name for name, _ in jobs.jobs}
    now = datetime.now(UTC)
    shown = []
    for files in cells:
        name = name_of(files, out)
        shown.append(judge(name, files, is_held(files.path / "lock"), held_by.get(name, []), jobs, known, now))
    unknown = any(name_of(files, out) in held_by for files in cells) and jobs.silent
    return View(tuple(shown), unknown or None)


def name_of(files: CellFiles, out: Path) -> str:
    """What a cell is called: its folder below that of all runs."""
    return files.path.relative_to(out).as_posix()


def judge(
    name: str,
    files: CellFiles,
    held: bool,
    places: Sequence[Place],
    jobs: Queue,
    known: set[str],
    now: datetime,
) -> Shown:
    """What became of one cell. known: the names of arrays that SLURM has any job of. places: newest last."""
    status = files.status
    state = status["state"]
    number, node = str(status.get("job") or ""), str(status.get("node") or "")
    cell = partial(Shown, name, files, status)
    if state in FINAL:
        return cell(state, "", number, node, held=held)
    live = tuple((place, jobs.jobs[place.key]) for place in places if place.key in jobs.jobs)
    live = tuple((place, job) for place, job in live if job.is_live)
    if held:
        if live and not number:
            number, node = live[-1][1].id, live[-1][1].node
        return cell("running", "", number, node, live, held=True)
    if state == "failed":  # a worker of a task that holds other cells, too, does not try it again
        return cell(state, _first_line(status), number, node)
    if live:
        begun = state != "queued"
        job = next((job for _, job in reversed(live) if job.runs), live[-1][1])
        starts = "its job starts" if begun else "its job has not come to it yet"
        return cell("requeued" if begun else "queued", starts if job.runs else job.reason, job.id, job.node, live)
    if not places or (jobs.silent and places[-1].key not in jobs.jobs):
        return cell("interrupted" if state == "running" else state, "", number, node)
    place = places[-1]
    if place.key not in jobs.jobs:
        missing, reason = _missing(place, jobs, known, now)
        return cell(missing, reason, _number(place), node, submitting=missing == "queued")
    job = jobs.jobs[place.key]
    ended, reason = _ended(job)
    return cell(ended, reason, job.id, job.node, failed_in_job=ended == "failed")


def _missing(place: Place, jobs: Queue, known: set[str], now: datetime) -> tuple[str, str]:
    """State and reason of a cell whose task SLURM does not know."""
    if place.array.name in known and jobs.accounted:
        # All tasks of an array are submitted at once, and those that ran are in the accounts. SLURM keeps no word of
        # a task that is cancelled while the rest of its array waits.
        return "cancelled", "its job was cancelled while it waited"
    if now - sweeps.submitted(place.sweep) < SUBMISSION:
        return "queued", "being submitted"
    if place.array.job is None:
        return "lost", "it was never submitted"
    if not jobs.accounted:
        return "lost", "its job has ended, and this cluster keeps no accounts that say how"
    return "lost", "SLURM has no word of its job"


def _ended(job: Job) -> tuple[str, str]:
    """State and reason of a cell that its job left unfinished when it ended."""
    on = f" on {job.node}" if job.node else ""
    status, _, number = job.exit_code.partition(":")
    if job.state in ("CANCELLED", "REVOKED"):
        return "cancelled", "its job was cancelled"
    if job.state == "COMPLETED":
        return "interrupted", f"its job ended{on} before the cell did"
    if job.state == "PREEMPTED":
        return "interrupted", f"its job gave way to another{on} and was not queued again"
    if job.state == "TIMEOUT":
        return "failed", f"its job ran into its time limit{on}"
    if job.state == "OUT_OF_MEMORY":
        return "failed", f"its job took more memory than it had asked for{on}"
    if job.state == "NODE_FAIL":
        return "failed", f"its node{f' {job.node}' if job.node else ''} failed"
    # It could not say so in a file. (SLURM's reason, JobLaunchFailure, stands beside every signal, too.)
    if job.exit_code == NO_LOG:
        return "failed", f"its log folder could not be written{f' on node {job.node}' if job.node else ''}"
    if job.state != "FAILED":
        return "failed", f"its job ended{on} as {job.state}"
    if number not in ("", "0"):
        return "failed", f"its job was ended{on} by {_signal(number)}"
    return "failed", f"its job ended{on} with exit status {status}"


def _signal(number: str) -> str:
    try:
        return f"signal {number} ({signal.Signals(int(number)).name})"
    except ValueError:
        return f"signal {number}"


def _first_line(status: Mapping[str, Any]) -> str:
    return (str(status.get("error") or "").strip().splitlines() or [""])[0]


def _number(place: Place) -> str:
    return f"{place.array.job}_{place.index}" if place.array.job else ""


def _ask(cells: Sequence[CellFiles], out: Path, submitted: Sequence[Sweep]) -> Queue:
    """What SLURM knows of the tasks that hold a cell which is not finished."""
    held_by = sweeps.places(submitted)
    unfinished = [files for files in cells if files.status["state"] not in FINAL]
    wanted = {place.key: place for files in unfinished for place in held_by.get(name_of(files, out), [])}
    if not wanted:
        return Queue()
    return queue.ask(wanted.keys(), min(sweeps.submitted(place.sweep) for place in wanted.values()))
