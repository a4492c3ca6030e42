"""The pictures of an ablation: a metric against the swept value, its curves, and the heat map of two swept keys."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, NullLocator
from matplotlib.transforms import offset_copy

from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Grid, Point, Value, is_number
from ..analysis.formatting import number, short
from ..analysis.statistics import Interval
from ..analysis.tables import SeedValue
from .panels import (
    Panels,
    axis_name,
    cut_ends,
    cut_handle,
    end_limits,
    fit_values,
    legend_below,
    log_scale,
    panels,
    reference_handles,
    reference_line,
    text_width,
)
from .style import LINES, MARKERS, Drawings, Style, styles

LEAST_SIZE = 4.5  # points of a text that can be read
MOST_TICKS = 9  # values on a linear axis that are all named


def ablation_figures(ablation: Ablation, values: Sequence[SeedValue]) -> Drawings:
    """The kinds "values", "curves" and "grid", where the data allow them."""
    return {
        "values": lambda width: value_plot(ablation, width),
        "curves": lambda width: curves(ablation, values, width),
        "grid": lambda width: heat_map(ablation.grid, width) if ablation.grid else None,
    }


def value_plot(ablation: Ablation, width: float | None = None) -> Figure | None:
    """The first metric at the end of training against the swept value: mean, t interval and every seed."""
    board, metric = ablation.board, ablation.board.metrics[0]
    points = ablation.points
    scores = [point.scores[nfe, metric] for point in points for nfe in board.nfes if (nfe, metric) in point.scores]
    if not any(score.n for score in scores):
        return None
    look = styles([ablation.method])[ablation.method]
    grid = panels(len(board.nfes), (4.3, 3.3), width)
    for axes, nfe in zip(grid.axes, board.nfes, strict=True):
        places = _value_axis(axes, [point.value for point in points], grid.room)
        if ablation.is_default:
            axes.axvline(places[ablation.reference], color="0.55", ls="--", lw=1.2, zorder=1)
        _draw_points(axes, places, points, (nfe, metric), look)
        axes.set_title(f"NFE {nfe}")
    grid.name(short(ablation.factor.name), axis_name(metric))
    low, high = fit_values(grid.axes[0], _seeds(points, metric), scores, metric)
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, ms=6, ls="", label="mean"),
        Line2D([], [], color="0.15", marker="|", ms=8, lw=1.5, label="95 % t interval of the mean"),
        Line2D([], [], color="0.15", mfc="white", marker="o", ls="", ms=4, label="one training seed"),
    ]
    if ablation.is_default:
        handles.append(Line2D([], [], color="0.55", ls="--", lw=1.2, label="default"))
    if any(score.lost for score in scores):
        handles.append(Line2D([], [], color="0.15", ls="", marker="x", ms=7, mew=2, label="seeds that diverged"))
    if cut_points(grid, board.nfes, points, metric):
        handles.append(cut_handle(vertical=True))
    if low <= board.reference.get(("halves", metric), math.nan) <= high:
        for axes in grid.axes:
            reference_line(board, metric, axes.axhline)
        handles += reference_handles(board, metric)
    legend_below(grid.figure, handles)
    return grid.figure


def cut_points(grid: Panels, nfes: Sequence[int], points: Sequence[Point], metric: str) -> bool:
    """Mark the intervals that extend beyond the panels; whether there are any."""
    cut = False
    for axes, nfe in zip(grid.axes, nfes, strict=True):
        places = value_places([point.value for point in points])
        known = [(place, point.scores.get((nfe, metric))) for place, point in zip(places, points, strict=True)]
        ends = {
            place: (score.low, score.high)
            for place, score in known
            if score is not None and score.low is not None and score.high is not None
        }
        cut |= cut_ends(axes, ends, vertical=True)
    return cut


def _draw_points(
    axes: Axes, places: Sequence[float], points: Sequence[Point], key: tuple[int, str], look: Style
) -> None:
    known = [(place, point.scores[key]) for place, point in zip(places, points, strict=True) if key in point.scores]
    met = [(place, score) for place, score in known if score.n]
    ordered = all(is_number(point.value.raw) for point in points)
    axes.plot(
        [place for place, _ in met],
        [score.mean for _, score in met],
        color=look.color,
        marker=look.marker,
        ms=5,
        ls=look.line if ordered else "",
        lw=1,
        zorder=2,
    )
    for place, score in met:
        if score.half_width is not None:
            axes.errorbar(place, score.mean, yerr=score.half_width, color="0.15", capsize=5, lw=1.5, zorder=3)
    beside = offset_copy(axes.transData, axes.get_figure(root=True), x=9, units="points")
    for place, point in zip(places, points, strict=True):
        seeds = [value for value in point.seeds.get(key, {}).values() if math.isfinite(value)]
        axes.scatter([place] * len(seeds), seeds, s=16, color="white", edgecolor="0.15", zorder=4, transform=beside)
    top = axes.get_xaxis_transform()
    for place, score in known:
        if score.lost:
            axes.plot(place, 0.95, color="0.15", marker="x", ms=7, mew=2, transform=top, clip_on=False)
            axes.annotate(str(score.lost), (place, 0.95), (6, 0), xycoords=top, textcoords="offset points", va="center")


def value_places(values: Sequence[Value]) -> list[float]:
    """Where each value lies: one after the other where they are no numbers."""
    if _is_listed(values):
        return [float(place) for place in range(len(values))]
    return [float(value.raw) for value in values]


def _is_listed(values: Sequence[Value]) -> bool:
    return not all(is_number(value.raw) for value in values) or _wide_and_not_positive(values)


def _value_axis(axes: Axes, values: Sequence[Value], room: float) -> list[float]:
    """Where each value lies, on a log axis over a decade or more. room: the inches of a panel."""
    names, places = [short(value.text) for value in values], value_places(values)
    if _is_listed(values):
        axes.set_xlim(-0.5, len(values) - 0.5)
        tilted = max(map(text_width, names)) > 0.85 * room / len(names)
        axes.set_xticks(places, names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
        return places
    if _is_wide(places):
        axes.set_xscale("log")
        axes.set_xlim(places[0] / 1.4, places[-1] * 1.4)
    else:
        margin = 0.08 * (places[-1] - places[0])
        axes.set_xlim(places[0] - margin, places[-1] + margin)
    if _is_wide(places) or len(places) <= MOST_TICKS:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places, names)
        _leave_out_crowded(axes, places, names, room)
    return places


def _leave_out_crowded(axes: Axes, places: Sequence[float], names: Sequence[str], room: float) -> None:
    """Name of several values that lie close to each other the first only."""
    low, high = axes.get_xlim()
    scale = math.log if axes.get_xscale() == "log" else float
    right, kept = -math.inf, []
    for place, name in zip(places, names, strict=True):
        middle = room * (scale(place) - scale(low)) / (scale(high) - scale(low))
        half = text_width(name) / 2
        if middle - half > right + 0.05:
            right = middle + half
            kept.append(name)
        else:
            kept.append("")
    axes.set_xticks(places, kept)


def _is_wide(places: Sequence[float]) -> bool:
    return min(places) > 0 and max(places) >= 10 * min(places)


def _wide_and_not_positive(values: Sequence[Value]) -> bool:
    """Such as 0, 1, 10, 100: on a linear axis all but the last would lie on each other, and a log axis has no 0."""
    positive = [float(value.raw) for value in values if value.raw > 0]
    return len(positive) < len(values) and bool(positive) and _is_wide(positive)


def _seeds(points: Sequence[Point], metric: str) -> list[float]:
    """The values at the end of training, of every NFE and seed that did not diverge."""
    own = (seeds for point in points for (_, name), seeds in point.seeds.items() if name == metric)
    return [value for seeds in own for value in seeds.values() if math.isfinite(value)]


def curves(ablation: Ablation, values: Sequence[SeedValue], width: float | None = None) -> Figure | None:
    """The first metric against images seen, one line a swept value: the mean over the seeds that did not diverge."""
    board, metric = ablation.board, ablation.board.metrics[0]
    groups = {point.group: place for place, point in enumerate(ablation.points)}
    own = [
        value
        for value in values
        if value.metric == metric
        and value.cell.group in groups
        and value.cell.state != "diverged"
        and math.isfinite(value.value)
    ]
    if not own:
        return None
    colors = seaborn.color_palette("viridis", len(groups) + 1)[: len(groups)]  # its last one is too pale on white
    grid = panels(len(board.nfes), (4.3, 3.2), width)
    ends: list[float] = []
    late: list[float] = []
    for axes, nfe in zip(grid.axes, board.nfes, strict=True):
        for group, place in groups.items():
            means = defaultdict(list)
            for value in own:
                if value.nfe == nfe and value.cell.group == group:
                    means[value.images].append(value.value)
            images = sorted(means)
            line = [math.fsum(means[at]) / len(means[at]) for at in images]
            axes.plot(images, line, **_line(ablation, place, colors))
            late += [value for at, value in zip(images, line, strict=True) if 4 * at >= 3 * images[-1]]
            ends += line[-1:]
        axes.set_title(f"NFE {nfe}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
    grid.name("training images seen", axis_name(metric))
    every = [value.value for value in own]
    if direction(metric) < 0 and min(every) > 0:
        log_scale(grid.axes[0])
        grid.axes[0].set_ylim(end_limits(ends, late, every, board.reference.get(("halves", metric))))
    limits = grid.axes[0].get_ylim()
    for axes in grid.axes:
        reference_line(board, metric, axes.axhline)
    handles = [
        Line2D([], [], **_line(ablation, place, colors), label=_legend_name(ablation, place))
        for place in groups.values()
    ]
    handles += reference_handles(board, metric, limits)
    legend_below(grid.figure, handles, title=short(ablation.factor.name))
    return grid.figure


def _line(ablation: Ablation, place: int, colors: Sequence[tuple[float, float, float]]) -> dict:
    default = ablation.is_default and place == ablation.reference
    return {
        "color": colors[place],
        "ls": LINES[place % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
        "ms": 4.5,
        "lw": 2.4 if default else 1.4,
    }


def _legend_name(ablation: Ablation, place: int) -> str:
    default = ablation.is_default and place == ablation.reference
    return short(ablation.points[place].value.text) + (" (default)" if default else "")


def heat_map(grid: Grid, width: float | None = None) -> Figure | None:
    """The first metric's mean for each pair of values, half the width of its interval below; the default is framed."""
    board, metric = grid.board, grid.board.metrics[0]
    means = [
        score.mean for cell in grid.scores.values() for (_, name), score in cell.items() if name == metric and score.n
    ]
    if not means:
        return None
    across, down = len(grid.columns.values), len(grid.rows.values)
    names = [short(value.text) for value in grid.rows.values], [short(value.text) for value in grid.columns.values]
    left, column = max(map(text_width, names[0])) + 0.6, max(0.8, *map(text_width, names[1]))
    tilted = width is not None and column * across > width - left - 0.9
    size = max(2.6, column * across), max(1.6, 0.55 * down) + 0.8 + (0.4 * column if tilted else 0)
    found = panels(len(board.nfes), size, width, names=left + 0.9, narrowest=size[0])
    wide = min(means) > 0 and max(means) >= 10 * min(means)
    norm = (LogNorm if wide else Normalize)(min(means), max(means))
    room = (found.figure.get_figwidth() - left - 0.9) / found.across / across - 0.06
    image = None
    for axes, nfe in zip(found.axes, board.nfes, strict=True):
        image = _draw_cells(
            axes, grid, {place: cell.get((nfe, metric)) for place, cell in grid.scores.items()}, norm, room
        )
        axes.set_xticks(range(across), names[1], rotation=30 if tilted else 0, ha="right" if tilted else "center")
        axes.set_yticks(range(down), names[0])
        axes.set_title(f"NFE {nfe}")
    found.name(short(grid.columns.name), short(grid.rows.name))
    if image is not None:
        found.figure.colorbar(image, ax=list(found.axes), label=axis_name(metric), pad=0.02)
    return found.figure


def _draw_cells(
    axes: Axes, grid: Grid, scores: Mapping[tuple[int, int], Interval | None], norm: Normalize, room: float
) -> AxesImage:
    """One panel. room: the inches of a text; where that is too little to be read, colours stand alone."""
    canvas = np.full((len(grid.rows.values), len(grid.columns.values)), np.nan)
    for place, score in scores.items():
        canvas[place] = score.mean if score and score.n else np.nan
    image = axes.imshow(canvas, cmap="viridis", norm=norm, aspect="auto")
    texts = {(row, column): _cell_text(scores.get((row, column))) for row, column in np.ndindex(*canvas.shape)}
    size = min(8.0, 8.0 * room / max(text_width(text, 8 / matplotlib.rcParams["font.size"]) for text in texts.values()))
    for place, text in texts.items() if size >= LEAST_SIZE else ():
        color = "0.35" if math.isnan(canvas[place]) else _readable(image, float(canvas[place]))
        axes.text(place[1], place[0], text, ha="center", va="center", color=color, fontsize=size)
    if grid.rows.default is not None and grid.columns.default is not None:
        corner = (grid.columns.default - 0.48, grid.rows.default - 0.48)
        axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor="0.05", lw=2.5))
        axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor="white", lw=1))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return image


def _cell_text(score: Interval | None) -> str:
    if score is None or not score.n:
        return "not run" if score is None else "diverged" if score.lost else "no value yet"
    half = "" if score.half_width is None else f"\n± {number(score.half_width, score.mean)}"
    lost = f"\n{score.lost} diverged" if score.lost else ""
    return number(score.mean, score.half_width or 0.0) + half + lost


def _readable(image: AxesImage, value: float) -> str:
    red, green, blue, _ = image.cmap(image.norm(np.array(value)))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.45 else "black"
