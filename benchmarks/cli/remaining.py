"""How long the cells of a command take from here, by what finished ones took."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..common.files import DamagedError
from ..runs.folder import Run
from ..runs.status import State
from ..runs.view import CellStatus


@dataclass(frozen=True)
class Cost:
    """What a finished cell took: seconds per training image, and seconds of all else (start, sampling, scoring)."""

    image: float
    rest: float


class Costs:
    """The costs of cells, learned from those that are finished."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], dict[str, Cost]] = {}
        self._read: set[str] = set()

    def learn(self, cells: Iterable[CellStatus]) -> None:
        """Read what the finished of these cells took, each once."""
        for cell in cells:
            if cell.state is State.DONE and cell.name not in self._read:
                self._read.add(cell.name)
                if cost := cost_of(cell.run):
                    for key in _keys(cell):
                        self._known.setdefault(key, {})[cell.name] = cost

    def of(self, cell: CellStatus) -> Cost | None:
        """The mean over finished cells of its configuration, else of its method, else of its benchmark."""
        for key in _keys(cell):
            if found := list(self._known.get(key, {}).values()):
                return Cost(*(statistics.fmean(getattr(cost, name) for cost in found) for name in ("image", "rest")))
        return None


def cost_of(run: Run) -> Cost | None:
    """The cost of a finished cell over all its attempts; None where its files do not say."""
    try:
        history, status = Run(run.path).history, run.status
    except DamagedError:
        return None
    attempts, compute = history["attempts"], history.get("compute") or {}
    images, seconds = compute.get("images"), compute.get("train_seconds")
    if not attempts or not images or seconds is None:
        return None
    ends = [attempt.get("ended") for attempt in attempts]
    spans = [_time(end) - _time(attempt["started"]) for attempt, end in zip(attempts, ends, strict=True) if end]
    if not ends[-1] and status.updated:  # the state is written before the end of the attempt
        spans.append(status.updated - _time(attempts[-1]["started"]))
    return Cost(seconds / images, max(0.0, sum(spans) - seconds))


def time_left(cells: Sequence[CellStatus], cost: Callable[[CellStatus], Cost | None], workers: int) -> float | None:
    """Seconds until the last of these cells ends, which `workers` at once take in order; None where that is unknown.

    Cells that will not go on by themselves take no time.
    """
    lengths: dict[bool, list[float]] = {True: [], False: []}
    for cell in cells:
        is_running = cell.state is State.RUNNING
        if is_running or cell.state in (State.QUEUED, State.REQUEUED):
            found = cost(cell)
            if found is None:
                return None
            lengths[is_running].append(_seconds(cell, found))
    ends = lengths[True]
    heapq.heapify(ends)
    for length in lengths[False]:
        heapq.heappush(ends, length + (heapq.heappop(ends) if len(ends) >= workers else 0.0))
    return max(ends, default=0.0)


def _seconds(cell: CellStatus, cost: Cost) -> float:
    """How long one cell takes from here: its training at its own rate where that is known, then the rest."""
    status = cell.status
    if cell.state is State.RUNNING and status.phase == "score":
        return cost.rest * (1 - (status.scored or 0) / (status.to_score or 1))
    is_training = cell.state is State.RUNNING and status.phase == "train"
    image = 1 / status.images_per_s if is_training and status.images_per_s else cost.image
    return max(0, (status.total or 0) - status.images) * image + cost.rest


def _keys(cell: CellStatus) -> list[tuple[str, ...]]:
    """What the cost of a cell depends on, the closest first."""
    benchmark, method = cell.name.split("/")[:2]
    return [(benchmark, method, cell.variant), (benchmark, method), (benchmark,)]


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
