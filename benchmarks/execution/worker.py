"""A worker process: it takes cells off a list, one after another, until all of them are finished.

`python -m consistency_bench.slurm.worker LIST [PARENT]` reads a `Work` from the JSON file LIST. A worker claims a cell
by its lock, so any number of workers, started by anybody, can share a list. On SIGINT, SIGTERM or SIGUSR2, and when
the process PARENT that started it is gone, it saves between two steps and leaves.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.distributed import ALONE, OutOfStepError, Ranks, joined, ranks_from_environment
from ..common.errors import UsageError
from ..common.files import DamagedError, TakenError, read_json, write_json
from ..common.lock import Lock, acquire, is_held
from ..common.system import skip_final_gc
from ..runs.folder import STATUS, CellFiles, is_finished

POLL_SECONDS = 0.5
INTERRUPTED = 130
#: Of a cell that jobs work on: what was saved when the last one began, and how many in a row saved nothing.
STARTS = "starts.json"


@dataclass(frozen=True)
class Work:
    """A list of cells, and what a worker needs to know beside them.

    cells: their folders.
    job: the SLURM job, as people name it (`123_4`); None where a person waits for the workers of this machine. A worker
        on this machine waits for cells that other workers hold; one in a job leaves them to whoever holds them alive.
    without_progress: starts of jobs in a row that may end without having saved anything; then the cell is failed.
    command: what the person typed, for the record.
    """

    cells: tuple[str, ...]
    job: str | None = None
    without_progress: int | None = None
    command: str | None = None

    @classmethod
    def read(cls, path: Path) -> Work:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "cells": tuple(content["cells"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class StopFlag:
    """Set by a signal, or when the process `parent` is no longer this one's parent; looked at between two steps.

    signal: the number of the first one that came.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._event = threading.Event()
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._note)
        if parent is not None:
            threading.Thread(target=self._watch, args=(parent,), daemon=True).start()

    def _note(self, number: int, _: object) -> None:
        self.hear(number)

    def hear(self, number: int) -> None:
        """As if the signal had come to this process."""
        self.signal = self.signal or number
        self._event.set()

    def _watch(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set()


def main(arguments: list[str]) -> int:
    """Run the cells of a list; 130 when interrupted, else 0. How each cell ended is in its folder."""
    listing, *parent = arguments
    stop = StopFlag(int(parent[0]) if parent else None)
    logging.captureWarnings(True)  # into the log of the cell at work
    work, threads = Work.read(Path(listing)), int(os.environ.get("OMP_NUM_THREADS", "1"))
    try:
        with joined(ranks_from_environment()) as ranks:
            run_cells(work, stop, threads, ranks)
    except (OutOfStepError, OSError) as error:  # OSError: of locks and states, on a full or read-only disk
        _say(str(error))
        return 1
    return INTERRUPTED if stop() else 0


def run_cells(work: Work, stop: StopFlag, threads: int, ranks: Ranks = ALONE) -> None:
    """Bring the cells to their ends, those that are free before those that others hold.

    Several processes that have joined work on each cell together: rank 0 claims cells, and the others hear of them.
    Raises OutOfStepError where one of them is lost; then this process has to end.
    """
    if not ranks.is_writer:
        while (name := ranks.broadcast("")) != "":
            _follow(Path(name), stop, threads, ranks)
        return
    for folder, lock in _claims(work, stop):
        with lock:
            _run(folder, work, lock, stop, threads, ranks)
    ranks.broadcast("")


def _claims(work: Work, stop: StopFlag) -> Iterator[tuple[Path, Lock]]:
    """Open cells, each with its lock, as they can be had; ends when none is left for this worker."""
    cells = [Path(name) for name in work.cells]
    left: set[Path] = set()  # tried, or in the hands of somebody who lives
    beats: dict[Path, float] = {}
    while not stop():
        candidates = [folder for folder in cells if folder not in left and _wants_work(folder)]
        if not candidates:
            return
        claimed = False
        for folder in candidates:
            if stop():
                return
            lock = acquire(folder / "lock")
            if lock is None:
                if work.job and _beats(folder / "lock", beats):
                    _say(f"{folder.name} is in the hands of another process, which is alive: left to it")
                    left.add(folder)
                continue
            if not _wants_work(folder):  # another worker was faster
                lock.release()
                continue
            claimed = True
            left.add(folder)
            yield folder, lock
        if not claimed and not stop():
            time.sleep(POLL_SECONDS)  # the rest is in other hands: wait, in case one of them dies


def _wants_work(folder: Path) -> bool:
    """Whether a cell is open. One whose files are damaged or gone is left with a word, and stops no other."""
    try:
        return is_open(folder)
    except OSError as error:  # a folder that is gone, or a server that stumbles: nothing is known of the cell
        _say(f"{folder.name}: {error}")
    except UsageError as error:
        _say(f"{folder.name}: {error}")
        if not is_held(folder / "lock"):
            _note_failure(folder, str(error))
    return False


def _beats(lock: Path, seen: dict[Path, float]) -> bool:
    """Whether the owner of a lock has beaten since it was first looked at: then it is alive, wherever it is."""
    try:
        beat = lock.stat().st_mtime
    except FileNotFoundError:
        return False
    return beat > seen.setdefault(lock, beat)


def is_open(folder: Path) -> bool:
    """Whether there is work left. A cell that failed is closed until the next launch puts it back in the queue.

    Raises DamagedError or OSError where its files cannot be read.
    """
    files = CellFiles(folder)
    return files.status["state"] != "failed" and not is_finished(folder, files.config)


def _work_on(folder: Path, stop: StopFlag, ranks: Ranks, **how: Any) -> str:
    """One cell by all processes, after which all know what one of them was told."""
    from .cell import run_cell

    try:
        state = run_cell(folder, ranks=ranks, **how)
    except OutOfStepError:  # nobody listens any more
        raise
    except Exception:
        _hear(stop, ranks)
        raise
    _hear(stop, ranks)
    return state


def _hear(stop: StopFlag, ranks: Ranks) -> None:
    """A signal reaches the processes of a job one after another: what the first was told counts for all."""
    for number in ranks.exchange(stop.signal):
        if number is not None:
            stop.hear(number)


def _follow(folder: Path, stop: StopFlag, threads: int, ranks: Ranks) -> None:
    """Another process's part of a cell. It writes nothing there; what it says goes where the worker's own words go."""
    import torch

    torch.set_num_threads(threads)
    try:
        _work_on(folder, stop, ranks, should_stop=stop, threads=threads)
    except OutOfStepError:
        raise
    except Exception as error:  # the others have been told, or have told us
        _say(f"process {ranks.rank} of {ranks.size} left {folder.name}: {type(error).__name__}: {error}")


def _run(folder: Path, work: Work, lock: Lock, stop: StopFlag, threads: int, ranks: Ranks) -> None:
    """One cell, with everything it says in its log.txt. A failure is on disk and does not end the worker."""

    def until_taken() -> bool:
        return stop() or not lock.is_ours()

    handler = _OwnLog(folder / "log.txt", lock)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for leftover in folder.glob("[!.]*/.*.tmp"):  # of an attempt that was killed while it wrote
        leftover.unlink(missing_ok=True)
    try:
        if work.without_progress is not None and not _may_start(folder, work.without_progress):
            return
        import torch

        torch.set_num_threads(threads)
        where = f"process {os.getpid()} on {socket.gethostname()}, {threads} thread(s)"
        logging.info("attempt started, %s%s", where, f", one of {ranks.size} processes" if ranks.size > 1 else "")
        ranks.broadcast(str(folder))
        state = _work_on(
            folder, stop, ranks, should_stop=until_taken, threads=threads, job=work.job, command=work.command
        )
        logging.info("attempt ended: %s", state)
    except TakenError as error:
        _say(f"{error}; nothing more was written there")
    except OutOfStepError as error:
        logging.error("attempt ended: %s", error)
        raise
    except Exception as error:
        logging.exception("attempt failed")
        _note_failure(folder, f"{type(error).__name__}: {error}")
    finally:
        root.removeHandler(handler)
        handler.close()


def _say(text: str) -> None:
    """To whoever reads what this process prints: the log of the cell is closed to it."""
    print(text, file=sys.stderr, flush=True)


def _note_failure(folder: Path, error: str) -> None:
    """Write the state "failed" unless the cell has done so itself; on a full or read-only disk it is only logged."""
    try:
        if CellFiles(folder).status.get("state") == "failed":
            return
    except (DamagedError, AttributeError):  # then this is, or hides, what went wrong
        pass
    try:
        write_json(folder / STATUS, {"state": "failed", "error": error})
    except OSError as trouble:
        _say(f"{folder.name}: the state 'failed' cannot be written ({trouble})")


class _OwnLog(logging.FileHandler):
    """The log of a cell, as long as the cell is ours. Open for a line at a time: a disk may be taken away."""

    def __init__(self, path: Path, lock: Lock) -> None:
        super().__init__(path, encoding="utf-8", delay=True, errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.own = lock

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
        """On a full disk: what cannot be written there is said where the worker's own words go, without its trace."""
        print(f"{self.baseFilename} cannot be written: {record.getMessage()}", file=sys.stderr)


def _may_start(folder: Path, limit: int) -> bool:
    """Count the starts of jobs that found no more saved than the one before did; at the limit the cell has failed."""
    before = read_json(folder / STARTS, {"saved": None, "without_progress": 0})
    saved = _saved(folder)
    count = before["without_progress"] + 1 if before["saved"] == saved else 0
    write_json(folder / STARTS, {"saved": saved, "without_progress": count})
    if count < limit:
        return True
    status = CellFiles(folder).status
    error = f"{limit} jobs in a row ended before anything new was saved (is the time limit long enough?)"
    write_json(folder / STATUS, {**status, "state": "failed", "error": error})
    logging.error(error)
    return False


def _saved(folder: Path) -> list[float]:
    """What tells whether a cell is further: its checkpoint's age, snapshots, rows, features of the real data."""
    from ..common.cache import cache_folder

    checkpoint = folder / "checkpoints" / "last.pt"
    rows = CellFiles(folder).records
    snapshots = list(folder.glob("snapshots/*.safetensors"))
    pieces = list(
        cache_folder("references").glob("[!.]*/features-*.npy")
    )  # hours of work on a CPU, for all cells of a benchmark
    return [checkpoint.stat().st_mtime if checkpoint.exists() else 0.0, len(snapshots), len(rows), len(pieces)]


if __name__ == "__main__":
    skip_final_gc()
    sys.exit(main(sys.argv[1:]))
