"""Panels, axes and legends that several pictures share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import short
from ..analysis.statistics import Interval
from ..analysis.tables import Board
from .style import Style

LEGEND_COLUMNS = 4


def side_by_side(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with `count` panels in a row that share their axes."""
    figure = Figure(figsize=(max(5.5, 4.3 * count), height), layout="constrained")
    return figure, figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]


def planes(titles: Sequence[str], reach: float, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with a square panel of the plane for each title, all of one scale, `across` in a row at most.

    reach: from the middle to the edge. size: of a panel, in inches.
    """
    down = math.ceil(len(titles) / across)
    across = math.ceil(len(titles) / down)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    grid = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
        axes.yaxis.set_major_locator(MaxNLocator(5, prune="both"))
        axes.grid(visible=False)
        axes.set_title(title, fontsize=9)
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(titles) - across) : len(titles)]:
        axes.tick_params(labelbottom=True)  # also where nothing is below but an empty place
    return figure, grid[: len(titles)]


def handle(name: str, look: Style) -> Line2D:
    """A configuration's entry in a legend of lines."""
    return Line2D([], [], color=look.color, marker=look.marker, ls=look.line, ms=5, label=short(name))


def diverged_handle() -> Line2D:
    """The entry of what `draw_curve` draws of a seed that diverged."""
    return Line2D([], [], color="0.3", ls=":", marker="x", ms=7, mew=2, label="seed that diverged")


def legend_below(
    figure: FigureBase, handles: Sequence[Line2D], title: str | None = None, columns: int = LEGEND_COLUMNS
) -> None:
    """One legend for all panels, below them, in lines of about equal length."""
    lines = math.ceil(len(handles) / columns)
    figure.legend(
        handles=handles,
        title=title,
        loc="outside lower center",
        ncols=math.ceil(len(handles) / lines),
        frameon=False,
        handlelength=3.5,
    )


def legend_height(names: Iterable[str], columns: int = LEGEND_COLUMNS) -> float:
    """The inches that `legend_below` takes for these labels and two more."""
    texts = [short(name) for name in names]
    return 0.17 * max(text.count("\n") + 1 for text in texts) * math.ceil((len(texts) + 2) / columns)


def reference_handles(board: Board, metric: str) -> list[Line2D]:
    """The legend's entry for `reference_line`, where there is one."""
    if ("halves", metric) not in board.reference:
        return []
    return [Line2D([], [], color="0.3", ls=(0, (1, 1)), label="real-vs-real baseline")]


def reference_line(board: Board, metric: str, draw: Callable[..., Line2D]) -> None:
    """The value of the real-vs-real baseline, by `draw` (`axhline` or `axvline` of some axes), where it is known."""
    if (value := board.reference.get(("halves", metric))) is not None:
        draw(value, color="0.3", ls=(0, (1, 1)), lw=1.3, zorder=2.5)


def log_scale(axes: Axes) -> None:
    """Log y axis whose ticks are plain numbers at 1, 2, 5, 10, …"""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def fit_values(axes: Axes, seeds: Sequence[float], scores: Iterable[Interval], metric: str) -> tuple[float, float]:
    """Limit the y axis to every seed, and of intervals to as much as leaves the seeds apart; returns the limits.

    The axis is logarithmic over a decade or more of a positive metric of which less is better.
    """
    low, high = min(seeds), max(seeds)
    if direction(metric) < 0 and low > 0 and high >= 10 * low:
        log_scale(axes)
        axes.set_ylim(low / 1.5, high * 1.5)
    else:
        room = (high - low) or abs(high) / 10 or 1.0
        ends = [end for score in scores for end in (score.low, score.high) if end is not None]
        bottom, top = max(min([*ends, low]), low - room), min(max([*ends, high]), high + room)
        axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.12 * (top - bottom))
    return axes.get_ylim()


def axis_name(metric: str) -> str:
    """A metric and which way is better."""
    return metric + {1: " (higher is better)", 0: "", -1: " (lower is better)"}[direction(metric)]
