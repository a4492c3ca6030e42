"""The end of training: a bar per configuration."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.formatting import short
from ..analysis.tables import Board
from .panels import axis_name, legend_below, reference_handles, reference_line, side_by_side
from .style import styles


def bars(board: Board) -> Figure | None:
    """The first metric at the end of training: a bar per configuration, t interval over seeds, seeds as dots."""
    metric = board.metrics[0]
    style = styles([entry.label for entry in board.entries])
    seeds = [value for row in board.rows for value in row.seeds[metric] if math.isfinite(value)]
    if not seeds:
        return None
    figure, panels = side_by_side(len(board.nfes), height=1.5 + 0.45 * len(board.entries))
    for axes, nfe in zip(panels, board.nfes, strict=True):
        for place, row in enumerate(row for row in board.rows if row.nfe == nfe):
            score, look = row.scores[metric], style[row.entry.label]
            if not score.n:
                axes.text(0, place, "  no finished seed", va="center", color="0.4")
                continue
            pale = [0.5 + 0.5 * part for part in look.color]
            axes.barh(place, score.mean, 0.68, color=pale, edgecolor=look.color, hatch=look.hatch)
            if score.half_width is not None:
                axes.errorbar(score.mean, place, xerr=score.half_width, color="0.15", capsize=4, lw=1.5)
            dots = [value for value in row.seeds[metric] if math.isfinite(value)]
            heights = place + np.linspace(-0.16, 0.16, score.n) * (score.n > 1)
            axes.scatter(dots, heights, s=18, color="white", edgecolor="0.15", zorder=3)
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel(axis_name(metric))
        axes.set_yticks(range(len(board.entries)), [short(entry.label) for entry in board.entries])
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        reference_line(board, metric, axes.axvline)
    panels[0].invert_yaxis()  # shared by all panels: the best row is on top
    if min(seeds) >= 0:
        panels[0].set_xlim(0, _upper_limit(board, metric, max(seeds)))
    dot = Line2D([], [], color="0.15", mfc="white", marker="o", ls="", ms=4, label="one training seed")
    whisker = Line2D([], [], color="0.15", marker="|", ms=8, lw=1.5, label="95 % t interval of the mean")
    legend_below(figure, [dot, whisker, *reference_handles(board, metric)])
    return figure


def _upper_limit(board: Board, metric: str, highest: float) -> float:
    """Room for every interval, but a very wide one may not flatten the bars: at most twice the highest seed."""
    ends = [row.scores[metric].high or 0.0 for row in board.rows]
    return 1.06 * max(highest, min(max(ends), 2 * highest)) or 1.0
