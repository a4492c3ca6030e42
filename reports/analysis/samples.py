"""Samples that finished cells keep, and which cells stand for their configurations where samples are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .cells import Cell, naming
from .tables import Board, labels


def read_samples(path: Path) -> np.ndarray:
    """The array of one sample file. Raises ValueError, naming the file, for anything but samples."""
    with naming(path):
        array = read_arrays(path, ["samples"])["samples"]
        image = array.ndim == 4 and array.shape[1] in (1, 3) and array.dtype == np.uint8
        point = array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind == "f"
        if not (image or point) or not len(array):
            raise ValueError(f"samples of shape {array.shape} and type {array.dtype} are neither images nor points")
        return array


def shown_cells(board: Board, file: Callable[[Cell], Path] = lambda cell: cell.run.samples(1)) -> dict[str, Cell]:
    """label -> the cell whose `file` is shown, in the order of the board: the lowest seed that all share that have it.

    Only finished cells are shown, and configurations without the file are left out.
    """
    names = labels(board.cells)
    options: dict[str, dict[int, Cell]] = {entry.label: {} for entry in board.entries}
    for cell in board.cells:
        if cell.state == "done" and cell.has(file(cell)):
            options[names[cell.group]][cell.seed] = cell
    options = {label: seeds for label, seeds in options.items() if seeds}
    common = set.intersection(*(set(seeds) for seeds in options.values())) if options else set()
    return {label: seeds[min(common or seeds)] for label, seeds in options.items()}
