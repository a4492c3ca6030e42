"""`bench import`: foreign or published values, shown beside ours and marked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.text import count
from ..runs.folder import find_cells
from . import options

app = typer.Typer()


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Rows with provenance, see docs/exchange.md.")],
    out: options.Out = Path("runs"),
) -> int:
    """Import foreign or published values from a CSV file. Reports show them marked, and never test them against ours.

    Columns: benchmark, method, nfe, metric, value, source, measured_by; optional are variant, seed, seeds, url, note.
    """
    from ..config.compose import choices
    from ..runs.imported import add_imported

    known = dict.fromkeys([*choices("benchmark"), *(run.path.parents[1].name for run in find_cells(out))])
    copy, number = add_imported(file, out, known)
    print(f"{count(number, 'row')} imported: {copy}")
    print(f"to update the report: bench report --out {out}")
    return 0
