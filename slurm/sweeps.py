"""Records of what was submitted: one sweep.json per sweep, written before anything is submitted.

<out>/sweeps/<sweep>/sweep.json       the record
<out>/sweeps/<sweep>/array-<k>/       submitit's folder of one array, with the output of its jobs
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..benchmarks.common.files import DamagedError, read_json, write_json
from ..benchmarks.common.lock import acquire, is_held
from ..benchmarks.runs.damage import Damage, damage_of

FOLDER, FILE, LOCK = "sweeps", "sweep.json", "lock"
EARLIEST = 2000  # the first valid year of a sweep; the accounts are searched from its time on
DEPTH = 3  # parts of a cell's name: benchmark, method, seed and id


@dataclass(frozen=True)
class Array:
    """One array of jobs.

    name: in SLURM, by which its jobs are found. job: number of the array, None where the submitting process ended
    before it recorded it. folder: submitit's, below that of the sweep. resources: devices, nodes, cpus, memory (MB or
    None) and time_limit (minutes) of a job. elements: for each task, the names of its cells.
    """

    name: str
    job: str | None
    folder: str
    resources: Mapping[str, Any]
    elements: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sweep:
    """What one command submitted. created: time in UTC, ISO format. cluster: all fields of its Cluster.

    pack: cells per task; share: how many of these run at once.
    """

    sweep: str
    created: str
    user: str
    command: str
    cluster: Mapping[str, Any]
    arrays: tuple[Array, ...]
    pack: int = 1
    share: int = 1

    def folder(self, out: Path, array: Array) -> Path:
        """Where the jobs of one of its arrays write their output."""
        return out / FOLDER / self.sweep / array.folder


@dataclass(frozen=True)
class Task:
    """A task of an array."""

    sweep: Sweep
    array: Array
    index: int

    @property
    def key(self) -> tuple[str, int]:
        """Its key in `Queue.jobs`."""
        return self.array.name, self.index

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of its cells."""
        return self.array.elements[self.index]

    @property
    def job(self) -> str | None:
        """Its job number, such as 123_4."""
        return f"{self.array.job}_{self.index}" if self.array.job else None


def save(out: Path, sweep: Sweep) -> Path:
    """Write a sweep's file, atomically, and return where it is."""
    path = out / FOLDER / sweep.sweep / FILE
    write_json(path, asdict(sweep), sealed=True)
    return path


@contextlib.contextmanager
def submitting(out: Path, sweep: Sweep) -> Iterator[None]:
    """Within, `is_submitting` of the sweep is true for all processes."""
    lock = acquire(out / FOLDER / sweep.sweep / LOCK)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def is_submitting(out: Path, sweep: Sweep) -> bool:
    """Whether a living process is submitting arrays of the sweep."""
    return is_held(out / FOLDER / sweep.sweep / LOCK)


def read(out: Path, damage: list[Damage] | None = None) -> list[Sweep]:
    """All sweeps below `out`, oldest first. Raises DamagedError for a file that holds anything else.

    damage: where complaints go instead; sweeps whose files are damaged or missing are then left out.
    """
    found: list[Sweep] = []
    folders = {path.parent for path in (out / FOLDER).glob("*/array-*")}
    for path in sorted({folder / FILE for folder in folders} | {*(out / FOLDER).glob(f"*/{FILE}")}):
        if damage is None:
            found += [_read(path)] if path.exists() else []
        else:
            damage += damage_of(path.parent, path, partial(_add, path, found), blocks=False)
    return sorted(found, key=lambda sweep: (sweep.created, sweep.sweep))


def _add(path: Path, found: list[Sweep]) -> None:
    found.append(_read(path))


def submitted(sweep: Sweep) -> datetime:
    """When a sweep was submitted, with its time zone. Raises ValueError where its file has no time."""
    try:
        when = datetime.fromisoformat(sweep.created)
    except ValueError:
        raise ValueError(f"created is {sweep.created!r}, which is no time") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def tasks(sweeps: Iterable[Sweep]) -> dict[str, list[Task]]:
    """The tasks that hold each cell, by the cell's name, newest last where `sweeps` are oldest first."""
    found: dict[str, list[Task]] = {}
    for sweep in sweeps:
        for array in sweep.arrays:
            for index, cells in enumerate(array.elements):
                for cell in cells:
                    found.setdefault(cell, []).append(Task(sweep, array, index))
    return found


def _read(path: Path) -> Sweep:
    if not path.exists():
        folder = path.parent
        raise DamagedError(f"{path} is missing: its jobs are unknown; once they have ended, remove {folder}")
    content = read_json(path)
    try:
        sweep = Sweep(**{**content, "arrays": tuple(map(_array, content["arrays"]))})
        texts = (sweep.sweep, sweep.created, sweep.user, sweep.command)
        if not all(isinstance(text, str) for text in texts) or {type(sweep.pack), type(sweep.share)} != {int}:
            raise TypeError("a value of the wrong kind")
        if not 1 <= sweep.share <= sweep.pack:
            raise ValueError("its pack and share cannot be")
        if submitted(sweep).year < EARLIEST:
            raise ValueError(f"created is {sweep.created!r}, before there were sweeps")
        if not isinstance(sweep.cluster, dict):
            raise TypeError("a value of the wrong kind")
        if sweep.sweep != path.parent.name:
            raise ValueError("its folder has another name")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{path} does not describe a sweep ({error})") from None
    return sweep


def _array(content: Mapping[str, Any]) -> Array:
    """Raises TypeError and ValueError. Names become paths, patterns and arguments of SLURM's commands."""
    elements = tuple(tuple(cells) for cells in content["elements"])
    array = Array(**{**content, "elements": elements})
    if not isinstance(array.name, str) or not isinstance(array.job, str | None) or not isinstance(array.folder, str):
        raise TypeError("a value of the wrong kind")
    if any(not isinstance(cell, str) for cells in content["elements"] for cell in cells):
        raise TypeError("a cell without a name")
    if not re.fullmatch(r"\w[\w.:@+=/-]*", array.name, re.ASCII):
        raise ValueError("an array with a name that is none")
    if not re.fullmatch(r"\w[\w.-]*", array.folder, re.ASCII):
        raise ValueError("an array whose folder is outside that of its sweep")
    if array.job is not None and not re.fullmatch(r"[0-9]+", array.job):
        raise ValueError("an array whose job is no number")
    for cell in itertools.chain.from_iterable(elements):
        parts = cell.split("/")
        if len(parts) != DEPTH or not cell.isprintable() or any(part.startswith(".") or not part for part in parts):
            raise ValueError("a cell with a name that is none")
    return array
