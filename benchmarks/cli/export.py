"""`bench export`: results as a table or a zip file, and a trained model as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..common.errors import UsageError
from ..common.text import count
from ..runs.folder import IMPORTED, REFERENCE, Run, find_cells
from ..runs.studies import study_cells, study_files
from . import options
from .cells import find, no_cells, say_damage

if TYPE_CHECKING:
    from ..runs.damage import Damage

app = typer.Typer()


@app.command()
def export(
    form: Annotated[Literal["csv", "parquet", "diffusers", "zip"], typer.Option("--format", help="What to write.")],
    out: Annotated[Path, typer.Option("--out", help="New file, or for diffusers new folder.")],
    cell: Annotated[
        str | None, typer.Argument(metavar="[CELL]", help="The cell whose model is exported.", show_default=False)
    ] = None,
    study: Annotated[str, typer.Option("--study", help="Study whose cells are taken, or all.")] = "all",
    snapshots: options.Snapshots = "last",
    weights: Annotated[bool, typer.Option("--weights", help="Put the snapshots into the zip file, too.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
) -> int:
    """Export results or a model.

    csv, parquet: one row per cell, NFE, metric and sampling seed. diffusers: the final weights of CELL with a model
    card. zip: configurations, records, statuses and samples, which `bench merge` reads.

    Exit status: 0 all cells are in it, 1 cells are left out, which are named.
    """
    if (cell is not None) != (form == "diffusers"):
        wanted = "needs a CELL" if form == "diffusers" else "takes no CELL: choose cells with --study"
        raise UsageError(f"--format {form} {wanted}")
    if out.exists():
        raise UsageError(f"{out} exists already: choose another name")
    if cell is not None:
        return _model(cell, runs, out)
    cells = _chosen(study, runs)
    if form == "zip":
        return _archive(cells, study, runs, out, weights)
    return _table(cells, runs, out, form, every_snapshot=snapshots == "all")


def _chosen(study: str, runs: Path) -> list[Run]:
    cells = find_cells(runs) if study == "all" else study_cells(runs, study)
    if not cells:
        raise no_cells(runs)
    return cells


def _table(cells: list[Run], runs: Path, out: Path, form: str, *, every_snapshot: bool) -> int:
    from ...reports.analysis.cells import survey
    from ...reports.analysis.frames import frame
    from ...reports.pages.spreadsheet import harmless
    from ..common.files import atomic_path
    from ..runs.imported import imported_rows

    read, damaged = survey(cells)
    imported, lost = imported_rows(runs)
    if not read:
        raise UsageError(f"all cells in {runs} are damaged; `bench status` names what is")
    table = frame(read, imported, every_snapshot=every_snapshot)
    with atomic_path(out) as temporary:
        if form == "parquet":
            table.to_parquet(temporary, index=False)
        else:
            safe = table.map(lambda value: harmless(value) if isinstance(value, str) else value)
            safe.to_csv(temporary, index=False, lineterminator="\n")
    print(f"{count(len(table), 'row')} of {count(len(read), 'cell')}: {out}")
    return say_damage([*(item for item in damaged if item.blocks), *lost], runs)


def _archive(cells: list[Run], study: str, runs: Path, out: Path, weights: bool) -> int:
    from ..runs.archive import files_of, write_archive
    from ..runs.damage import damages

    damaged: list[Damage] = []
    files: list[Path] = []
    taken = 0
    for run in cells:
        found = damages(run)
        damaged += found
        if not found and run.status.state.is_final:
            files += files_of(run, weights=weights)
            taken += 1
    if not taken:
        raise UsageError(f"none of the {count(len(cells), 'cell')} in {runs} is finished and without damage")
    files += [file for file in {run.path.parents[1] / REFERENCE for run in cells} if file.is_file()]
    files += (runs / IMPORTED).glob("*.csv")
    files += study_files(runs, None if study == "all" else study)
    write_archive(out, runs, files)
    left = f", {len(cells) - taken} without a result left out" if taken < len(cells) else ""
    print(f"{count(taken, 'cell')}{left}: {out}")
    return max(say_damage(damaged, runs), int(taken < len(cells)))


def _model(name: str, runs: Path, out: Path) -> int:
    run = find(name, runs)
    if run is None:
        raise UsageError(f"no cell {name!r} in {runs}: name its folder or its id; `bench status` lists them")
    from ...reports.analysis.cells import survey
    from ...reports.pages.model_card import model_card
    from ..evaluation.export import pack
    from ..evaluation.sample_files import new_folder
    from ..runs.folder import cells_in

    run = Run(run.path.resolve())
    cells, damaged = survey(cells_in(run.path.parents[1]))
    own = next((cell for cell in cells if cell.run.path == run.path), None)
    if own is None:
        return say_damage([item for item in damaged if item.folder == run.path], runs)
    with new_folder(out) as folder:
        pack(run, folder)
        (folder / "README.md").write_bytes(model_card(own, cells).encode())
    print(f"{run.path.name}: {out}")
    return 0
