"""`bench status`: the state of every cell, from its files and from SLURM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...slurm.status import poll
from ..runs.damage import Damage
from ..runs.damage import damages as damages_of
from ..runs.folder import Run
from ..runs.view import View
from . import options
from .board import table
from .cells import resolve, say_damage
from .display import exit_status, remarks, watch

PLAIN_WIDTH = 120

app = typer.Typer()


@app.command()
def status(
    cells: options.Cells = None,
    out: options.Out = Path("runs"),
    is_watched: Annotated[bool, typer.Option("--watch", help="Update until no cell is active.")] = False,
) -> int:
    """Show the progress of cells and of their jobs. A reason is given where a job waits or has failed.

    Exit status: 0 all cells are done, 1 one is not.
    """
    names = cells or []
    damages: list[Damage] = []
    if is_watched:
        view, _ = watch(lambda: resolve(names, out), out)
    else:
        view = poll(resolve(names, out), out, damages)
    if not is_watched or not sys.stdout.isatty():
        _print(view)
    for line in remarks(view, out):
        print(line)
    damages += [item for cell in view.cells if not cell.is_active for item in damages_of(Run(cell.run.path))]
    damaged = say_damage(damages, out)
    return exit_status(view) or damaged


def _print(view: View) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(table(view, console.width))
