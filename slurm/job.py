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

from ..benchmarks.distributed import ALONE, Ranks, joined, ranks_from_environment, without_ranks
from ..benchmarks.lock import is_held
from ..benchmarks.records import CellFiles
from .worker import POLL_SECONDS, StopFlag, Work, is_open, run_cells

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


class UnfinishedError(Exception):
    """Cells of this job have failed, or were left unfinished with nobody to go on."""


@dataclass(frozen=True)
class CellsJob:
    """The work of one array element.

    cells: absolute folders of the cells. share: how many are worked on at once, on the same device.
    requeue, without_progress: as in `clusters.Requeue`.
    """

    cells: tuple[str, ...]
    share: int
    requeue: bool
    without_progress: int

    def __call__(self) -> dict[str, str]:
        """Bring the cells as far as the time allows; the state of each by its folder.

        Raises UnfinishedError where a cell has failed, so that SLURM's own books say so, too.
        """
        # In the place of submitit's handler, which would raise in the middle of any line: this one sets a flag.
        stop = StopFlag()
        print(f"{len(self.cells)} cell(s) on {socket.gethostname()}, start {_restarts() + 1} of the job", flush=True)
        work = Work(cells=self.cells, job=_name(), without_progress=self.without_progress)
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
        at_once = min(self.share, len(self.cells))
        if at_once > 1:
            _run_at_once(work, at_once, threads, stop)
            return self._settle(stop)
        with joined(_ranks()) as ranks:
            run_cells(work, stop, threads, ranks)
        return self._settle(stop) if ranks.is_writer else {}

    def checkpoint(self) -> DelayedSubmission:
        """submitit's protocol, for a signal that comes before the flag is there: start again as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _settle(self, stop: StopFlag) -> dict[str, str]:
        folders = [Path(cell) for cell in self.cells]
        states = {folder.name: CellFiles(folder).status["state"] for folder in folders}
        for name, state in states.items():
            print(f"{name}: {state}", flush=True)
        ours = [f.name for f in folders if is_open(f, CellFiles(f).config) and not is_held(f / "lock")]
        failed = [name for name, state in states.items() if state == "failed"]
        if ours and stop.signal == signal.SIGUSR2 and self.requeue:
            print(f"{len(ours)} cell(s) are not finished: the job goes back into the queue", flush=True)
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        elif failed or (ours and stop.signal == signal.SIGUSR2):
            left = f"not finished when the time was up: {', '.join(ours)}" if ours else ""
            lost = f"failed: {', '.join(failed)} (see their log.txt)" if failed else ""
            raise UnfinishedError("; ".join(filter(None, (lost, left))))
        return states


def _run_at_once(work: Work, count: int, threads: int, stop: StopFlag) -> None:
    """Several worker processes on the one device of this job; they leave when this one is told to."""
    listing = Path(os.environ["SUBMITIT_FOLDER"]) / f"work-{work.job}.json"
    work.write(listing)
    each = str(max(1, threads // count))
    environment = {**without_ranks(os.environ), "OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
    command = [sys.executable, "-m", f"{__package__}.worker", str(listing), str(os.getpid())]
    workers = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) for _ in range(count)]
    told = False
    while any(worker.poll() is None for worker in workers):
        if stop() and not told:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            told = True
        time.sleep(POLL_SECONDS)


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
