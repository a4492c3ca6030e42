"""Watching cells run: a live table on a terminal, timestamped lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runs.folder import CellFiles

LINE_SECONDS = 15.0
LIVE_ROWS = 24


@contextlib.contextmanager
def watch(folders: Sequence[Path], out: Path) -> Iterator[Callable[[], None]]:
    """Yields a function to call a few times a second; it looks at the cells' status files and shows what changed."""
    names = {folder: str(folder.relative_to(out)) for folder in folders}
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False, vertical_overflow="crop") as live:
            last = 0.0

            def tick() -> None:
                nonlocal last
                if time.monotonic() - last >= 0.5:
                    last = time.monotonic()
                    live.update(table({names[f]: CellFiles(f).status for f in folders}), refresh=True)

            yield tick
            last = 0.0
            tick()
    else:
        yield _Lines(names)


def table(statuses: dict[str, dict[str, Any]], rows: int = LIVE_ROWS) -> Any:
    """One line a cell, running ones first, then failed, queued and done; the rest of a long list is counted."""
    from rich.table import Table

    order = ("running", "failed", "diverged", "interrupted", "queued", "done")
    ranked = sorted(statuses.items(), key=lambda item: order.index(item[1]["state"]))
    colours = {"running": "cyan", "failed": "red", "diverged": "yellow", "done": "green"}
    view = Table(box=None, pad_edge=False)
    view.add_column("cell", overflow="ellipsis", no_wrap=True, ratio=1)
    for column in ("state", "seen", "stage", "loss", "images/s", "left"):
        view.add_column(column, justify="left" if column == "state" else "right", no_wrap=True)
    for name, status in ranked[:rows]:
        style = colours.get(status["state"], "")
        view.add_row(name, f"[{style}]{doing(status)}[/]" if style else doing(status), *_numbers(status))
    done = sum(status["state"] == "done" for status in statuses.values())
    more = f", {len(ranked) - rows} not shown" if len(ranked) > rows else ""
    view.caption = f"{done} of {len(statuses)} done{more}"
    view.caption_justify = "left"
    return view


def doing(status: dict[str, Any]) -> str:
    """The state in one word; a running cell says its phase."""
    return status.get("phase", "train") if status["state"] == "running" else status["state"]


def _numbers(status: dict[str, Any]) -> tuple[str, ...]:
    seen, total, rate = status.get("images", 0), status.get("total"), status.get("images_per_s")
    share = f"{seen / total:.0%}" if total else "-"
    if status["state"] != "running" or status.get("phase") != "train":
        return share, "-", "-", "-", "-"
    loss = status.get("loss")
    left = f"{(total - seen) / rate:.0f} s" if total and rate else "-"
    return (
        share,
        str(status.get("stage", "-")),
        "-" if loss is None else f"{loss:.4g}",
        "-" if rate is None else f"{rate:,.0f}",
        left,
    )


class _Lines:
    """A line when a cell changes its state, and one now and then for the cells at work."""

    def __init__(self, names: dict[Path, str]) -> None:
        self.names = names
        self.shown: dict[Path, str] = {}
        self.last = time.monotonic()

    def __call__(self) -> None:
        periodic = time.monotonic() - self.last >= LINE_SECONDS
        for folder, name in self.names.items():
            status = CellFiles(folder).status
            what = doing(status)
            changed = self.shown.get(folder) != what
            self.shown[folder] = what
            if (changed and status["state"] != "queued") or (periodic and status["state"] == "running"):
                seen, _, loss, rate, left = _numbers(status)
                details = f" {seen}, loss {loss}, {rate} images/s, {left} left" if rate != "-" else ""
                error = f": {status['error'].splitlines()[0]}" if status.get("error") else ""
                print(f"{time.strftime('%H:%M:%S')} {name} {what}{details}{error}", flush=True)
        if periodic:
            self.last = time.monotonic()
