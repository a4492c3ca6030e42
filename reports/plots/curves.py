"""Learning curves: a metric against training images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ...benchmarks.metrics.registry import direction
from ..analysis.learning_curves import LearningCurve, learning_curves
from ..analysis.tables import Board, SeedValue
from .panels import (
    axis_name,
    cut_crosses,
    cut_handle,
    diverged_handle,
    end_limits,
    handle,
    legend_below,
    log_scale,
    panels,
    reference_handles,
    reference_line,
)
from .style import MOST_LINES, Style, styles

MARKS = 8  # along a curve


def curves(board: Board, values: Sequence[SeedValue], width: float | None = None) -> Figure | None:
    """The first metric against images seen, a panel per NFE: mean over seeds, band from the lowest to the highest.

    An NFE that was looked at only once in a training has no curve: it has no panel where another has one. A seed that
    diverged is left out of the mean and drawn by itself, dotted, up to a cross. Of many configurations the first
    `MOST_LINES` of the board are drawn.
    """
    metric = board.metrics[0]
    style = styles([entry.label for entry in board.entries])
    entries = {entry.group: entry for entry in board.entries[:MOST_LINES]}
    values = [
        value
        for value in values
        if value.metric == metric and math.isfinite(value.value) and value.cell.group in entries
    ]
    if not values:
        return None
    looks = {nfe: {value.images for value in values if value.nfe == nfe} for nfe in board.nfes}
    nfes = [nfe for nfe in board.nfes if len(looks[nfe]) > 1] or board.nfes
    found = {key: curve for key, curve in learning_curves(values).items() if key[2] in nfes}
    grid = panels(len(nfes), (4.3, 3.1), width)
    for axes, nfe in zip(grid.axes, nfes, strict=True):
        for group, entry in entries.items():
            if curve := found.get((group, metric, nfe)):
                draw_curve(axes, curve, style[entry.label])
        axes.set_title(f"NFE {nfe}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
    grid.name("training images seen", axis_name(metric))
    limits = limit_curves(grid.axes[0], list(found.values()), board, metric)
    for axes in grid.axes:
        reference_line(board, metric, axes.axhline)
    handles = [handle(entry.label, style[entry.label]) for entry in entries.values()]
    if any(value.cell.state == "diverged" for value in values):
        handles.append(diverged_handle())
    if sum(map(cut_crosses, grid.axes)):
        handles.append(cut_handle("diverged beyond the axis", vertical=True))
    legend_below(grid.figure, [*handles, *reference_handles(board, metric, limits)])
    return grid.figure


def limit_curves(axes: Axes, found: Sequence[LearningCurve], board: Board, metric: str) -> tuple[float, float]:
    """Make the y axis logarithmic for a positive metric of which less is better; returns its limits."""
    moments = [moment for curve in found for moment in curve.moments]
    lost = [value for curve in found for seed in curve.lost for _, value in seed]
    real = board.reference.get(("halves", metric))
    every = [*(end for moment in moments for end in (moment.low, moment.high)), *lost]
    if direction(metric) < 0 and min(every) > 0:
        log_scale(axes)
        late = [
            end
            for curve in found
            for moment in curve.moments
            if 4 * moment.images >= 3 * curve.moments[-1].images
            for end in (moment.low, moment.high)
        ]
        ends = [end for curve in found for moment in curve.moments[-1:] for end in (moment.low, moment.high)]
        axes.set_ylim(end_limits(ends or every, late or every, every, real))
    else:
        known = every if real is None else [*every, real]
        room = 0.05 * ((max(known) - min(known)) or abs(max(known)) or 1.0)
        axes.set_ylim(min(known) - room, max(known) + room)
    return axes.get_ylim()


def draw_curve(axes: Axes, curve: LearningCurve, look: Style, image: float = 1.0) -> None:
    """Mean and band of the seeds, and each seed that diverged; `image` is what one image counts on the x axis."""
    at = [moment.images * image for moment in curve.moments]
    means, lows, highs = ([getattr(moment, name) for moment in curve.moments] for name in ("mean", "low", "high"))
    every = math.ceil(len(at) / MARKS) or 1
    marked = list(range(len(at)))[::-every]  # from the end of training
    axes.plot(at, means, color=look.color, ls=look.line, marker=look.marker, ms=4, lw=1.4, markevery=marked)
    axes.fill_between(at, lows, highs, color=look.color, alpha=0.16, lw=0)
    for seed in curve.lost:
        points = [(images * image, value) for images, value in seed]
        axes.plot(*zip(*points, strict=True), color=look.color, ls=":", lw=1)
        axes.plot(*points[-1], color=look.color, marker="x", ms=9, mew=2)
