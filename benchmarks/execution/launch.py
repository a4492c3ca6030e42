"""Launching cells on this machine: their folders, the share of cores and GPUs of each worker, and the run itself."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import read_json, write_json, write_text
from ..common.lock import is_held
from ..common.redact import typed
from ..common.system import available_cores
from ..config.compose import Cell
from ..config.schema import RunConfig
from ..runs.folder import CONFIG, STATUS, CellFiles
from .spawn import Slots, describe, run_workers
from .worker import STARTS, StopFlag, Work, run_cells


def default_slots(cells: int, jobs: int | None = None, processes: int = 1) -> Slots:
    """One worker per GPU, or per core where there is none, with an equal share of the cores as threads.

    processes: of each worker, `train.resources.devices` of the cells.

    It depends on the whole grid and never on the remaining cells: a resumed run keeps its number of threads, and with
    it its rounding.
    """
    cores, gpus = available_cores(), visible_gpus()
    jobs = max(1, min(jobs or (len(gpus) or cores) // processes, cells))
    return Slots(jobs=jobs, threads=max(1, cores // (jobs * processes)), gpus=gpus, processes=processes)


def devices(config: RunConfig) -> int:
    """The number of processes that train a cell together."""
    return config.train.resources.devices


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs by their names in CUDA_VISIBLE_DEVICES, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name for name in named.split(",") if name)
    return tuple(str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*")))))


def prepare(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write the folders of cells that are to run: resolved configuration and the state `queued`."""
    import yaml

    folders = []
    for cell in cells:
        folder = cell.path(out)
        config = folder / CONFIG
        text = yaml.safe_dump(cell.config.to_dict(), sort_keys=False, allow_unicode=True)
        if not config.exists() or config.read_text(encoding="utf-8") != text:
            write_text(config, text)
        if not is_held(folder / "lock"):
            enqueue(folder, cell.config)
        folders.append(folder)
    return folders


@contextlib.contextmanager
def restore_if_refused(folders: Sequence[Path]) -> Iterator[None]:
    """Where the submission within is refused, restore the states of the cells that no process holds."""
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


def enqueue(folder: Path, config: RunConfig) -> None:
    """Set the state `queued`, so that workers also take a cell that has failed; what it has computed stays."""
    (folder / STARTS).unlink(missing_ok=True)
    before = read_json(folder / STATUS, {"images": 0})
    total = config.budget_images
    write_json(folder / STATUS, {**before, "state": "queued", "total": total, "error": None})


def run_local(folders: Sequence[Path], slots: Slots, tick: Callable[[], None]) -> bool:
    """Run the cells in worker processes until all have ended; True if interrupted (Ctrl-C, SIGTERM).

    tick: called a few times per second, to show progress. On an interrupt the workers save between two steps and stop.
    """
    with contextlib.closing(StopFlag()) as stop, tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        listing = Path(temporary) / "cells"
        _work(folders).write(listing)
        died = run_workers(listing, replace(slots, jobs=min(slots.jobs, len(folders))), stop, tick)
        tick()
        for folder in folders:
            _settle(folder, stop(), died)
        return stop()


def run_in_process(folders: Sequence[Path], threads: int) -> bool:
    """Run the cells one after another in this process, with their logs on stderr; True if interrupted."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.closing(StopFlag()) as stop:
        run_cells(_work(folders), stop, threads)
        return stop()


def _work(folders: Sequence[Path]) -> Work:
    return Work(cells=tuple(str(folder.resolve()) for folder in folders), command=typed())


def _settle(folder: Path, interrupted: bool, died: Sequence[int]) -> None:
    """Write the final state of a cell that no worker finished. died: exit statuses of workers that did."""
    status = CellFiles(folder).status
    if status["state"] not in ("queued", "running") or is_held(folder / "lock"):
        return
    if interrupted:
        write_json(folder / STATUS, {**status, "state": "interrupted"})
    elif died:  # else another `bench run` has just queued the cell
        error = f"the worker process died ({describe(died)})"
        write_json(folder / STATUS, {**status, "state": "failed", "error": error})
