"""Cells as they change: a live table on a terminal, timestamped lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UsageError
from ..common.text import plain
from ..runs.folder import Run
from ..runs.starts import waits_for
from ..runs.status import State
from ..runs.view import CellStatus, View, name_of
from .board import doing, footer, name, progress, share, table, variants
from .remaining import Costs, time_left

if TYPE_CHECKING:
    from rich.console import Console

    from ..config.schema import CellConfig

WATCH_SECONDS = 2.0
LOCAL_SECONDS = 0.5
#: Between two lines on the progress of a cell that trains on this machine.
LINE_SECONDS = 15.0
ENDED = (State.DONE, State.DIVERGED, State.FAILED)

Show = Callable[[View], None]


@contextlib.contextmanager
def display(out: Path, every: float | None = None) -> Iterator[Show]:
    """Yields a function that shows the latest view. every: seconds between lines on progress, None for none."""
    if not sys.stdout.isatty():
        yield Lines(every).show
        return
    from rich.console import Console
    from rich.live import Live

    console, views = Console(), []
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:

        def show(view: View) -> None:
            views[:] = [view]
            live.update(_screen(view, out, console), refresh=True)

        yield show
    if views:
        console.print(table(views[0], console.width, rows=console.height))


def watch(
    find: Callable[[], Sequence[Run]], out: Path, stop: Callable[[View], bool] = lambda _: False
) -> tuple[View, bool]:
    """Show the cells, in jobs and on this machine, until none is active or `stop` returns true.

    Damaged files of sweeps are named once, and the others watched.
    Returns the last view, and whether no cell was active any more.
    """
    from ...slurm.status import Poller

    poller, described, named = Poller(find, out), Described(), set[str]()
    with display(out) as show:
        while True:
            view = described(poller())
            for reason in {item.reason: None for item in poller.damage if item.reason not in named}:
                named.add(reason)
                print(f"{reason}; the jobs of this sweep are not known", file=sys.stderr)
            show(view)
            if poller.has_ended(view):
                return view, True
            if stop(view):
                return view, False
            time.sleep(WATCH_SECONDS)


@contextlib.contextmanager
def watch_local(cells: Mapping[Run, str], out: Path, workers: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call often, which shows cells that run on this machine twice a second.

    cells: all of the command, also finished ones, with their variants. workers: how many run at once.
    """
    local = LocalCells(cells, out, workers)
    with display(out, LINE_SECONDS) as show:
        tick = _Ticker(lambda: show(local()))
        yield tick
        tick.now()


class LocalCells:
    """The view of cells that run on this machine, with the time that is left; see `watch_local`."""

    def __init__(self, cells: Mapping[Run, str], out: Path, workers: int) -> None:
        self.cells, self.out, self.workers = cells, out, workers
        self.costs, self.final = Costs(), dict[Run, CellStatus]()

    def __call__(self) -> View:
        shown = []
        for number, (run, variant) in enumerate(self.cells.items(), start=1):
            cell = self.final.get(run)
            if cell is None:
                place = f"{number} of {len(self.cells)}" if len(self.cells) > 1 else ""
                cell = replace(_local(run, self.out), variant=variant, place=place)
                if cell.state.is_final:
                    self.final[run] = cell
            shown.append(cell)
        self.costs.learn(shown)
        left = time_left(shown, self.costs.of, self.workers)
        return View(tuple(shown), left=math.nan if left is None else left)


class Described:
    """Adds to a view the variants of cells that differ, and the time that is left if as many run at once as do now.

    The time is not estimated where no cell runs: when SLURM starts one is not known.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        self.configs: dict[Run, CellConfig] = {}

    def __call__(self, view: View) -> View:
        for cell in view.cells:
            if cell.run not in self.configs:
                with contextlib.suppress(UsageError, OSError):  # named at the end
                    self.configs[cell.run] = cell.run.config.cell
        known = [cell for cell in view.cells if cell.run in self.configs]
        each = variants([self.configs[cell.run] for cell in known])
        is_single = len({config.group for config in self.configs.values()}) < 2
        texts = {} if is_single else {cell.name: text for cell, text in zip(known, each, strict=True)}
        cells = tuple(replace(cell, variant=texts.get(cell.name, "")) for cell in view.cells)
        self.costs.learn(cells)
        running = sum(cell.state is State.RUNNING for cell in cells)
        return replace(view, cells=cells, left=time_left(cells, self.costs.of, running) if running else None)


class _Ticker:
    def __init__(self, call: Callable[[], None]) -> None:
        self.now, self._last = call, float("-inf")

    def __call__(self) -> None:
        if time.monotonic() - self._last >= LOCAL_SECONDS:
            self._last = time.monotonic()
            self.now()


def local_view(cells: Sequence[Run], out: Path) -> View:
    """The cells by their status files alone."""
    return View(tuple(_local(run, out) for run in cells))


def _local(run: Run, out: Path) -> CellStatus:
    status = run.status
    waits = waits_for(run) if status.state is State.QUEUED else ""
    return CellStatus(name_of(run, out), run, status, status.state, waits or plain(status.reason))


def exit_status(view: View) -> int:
    """0 if all cells are done, else 1."""
    return 0 if all(cell.state is State.DONE for cell in view.cells) else 1


def remarks(view: View, out: Path) -> list[str]:
    """A line if SLURM does not answer, and one for each cell that failed, diverged or has lost its job."""
    first = [f"{view.unreachable}: what is shown of jobs may be out of date"] if view.unreachable else []
    return first + [line for cell in view.cells if (line := _remark(cell, out))]


def _remark(cell: CellStatus, out: Path) -> str:
    log = f"(see {Run(out / cell.name).log_file})"
    if cell.state is State.DIVERGED and not cell.status.reason:
        return f"{cell.name}: diverged after {cell.status.images:,} images {log}"
    if cell.state in (State.FAILED, State.DIVERGED) and cell.status.reason:
        return f"{cell.name}: {plain(cell.status.reason)} {log}"
    if cell.state in (State.FAILED, State.LOST):
        return f"{cell.name}: {cell.reason}{f' (job {cell.job})' if cell.job else ''}"
    return ""


def _screen(view: View, out: Path, console: Console) -> Any:
    """The table, and below it remarks: as many as fit."""
    from rich.console import Group
    from rich.text import Text

    lines = remarks(view, out)[: max(1, console.height // 4)]
    below = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
    return Group(table(view, console.width, rows=max(1, console.height - 3 - len(below))), *below)


class Lines:
    """One line for each cell whose state has changed; at first, only for those that are neither queued nor done.

    Where the time that is left is estimated, a line with it follows whenever a cell has ended.
    every: seconds between lines on the progress of running cells, None for none.
    """

    def __init__(self, every: float | None = None) -> None:
        self.every, self.last = every, time.monotonic()
        self.shown: dict[str, str] = {}
        self.unreachable: str | None = None

    def show(self, view: View) -> None:
        if view.unreachable != self.unreachable:
            self._print(view.unreachable or "SLURM answers again")
            self.unreachable = view.unreachable
        first, has_ended = not self.shown, False
        is_due = self.every is not None and time.monotonic() - self.last >= self.every
        if is_due:
            self.last = time.monotonic()
        for cell in view.cells:
            now = doing(cell)
            has_changed = self.shown.get(cell.name) != now and not (first and cell.state in (State.QUEUED, State.DONE))
            if has_changed or (is_due and cell.state is State.RUNNING):
                self._print(_line(cell))
            has_ended |= has_changed and cell.state in ENDED
            self.shown[cell.name] = now
        if first or (view.left is not None and (is_due or has_ended)):
            self._print(footer(view))

    @staticmethod
    def _print(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _line(cell: CellStatus) -> str:
    where = f" on {cell.node}" if cell.node and cell.state is State.RUNNING else ""
    reason = f": {cell.reason}" if cell.reason else ""
    return f"{name(cell)} {doing(cell)}{_share(cell)}{where}{progress(cell)}{reason}"


def _share(cell: CellStatus) -> str:
    """How much is done of what the cell is doing, where that is known."""
    status = cell.status
    if cell.state in (State.QUEUED, State.DONE) or doing(cell) == "reference":
        return ""
    if doing(cell) == "score":
        return f" {status.scored} of {status.to_score}" if status.to_score else ""
    return f" {share(cell)}"
