"""Worker processes over one list of cells: started, watched, asked to stop, and ended in groups."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.distributed import without_ranks
from . import worker

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Slots:
    """How many workers run at once, with how many threads per process, on which GPUs (none: whatever is visible).

    processes: of each worker, which work on each cell together, each with a GPU of its own.
    """

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()
    processes: int = 1


def run_workers(listing: Path, slots: Slots, should_stop: Callable[[], bool], tick: Callable[[], None]) -> list[int]:
    """Run the workers over the cells of a list until all have ended; the exit statuses of those that died.

    Args:
        listing: The file of a `Work`.
        should_stop: Once it is true, each process is asked to save and leave.
        tick: Called a few times per second.
    """
    groups = [_start(listing, slots, number) for number in range(slots.jobs)]
    processes = [process for group in groups for process in group]
    stopping = False
    while any(process.poll() is None for process in processes):
        tick()
        for group in groups:
            _end_if_incomplete(group)
        if should_stop() and not stopping:
            for process in processes:
                process.terminate()
            stopping = True
        time.sleep(POLL_SECONDS)
    return [process.returncode for process in processes if process.returncode not in (0, worker.INTERRUPTED)]


def describe(exits: Sequence[int]) -> str:
    """Exit statuses in words: `signal 9, exit status 1`."""
    return ", ".join(f"signal {-code}" if code < 0 else f"exit status {code}" for code in exits)


def _start(listing: Path, slots: Slots, number: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one worker."""
    threads = str(slots.threads)
    environment = {**without_ranks(os.environ), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if slots.gpus:
        first = number * slots.processes
        own = [slots.gpus[place % len(slots.gpus)] for place in range(first, first + slots.processes)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
    if slots.processes > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"WORLD_SIZE": str(slots.processes)}
    # In a session of its own: Ctrl-C in the terminal reaches this process alone, which asks the workers to stop.
    command = [sys.executable, "-m", worker.__name__, str(listing), str(os.getpid())]
    return [
        subprocess.Popen(
            command,
            env=environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if slots.processes > 1 else {}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        for rank in range(slots.processes)
    ]


def free_port() -> int:
    """A port of the loopback address on which no process listens."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _end_if_incomplete(group: Sequence[subprocess.Popen[bytes]]) -> None:
    """Where a process of a worker died, end the others: they may wait for it in the middle of a step."""
    if any(process.returncode not in (None, 0, worker.INTERRUPTED) for process in group):
        for process in group:
            if process.poll() is None:
                process.kill()
