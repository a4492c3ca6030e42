"""Distances of samples to their nearest training images over those of real images, and the nearest pairs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from ..analysis.formatting import short
from ..analysis.memorisation import Nearest, authenticity_metrics, read_nearest, shown_nfe
from ..analysis.samples import shown_cells
from ..analysis.tables import Board
from .canvas import CANVAS_WIDTH, COLUMNS, show_canvas, strip
from .panels import BESIDE, handle, legend_below, legend_height, text_width
from .style import MOST_LINES, Style, styles

MARKS = 6  # along a curve
BASELINE: dict[str, Any] = {"color": "0.75", "lw": 6, "drawstyle": "steps-post", "solid_capstyle": "round"}
REACH = 0.995  # the share of every curve that the picture holds: a few samples far from everything would squeeze it


def nearest_plot(board: Board, width: float | None = None) -> Figure | None:
    """Distribution curves over the baseline's, and of images the nearest pairs: sample above, training image below."""
    nfe = shown_nfe(board)
    if nfe is None:
        return None
    shown = {
        label: read_nearest(cell.run.nearest(nfe))
        for label, cell in shown_cells(board, lambda cell: cell.run.nearest(nfe)).items()
    }
    shown = dict(list(shown.items())[:MOST_LINES])
    pairs = {label: near for label, near in shown.items() if near.has_images}
    handles = _handles(board, shown)
    if not pairs:
        figure = above = Figure(figsize=(width or CANVAS_WIDTH, 2.8), layout="constrained")
    else:
        left = max(text_width(short(label)) for label in pairs) + 0.3
        names_above = width is not None and left > BESIDE * width
        left = 0.1 if names_above else left
        wide = width or CANVAS_WIDTH + left
        canvas = _canvas(pairs, wide - left if names_above else None)
        height = (wide - left) * canvas.pixels.shape[0] / canvas.pixels.shape[1]
        curves = 2.8 + legend_height([str(item.get_label()) for item in handles], wide)
        figure = Figure(figsize=(wide, curves + height + 0.2), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(curves, height + 0.2), squeeze=False)[:, 0]
        _draw_pairs(below, canvas, wide - left, wide)
    _draw_curves(above, board, nfe, shown)
    legend_below(above, handles)
    return figure


@dataclass(frozen=True)
class Canvas:
    """All pairs in pixels, uint8 [H, W, 3].

    ticks, headings: height -> name beside it or above. notes: the distances by their places.
    """

    pixels: np.ndarray
    ticks: Mapping[float, str]
    headings: Mapping[float, str]
    notes: Mapping[tuple[float, float], str]


def _draw_pairs(figure: SubFigure, canvas: Canvas, wide: float, whole: float) -> None:
    """wide, whole: the inches of the canvas and of the picture. Distances are left out where they would overlap."""
    axes = figure.add_axes((1 - wide / whole, 0.0, wide / whole, 1.0), anchor="E")  # beside room for the names
    show_canvas(axes, canvas.pixels, canvas.ticks)
    for y, text in canvas.headings.items():
        axes.text(0, y, text, va="bottom", ha="left", fontsize="small")
    fits = max(map(text_width, canvas.notes.values())) * 6 / 8 < wide / COLUMNS and not canvas.headings
    for (x, y), text in canvas.notes.items() if fits else ():
        axes.text(x, y, text, va="center", ha="center", fontsize=6, color="0.25")


def _draw_curves(figure: Figure | SubFigure, board: Board, nfe: int, shown: Mapping[str, Nearest]) -> None:
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
    row[len(row) // 2].set_xlabel(f"distance to the nearest training image{_space(board)}")
    row[0].set_ylabel("share within this distance")


def _handles(board: Board, shown: Mapping[str, Nearest]) -> list[Line2D]:
    look = styles([entry.label for entry in board.entries])
    real = Line2D([], [], **BASELINE, label="real images to other real ones")
    return [*(handle(name, look[name]) for name in shown), real]


def _draw_curve(axes: Axes, values: np.ndarray, look: Style, shift: float) -> None:
    """An empirical distribution; marks lie apart from those of other curves, which may run along the same line."""
    marks = [round((len(values) - 1) * (mark + shift) / MARKS) for mark in range(MARKS)]
    x, y = _distribution(values)
    axes.plot(x, y, drawstyle="steps-post", color=look.color, ls=look.line, lw=1.6)
    axes.plot(x[1:][marks], y[1:][marks], color=look.color, ls="", marker=look.marker, ms=4, clip_on=False, zorder=3)


def _distribution(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values with the share that is no larger, after a start at a share of 0: copies are a step at 0."""
    return np.concatenate((values[:1], values)), np.linspace(0, 1, len(values) + 1)


def _canvas(pairs: Mapping[str, Nearest], wide: float | None) -> Canvas:
    """The names beside the pairs; above them where `wide`, the inches of the canvas, is given. Distances are below."""
    height, width = next(iter(pairs.values())).samples.shape[2:]
    pad, gap = max(1, height // 16), max(3, round(0.5 * height))
    across = COLUMNS * (width + pad) - pad
    blocks: list[np.ndarray] = []
    ticks, headings, notes = {}, {}, {}
    top, farthest = 0, max(float(near.pair_distances.max()) for near in pairs.values())
    decimals = max(0, 2 - math.floor(math.log10(farthest))) if farthest else 0
    for label, near in pairs.items():
        if wide is None:
            ticks[top + height + pad / 2 - 0.5] = short(label)
        else:
            room = round(0.16 * across / wide)  # a line of text
            blocks.append(np.full((room, across, 3), 255, np.uint8))
            top += room
            headings[top - pad] = short(label).replace("\n", " ")
        rows = [strip(images, pad) for images in (near.samples, near.training)]
        blocks += [*rows, np.full((gap, across, 3), 255, np.uint8)]
        top += 2 * (height + pad)
        for column, distance in enumerate(near.pair_distances[:COLUMNS]):
            notes[column * (width + pad) + width / 2 - 0.5, top + gap / 2 - pad] = f"{distance:.{decimals}f}"
        top += gap
    return Canvas(np.concatenate(blocks), ticks, headings, notes)


def _space(board: Board) -> str:
    """Whose features distances are taken in, for the axis; where several may be meant, nothing."""
    found = [re.match(r"authenticity_(.+?)_\d+k?(?:_|$)", metric) for metric in authenticity_metrics(board)]
    spaces = {match[1] if match else "inception" for match in found}  # Inception's metrics name no space
    return f"\n(features: {spaces.pop()})" if len(spaces) == 1 else ""
