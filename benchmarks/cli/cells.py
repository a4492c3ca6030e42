"""Cells by the names that users give: a folder, its path below the folder of all runs, or the beginning of an id."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import DamagedError
from ..common.text import plain
from ..config.plugins import require_included
from ..runs.damage import Damage, cure
from ..runs.folder import IMPORTED, Run, cells_in, find_cells, is_cell
from ..runs.studies import study_cells


def no_cells(out: Path) -> UsageError:
    """The error for a folder of runs that does not exist or is empty. The caller raises what this returns."""
    return UsageError(f"no cells below {out}: run `bench run` first, or name the folder of the runs with --out")


def say_damage(found: Sequence[Damage], out: Path) -> int:
    """Name what is damaged, what that leaves out, and the command that mends it, on stderr. Returns an exit status."""
    for item in found:
        folder = item.folder.relative_to(out) if item.folder.is_relative_to(out) else item.folder
        rest = "the cell is left out" if item.blocks else "the numbers are kept"
        if item.folder == out / IMPORTED:
            rest = "its rows are left out: remove the file, and import it again"
        print(f"{plain(folder.as_posix())}: {item.reason}; {rest}", file=sys.stderr)
    for command in dict.fromkeys(cure(item.folder, out) for item in found if item.folder != out / IMPORTED):
        print(f"to make again what can be made again, rerun: {command}", file=sys.stderr)
    return 1 if found else 0


@contextlib.contextmanager
def naming_plugins(names: Sequence[str], out: Path) -> Iterator[None]:
    """Where an error follows from a plug-in that is missing, raise the sentence that says which.

    names: of methods and benchmarks, by which cells that use a plug-in are found in `out`.
    """
    try:
        yield
    except UsageError:
        for cell in find_cells(out):
            if {cell.path.parents[0].name, cell.path.parents[1].name} & {*names}:
                with contextlib.suppress(DamagedError):
                    require_included(cell.config)
        raise


def find(name: str, out: Path) -> Run | None:
    """The cell of that folder, path or id; None if there is none. Raises UsageError if several ids match."""
    if is_cell(Path(name)):
        return Run(Path(name))
    return _pick(name, find_cells(out), out)


def resolve(names: Sequence[str], out: Path, study: str | None = None) -> list[Run]:
    """The cells of these names below `out`, each once, in the order of the names; without names, all of them.

    study: only the cells of this study, without names.
    Raises UsageError: no cell below `out`, no cell of that name, several of that id, a folder that is not below `out`,
    no study of that name.
    """
    if study is not None:
        if names:
            raise UsageError("name cells, or a study with --study: not both")
        return study_cells(out, study)
    cells = find_cells(out)
    if not cells:
        raise no_cells(out)
    if not names:
        return cells
    paths = {cell.path.resolve(): cell for cell in cells}
    found: dict[Path, Run] = {}
    for name in names:
        if is_cell(Path(name)):
            cell = paths.get(Path(name).resolve())
            if cell is None:
                raise UsageError(f"{name} is not below {out}; name the folder of its runs with --out")
        else:
            cell = _pick(name, cells, out)
        if cell is None:
            raise UsageError(f"no cell {name!r} in {out}: name its folder or its id; `bench status` lists them")
        found[cell.path] = cell
    return list(found.values())


def below(folders: Sequence[Path]) -> list[Run]:
    """The cells in these folders and below them, each once. Raises UsageError for a folder without any."""
    found: dict[Path, Run] = {}
    for folder in folders:
        cells = cells_in(folder)
        if not cells:
            raise UsageError(f"{folder} is not a folder of a cell and contains none; `bench status` lists them")
        found |= {(path := cell.path.resolve()): Run(path) for cell in cells}
    return list(found.values())


def _pick(name: str, cells: Sequence[Run], out: Path) -> Run | None:
    """By path, by id, by the beginning of an id. Folder names end in the id: no configuration has to be read."""
    for cell in cells:
        if name.rstrip("/") in (cell.path.relative_to(out).as_posix(), cell.path.name, _id(cell)):
            return cell
    near = [cell for cell in cells if name and _id(cell).startswith(name)]
    if len(near) > 1:
        ids = ", ".join(map(_id, near[:5])) + (", …" if len(near) > 5 else "")
        raise UsageError(f"{len(near)} cells in {out} have ids that begin with {name!r}: {ids}")
    return near[0] if near else None


def _id(cell: Run) -> str:
    return cell.path.name.rpartition("-")[2]
