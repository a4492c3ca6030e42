"""Panels, axes and legends that several pictures share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP, MarkerStyle
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import ARROWS, metric_title, number, short
from ..analysis.statistics import Interval
from ..analysis.tables import Board
from .style import Style

WIDEST = 13.0  # inches of a picture without a given width: more panels go into further rows
NARROWEST = 2.5  # inches of a panel that has another beside it
LEAST = 5.5  # inches of a picture without a given width
AXIS_LINE = 32  # characters of the text below the name of an axis
LEGEND: dict[str, Any] = {"handlelength": 3.0, "columnspacing": 1.6, "handletextpad": 0.6, "labelspacing": 0.35}
LEGEND_COLUMNS = 5
BESIDE = 0.42  # of the width of a picture: names that take more are written above their rows
ROW_NAMES: dict[str, Any] = {
    "ha": "left",
    "va": "center",
    "fontsize": "small",
    "bbox": {"fc": "white", "ec": "none", "pad": 0.6},
}


@dataclass(frozen=True)
class Panels:
    """The panels of a picture, `across` in a row; the last row may have fewer."""

    figure: Figure
    axes: Sequence[Axes]
    across: int

    @property
    def left(self) -> Sequence[Axes]:
        return self.axes[:: self.across]

    @property
    def lowest(self) -> Sequence[Axes]:
        """Those without a panel below."""
        return self.axes[-self.across :]

    @property
    def room(self) -> float:
        """About the inches of one panel without the names of its axes."""
        return float(self.figure.get_figwidth()) / self.across - 0.6

    def name(self, x: str, y: str = "") -> None:
        """The names of axes that all panels share."""
        for axes in self.lowest:
            axes.set_xlabel(x)
        for axes in self.left if y else ():
            axes.set_ylabel(y)


def panels(
    count: int,
    size: tuple[float, float],
    width: float | None = None,
    *,
    names: float = 0.0,
    sharex: bool = True,
    sharey: bool = True,
    narrowest: float = NARROWEST,
) -> Panels:
    """`count` panels in as few rows as the width allows.

    size: of a panel, in inches; with a given `width` its height alone counts. names: the inches left of the panels.
    """
    if width is None:
        across = min(count, max(1, int((WIDEST - names) // size[0])))
        width = max(LEAST, size[0] * across + names)
    else:
        across = min(count, max(1, int((width - names) // narrowest)))
    down = math.ceil(count / across)
    figure = Figure(figsize=(width, size[1] * down), layout="constrained")
    grid = list(figure.subplots(down, across, sharex=sharex, sharey=sharey, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    found = Panels(figure, grid[:count], across)
    for axes in found.lowest:
        axes.tick_params(labelbottom=True)  # also where nothing is below but an empty place
    return found


def planes(titles: Sequence[str], reach: float, across: int, side: float, width: float | None, units: str) -> Panels:
    """A square panel of the plane for each title, all of one scale, `across` in a row at most.

    reach: from the middle to the edge. side: of a panel, in inches. units: of both axes.
    """
    lines = max(title.count("\n") + 1 for title in titles)
    widest = max(map(text_width, titles)) + 0.15
    side = max(side, widest)
    if width is not None:
        across = min(across, len(titles), max(1, int((width - 0.6) // max(1.4, widest))))
        side = (width - 0.6) / across
    across = math.ceil(len(titles) / math.ceil(len(titles) / across))
    size = (side, side + 0.17 * lines)
    found = panels(len(titles), size, width or max(LEAST, side * across + 0.6), names=0.6, narrowest=side - 1e-6)
    for axes, title in zip(found.axes, titles, strict=True):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        plain_plane(axes)
        axes.set_title(title)
    found.name(f"x₁ ({units})", f"x₂ ({units})")
    return found


def plain_plane(axes: Axes) -> None:
    """Few ticks and no grid. A name at the very edge would meet that of the next panel."""
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.grid(visible=False)


def handle(name: str, look: Style) -> Line2D:
    """A configuration's entry in a legend of lines."""
    return Line2D([], [], color=look.color, marker=look.marker, ls=look.line, ms=4.5, label=short(name))


def diverged_handle() -> Line2D:
    """The entry of what `draw_curve` draws of a seed that diverged."""
    return Line2D([], [], color="0.3", ls=":", marker="x", ms=7, mew=2, label="seed that diverged")


def legend_below(figure: Figure | SubFigure, handles: Sequence[Line2D], title: str | None = None) -> None:
    """One legend for all panels, below them, in lines of about equal length; a figure grows by its height."""
    labels = [str(item.get_label()) for item in handles]
    if isinstance(figure, Figure):
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + legend_height(labels, width, title))
    else:
        width = figure.figure.get_figwidth()  # a subfigure is as wide as the whole
    _, columns, shown = _legend(labels, width)
    figure.legend(handles, shown, title=title, loc="outside lower center", ncols=columns, frameon=False, **LEGEND)


def legend_height(labels: Sequence[str], width: float, title: str | None = None) -> float:
    """The inches that `legend_below` takes in a figure of this width."""
    lines, _, _ = _legend(labels, width)
    return FontProperties().get_size_in_points() * (lines + 1.0 + (1.6 if title else 0)) / 72


def _legend(labels: Sequence[str], width: float) -> tuple[float, int, list[str]]:
    """Height in lines, number of columns, and labels: each on one line, or as they are where that takes less height."""
    flat = [label.replace("\n", " ") for label in labels]
    found = []
    for shown in (flat, list(labels)):
        columns = _legend_columns(shown, width)
        parts = np.array_split(np.array(shown, object), columns)  # matplotlib fills column by column
        heights = (sum(1.25 * (label.count("\n") + 1) + LEGEND["labelspacing"] for label in own) for own in parts)
        sticks_out = max(map(text_width, shown)) + _legend_entry() > width
        found.append((sticks_out, max(heights), columns, shown))
    return min(found, key=lambda item: item[:2])[1:]


def _legend_entry() -> float:
    """The inches that a legend's entry takes besides its label."""
    around = LEGEND["handlelength"] + LEGEND["handletextpad"] + LEGEND["columnspacing"]
    return around * FontProperties().get_size_in_points() / 72


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as fit, and of as many rows the fewest columns."""
    widths = [text_width(label) + _legend_entry() for label in labels]
    fitting = [
        count
        for count in range(1, min(len(labels), LEGEND_COLUMNS) + 1)
        if sum(max(own) for own in np.array_split(widths, count)) <= width
    ] or [1]
    rows = math.ceil(len(labels) / max(fitting))
    return min(count for count in fitting if math.ceil(len(labels) / count) == rows)


def text_width(text: str, scale: float = 1.0) -> float:
    """The inches of the longest line of a text in the font of figures, `scale` times its size."""
    font = FontProperties(size=scale * matplotlib.rcParams["font.size"])
    widths = (text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in text.split("\n"))
    return max(widths) / 72


@dataclass(frozen=True)
class RowNames:
    """The names of rows, beside the panels or, where these would be too narrow, above each row.

    left: inches beside the panels. height: of all rows, in inches.
    """

    texts: Sequence[str]
    above: bool
    left: float
    height: float

    def write(self, axes: Axes) -> None:
        """Rows are at 0, 1, …, the first one on top."""
        axes.set_yticks(range(len(self.texts)), [] if self.above else self.texts)
        axes.set_ylim(len(self.texts) - 0.4, -0.75 if self.above else -0.6)
        for place, text in enumerate(self.texts) if self.above else ():
            at = (4, 0)
            axes.annotate(
                text, (0, place - 0.45), at, axes.get_yaxis_transform(), "offset points", zorder=7, **ROW_NAMES
            )


def row_names(labels: Iterable[str], width: float | None, row: float) -> RowNames:
    """row: the inches of a row whose name is one line."""
    texts = [short(label) for label in labels]
    widest = max(map(text_width, texts))
    if width is not None and widest > BESIDE * width:
        flat = [text.replace("\n", " ") for text in texts]
        return RowNames(flat, True, 0.2, (row + 0.17) * len(texts) + 0.2)
    lines = max(text.count("\n") for text in texts)
    return RowNames(texts, False, widest + 0.2, max(row, 0.14 * lines + row - 0.02) * len(texts) + 0.2)


def reference_handles(board: Board, metric: str, limits: tuple[float, float] | None = None) -> list[Line2D]:
    """The legend's entry for `reference_line`, where there is one. limits: of the axis; beyond it, no line is seen."""
    value = board.reference.get(("halves", metric))
    if value is None:
        return []
    where = "" if limits is None or limits[0] <= value <= limits[1] else ", beyond the axis"
    return [Line2D([], [], color="0.3", ls=(0, (1, 1)), label=f"real-vs-real baseline ({number(value)}{where})")]


def reference_line(board: Board, metric: str, draw: Callable[..., Line2D]) -> None:
    """The value of the real-vs-real baseline, by `draw` (`axhline` or `axvline` of some axes), where it is known."""
    if (value := board.reference.get(("halves", metric))) is not None:
        draw(value, color="0.3", ls=(0, (1, 1)), lw=1.3, zorder=2.5)


def cut_ends(axes: Axes, intervals: Mapping[float, tuple[float, float]], *, vertical: bool = False) -> bool:
    """Mark with arrows the intervals, place -> (low, high), that extend beyond the axis; whether there are any."""
    low, high = sorted(axes.get_ylim() if vertical else axes.get_xlim())
    before = [place for place, ends in intervals.items() if ends[0] < low]
    beyond = [place for place, ends in intervals.items() if ends[1] > high]
    markers = (CARETDOWN, CARETUP) if vertical else (CARETLEFT, CARETRIGHT)  # their tips are at the end
    for marker, end, places in zip(markers, (low, high), (before, beyond), strict=True):
        if places:  # an empty line that is not clipped has no size, and so the figure no layout
            points = [(place, end) if vertical else (end, place) for place in places]
            axes.plot(*zip(*points, strict=True), marker=marker, ms=6, ls="", color="0.15", clip_on=False, zorder=6)
    return bool(before or beyond)


def cut_crosses(axes: Axes) -> bool:
    """Mark with arrows the crosses of diverged seeds that lie beyond the y axis; whether there are any."""
    low, high = sorted(axes.get_ylim())
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    ends = [(line, *np.asarray(line.get_xydata())[-1]) for line in crosses]
    beyond = [(line, at, value) for line, at, value in ends if not low <= value <= high]
    for line, at, value in beyond:
        marker, end = (CARETUP, high) if value > high else (CARETDOWN, low)
        axes.plot(at, end, marker=marker, ms=7, ls="", color=line.get_color(), clip_on=False, zorder=6)
    return bool(beyond)


def cut_handle(label: str = "interval extends beyond the axis", *, vertical: bool = False) -> Line2D:
    """The legend's entry of the arrows of `cut_ends` and `cut_crosses`."""
    marker = MarkerStyle(CARETUP if vertical else CARETRIGHT)
    return Line2D([], [], color="0.15", marker=marker, ms=6, ls="", label=label)


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


def end_limits(
    ends: Sequence[float], late: Sequence[float], every: Sequence[float], real: float | None
) -> tuple[float, float]:
    """The limits of a logarithmic axis of learning curves that shows where they differ: at the end.

    ends: values at the end of training; late: those of its last quarter; every: all; real: the baseline. The axis has
    all late values; of the others as much as leaves a third of it to the better three quarters of the ends; and the
    baseline where that takes no more than a quarter.
    """
    low = min(every)
    room = 3 * math.log(float(np.quantile(ends, 0.75)) / min(ends))
    top = min(max(every), max(*late, low * math.exp(room)))
    if real is not None and 0 < real < low and math.log(low / real) <= math.log(top / low) / 3:
        low = real
    margin = max(top / low, 1.2) ** 0.05
    return low / margin, top * margin


def axis_name(metric: str) -> str:
    """A metric, an arrow for which way is better, and below it what it is measured on."""
    title, basis = metric_title(metric)
    return title + ARROWS[direction(metric)] + in_brackets(basis)


def in_brackets(basis: str) -> str:
    """What a metric is measured on, in brackets on lines of its own that are no longer than a panel; "" for nothing."""
    return "\n" + textwrap.fill(f"({basis})", AXIS_LINE) if basis else ""
