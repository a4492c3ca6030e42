"""A worker process: it runs the cells of a list, one after another, until all of them are finished.

`python -m consistency_bench.benchmarks.execution.worker LIST [PARENT]` reads a `Work` from the JSON file LIST. A worker
claims a cell by its lock, so any number of workers, however they were started, can share a list. On SIGINT, SIGTERM,
SIGHUP, SIGQUIT or SIGUSR2, and when its parent PARENT has ended, it saves between two steps and leaves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..common.distributed import ALONE, OutOfStepError, Ranks, joined, ranks_from_environment
from ..common.errors import UsageError
from ..common.files import DamagedError, TakenError, naming, read_json, read_jsonl, write_json
from ..common.lock import Lock, acquire, is_held
from ..common.redact import without_password
from ..common.system import skip_final_gc
from ..common.text import count
from ..common.unexpected import describe
from ..config.plugins import activate
from ..runs.damage import needs_run
from ..runs.folder import Run
from ..runs.starts import awaited, first_cell, never
from ..runs.status import State, Status

POLL_SECONDS = 0.5
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)


@dataclass(frozen=True)
class Work:
    """A list of cells, and what a worker needs to know besides.

    Attributes:
        cells: Their folders.
        job: The SLURM job, such as `123_4`; None for workers of this machine. A worker of this machine waits for cells
            that other workers hold; one in a job leaves them to their owners while these are alive.
        without_progress: The number of jobs in a row that may end without saving anything before the cell has failed.
        command: The command line, for the record.
        include: Folders of plug-ins that the user has named.
    """

    cells: tuple[str, ...]
    job: str | None = None
    without_progress: int | None = None
    command: str | None = None
    include: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Work:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "cells": tuple(content["cells"]), "include": tuple(content["include"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class StopFlag:
    """Whether to stop: set by any of SIGNALS, or when the process `parent` is no longer the parent.

    signal: the number of the first signal. The flag replaces the signal handlers until it is closed. A SIGHUP that is
    ignored, as under nohup, stays ignored.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._event = threading.Event()
        self.signal: int | None = None
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = [number for number in SIGNALS if not (ignored and number is signal.SIGHUP)]
        self._handlers = {number: signal.signal(number, lambda number, _: self.set(number)) for number in numbers}
        self._parent = parent

    def set(self, number: int) -> None:
        """Set the flag as the signal `number` does."""
        self.signal = self.signal or number
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Return once a signal has set the flag, or after some seconds. The end of the parent is not noticed."""
        self._event.wait(seconds)

    def close(self) -> None:
        """Restore the signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self._event.is_set() or (self._parent is not None and os.getppid() != self._parent)


def main(arguments: list[str]) -> int:
    """Run the cells of a list; 130 when interrupted, else 0. How each cell ended is in its folder."""
    listing, *parent = arguments
    stop = StopFlag(int(parent[0]) if parent else None)
    logging.captureWarnings(True)  # into the log of the running cell
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    try:
        work = Work.read(Path(listing))
    except FileNotFoundError:  # its parent has ended, and the list with it
        return INTERRUPTED
    try:
        with joined(ranks_from_environment()) as ranks:
            run_cells(work, stop, threads, ranks)
    except (OutOfStepError, OSError) as error:  # OSError: of locks and states, on a full or read-only disk
        _print(str(error))
        return 1
    except Exception as error:  # outside of any cell, whose own failures are in its log
        _print(describe(error))
        return 1
    return INTERRUPTED if stop() else 0


def run_cells(work: Work, stop: StopFlag, threads: int, ranks: Ranks = ALONE) -> None:
    """Run the cells of a list, free ones before those that other workers hold.

    Processes that have joined work on each cell together: rank 0 claims it and broadcasts its folder. Raises
    OutOfStepError where one of them is lost; then this process has to end.
    """
    try:
        activate(work.include)
    except UsageError as error:  # changed since the cells were launched: each of them says so when it is run
        _print(str(error))
    claims = _claims(work, stop) if ranks.is_writer else iter(())
    while True:
        for number in ranks.exchange(stop.signal):  # signals reach the processes of a job one after another
            if number is not None:
                stop.set(number)
        claim = next(claims, None)
        folder = ranks.broadcast(claim and claim[0].path)
        if folder is None:
            return
        import torch

        torch.set_num_threads(threads)
        if claim is None:
            _follow(folder, stop, threads, ranks)
        else:
            with claim[1] as lock, _log_to(Run(folder), lock):
                _lead(Run(folder), lock, work, stop, threads, ranks)


def _claims(work: Work, stop: StopFlag) -> Iterator[tuple[Run, Lock]]:
    """Open cells with their locks, as they become available; ends when none is left for this worker.

    A cell becomes available when the one that it starts from is trained. It fails where no process will train that.
    """
    runs = [Run(Path(name)) for name in work.cells]
    done: set[Run] = set()  # tried, finished, or held by a living process
    beats: dict[Path, float] = {}
    while not stop():
        candidates = [run for run in runs if run not in done and _is_candidate(run, work.job)]
        # The files of a cell that another worker has finished are not checked at each poll.
        done.update(run for run in runs if run not in candidates and _is_final(run))
        if not candidates:
            return
        claimed, coming = False, {run.path for run in candidates}
        for run in candidates:
            if stop():
                return
            first, is_coming = _awaited(run, coming)
            if first is not None and is_coming:
                continue
            lock = acquire(run.lock_file)
            if lock is None:
                if work.job and _beats(run.lock_file, beats):
                    _print(f"{run.path.name} is held by another living process, skipped")
                    done.add(run)
                continue
            # Asked again: the last owner may have finished the cell, or have left it because all are told to stop.
            if stop() or not _is_candidate(run, work.job):
                lock.release()
                continue
            claimed = True
            done.add(run)
            if first is not None:
                _give_up(run, lock, never(first))
            elif work.without_progress is None or _may_start(run, work.without_progress):
                yield run, lock
            else:
                lock.release()
        if not claimed and not stop():
            time.sleep(POLL_SECONDS)  # other workers hold the rest: wait, in case one of them dies


def _is_candidate(run: Run, job: str | None) -> bool:
    """Whether a cell is open. One whose files are damaged or missing is reported, and stops no other."""
    try:
        return is_open(run)
    except OSError as error:  # a folder that is gone, or a file server that fails: nothing is known of the cell
        _print(f"{run.path.name}: {error}")
    except UsageError as error:
        _print(f"{run.path.name}: {error}")
        if not is_held(run.lock_file):
            _note_failure(run, str(error), job)
    return False


def _awaited(run: Run, coming: Collection[Path]) -> tuple[Run | None, bool]:
    """The cell that must be trained before this one, None without any, and whether a process does or will train it.

    coming: folders of open cells on this worker's list.
    """
    with contextlib.suppress(UsageError, OSError):  # damaged since it was listed: reported when it is claimed
        first = first_cell(run.path, config := Run(run.path).config)
        # In this order: weights are written before the lock is released.
        is_coming = first is not None and (first.path in coming or is_held(first.lock_file))
        return awaited(run.path, config), is_coming
    return None, False


def _give_up(run: Run, lock: Lock, why: str) -> None:
    """Record that a cell has failed without having started."""
    _print(f"{run.path.name}: {why}")
    with lock, _log_to(run, lock):
        logging.error(why)
        run.set_state(State.FAILED, why)


def _is_final(run: Run) -> bool:
    with contextlib.suppress(DamagedError, OSError):  # reported by `_is_candidate`
        return run.status.state.is_final
    return False


def _beats(lock: Path, seen: dict[Path, float]) -> bool:
    """Whether a lock was renewed since it was first seen, which proves its owner alive on any machine."""
    try:
        beat = lock.stat().st_mtime
    except FileNotFoundError:
        return False
    return beat > seen.setdefault(lock, beat)


def is_open(run: Run) -> bool:
    """Whether a cell has work left. A failed one is closed until the next launch queues it.

    Raises DamagedError or OSError where its files cannot be read.
    """
    config = Run(run.path).config  # as it is now: another command may have replaced it
    return run.status.state is not State.FAILED and needs_run(run, config)


def _follow(folder: Path, stop: StopFlag, threads: int, ranks: Ranks) -> None:
    """The part of a process other than rank 0. It writes nothing in the folder; errors go to stderr."""
    from .cell import run_cell

    try:
        run_cell(folder, should_stop=stop, threads=threads, ranks=ranks)
    except OutOfStepError:
        raise
    except Exception as error:  # which all processes know of
        _print(f"process {ranks.rank} of {ranks.size} left {folder.name}: {type(error).__name__}: {error}")


def _lead(run: Run, lock: Lock, work: Work, stop: StopFlag, threads: int, ranks: Ranks) -> None:
    """The part of rank 0. A failure is recorded in the folder and does not end the worker."""
    from .cell import run_cell

    def should_stop() -> bool:
        return stop() or not lock.is_ours()

    where = f"process {os.getpid()} on {socket.gethostname()}, {count(threads, 'thread')}"
    logging.info("attempt started, %s%s", where, f", one of {ranks.size} processes" if ranks.size > 1 else "")
    try:
        state = run_cell(
            run.path, should_stop=should_stop, threads=threads, job=work.job, command=work.command, ranks=ranks
        )
        logging.info("attempt ended: %s", state)
    except TakenError as error:
        _print(f"{error}; nothing more was written there")
    except OutOfStepError as error:
        logging.error("attempt ended: %s", error)
        raise
    except Exception as error:
        logging.exception("attempt failed")
        _note_failure(run, f"{type(error).__name__}: {error}", work.job)


def _print(text: str) -> None:
    """Print to stderr, for messages that do not belong into the log of a cell."""
    print(without_password(text), file=sys.stderr, flush=True)


def _note_failure(run: Run, error: str, job: str | None) -> None:
    """Write the state "failed" unless the cell has done so itself; on a full or read-only disk, print that instead."""
    if run.status.state is State.FAILED:
        return
    try:
        Status(State.FAILED, error=error, job=job, node=socket.gethostname()).write(run.status_file)
    except OSError as trouble:
        _print(f"{run.path.name}: the state 'failed' cannot be written ({trouble})")


@contextlib.contextmanager
def _log_to(run: Run, lock: Lock) -> Iterator[None]:
    """Within, everything that is logged goes to the log.txt of a cell, while the lock is ours."""
    for leftover in run.path.glob("[!.]*/.*.tmp"):  # of an attempt that was killed while it wrote
        with contextlib.suppress(OSError):
            leftover.unlink()
    handler, root = _OwnLog(run.log_file, lock), logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _OwnLog(logging.FileHandler):
    """The log of a cell. The file is opened for each line: a disk may be unmounted in between."""

    def __init__(self, path: Path, lock: Lock) -> None:
        super().__init__(path, encoding="utf-8", delay=True, errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.own = lock

    def format(self, record: logging.LogRecord) -> str:
        return without_password(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        if not self.own.is_ours():
            return
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)
        finally:
            self.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """On a full disk: print what cannot be written, without a stack trace."""
        _print(f"{self.baseFilename} cannot be written: {record.getMessage()}")


def _may_start(run: Run, limit: int) -> bool:
    """Count the jobs in a row that found nothing new saved since the one before; at the limit the cell has failed."""
    saved, without_progress = _saved(run), 0
    with contextlib.suppress(DamagedError), naming(run.starts_file):  # without a sound one, this job is the first
        before = read_json(run.starts_file, {"saved": None, "without_progress": 0})
        without_progress = before["without_progress"] + 1 if before["saved"] == saved else 0
    write_json(run.starts_file, {"saved": saved, "without_progress": without_progress})
    if without_progress < limit:
        return True
    error = f"{limit} jobs in a row ended before anything new was saved (is the time limit long enough?)"
    run.set_state(State.FAILED, error)
    _print(f"{run.path.name}: {error}")
    return False


def _saved(run: Run) -> list[float]:
    """A measure of progress: the checkpoint's time, the numbers of snapshots and rows, features of the real data."""
    from ..common.cache import cache_folder

    checkpoint = run.path / "checkpoints" / "last.pt"
    snapshots = list(run.path.glob("snapshots/*.safetensors"))
    # Features take hours on a CPU, for all cells of a benchmark.
    pieces = list(cache_folder("references").glob("[!.]*/features-*.npy"))
    time = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
    return [time, len(snapshots), len(read_jsonl(run.records_file, [])), len(pieces)]


if __name__ == "__main__":
    skip_final_gc()
    sys.exit(main(sys.argv[1:]))
