"""status.json of a running cell, for status displays."""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.distributed import Ranks
from ..common.files import remove, reserve
from ..runs.folder import Run
from ..runs.status import State, Status
from ..training.trainer import Progress

SECONDS = 0.5  # between updates of the progress
log = logging.getLogger(__name__)


class StatusWriter:
    """Writes status.json: the state of a cell and the progress of its current phase. Only rank 0 writes.

    total: images of the whole training. job: the id of the SLURM job, if any.
    """

    def __init__(self, folder: Path, total: int, job: str | None, ranks: Ranks) -> None:
        self.run, self.is_writer = Run(folder), ranks.is_writer
        self.status = Status(total=total, stage=0, pid=os.getpid(), job=job, node=socket.gethostname())
        self.last = 0.0

    def write(self, *, state: str, **changes: Any) -> None:
        self.status = replace(self.status, state=State(state), **changes, updated=round(time.time(), 3))
        if self.is_writer:
            self.status.write(self.run.status_file)
        self.last = time.monotonic()

    def fail(self, error: str) -> None:
        """Write the state "failed". On a full disk the reserved space is used; if that fails too, it is logged."""
        try:
            self.release()
            self.write(state=State.FAILED, error=error)
        except OSError as trouble:
            log.error("failed (%s), and the state cannot be written (%s)", error, trouble)

    def progress(self, progress: Progress) -> None:
        self._update(**vars(progress))

    def scored(self, done: int, total: int) -> None:
        self._update(scored=done, to_score=total)

    def _update(self, **changes: Any) -> None:
        if time.monotonic() - self.last >= SECONDS:
            self.write(state=State.RUNNING, **changes)

    def reserve(self) -> None:
        """Reserve disk space, so that the end of the attempt can be written on a full disk."""
        if self.is_writer:
            reserve(self.run.reserve_file)

    def release(self) -> None:
        if self.is_writer:
            remove(self.run.reserve_file)
