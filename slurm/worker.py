"""A worker process: it takes cells off a list, one after another, until all of them are finished.

`python -m consistency_bench.slurm.worker LIST [PARENT]` reads folders of cells from the file LIST, a JSON list. A
worker claims a cell by its lock, so any number of workers, started by anybody, can share a list. On SIGINT or SIGTERM,
and when the process PARENT that started it is gone, it saves between two steps and leaves.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..benchmarks import plan
from ..benchmarks.files import write_json
from ..benchmarks.lock import Lock, acquire
from ..benchmarks.records import STATUS, CellFiles

POLL_SECONDS = 0.5
INTERRUPTED = 130


class StopFlag:
    """Set by a signal, or when the process `parent` is no longer this one's parent; looked at between two steps."""

    def __init__(self, parent: int | None) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())
        if parent is not None:
            threading.Thread(target=self._watch, args=(parent,), daemon=True).start()

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
    cells = {Path(name): CellFiles(Path(name)).config for name in json.loads(Path(listing).read_text(encoding="utf-8"))}
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    tried: set[Path] = set()
    while not stop():
        open_cells = [folder for folder in cells if folder not in tried and _is_open(folder, cells[folder])]
        claimed = False
        for folder in open_cells:
            if stop():
                break
            lock = acquire(folder / "lock")
            if lock is None:
                continue
            with lock:
                if not _is_open(folder, cells[folder]):  # another worker was faster
                    continue
                claimed = True
                _run(folder, lock, stop, threads)
                tried.add(folder)
        if not open_cells:
            return 0
        if not claimed and not stop():
            time.sleep(POLL_SECONDS)  # the rest is in other hands: wait, in case one of them dies
    return INTERRUPTED


def _is_open(folder: Path, config: dict[str, Any]) -> bool:
    """Whether there is work left. A cell that failed is closed until the next launch puts it back in the queue."""
    return CellFiles(folder).status["state"] != "failed" and not plan.is_finished(folder, config)


def _run(folder: Path, lock: Lock, stop: StopFlag, threads: int) -> None:
    """One cell, with everything it says in its log.txt. A failure is on disk and does not end the worker."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for leftover in folder.glob("*/.*.tmp"):  # of an attempt that was killed while it wrote
        leftover.unlink(missing_ok=True)
    try:
        import torch

        from ..benchmarks.cell import run_cell

        torch.set_num_threads(threads)
        logging.info("attempt started, process %d, %d thread(s)", os.getpid(), threads)
        state = run_cell(folder, should_stop=lambda: stop() or not lock.is_ours(), threads=threads)
        logging.info("attempt ended: %s", state)
    except Exception as error:
        logging.exception("attempt failed")
        if CellFiles(folder).status["state"] != "failed":
            write_json(folder / STATUS, {"state": "failed", "error": f"{type(error).__name__}: {error}"})
    finally:
        root.removeHandler(handler)
        handler.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
