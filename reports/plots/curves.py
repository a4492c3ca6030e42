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
    diverged_handle,
    handle,
    legend_below,
    legend_height,
    log_scale,
    reference_handles,
    reference_line,
    side_by_side,
)
from .style import Style, styles


def curves(board: Board, values: Sequence[SeedValue]) -> Figure | None:
    """The first metric against images seen, a panel per NFE: mean over seeds, band from the lowest to the highest.

    An NFE that was looked at only once in a training has no curve: it has no panel where another has one. A seed that
    diverged is left out of the mean and drawn by itself, dotted, up to a cross.
    """
    metric = board.metrics[0]
    style = styles([entry.label for entry in board.entries])
    values = [value for value in values if value.metric == metric and math.isfinite(value.value)]
    if not values:
        return None
    looks = {nfe: {value.images for value in values if value.nfe == nfe} for nfe in board.nfes}
    nfes = [nfe for nfe in board.nfes if len(looks[nfe]) > 1] or board.nfes
    found = learning_curves(values)
    figure, panels = side_by_side(len(nfes), height=3.6 + legend_height(entry.label for entry in board.entries))
    for axes, nfe in zip(panels, nfes, strict=True):
        for entry in board.entries:
            if curve := found.get((entry.group, metric, nfe)):
                draw_curve(axes, curve, style[entry.label])
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel("training images seen")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        reference_line(board, metric, axes.axhline)
    panels[0].set_ylabel(axis_name(metric))
    if direction(metric) < 0 and min(value.value for value in values) > 0:
        log_scale(panels[0])
    handles = [handle(entry.label, style[entry.label]) for entry in board.entries]
    if any(value.cell.state == "diverged" for value in values):
        handles.append(diverged_handle())
    legend_below(figure, [*handles, *reference_handles(board, metric)])
    return figure


def draw_curve(axes: Axes, curve: LearningCurve, look: Style, image: float = 1.0) -> None:
    """Mean and band of the seeds, and each seed that diverged; `image` is what one image counts on the x axis."""
    at = [moment.images * image for moment in curve.moments]
    means, lows, highs = ([getattr(moment, name) for moment in curve.moments] for name in ("mean", "low", "high"))
    axes.plot(at, means, color=look.color, ls=look.line, marker=look.marker, ms=5)
    axes.fill_between(at, lows, highs, color=look.color, alpha=0.18, lw=0)
    for seed in curve.lost:
        points = [(images * image, value) for images, value in seed]
        axes.plot(*zip(*points, strict=True), color=look.color, ls=":", lw=1)
        axes.plot(*points[-1], color=look.color, marker="x", ms=9, mew=2)
