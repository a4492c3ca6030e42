"""`bench status`: how far every cell is, from its files alone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..lock import is_held
from ..records import CellFiles, find_cells

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


def status(out: Path) -> int:
    """Exit status: 0 all cells done, 1 a cell failed or diverged or is not finished."""
    from rich.console import Console

    from .progress import table

    cells = find_cells(out)
    if not cells:
        raise UsageError(f"no cells below {out}: run `bench run` first, or name the folder of the runs with --out")
    statuses = {str(cell.path.relative_to(out)): current(cell) for cell in cells}
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(statuses, rows=len(statuses)))
    for name, now in statuses.items():
        if now.get("error"):
            print(complaint(name, now, out))
    return 0 if Counter(now["state"] for now in statuses.values())["done"] == len(cells) else 1


def current(cell: CellFiles) -> dict[str, Any]:
    """The cell's status; one that says "running" though its process is gone without a word is "interrupted"."""
    status = cell.status
    if status["state"] == "running" and not is_held(cell.path / "lock"):
        return {**status, "state": "interrupted"}
    return status


def complaint(name: str, status: dict[str, Any], out: Path) -> str:
    """One line on what became of a cell that failed or diverged; the log has the rest."""
    reason = status.get("error") or f"diverged after {status['images']:,} images"
    return f"{name}: {reason.splitlines()[0]} (see {out / name / 'log.txt'})"
