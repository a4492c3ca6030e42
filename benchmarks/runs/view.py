"""The status of cells as commands show it: from their files alone, or with what SLURM knows of their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import CellFiles

#: The states of a cell, the most urgent first. status.json holds one of: queued, running, interrupted, failed,
#: diverged, done. The others follow from the queue: "requeued", queued again after it had started; "cancelled";
#: "lost", its job is gone and SLURM does not know how it ended.
STATES = (
    "running",
    "failed",
    "lost",
    "cancelled",
    "diverged",
    "interrupted",
    "requeued",
    "queued",
    "done",
)
FINAL = ("done", "diverged")
RERUN = ("failed", "cancelled", "lost", "interrupted", "queued")


@dataclass(frozen=True)
class LiveJob:
    """A pending or running job. id: such as 123_4. user: who submitted it. cells: the names of all its cells."""

    id: str
    user: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class CellStatus:
    """What is known of one cell.

    Attributes:
        name: Its folder below the output folder.
        status: The content of status.json.
        state: One of STATES.
        reason: Why it waits, or why it ended; "" where the state says all.
        job, node: Where it runs or ran, "" outside SLURM.
        live: The jobs that hold it.
        held: Whether a living process holds its lock.
        submitting: Whether its job may not be in the queue yet.
        failed_in_job: Whether its job ended without the cell recording why.
    """

    name: str
    files: CellFiles
    status: Mapping[str, Any]
    state: str
    reason: str = ""
    job: str = ""
    node: str = ""
    live: tuple[LiveJob, ...] = ()
    held: bool = False
    submitting: bool = False
    failed_in_job: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it runs, or will run without further action."""
        return self.held or self.submitting or bool(self.live)

    @property
    def needs_rerun(self) -> bool:
        """Whether `bench retry --failed` picks it: unfinished and inactive."""
        return self.state in RERUN and not self.is_active


@dataclass(frozen=True)
class View:
    """The status of several cells. unreachable: why nothing is known of their jobs, None where SLURM answered."""

    cells: tuple[CellStatus, ...]
    unreachable: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no cell is active. While SLURM is unreachable, every unfinished cell may be."""
        return not any(cell.is_active or (self.unreachable and cell.state not in FINAL) for cell in self.cells)

    def counts(self) -> dict[str, int]:
        """The number of cells in each state, in the order of STATES; states without cells are left out."""
        found = [cell.state for cell in self.cells]
        return {state: found.count(state) for state in STATES if state in found}


def name_of(files: CellFiles, out: Path) -> str:
    """The name of a cell: its folder below the output folder."""
    return files.path.relative_to(out).as_posix()
