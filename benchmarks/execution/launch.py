"""Launching cells on this machine: worker processes over one list, each with threads of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.distributed import without_ranks
from ..common.errors import UsageError
from ..common.files import read_json, write_json, write_text
from ..common.lock import is_held
from ..common.redact import typed
from ..common.system import available_cores
from ..config import plan
from ..config.compose import Cell
from ..runs.folder import CONFIG, STATUS, CellFiles
from .worker import INTERRUPTED, STARTS, StopFlag, Work, run_cells

TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Slots:
    """How many workers run at once, with how many threads each, on which GPUs (none: the CPU).

    processes: that make up a worker, each with its threads and a GPU; they work on each cell together.
    """

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()
    processes: int = 1


def default_slots(cells: int, jobs: int | None = None, processes: int = 1) -> Slots:
    """One worker a GPU, or a core where there is none; threads share the cores out so that workers do not fight.

    processes: of each worker, `train.resources.devices` of the cells.

    Depends on the whole grid and never on what is left of it: a resumed run keeps its number of threads, and with it
    its rounding.
    """
    cores, gpus = available_cores(), visible_gpus()
    jobs = max(1, min(jobs or (len(gpus) or cores) // processes, cells))
    return Slots(jobs=jobs, threads=max(1, cores // (jobs * processes)), gpus=gpus, processes=processes)


def devices(config: Mapping[str, Any]) -> int:
    """How many processes train a cell together."""
    return (config["train"].get("resources") or {}).get("devices") or 1


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name for name in named.split(",") if name)
    return tuple(str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*")))))


def prepare(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write the folders of cells that are to run: resolved configuration, and a place in the queue."""
    import yaml

    folders = []
    for cell in cells:
        folder = cell.path(out)
        config = folder / CONFIG
        text = yaml.safe_dump(cell.config, sort_keys=False, allow_unicode=True)
        if not config.exists() or config.read_text(encoding="utf-8") != text:
            write_text(config, text)
        if not is_held(folder / "lock"):
            enqueue(folder, cell.config)
        folders.append(folder)
    return folders


@contextlib.contextmanager
def restore_if_refused(folders: Sequence[Path]) -> Iterator[None]:
    """Where the submission within is refused, cells that nobody has taken meanwhile get back the states they had."""
    before = {folder: read_json(folder / STATUS) for folder in folders}
    try:
        yield
    except UsageError:
        for folder, status in before.items():
            if is_held(folder / "lock"):
                continue
            if status is None:
                (folder / STATUS).unlink(missing_ok=True)
            else:
                write_json(folder / STATUS, status)
        raise


def enqueue(folder: Path, config: Mapping[str, Any]) -> None:
    """Give a cell back to the workers, which leave one alone that has failed; what it has computed stays."""
    (folder / STARTS).unlink(missing_ok=True)
    before = read_json(folder / STATUS, {"images": 0})
    total = plan.budget_images(dict(config))
    write_json(folder / STATUS, {**before, "state": "queued", "total": total, "error": None})


def run_local(folders: Sequence[Path], slots: Slots, tick: Callable[[], None]) -> bool:
    """Run the cells in worker processes until all have ended; True if interrupted (Ctrl-C, SIGTERM).

    tick: called a few times a second, to show progress. On an interrupt the workers save between two steps and stop;
    a second one does not make them faster.
    """
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        listing = Path(temporary) / "cells"
        Work(cells=tuple(str(folder.resolve()) for folder in folders), command=typed()).write(listing)
        groups = [_start(listing, slots, number) for number in range(min(slots.jobs, len(folders)))]
        workers = [worker for group in groups for worker in group]
        told = False
        try:
            while any(worker.poll() is None for worker in workers):
                tick()
                for group in groups:
                    _end_with_one(group)
                if interrupted and not told:
                    for worker in workers:
                        worker.send_signal(signal.SIGTERM)
                    told = True
                time.sleep(TICK_SECONDS)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    tick()
    for folder in folders:
        _settle(folder, interrupted, [worker.returncode for worker in workers])
    return interrupted


def run_in_process(folders: Sequence[Path], threads: int) -> bool:
    """Run the cells one after another in this process, which also says what they log; True if interrupted.

    For a debugger, and for seeing what a cell says.
    """
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    stop = StopFlag()
    try:
        run_cells(Work(cells=tuple(str(folder.resolve()) for folder in folders), command=typed()), stop, threads)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return stop()


def _start(listing: Path, slots: Slots, number: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one worker."""
    threads = str(slots.threads)
    environment = {**without_ranks(os.environ), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if slots.gpus:
        first = number * slots.processes
        own = [slots.gpus[place % len(slots.gpus)] for place in range(first, first + slots.processes)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
    command = [sys.executable, "-m", f"{__package__}.worker", str(listing), str(os.getpid())]
    port, processes = _free_port(), []
    for rank in range(slots.processes):
        if slots.processes > 1:
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(slots.processes)}
            environment |= {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        # A session of its own: Ctrl-C in the terminal reaches this process alone, which then tells the workers once.
        processes.append(
            subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
        )
    return processes


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _end_with_one(group: Sequence[subprocess.Popen[bytes]]) -> None:
    """Where a process of a worker died, the others go too: they may wait for it in the midst of a step."""
    if any(process.returncode not in (None, 0, INTERRUPTED) for process in group):
        for process in group:
            if process.poll() is None:
                process.kill()


def _settle(folder: Path, interrupted: bool, exits: list[int]) -> None:
    """Give a cell that no worker finished its final state."""
    status = CellFiles(folder).status
    if status["state"] not in ("queued", "running") or is_held(folder / "lock"):
        return
    died = ", ".join(f"signal {-code}" if code < 0 else f"exit {code}" for code in exits if code)
    if interrupted:
        write_json(folder / STATUS, {**status, "state": "interrupted"})
    elif died:  # else another `bench run` has just put the cell back in its own queue
        write_json(folder / STATUS, {**status, "state": "failed", "error": f"the worker process died ({died})"})
