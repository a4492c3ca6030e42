"""The pictures of an ablation: a metric against the swept value, its curves, and the heat map of two swept keys."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, NullLocator
from matplotlib.transforms import offset_copy

from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Grid, Point, Value, is_number
from ..analysis.formatting import number, short
from ..analysis.statistics import Interval
from ..analysis.tables import SeedValue
from .panels import axis_name, fit_values, legend_below, log_scale, reference_handles, reference_line, side_by_side
from .style import LINES, MARKERS, Drawings, Style, styles

MOST_TICKS = 9  # values on a linear axis that are all named
WIDEST_NAME = 60  # characters of all values that fit side by side below a panel


def ablation_figures(ablation: Ablation, values: Sequence[SeedValue]) -> Drawings:
    """The kinds "values", "curves" and "grid", where the data allow them."""
    return {
        "values": lambda: value_plot(ablation),
        "curves": lambda: curves(ablation, values),
        "grid": lambda: heat_map(ablation.grid) if ablation.grid else None,
    }


def value_plot(ablation: Ablation) -> Figure | None:
    """The first metric at the end of training against the swept value: mean, t interval and every seed."""
    board, metric = ablation.board, ablation.board.metrics[0]
    points = ablation.points
    scores = [point.scores[nfe, metric] for point in points for nfe in board.nfes if (nfe, metric) in point.scores]
    if not any(score.n for score in scores):
        return None
    look = styles([ablation.method])[ablation.method]
    figure, panels = side_by_side(len(board.nfes), height=3.9)
    for axes, nfe in zip(panels, board.nfes, strict=True):
        places = _value_axis(axes, [point.value for point in points])
        if ablation.is_default:
            axes.axvline(places[ablation.reference], color="0.55", ls="--", lw=1.2, zorder=1)
        _draw_points(axes, places, points, (nfe, metric), look)
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel(short(ablation.factor.name))
    panels[0].set_ylabel(axis_name(metric))
    low, high = fit_values(panels[0], _seeds(points, metric), scores, metric)
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, ms=6, ls="", label="mean"),
        Line2D([], [], color="0.15", marker="|", ms=8, lw=1.5, label="95 % t interval of the mean"),
        Line2D([], [], color="0.15", mfc="white", marker="o", ls="", ms=4, label="one training seed"),
    ]
    if ablation.is_default:
        handles.append(Line2D([], [], color="0.55", ls="--", lw=1.2, label="default"))
    if any(score.lost for score in scores):
        handles.append(Line2D([], [], color="0.15", ls="", marker="x", ms=7, mew=2, label="seeds that diverged"))
    if low <= board.reference.get(("halves", metric), math.nan) <= high:
        for axes in panels:
            reference_line(board, metric, axes.axhline)
        handles += reference_handles(board, metric)
    legend_below(figure, handles)
    return figure


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
        ms=7,
        ls=look.line if ordered else "",
        lw=1,
        zorder=3,
    )
    for place, score in met:
        if score.half_width is not None:
            axes.errorbar(place, score.mean, yerr=score.half_width, color="0.15", capsize=5, lw=1.5, zorder=2)
    beside = offset_copy(axes.transData, axes.get_figure(root=True), x=8, units="points")
    for place, point in zip(places, points, strict=True):
        seeds = [value for value in point.seeds.get(key, {}).values() if math.isfinite(value)]
        axes.scatter([place] * len(seeds), seeds, s=16, color="white", edgecolor="0.15", zorder=4, transform=beside)
    top = axes.get_xaxis_transform()
    for place, score in known:
        if score.lost:
            axes.plot(place, 0.95, color="0.15", marker="x", ms=7, mew=2, transform=top, clip_on=False)
            axes.annotate(str(score.lost), (place, 0.95), (6, 0), xycoords=top, textcoords="offset points", va="center")


def _value_axis(axes: Axes, values: Sequence[Value]) -> list[float]:
    """Where each value lies: on a log axis over a decade or more, one after the other where they are no numbers."""
    names = [short(value.text) for value in values]
    if not all(is_number(value.raw) for value in values) or _wide_and_not_positive(values):
        places = [float(place) for place in range(len(values))]
        axes.set_xlim(-0.5, len(values) - 0.5)
        tilted = sum(map(len, names)) > WIDEST_NAME
        axes.set_xticks(places, names, rotation=30 if tilted else 0, ha="right" if tilted else "center")
        return places
    places = [float(value.raw) for value in values]
    if _is_wide(places):
        axes.set_xscale("log")
        axes.set_xlim(places[0] / 1.4, places[-1] * 1.4)
    else:
        margin = 0.08 * (places[-1] - places[0])
        axes.set_xlim(places[0] - margin, places[-1] + margin)
    if _is_wide(places) or len(places) <= MOST_TICKS:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places, names)
    return places


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


def curves(ablation: Ablation, values: Sequence[SeedValue]) -> Figure | None:
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
    figure, panels = side_by_side(len(board.nfes), height=4.1)
    for axes, nfe in zip(panels, board.nfes, strict=True):
        for group, place in groups.items():
            means = defaultdict(list)
            for value in own:
                if value.nfe == nfe and value.cell.group == group:
                    means[value.images].append(value.value)
            images = sorted(means)
            axes.plot(
                images, [math.fsum(means[at]) / len(means[at]) for at in images], **_line(ablation, place, colors)
            )
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel("training images seen")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        reference_line(board, metric, axes.axhline)
    panels[0].set_ylabel(axis_name(metric))
    if direction(metric) < 0 and min(value.value for value in own) > 0:
        log_scale(panels[0])
    handles = [
        Line2D([], [], **_line(ablation, place, colors), label=_legend_name(ablation, place))
        for place in groups.values()
    ]
    legend_below(figure, [*handles, *reference_handles(board, metric)], title=short(ablation.factor.name))
    return figure


def _line(ablation: Ablation, place: int, colors: Sequence[tuple[float, float, float]]) -> dict:
    default = ablation.is_default and place == ablation.reference
    return {
        "color": colors[place],
        "ls": LINES[place % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
        "ms": 5,
        "lw": 2.4 if default else 1.4,
    }


def _legend_name(ablation: Ablation, place: int) -> str:
    default = ablation.is_default and place == ablation.reference
    return short(ablation.points[place].value.text) + (" (default)" if default else "")


def heat_map(grid: Grid) -> Figure | None:
    """The first metric's mean for each pair of values, half the width of its interval below; the default is framed."""
    board, metric = grid.board, grid.board.metrics[0]
    means = [
        score.mean for cell in grid.scores.values() for (_, name), score in cell.items() if name == metric and score.n
    ]
    if not means:
        return None
    across, down = len(grid.columns.values), len(grid.rows.values)
    width = max(2.6, 0.95 * across)
    figure = Figure(figsize=((width + 0.6) * len(board.nfes) + 1.6, max(2.2, 0.62 * down + 1.1)), layout="constrained")
    panels = figure.subplots(1, len(board.nfes), sharey=True, squeeze=False)[0]
    wide = min(means) > 0 and max(means) >= 10 * min(means)
    norm = (LogNorm if wide else Normalize)(min(means), max(means))
    image = None
    for axes, nfe in zip(panels, board.nfes, strict=True):
        scores = {place: cell.get((nfe, metric)) for place, cell in grid.scores.items()}
        canvas = np.full((down, across), np.nan)
        for place, score in scores.items():
            canvas[place] = score.mean if score and score.n else np.nan
        image = axes.imshow(canvas, cmap="viridis", norm=norm, aspect="auto")
        for place in np.ndindex(down, across):
            _write(axes, place, scores.get(place), image)
        if grid.rows.default is not None and grid.columns.default is not None:
            corner = (grid.columns.default - 0.48, grid.rows.default - 0.48)
            axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor="0.05", lw=2.5))
            axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor="white", lw=1))
        axes.set_xticks(range(across), [short(value.text) for value in grid.columns.values])
        axes.set_yticks(range(down), [short(value.text) for value in grid.rows.values])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_title(f"NFE {nfe}")
        axes.set_xlabel(short(grid.columns.name))
    panels[0].set_ylabel(short(grid.rows.name))
    if image is not None:
        figure.colorbar(image, ax=list(panels), label=axis_name(metric), pad=0.02)
    return figure


def _write(axes: Axes, place: tuple[int, ...], score: Interval | None, image) -> None:
    row, column = place
    if score is None or not score.n:
        text = "not run" if score is None else "diverged" if score.lost else "no value yet"
        axes.text(column, row, text, ha="center", va="center", color="0.35", fontsize=8)
        return
    red, green, blue, _ = image.cmap(image.norm(score.mean))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.45
    half = "" if score.half_width is None else f"\n± {number(score.half_width, score.mean)}"
    lost = f"\n{score.lost} diverged" if score.lost else ""
    text = number(score.mean, score.half_width or 0.0) + half + lost
    axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
