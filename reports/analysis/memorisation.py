"""How near samples lie to training images, beside how near real images lie to each other: the check for copies.

Distances are those of the features that the authenticity metric is taken in (`Evaluator.nearest` keeps them for a part
of the samples). Finished cells alone are read, at the smallest number of steps that any of them has kept them for.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from ..plots.style import (
    CANVAS_WIDTH,
    COLUMNS,
    Style,
    legend_below,
    legend_height,
    save_figures,
    short,
    show_canvas,
    shown_cells,
    strip,
    styles,
)
from .arrays import read_arrays
from .cells import Cell, naming
from .statistics import Interval, t_interval
from .tables import Board, labels

TAIL = 0.01  # of the baseline: samples nearer than this share of the real images are what copies would add to
MARKS = 6  # along a curve
BASELINE: dict[str, Any] = {"color": "0.75", "lw": 6, "drawstyle": "steps-post", "solid_capstyle": "round"}
REACH = 0.995  # the share of every curve that the picture holds: a few samples far from everything would squeeze it


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
    nfe = _nfe(board)
    if nfe is None:
        return None
    names, metrics = labels(board.cells), _metrics(board)
    kept = defaultdict(list)
    for cell in board.cells:
        if _has(cell, nfe):
            kept[names[cell.group]].append(read_nearest(cell.files.nearest(nfe)))
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


def save_nearest_plot(board: Board, folder: Path, stem: str) -> dict[str, Path]:
    """Write `<stem>-nearest.png` where there is something to draw; kind -> path."""
    return save_figures({"nearest": lambda: nearest_plot(board)}, folder, stem)


def nearest_plot(board: Board) -> Figure | None:
    """Distribution curves over the baseline's, and of images the nearest pairs: sample above, training image below."""
    nfe = _nfe(board)
    if nfe is None:
        return None
    shown = {
        label: read_nearest(cell.files.nearest(nfe))
        for label, cell in shown_cells(board, lambda cell: cell.files.nearest(nfe)).items()
    }
    pairs = {label: near for label, near in shown.items() if near.has_images}
    curves = 3.1 + legend_height(shown)
    if not pairs:
        figure = above = Figure(figsize=(CANVAS_WIDTH, curves), layout="constrained")
    else:
        canvas, ticks, notes = _canvas(pairs)
        height = CANVAS_WIDTH * canvas.shape[0] / canvas.shape[1]
        figure = Figure(figsize=(CANVAS_WIDTH + 1.3, curves + height + 0.2), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(curves, height + 0.2), squeeze=False)[:, 0]
        axes = below.add_subplot()
        show_canvas(axes, canvas, ticks)
        for (x, y), text in notes.items():
            axes.text(x, y, text, va="center", ha="center", fontsize=6, color="0.25")
    _draw_curves(above, board, nfe, shown)
    return figure


def _draw_curves(figure: FigureBase, board: Board, nfe: int, shown: Mapping[str, Nearest]) -> None:
    """A panel for each baseline: there are several only where configurations were measured in different spaces."""
    look = styles([entry.label for entry in board.entries])
    panels: dict[bytes, dict[str, Nearest]] = defaultdict(dict)
    for label, near in shown.items():
        panels[near.baseline.tobytes()][label] = near
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, own in zip(row, panels.values(), strict=True):
        baseline = np.sort(next(iter(own.values())).baseline)
        axes.plot(*_distribution(baseline), **BASELINE)
        for place, (label, near) in enumerate(own.items()):
            _draw_curve(axes, np.sort(near.distances), look[label], place / len(own))
        reach = max(np.quantile(values, REACH) for near in own.values() for values in (near.distances, baseline))
        axes.set(xlim=(0, 1.04 * reach or 1.0), ylim=(0, 1.02))
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel(f"distance to the nearest training image{_space(board)}")
    row[0].set_ylabel("share within this distance")
    handles = [
        *(
            Line2D(
                [], [], color=look[name].color, ls=look[name].line, marker=look[name].marker, ms=5, label=short(name)
            )
            for name in shown
        ),
        Line2D([], [], **BASELINE, label="real images to other real ones"),
    ]
    legend_below(figure, handles)


def _draw_curve(axes: Axes, values: np.ndarray, look: Style, shift: float) -> None:
    """An empirical distribution; marks lie apart from those of other curves, which may run along the same line."""
    marks = [round((len(values) - 1) * (mark + shift) / MARKS) for mark in range(MARKS)]
    x, y = _distribution(values)
    axes.plot(x, y, drawstyle="steps-post", color=look.color, ls=look.line, lw=1.6)
    axes.plot(x[1:][marks], y[1:][marks], color=look.color, ls="", marker=look.marker, ms=5, clip_on=False, zorder=3)


def _distribution(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values with the share that is no larger, after a start at a share of 0: copies are a step at 0."""
    return np.concatenate((values[:1], values)), np.linspace(0, 1, len(values) + 1)


def _canvas(pairs: Mapping[str, Nearest]) -> tuple[np.ndarray, dict[float, str], dict[tuple[float, float], str]]:
    """All pairs on one canvas in pixels, with the names beside and the distances below them, by their places."""
    height, width = next(iter(pairs.values())).samples.shape[2:]
    pad, gap = max(1, height // 16), max(3, round(0.5 * height))
    blocks, ticks, notes = [], {}, {}
    top, farthest = 0, max(float(near.pair_distances.max()) for near in pairs.values())
    decimals = max(0, 2 - math.floor(math.log10(farthest))) if farthest else 0
    for label, near in pairs.items():
        rows = [strip(images, pad) for images in (near.samples, near.training)]
        blocks += [*rows, np.full((gap, rows[0].shape[1], 3), 255, np.uint8)]
        ticks[top + height + pad / 2 - 0.5] = short(label)
        top += 2 * (height + pad)
        for column, distance in enumerate(near.pair_distances[:COLUMNS]):
            notes[column * (width + pad) + width / 2 - 0.5, top + gap / 2 - pad] = f"{distance:.{decimals}f}"
        top += gap
    return np.concatenate(blocks), ticks, notes


def _tail(near: Nearest) -> float:
    return float(np.mean(near.distances < np.quantile(near.baseline, TAIL)))


def _metrics(board: Board) -> tuple[str, ...]:
    return tuple(metric for metric in board.metrics if metric.startswith("authenticity"))


def _space(board: Board) -> str:
    """Whose features distances are taken in, for the axis; where several may be meant, nothing."""
    found = [re.match(r"authenticity_(.+?)_\d+k?(?:_|$)", metric) for metric in _metrics(board)]
    spaces = {match[1] if match else "inception" for match in found}  # Inception's metrics name no space
    return f" (features: {spaces.pop()})" if len(spaces) == 1 else ""


def _nfe(board: Board) -> int | None:
    return next((nfe for nfe in board.nfes if any(_has(cell, nfe) for cell in board.cells)), None)


def _has(cell: Cell, nfe: int) -> bool:
    return cell.state == "done" and cell.files.nearest(nfe).exists()
