"""The end of training: a bar per configuration."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.tables import Board, Row
from .panels import axis_name, cut_ends, cut_handle, legend_below, panels, reference_handles, reference_line, row_names
from .style import Style, styles

SEEDS, MIDDLE = 0.19, -0.08  # where seeds and the interval lie in a row, from its middle


def bars(board: Board, width: float | None = None) -> Figure | None:
    """The first metric at the end of training: a bar per configuration, t interval over seeds, seeds as dots below it.

    width: of the picture in inches, None for one that suits the number of panels.
    """
    metric = board.metrics[0]
    style = styles([entry.label for entry in board.entries])
    seeds = [value for row in board.rows for value in row.seeds[metric] if math.isfinite(value)]
    if not seeds:
        return None
    names = row_names([entry.label for entry in board.entries], width, 0.34)
    found = panels(len(board.nfes), (3.1, names.height + 0.75), width, names=names.left, narrowest=1.9)
    names.write(found.axes[0])  # the rows are shared by all panels
    highest = _upper_limit(board, metric, max(seeds)) if min(seeds) >= 0 else None
    cut = False
    for axes, nfe in zip(found.axes, board.nfes, strict=True):
        if names.above and axes is not found.axes[0]:
            names.write(axes)
        if highest is not None:
            axes.set_xlim(0, highest)
        places = {entry.label: place for place, entry in enumerate(board.entries)}
        rows = {places[row.entry.label]: row for row in board.rows if row.nfe == nfe}
        for place, row in rows.items():
            _bar(axes, place, row, metric, style[row.entry.label], 0.56 if names.above else 0.68)
        axes.set_title(f"NFE {nfe}")
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        reference_line(board, metric, axes.axvline)
        highs = {place + MIDDLE: high for place, row in rows.items() if (high := row.scores[metric].high) is not None}
        cut |= highest is not None and cut_ends(axes, {place: (0.0, high) for place, high in highs.items()})
    found.name(axis_name(metric))
    legend_below(found.figure, [*_handles(), *([cut_handle()] if cut else []), *reference_handles(board, metric)])
    return found.figure


def _bar(axes: Axes, place: int, row: Row, metric: str, look: Style, height: float) -> None:
    score = row.scores[metric]
    if not score.n:
        axes.text(0, place, "  no finished seed", va="center", color="0.4")
        return
    pale = [0.5 + 0.5 * part for part in look.color]
    axes.barh(place, score.mean, height, color=pale, edgecolor=look.color, hatch=look.hatch)
    if score.half_width is not None:
        axes.errorbar(score.mean, place + MIDDLE, xerr=score.half_width, color="0.15", capsize=4, lw=1.5, zorder=3)
    dots = [value for value in row.seeds[metric] if math.isfinite(value)]
    axes.scatter(dots, [place + SEEDS] * len(dots), s=14, color="white", edgecolor="0.15", lw=0.8, zorder=3)


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color="0.15", mfc="white", marker="o", ls="", ms=4, label="one training seed"),
        Line2D([], [], color="0.15", marker="|", ms=8, lw=1.5, label="95 % t interval of the mean"),
    ]


def _upper_limit(board: Board, metric: str, highest: float) -> float:
    """Room for every interval, but a very wide one may not flatten the bars: at most twice the highest seed."""
    ends = [row.scores[metric].high or 0.0 for row in board.rows]
    return 1.06 * max(highest, min(max(ends), 2 * highest)) or 1.0
