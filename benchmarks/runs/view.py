"""The status of cells as commands show it: from their files alone, or with what SLURM knows of their jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .folder import Run
from .status import State, Status


@dataclass(frozen=True)
class LiveJob:
    """A pending or running job. id: such as 123_4. user: who submitted it. cells: the names of all its cells.

    is_ending: whether its processes are being ended, after which it has ended or is pending again.
    """

    id: str
    user: str
    cells: tuple[str, ...]
    is_ending: bool = False


@dataclass(frozen=True)
class CellStatus:
    """What is known of one cell.

    Attributes:
        name: Its folder below the output folder.
        state: By status.json and, of cells in jobs, by the queue.
        reason: Why it waits, or why it ended; "" where the state says all.
        job, node: Where it runs or ran, "" outside SLURM.
        live: The jobs that hold it.
        held: Whether a living process holds its lock.
        submitting: Whether its job may not be in the queue yet.
        failed_in_job: Whether its job ended without the cell recording why.
        job_ended: Whether its jobs are known, and all of them have ended.
        variant: What sets it apart from its method, "" where that is nothing or not known.
        place: Where it is among the cells of a command, such as "7 of 36"; "" where that is not known.
    """

    name: str
    run: Run
    status: Status
    state: State
    reason: str = ""
    job: str = ""
    node: str = ""
    live: tuple[LiveJob, ...] = ()
    held: bool = False
    submitting: bool = False
    failed_in_job: bool = False
    job_ended: bool = False
    variant: str = ""
    place: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it runs, or will run without further action."""
        return self.held or self.submitting or bool(self.live)

    @property
    def is_ending(self) -> bool:
        """Whether its jobs are being ended, or have ended and a lock of them is not stale yet."""
        return all(job.is_ending for job in self.live) if self.live else self.held and self.job_ended

    @property
    def needs_rerun(self) -> bool:
        """Whether `bench retry --failed` picks it: unfinished and inactive."""
        return not self.is_active and not self.state.is_final and self.state not in (State.RUNNING, State.REQUEUED)


@dataclass(frozen=True)
class View:
    """The status of several cells.

    unreachable: why nothing is known of their jobs, None where SLURM answered. left: seconds until all have ended, NaN
    where that is not known yet, None where it is not estimated.
    """

    cells: tuple[CellStatus, ...]
    unreachable: str | None = None
    left: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no cell is active. While SLURM is unreachable, every unfinished cell may be."""
        return not any(cell.is_active or (self.unreachable and not cell.state.is_final) for cell in self.cells)

    def counts(self) -> dict[State, int]:
        """The number of cells in each state, in the order of `State`; states without cells are left out."""
        found = [cell.state for cell in self.cells]
        return {state: found.count(state) for state in State if state in found}


def name_of(run: Run, out: Path) -> str:
    """The name of a cell: its folder below the output folder."""
    return run.path.relative_to(out).as_posix()
