"""`bench status`: how far every cell is, from its files and from what SLURM says of its job."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.lock import is_held
from ..common.text import plain
from ..runs.folder import CellFiles

if TYPE_CHECKING:
    from ...slurm.status import CellStatus, View

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
PLAIN_WIDTH = 120
WATCH_SECONDS = 2.0


def status(out: Path, names: Sequence[str] = (), *, watch: bool = False) -> int:
    """Exit status: 0 all cells done, 1 a cell failed or diverged or is not finished.

    names: of the cells to show, all without one. watch: until nothing is at work any more. Raises UsageError where
    there is no such cell.
    """
    from ...slurm.status import poll
    from .cells import resolve

    cells = resolve(names, out)
    view = _watch(out, names) if watch else poll(cells, out)
    if not watch or not sys.stdout.isatty():
        _print(view, out)
    return exit_status(view)


def exit_status(view: View) -> int:
    """0 where all cells are done, else 1."""
    return 0 if all(cell.state == "done" for cell in view.cells) else 1


def _watch(out: Path, names: Sequence[str]) -> View:
    """Show what changes until nothing is at work, and return the last view."""
    from ...slurm.status import Poller
    from .cells import resolve

    poller = Poller(lambda: resolve(names, out), out)
    if not sys.stdout.isatty():
        lines = Lines()
        while True:
            view = poller()
            lines.show(view)
            if poller.has_ended(view):
                return view
            time.sleep(WATCH_SECONDS)

    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            view = poller()
            live.update(_screen(view, out, console.width, console.height), refresh=True)
            if poller.has_ended(view):
                return view
            time.sleep(WATCH_SECONDS)


def _screen(view: View, out: Path, width: int, height: int) -> Any:
    """What fits into a terminal: the table, and below it what is wrong, the newest first where there is no room."""
    from rich.console import Group
    from rich.text import Text

    from .board import table

    said = [Text(line, no_wrap=True, overflow="ellipsis") for line in remarks(view, out)][: max(1, height // 4)]
    return Group(table(view, width, rows=max(1, height - 3 - len(said))), *said)


def _print(view: View, out: Path) -> None:
    from rich.console import Console

    from .board import table

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(table(view, console.width))
    for line in remarks(view, out):
        print(line)


def remarks(view: View, out: Path) -> list[str]:
    """A line where SLURM is silent, and one for each cell that failed or has lost its job."""
    silent = [f"{view.unreachable}: what is shown of jobs may be out of date"] if view.unreachable else []
    return silent + [line for cell in view.cells if (line := remark(cell, out))]


def remark(cell: CellStatus, out: Path) -> str:
    """What became of a cell that failed or was lost, and where more is to be read; "" for others."""
    if cell.status.get("error") and cell.state in ("failed", "diverged"):
        return complaint(cell.name, dict(cell.status), out)
    if cell.state in ("failed", "lost"):
        return f"{cell.name}: {cell.reason}{f' (job {cell.job})' if cell.job else ''}"
    return ""


class Lines:
    """A line for each cell that has another state than it had before; at first, for those that do not just wait."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}
        self.unreachable: str | None = None

    def show(self, view: View) -> None:
        from .board import doing, footer, share

        if view.unreachable != self.unreachable:
            self._print(view.unreachable or "SLURM answers again")
            self.unreachable = view.unreachable
        first = not self.shown
        for cell in view.cells:
            now = doing(cell)
            if self.shown.get(cell.name) != now and not (first and cell.state in ("queued", "done")):
                where = f" on {cell.node}" if cell.node and cell.state == "running" else ""
                reason = f": {cell.reason}" if cell.reason else ""
                seen = "" if cell.state in ("queued", "done") else f" {share(cell)}"
                self._print(f"{cell.name} {now}{seen}{where}{reason}")
            self.shown[cell.name] = now
        if first:
            self._print(footer(view))

    @staticmethod
    def _print(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def current(cell: CellFiles) -> dict[str, Any]:
    """The cell's status; one that says "running" though its process is gone without a word is "interrupted"."""
    status = cell.status
    if status["state"] == "running" and not is_held(cell.path / "lock"):
        return {**status, "state": "interrupted"}
    return status


def complaint(name: str, status: dict[str, Any], out: Path) -> str:
    """One line on what became of a cell that failed or diverged; the log has the rest."""
    reason = status.get("error") or f"diverged after {status['images']:,} images"
    return f"{name}: {plain(reason.splitlines()[0])} (see {out / name / 'log.txt'})"
