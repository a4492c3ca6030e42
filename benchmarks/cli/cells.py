"""Cells by what people call them: a folder, its name below that of all runs, or the beginning of an id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.errors import UsageError
from ..runs.folder import CONFIG, CellFiles, find_cells


def find(name: str, out: Path) -> CellFiles | None:
    """The cell of that folder, name or id, None where there is none. Raises UsageError where an id fits several."""
    folder = Path(name)
    if (folder / CONFIG).exists():
        return CellFiles(folder)
    return _pick(name, find_cells(out), out)


def resolve(names: Sequence[str], out: Path) -> list[CellFiles]:
    """The cells of these names below `out`, each once, in the order of the names; all of them without a name.

    Raises UsageError: no cell below `out`, none of that name, several of that id, a folder that is not below `out`.
    """
    cells = find_cells(out)
    if not cells:
        raise UsageError(f"no cells below {out}: run `bench run` first, or name the folder of the runs with --out")
    if not names:
        return cells
    paths = {cell.path.resolve(): cell for cell in cells}
    found: dict[Path, CellFiles] = {}
    for name in names:
        if (Path(name) / CONFIG).exists():
            cell = paths.get(Path(name).resolve())
            if cell is None:
                raise UsageError(f"{name} is not below {out}; name the folder of its runs with --out")
        else:
            cell = _pick(name, cells, out)
        if cell is None:
            raise UsageError(
                f"there is no cell {name!r} in {out}: give its folder or its id; `bench status` lists them"
            )
        found[cell.path] = cell
    return list(found.values())


def _pick(name: str, cells: Sequence[CellFiles], out: Path) -> CellFiles | None:
    """By name, by id, by the beginning of an id. Folders end in the id: no configuration has to be read."""
    for cell in cells:
        if name.rstrip("/") in (cell.path.relative_to(out).as_posix(), cell.path.name, _id(cell)):
            return cell
    near = [cell for cell in cells if name and _id(cell).startswith(name)]
    if len(near) > 1:
        ids = ", ".join(map(_id, near[:5])) + (", …" if len(near) > 5 else "")
        raise UsageError(f"{len(near)} cells in {out} have ids that begin with {name!r}: {ids}")
    return near[0] if near else None


def _id(cell: CellFiles) -> str:
    return cell.path.name.rpartition("-")[2]
