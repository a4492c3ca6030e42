"""`bench status`: how far every cell is, from its files alone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from ..errors import UsageError
from ..lock import is_held
from ..records import find_cells


def status(out: Path) -> int:
    """Exit status: 0 all cells done, 1 a cell failed or diverged or is not finished."""
    from rich.console import Console

    from .progress import table

    cells = find_cells(out)
    if not cells:
        raise UsageError(f"no cells below {out}: run `bench run` first, or name the folder of the runs with --out")
    statuses = {}
    for cell in cells:
        now = cell.status
        if now["state"] == "running" and not is_held(cell.path / "lock"):
            now = {**now, "state": "interrupted"}  # its process is gone without a word
        statuses[str(cell.path.relative_to(out))] = now
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(statuses, rows=len(statuses)))
    for name, now in statuses.items():
        if now.get("error"):
            console.print(f"{name}: {now['error']} (see {out / name / 'log.txt'})", markup=False)
    return 0 if Counter(now["state"] for now in statuses.values())["done"] == len(cells) else 1
