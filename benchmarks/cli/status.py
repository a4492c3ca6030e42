"""`bench status`: the state of every cell, from its files and from SLURM."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ...slurm import sweeps
from ...slurm.status import poll
from ..common.errors import UsageError
from ..runs.damage import Damage
from ..runs.damage import damages as damages_of
from ..runs.folder import Run
from ..runs.view import View
from . import options
from .board import table
from .cells import resolve, say_damage
from .display import Described, exit_status, remarks, watch
from .json_output import print_json

PLAIN_WIDTH = 120
PROGRESS = ("phase", "images", "total", "loss", "images_per_s", "scored", "to_score", "error", "updated")

app = typer.Typer()


@app.command()
def status(
    cells: options.Cells = None,
    out: options.Out = Path("runs"),
    study: options.StudyName = None,
    is_watched: Annotated[bool, typer.Option("--watch", help="Update until no cell is active.")] = False,
    as_json: options.Json = False,
) -> int:
    """Show the progress of cells and of their jobs. A reason is given where a job waits or has failed.

    Exit status: 0 all cells are done, 1 one is not.
    """
    names = cells or []
    damages: list[Damage] = []
    if is_watched and as_json:
        raise UsageError("--watch updates a table, and --json prints one document: leave one of them out")
    if is_watched:
        view, _ = watch(lambda: resolve(names, out, study), out)
        sweeps.read(out, damages)
    else:
        view = Described()(poll(resolve(names, out, study), out, damages))
    if as_json:
        print_json(_document(view, remarks(view, out)))
    else:
        if not is_watched or not sys.stdout.isatty():
            _print(view)
        for line in remarks(view, out):
            print(line)
    damages += [item for cell in view.cells if not cell.is_active for item in damages_of(Run(cell.run.path))]
    damaged = say_damage(damages, out)
    return exit_status(view) or damaged


def _document(view: View, notes: Iterable[str]) -> dict[str, object]:
    cells = [
        {
            "cell": cell.name,
            "state": cell.state,
            "reason": cell.reason,
            **{key: getattr(cell.status, key) for key in PROGRESS},
            "job": cell.job,
            "node": cell.node,
            "is_active": cell.is_active,
        }
        for cell in view.cells
    ]
    return {"cells": cells, "counts": view.counts(), "unreachable": view.unreachable, "notes": notes}


def _print(view: View) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(table(view, console.width))
