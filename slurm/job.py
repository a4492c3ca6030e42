"""What one element of a job array does: its cells, and back into the queue when the time is up.

The callable that submitit pickles holds paths alone. Everything else is in the folders of the cells, so a job that
starts again, for whatever reason, goes on where the files say.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..benchmarks.common.distributed import ALONE, Ranks, joined, ranks_from_environment, without_ranks
from ..benchmarks.common.errors import UsageError
from ..benchmarks.common.lock import is_held
from ..benchmarks.common.system import skip_final_gc
from ..benchmarks.execution.worker import INTERRUPTED, POLL_SECONDS, StopFlag, Work, is_open, run_cells
from ..benchmarks.runs.folder import CellFiles

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


UNREADABLE = "unreadable"
PATIENCE_SECONDS = 3600.0  # from SIGTERM to SIGKILL, at most
REQUEUE_SECONDS, REQUEUE_PAUSE_SECONDS = 600.0, 3.0


class UnfinishedError(Exception):
    """Cells of this job have failed, or were left unfinished with nobody to go on."""


@dataclass(frozen=True)
class CellsJob:
    """The work of one array element.

    cells: absolute folders of the cells. share: how many are worked on at once, on the same device.
    requeue, without_progress: as in `clusters.Requeue`. command: what the person typed.
    """

    cells: tuple[str, ...]
    share: int
    requeue: bool
    without_progress: int
    command: str | None = None

    def __call__(self) -> dict[str, str]:
        """Bring the cells as far as the time allows; the state of each by its folder.

        Raises UnfinishedError where a cell has failed, so that SLURM's own books say so, too.
        """
        skip_final_gc()
        # In the place of submitit's handler, which would raise in the middle of any line: this one sets a flag.
        stop = StopFlag()
        print(f"{len(self.cells)} cell(s) on {socket.gethostname()}, start {_restarts() + 1} of the job", flush=True)
        work = Work(cells=self.cells, job=_name(), without_progress=self.without_progress, command=self.command)
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
        each = max(1, threads // self.share)  # also where fewer cells are left than could share the device
        if self.share > 1 and len(self.cells) > 1:
            died = _run_at_once(work, min(self.share, len(self.cells)), each, stop)
            return self._settle(stop, died)
        with joined(_ranks()) as ranks:
            run_cells(work, stop, each, ranks)
        return self._settle(stop) if ranks.is_writer else {}

    def checkpoint(self) -> DelayedSubmission:
        """submitit's protocol, for a signal that comes before the flag is there: start again as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _settle(self, stop: StopFlag, died: str = "") -> dict[str, str]:
        """Say what became of the cells, and leave as SLURM should have it. died: how worker processes did."""
        states = {Path(cell).name: _state(Path(cell)) for cell in self.cells}
        for name, state in states.items():
            print(f"{name}: {state}", flush=True)
        ours = [folder.name for folder in map(Path, self.cells) if _is_left(folder)]
        if stop.signal == signal.SIGTERM:
            # SLURM is about to end this job, and knows whether that is for good: a job that ends by itself would count
            # as completed, and not be started again after a preemption.
            time.sleep(PATIENCE_SECONDS)
        if ours and stop.signal == signal.SIGUSR2 and self.requeue:
            print(f"{len(ours)} cell(s) are not finished: the job goes back into the queue", flush=True)
            _requeue()
            return states
        failed = [name for name, state in states.items() if state in ("failed", UNREADABLE)]
        lost = f"failed: {', '.join(failed)} (see their log.txt)" if failed else ""
        left = f"not finished: {', '.join(ours)}" if ours else ""
        if lost or left or died:
            raise UnfinishedError("; ".join(filter(None, (lost, left, died))))
        return states


def _state(folder: Path) -> str:
    try:
        return CellFiles(folder).status["state"] if folder.is_dir() else UNREADABLE
    except (UsageError, OSError):
        return UNREADABLE


def _is_left(folder: Path) -> bool:
    """Whether a cell is not finished and nobody has it in hand."""
    try:
        return is_open(folder) and not is_held(folder / "lock")
    except (UsageError, OSError):
        return False


def _requeue() -> None:
    """Put this job back into the queue, as soon as the controller answers. Raises UnfinishedError where it refuses."""
    deadline = time.monotonic() + REQUEUE_SECONDS
    while True:
        asked = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], stderr=subprocess.PIPE, text=True)
        if asked.returncode == 0:
            return
        said = (asked.stderr.strip() or "no answer").splitlines()[-1]
        if time.monotonic() > deadline:
            raise UnfinishedError(f"SLURM did not put the job back into the queue: {said}")
        print(f"{said}; asked again", flush=True)
        time.sleep(REQUEUE_PAUSE_SECONDS)


def _run_at_once(work: Work, count: int, threads: int, stop: StopFlag) -> str:
    """Several worker processes on the one device of this job, which leave when this one is told to; how any died."""
    listing = Path(os.environ["SUBMITIT_FOLDER"]) / f"work-{work.job}.json"
    work.write(listing)
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment = {**without_ranks(os.environ), **own}
    command = [sys.executable, "-m", run_cells.__module__, str(listing), str(os.getpid())]
    workers = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) for _ in range(count)]
    told = False
    while any(worker.poll() is None for worker in workers):
        if stop() and not told:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            told = True
        time.sleep(POLL_SECONDS)
    codes = [worker.returncode for worker in workers if worker.returncode not in (0, INTERRUPTED)]
    words = [f"by signal {-code}" if code < 0 else f"with exit status {code}" for code in codes]
    return f"workers ended {', '.join(words)}" if words else ""


def _ranks() -> Ranks:
    """The tasks of this job, which work on each cell together."""
    if int(os.environ.get("SLURM_NTASKS") or 1) == 1:
        return ALONE
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return ranks_from_environment()


def _name() -> str:
    """The job as people name it: array and element."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
