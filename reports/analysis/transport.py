"""How points in the plane are transported: lines from noise to samples, and from data to the noise coupled with them.

Both come from the files of finished cells. Noise is in standard units, that is, divided by sigma_max: at the largest
noise level the data hardly move a point. How tangled lines are is measured by the share of pairs that cross.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .cells import Cell, naming
from .statistics import Interval, t_interval
from .tables import Board, labels

COUPLED = ("x", "coupled", "noise")


@dataclass(frozen=True)
class Lines:
    """Straight lines, float [n, 2] both ends; `modes` int [n] where the data have modes, -1 far from all of them."""

    start: np.ndarray
    end: np.ndarray
    modes: np.ndarray | None


@dataclass(frozen=True)
class Crossings:
    """Of one configuration, the share of pairs of lines that cross, over seeds.

    samples: noise -> its sample at NFE 1. coupled: data -> the noise that the coupling chose; None where it leaves
    noise as it was drawn.
    """

    label: str
    samples: Interval
    coupled: Interval | None


def crossings(board: Board) -> tuple[Crossings, ...]:
    """The measure for every configuration of a board whose cells hold lines, in the order of the board."""
    names = labels(board.cells)
    found = []
    for entry in board.entries:
        cells = [cell for cell in board.cells if names[cell.group] == entry.label and cell.state == "done"]
        samples = _share(filter(None, map(sample_lines, cells)))
        if samples is not None:
            coupled = _share(pair[0] for pair in map(coupling_lines, cells) if pair)
            found.append(Crossings(entry.label, samples, coupled))
    return tuple(found)


def independent_crossings(board: Board) -> float | None:
    """The share for data and noise drawn independently, the same for all cells; None where no cell holds them."""
    pair = next(filter(None, map(coupling_lines, board.cells)), None)
    return None if pair is None else crossing_share(pair[1])


def crossing_share(lines: Lines) -> float:
    """The share of all pairs of lines that cross in a point inside both; 0 where there are fewer than two lines."""
    p, q = lines.start.astype(float), lines.end.astype(float)
    # apart[i, j]: the ends of line j lie on different sides of the line through i.
    apart = _side(p, q, p) * _side(p, q, q) < 0
    crossing = np.triu(apart & apart.T, 1).sum()
    return float(crossing / max(1, math.comb(len(p), 2)))


def _side(p: np.ndarray, q: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[i, j]: above 0 where point j lies to the left of the line from p_i to q_i, below 0 to its right."""
    along, to = (q - p)[:, None], points[None] - p[:, None]
    return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]


def sample_lines(cell: Cell) -> Lines | None:
    """Noise -> sample at NFE 1; None where the file has none. Raises DamagedError, naming the file."""
    arrays = read_lines(cell.run.samples(1), ("latents", "samples")) if cell.has(cell.run.samples(1)) else None
    return None if arrays is None else Lines(arrays["latents"], arrays["samples"], arrays.get("modes"))


def coupling_lines(cell: Cell) -> tuple[Lines, Lines] | None:
    """Data -> coupled noise, and data -> noise drawn apart; None where there is no file. Raises DamagedError."""
    arrays = read_lines(cell.run.coupling, COUPLED) if cell.has(cell.run.coupling) else None
    if arrays is None:
        return None
    coupled, apart = (Lines(arrays["x"], arrays[name], arrays.get("modes")) for name in ("coupled", "noise"))
    return coupled, apart


def _share(lines: Iterable[Lines]) -> Interval | None:
    shares = [crossing_share(each) for each in lines]
    return t_interval(shares) if shares else None


def read_lines(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of one file: float [n, 2] by `names`, and `modes`, int [n], if it is there; None without the first."""
    with naming(path):
        arrays = read_arrays(path, (), (*names, "modes"))
        if names[0] not in arrays:
            return None
        modes = arrays.pop("modes", None)
        if missing := [name for name in names if name not in arrays]:
            raise KeyError(missing[0])
        count = len(arrays[names[0]])
        for name, array in arrays.items():
            if array.shape != (count, 2) or array.dtype.kind != "f" or not count or not np.isfinite(array).all():
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype} are no points in the plane")
        if modes is None:
            return arrays
        if modes.shape != (count,) or modes.dtype.kind != "i":
            raise ValueError(f"modes of shape {modes.shape} and type {modes.dtype} do not number the {count} points")
        return arrays | {"modes": modes}
