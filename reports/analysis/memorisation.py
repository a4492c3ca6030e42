"""How near samples lie to training images, beside how near real images lie to each other: the check for copies.

Distances are those of the features that the authenticity metric is taken in (`Evaluator.nearest` keeps them for a part
of the samples). Finished cells alone are read, at the smallest number of steps that any of them has kept them for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .cells import Cell, naming
from .statistics import Interval, t_interval
from .tables import Board, labels

TAIL = 0.01  # of the baseline: samples nearer than this share of the real images are what copies would add to


@dataclass(frozen=True, eq=False)
class Nearest:
    """What a cell keeps, as `Evaluator.nearest` says: distances float [N], baseline float [M], and the nearest pairs.

    samples and training are uint8 [n, C, H, W] or, of points in the plane, float [n, 2]; pair_distances float [n].
    """

    distances: np.ndarray
    baseline: np.ndarray
    samples: np.ndarray
    training: np.ndarray
    pair_distances: np.ndarray

    @property
    def has_images(self) -> bool:
        return self.samples.ndim == 4


@dataclass(frozen=True)
class Nearness:
    """One configuration, over its seeds.

    median: of the distances of samples; baseline: median of the real images' distances to each other.
    tail: the share of samples that are nearer than the nearest hundredth of the real images.
    authenticity: the metric's values, by its name.
    """

    label: str
    median: Interval
    baseline: float
    tail: float
    authenticity: dict[str, Interval]


@dataclass(frozen=True)
class Memorisation:
    """All configurations that have kept something at `nfe`, in the order of the board. `metrics` are authenticities."""

    nfe: int
    metrics: tuple[str, ...]
    rows: tuple[Nearness, ...]


def memorisation(board: Board) -> Memorisation | None:
    """The numbers of the check; None where no cell has kept any. Raises DamagedError, naming the file."""
    nfe = shown_nfe(board)
    if nfe is None:
        return None
    names, metrics = labels(board.cells), authenticity_metrics(board)
    kept = defaultdict(list)
    for cell in board.cells:
        if _has(cell, nfe):
            kept[names[cell.group]].append(read_nearest(cell.run.nearest(nfe)))
    scores = {row.entry.label: row.scores for row in board.rows if row.nfe == nfe}
    rows = tuple(
        Nearness(
            label=entry.label,
            median=t_interval([float(np.median(near.distances)) for near in found]),
            baseline=float(np.mean([np.median(near.baseline) for near in found])),
            tail=float(np.mean([_tail(near) for near in found])),
            authenticity={metric: scores[entry.label][metric] for metric in metrics},
        )
        for entry in board.entries
        if (found := kept.get(entry.label))
    )
    return Memorisation(nfe, metrics, rows)


def read_nearest(path: Path) -> Nearest:
    """The content of one file. Raises DamagedError, naming it, for anything but distances and pairs of images."""
    with naming(path):
        near = Nearest(**read_arrays(path, [field.name for field in fields(Nearest)]))
        for name in ("distances", "baseline", "pair_distances"):
            array = getattr(near, name)
            if array.ndim != 1 or array.dtype.kind != "f" or not len(array) or not (array >= 0).all():
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype} are no distances")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} hold infinity")
        shape, kind = near.samples.shape, near.samples.dtype
        image = len(shape) == 4 and shape[1] in (1, 3) and kind == np.uint8
        point = len(shape) == 2 and shape[1] == 2 and kind.kind == "f"
        if not (image or point) or (near.training.shape, near.training.dtype) != (shape, kind):
            raise ValueError(
                f"samples of shape {shape} and type {kind} beside training data of shape {near.training.shape} and "
                f"type {near.training.dtype} are neither pairs of images nor of points"
            )
        if len(near.pair_distances) != len(near.samples):
            raise ValueError(f"there are {len(near.pair_distances)} distances of {len(near.samples)} pairs")
        return near


def _tail(near: Nearest) -> float:
    return float(np.mean(near.distances < np.quantile(near.baseline, TAIL)))


def authenticity_metrics(board: Board) -> tuple[str, ...]:
    """The names of the board's authenticity metrics."""
    return tuple(metric for metric in board.metrics if metric.startswith("authenticity"))


def shown_nfe(board: Board) -> int | None:
    """The smallest number of steps that any finished cell has kept its nearest images for."""
    return next((nfe for nfe in board.nfes if any(_has(cell, nfe) for cell in board.cells)), None)


def _has(cell: Cell, nfe: int) -> bool:
    return cell.state == "done" and cell.has(cell.run.nearest(nfe))
