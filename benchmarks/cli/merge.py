"""`bench merge`: results of another output folder, or of a zip file of `bench export`, into this one."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UsageError
from . import options

app = typer.Typer()


@app.command()
def merge(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of runs, or zip file of `bench export`.")],
    out: options.Out = Path("runs"),
) -> int:
    """Merge the finished cells of another folder or zip file.

    Cells that are not here yet are copied, and nothing here changes.

    Exit status: 0 all cells of SOURCE are here, 1 cells are left out, which are named.
    """
    from ..runs.archive import unpack
    from ..runs.merge import KEPT_OUT, MERGED, SAME
    from ..runs.merge import merge as merge_into

    if not source.exists():
        raise UsageError(f"there is no folder or file {source}")
    out.mkdir(parents=True, exist_ok=True)
    # Beside the cells, where there is room for them.
    with tempfile.TemporaryDirectory(dir=out, prefix=".merge-") as temporary:
        folder = source
        if not source.is_dir():
            folder = Path(temporary)
            unpack(source, folder)
        outcomes = merge_into(folder, out)
        # The unpacked files are gone by the time that a message is read.
        reasons = {item.place: item.reason.replace(f"{folder.resolve()}/", "") for item in outcomes}
    if not outcomes:
        raise UsageError(f"{source} holds no cells: name a folder of runs, or a zip file of `bench export`")
    for item in outcomes:
        if item.what == KEPT_OUT:
            print(f"{item.place}: {reasons[item.place]}; left out", file=sys.stderr)
    number = Counter(item.what for item in outcomes)
    if any("values differ" in item.reason for item in outcomes):
        folder = source if source.is_dir() else f"FOLDER, with {source} unpacked into FOLDER"
        print(f"to compare cells with other values: bench compare {out} {folder}", file=sys.stderr)
    print(f"{number[MERGED]} merged, {number[SAME]} identical, {number[KEPT_OUT]} left out")
    if number[MERGED]:
        print(f"to update the report: bench report --out {out}")
    return int(number[KEPT_OUT] > 0)
