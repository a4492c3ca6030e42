"""Launching cells on this machine: their folders, the share of cores and GPUs of each worker, and the run itself."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..common.files import owner_mark, remove_leftovers, write_text, yaml_text
from ..common.gpus import visible_gpus
from ..common.lock import is_held
from ..common.redact import typed, without_password
from ..common.system import available_cores, environment_threads
from ..config.compose import Cell
from ..config.plugins import included
from ..config.schema import RunConfig
from ..runs.damage import evict
from ..runs.folder import Run
from ..runs.status import State
from .spawn import Slots, describe, run_workers
from .worker import StopFlag, Work, run_cells


def default_slots(
    cells: int, jobs: int | None = None, processes: int = 1, threads: int | None = None, device: str = "auto"
) -> Slots:
    """One worker per GPU, with an equal share of the cores as threads, or one per core where no GPU is used.

    processes: of each worker, `train.resources.devices` of the cells. threads: of each process; by default those of
    OMP_NUM_THREADS, on GPUs at most the share. device: `run.device` of the cells.

    It depends on the whole grid and never on the remaining cells: a resumed run keeps its number of threads, and with
    it its rounding.
    """
    cores, usual = available_cores(), environment_threads()
    gpus = () if device in ("cpu", "mps") else visible_gpus()
    each = threads or usual or 1
    jobs = max(1, min(jobs or (len(gpus) or cores // each) // processes, cells))
    if gpus and not threads:
        share = max(1, cores // (jobs * processes))
        each = min(share, usual or share)
    return Slots(jobs=jobs, threads=each, gpus=gpus, processes=processes)


def devices(config: RunConfig) -> int:
    """The number of processes that train a cell together."""
    return config.train.resources.devices


def prepare(cells: Sequence[Cell], out: Path) -> list[Run]:
    """Write the folders of cells that are to run here: resolved configuration and the state `queued`."""
    runs = store(cells, out)
    for run, cell in zip(runs, cells, strict=True):
        if not is_held(run.lock_file):
            enqueue(run, cell.config)
    return runs


def store(cells: Sequence[Cell], out: Path) -> list[Run]:
    """Write the resolved configurations of cells into their folders."""
    runs = []
    for cell in cells:
        run = Run(cell.path(out))
        config = run.config_file
        text = yaml_text(cell.config.to_dict())
        if not config.is_file() or config.read_bytes() != text.encode():
            evict(run, cell.id)
            write_text(config, text)
        runs.append(run)
    return runs


def enqueue(run: Run, config: RunConfig) -> None:
    """Set the state `queued`, so that workers also take a cell that has failed; what it has computed stays."""
    run.starts_file.unlink(missing_ok=True)
    run.set_state(State.QUEUED, total=config.budget_images)


def run_local(runs: Sequence[Run], slots: Slots, tick: Callable[[], None]) -> bool:
    """Run the cells in worker processes until all have ended; True if interrupted (Ctrl-C, SIGTERM).

    tick: called a few times per second, to show progress. On an interrupt the workers save between two steps and stop.
    """
    remove_leftovers(Path(tempfile.gettempdir()), "bench-*")
    prefix = f"bench-{owner_mark()}"
    with contextlib.closing(StopFlag()) as stop, tempfile.TemporaryDirectory(prefix=prefix) as temporary:
        listing = Path(temporary) / "cells"
        _work(runs).write(listing)
        died = run_workers(listing, replace(slots, jobs=min(slots.jobs, len(runs))), stop, tick)
        tick()
        for run in runs:
            _settle(run, stop(), died)
        return stop()


def run_in_process(runs: Sequence[Run], threads: int) -> bool:
    """Run the cells one after another in this process, with their logs on stderr; True if interrupted."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Brief("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    with contextlib.closing(StopFlag()) as stop:
        run_cells(_work(runs), stop, threads)
        return stop()


class _Brief(logging.Formatter):
    """Messages for a terminal: without stack traces, which the log of the cell has."""

    def format(self, record: logging.LogRecord) -> str:
        brief = copy.copy(record)
        brief.exc_info = brief.exc_text = brief.stack_info = None
        return without_password(super().format(brief))


def _work(runs: Sequence[Run]) -> Work:
    return Work(cells=tuple(str(run.path.resolve()) for run in runs), command=typed(), include=included())


def _settle(run: Run, interrupted: bool, died: Sequence[int]) -> None:
    """Write the final state of a cell that no worker finished. died: exit statuses of workers that did."""
    if run.status.state not in (State.QUEUED, State.RUNNING) or is_held(run.lock_file):
        return
    if interrupted:
        run.set_state(State.INTERRUPTED)
    elif died:  # else another `bench run` has just queued the cell
        run.set_state(State.FAILED, f"the worker process died ({describe(died)})")
