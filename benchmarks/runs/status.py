"""status.json of a run: how far it is, and the states that a cell can be in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..common.files import DamagedError, read_json, write_json
from ..common.redact import without_password
from ..common.text import visible
from .checks import MOST


class State(StrEnum):
    """The states of a cell, the most urgent first.

    REQUEUED (queued again after it had started), CANCELLED and LOST (its job is gone and SLURM does not know how it
    ended) follow from the queue of a cluster, and DAMAGED from a status.json that cannot be read; the others are stored
    there.
    """

    RUNNING = "running"
    DAMAGED = "damaged"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    REQUEUED = "requeued"
    QUEUED = "queued"
    DONE = "done"

    @property
    def is_final(self) -> bool:
        """Whether the cell has a result; a divergence is one."""
        return self in (State.DONE, State.DIVERGED)


#: The states that status.json may hold.
STORED = (State.QUEUED, State.RUNNING, State.INTERRUPTED, State.FAILED, State.DIVERGED, State.DONE)

_TEXTS = ("error", "phase", "job", "node")
_NUMBERS = ("images", "total", "stage", "loss", "images_per_s", "scored", "to_score", "pid", "updated")


@dataclass(frozen=True)
class Status:
    """The content of status.json. A run without one is queued.

    Attributes:
        phase: Of a running cell: "reference", "train" or "score".
        images, total: Training images seen, and the budget.
        stage, loss, images_per_s: Of the training, as last logged.
        scored, to_score: Passes of sampling that are scored, and their number.
        error: Why the cell failed.
        pid, job, node: The process, the SLURM job and the host name of the last attempt.
        updated: When it was written, in seconds since 1970.
    """

    state: State = State.QUEUED
    phase: str = "train"
    images: int = 0
    total: int | None = None
    stage: int | None = None
    loss: float | None = None
    images_per_s: float | None = None
    scored: int | None = None
    to_score: int | None = None
    error: str | None = None
    pid: int | None = None
    job: str | None = None
    node: str | None = None
    updated: float | None = None

    @classmethod
    def read(cls, path: Path) -> Status:
        """The status in a file, with control characters of its texts escaped; the default where there is no file.

        Raises DamagedError for a value of the wrong type, and OSError.
        """
        content = read_json(path, {"state": State.QUEUED})
        if not isinstance(content, dict) or content.get("state") not in STORED:
            raise DamagedError(f"{path} must have a state that is one of: {', '.join(STORED)}")
        values: dict[str, Any] = {key: content[key] for key in (*_NUMBERS, *_TEXTS) if content.get(key) is not None}
        for key, value in values.items():
            is_text = key in _TEXTS
            if type(value) not in ((str,) if is_text else (int, float)):
                wanted = "text" if is_text else "a number"
                raise DamagedError(f"{path}: {key} is {value!r:.80}, must be {wanted} or null")
            if not is_text and not 0 <= value <= MOST and key != "loss":
                raise DamagedError(f"{path}: {key} is {value!r:.80}, must be from 0 to {MOST}")
            values[key] = visible(value) if is_text else value
        return cls(State(content["state"]), **values)

    def write(self, path: Path) -> None:
        """Replace the file atomically. Raises ValueError on NaN or infinity, and OSError."""
        error = None if self.error is None else without_password(self.error)
        write_json(path, asdict(self) | {"error": error}, sealed=True)

    @property
    def reason(self) -> str:
        """The first line of the error, "" without one."""
        return ((self.error or "").strip().splitlines() or [""])[0]
