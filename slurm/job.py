"""One element of a job array: it runs its cells, and is requeued when its time is up.

The callable that submitit pickles holds paths alone. Everything else is in the folders of the cells, so a requeued job
resumes from the files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..benchmarks.common.distributed import ALONE, Ranks, joined, ranks_from_environment
from ..benchmarks.common.errors import UsageError
from ..benchmarks.common.lock import is_held
from ..benchmarks.common.system import skip_final_gc
from ..benchmarks.common.text import count
from ..benchmarks.execution.spawn import Slots, describe, run_workers
from ..benchmarks.execution.worker import StopFlag, Work, is_open, run_cells
from ..benchmarks.runs.folder import Run
from ..benchmarks.runs.status import State
from .sbatch import claim

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


UNREADABLE = "unreadable"
#: From SIGTERM to SIGKILL, usually: KillWait is 30 s by default. What is done after it is saved as usual.
KILL_SECONDS = 60.0
REQUEUE_SECONDS, REQUEUE_PAUSE_SECONDS = 600.0, 3.0


class UnfinishedError(Exception):
    """Cells of this job have failed, or are unfinished and held by no process."""


@dataclass(frozen=True)
class CellsJob:
    """The work of one array element.

    cells: absolute folders of the cells. share: how many run at once, on the same device. requeue, without_progress:
    as in `clusters.Requeue`. command: the command line. include: folders of plug-ins that the user has named.
    """

    cells: tuple[str, ...]
    share: int
    requeue: bool
    without_progress: int
    command: str | None = None
    include: tuple[str, ...] = ()

    def __call__(self) -> dict[str, str]:
        """Run the cells as far as the time allows; the state of each by its folder.

        Raises UnfinishedError where a cell has failed, so that SLURM's accounts record a failure, too.
        """
        skip_final_gc()
        cells = count(len(self.cells), "cell")
        print(f"{cells} on {socket.gethostname()}, start {_restarts() + 1} of the job", flush=True)
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if array and (owner := claim(Path(os.environ["SUBMITIT_FOLDER"]), array)) != array:
            print(f"array {owner} runs these cells: this one was submitted twice, and its job ends", flush=True)
            return {}
        stop = StopFlag()  # it replaces submitit's handler, which raises in the middle of any line
        work = Work(
            cells=self.cells,
            job=_name(),
            without_progress=self.without_progress,
            command=self.command,
            include=self.include,
        )
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
        each = max(1, threads // self.share)  # also where fewer cells are left than could share the device
        if self.share > 1 and len(self.cells) > 1:
            listing = Path(os.environ["SUBMITIT_FOLDER"]) / f"work-{work.job}.json"
            work.write(listing)
            slots = Slots(jobs=min(self.share, len(self.cells)), threads=each)
            died = run_workers(listing, slots, stop, tick=lambda: None)
            while stop.signal == signal.SIGTERM:
                stop = _outlast(self.cells)
                died = run_workers(listing, slots, stop, tick=lambda: None)
            return self._settle(stop, died)
        with joined(_ranks()) as ranks:
            run_cells(work, stop, each, ranks)
            while signal.SIGTERM in ranks.exchange(stop.signal):
                stop = _outlast(self.cells)
                run_cells(work, stop, each, ranks)
        return self._settle(stop) if ranks.is_writer else {}

    def checkpoint(self) -> DelayedSubmission:
        """submitit's protocol, for a signal that arrives before the flag is set up: requeue the job as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _settle(self, stop: StopFlag, died: Sequence[int] = ()) -> dict[str, str]:
        """Report the cells, and leave in the way that SLURM needs. died: exit statuses of workers that did."""
        states = _report(self.cells)
        left = [Path(cell).name for cell in self.cells if _is_left(Run(Path(cell)))]
        if left and stop.signal == signal.SIGUSR2 and self.requeue:
            print(f"{count(len(left), 'cell')} not finished: the job is requeued", flush=True)
            _requeue()
            return states
        failed = [name for name, state in states.items() if state in (State.FAILED, UNREADABLE)]
        problems = [f"failed: {', '.join(failed)} (see their log.txt)"] if failed else []
        problems += [f"not finished: {', '.join(left)}"] if left else []
        problems += [f"workers died: {describe(died)}"] if died else []
        if problems:
            raise UnfinishedError("; ".join(problems))
        return states


def _outlast(cells: Sequence[str]) -> StopFlag:
    """Wait to be ended by SLURM after SIGTERM; a fresh flag where it does not within KILL_SECONDS, or signals again.

    SLURM knows whether it ends the job for good: a job that ends by itself counts as completed, and is not requeued
    after a preemption. One that is not ended, as on a node that has just come back, goes on.
    """
    stop = StopFlag()
    _report(cells)
    print(f"SIGTERM: all is saved; the job goes on if it is not ended within {KILL_SECONDS:.0f} s", flush=True)
    stop.wait(KILL_SECONDS)
    return stop


def _report(cells: Sequence[str]) -> dict[str, str]:
    """Print the states of the cells, and return them by the names of their folders."""
    states = {Path(cell).name: _state(Run(Path(cell))) for cell in cells}
    for name, state in states.items():
        print(f"{name}: {state}", flush=True)
    return states


def _state(run: Run) -> str:
    try:
        return run.status.state if run.path.is_dir() else UNREADABLE
    except (UsageError, OSError):
        return UNREADABLE


def _is_left(run: Run) -> bool:
    """Whether a cell is unfinished and held by no process."""
    try:
        return is_open(run) and not is_held(run.lock_file)
    except (UsageError, OSError):
        return False


def _requeue() -> None:
    """Requeue this job, as soon as the controller answers. Raises UnfinishedError where it refuses."""
    deadline = time.monotonic() + REQUEUE_SECONDS
    while True:
        asked = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], stderr=subprocess.PIPE, text=True)
        if asked.returncode == 0:
            return
        said = (asked.stderr.strip() or "no answer").splitlines()[-1]
        if time.monotonic() > deadline:
            raise UnfinishedError(f"SLURM did not requeue the job: {said}")
        print(f"{said}; trying again", flush=True)
        time.sleep(REQUEUE_PAUSE_SECONDS)


def _ranks() -> Ranks:
    """The tasks of this job, as processes that work on each cell together."""
    if int(os.environ.get("SLURM_NTASKS") or 1) == 1:
        return ALONE
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return ranks_from_environment()


def _name() -> str:
    """The job by array and element, such as 123_4."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
