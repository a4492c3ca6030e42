"""The cell that another one starts from (`train.init`): where it is, and whether its weights are there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import DamagedError
from ..config.schema import RunConfig
from .folder import Run, find_cells, is_cell
from .status import State


def first_cell(folder: Path, config: RunConfig) -> Run | None:
    """The cell that the one in `folder` starts from, None where it starts from none."""
    start = config.cell.start
    return None if start is None else Run(folder.parents[2] / start.cell)


def awaited(folder: Path, config: RunConfig) -> Run | None:
    """The cell whose training has to end before that of the one in `folder` begins; None where nothing is awaited.

    Its averaged weights after its budget are needed, and what they cost.
    """
    start, first = config.cell.start, first_cell(folder, config)
    if start is None or first is None or Run(folder).weights(config.budget_images).is_file():
        return None
    with suppress(DamagedError, OSError):
        is_trained = Run(first.path).history["compute"].get("images") == start.images
        return None if is_trained and first.weights(start.images).is_file() else first
    return first


def name_of_first(first: Run) -> str:
    """The name of a cell, as it is below an output folder."""
    return "/".join(first.path.parts[-3:])


def waits_for(run: Run) -> str:
    """`waits for digits/edm/s0-1a2b3c4d`; "" for a cell that waits for none, or whose configuration is not known."""
    with suppress(UsageError, OSError):
        first = awaited(run.path, run.config)
        return "" if first is None else f"waits for {name_of_first(first)}"
    return ""


def never(first: Run) -> str:
    """The sentence for a cell that waits in vain: no process trains `first` any more."""
    status = first.status
    why = {
        State.FAILED: f"has failed ({status.reason})",
        State.DIVERGED: "has diverged",
        State.DONE: "is done, but its final weights are missing: remove it and repeat the command",
    }
    return (
        f"its pre-training {name_of_first(first)} {why.get(status.state, 'is unfinished, and no process works on it')}"
    )


def find_finished(name: str, out: Path) -> tuple[str, RunConfig]:
    """The cell of `train.init=cell:ID|PATH`: its name below `out`, or its path elsewhere, and its configuration.

    Raises UsageError: no cell of that id or path, several whose ids begin so, one without final weights.
    """
    path = Path(name).expanduser()
    if is_cell(path):
        run = Run(path.absolute())
    else:
        cells = find_cells(out)
        ids = {cell.path.name.rpartition("-")[2]: cell for cell in cells}
        found = [cell for own, cell in ids.items() if name and own.startswith(name)]
        if len(found) != 1:
            many = f"{len(found)} cells" if found else "no cell"
            wanted = "the id of a finished cell or the path of its folder; `bench status` lists them"
            raise UsageError(f"train.init=cell:{name}: {many} in {out} with an id that begins so; name {wanted}")
        run = Run(found[0].path.absolute())
    config = run.config
    if run.status.state is not State.DONE:
        raise UsageError(f"train.init=cell:{name}: {run.path} is {run.status.state}, must be done")
    if not run.weights(config.budget_images).is_file():
        raise UsageError(f"train.init=cell:{name}: the final weights {run.weights(config.budget_images)} are missing")
    base = out.absolute()
    place = run.path.relative_to(base) if run.path.is_relative_to(base) else run.path
    return place.as_posix(), config
