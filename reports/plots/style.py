"""The pictures of a report: curves, bars and samples. Object-oriented matplotlib only, so no global state is left.

A configuration keeps its colour, marker, line and hatching in every picture; the last three carry it in grey.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ...benchmarks.common.files import atomic_path
from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import short
from ..analysis.learning_curves import Course, courses
from ..analysis.samples import read_samples, shown_cells
from ..analysis.statistics import Interval
from ..analysis.tables import Board, SeedValue

#: The four methods keep their places in every report; other labels take the following ones in sorted order.
FIXED = ("ict", "ect", "sct", "vct")
COLORS = (0, 1, 2, 4, 5, 9, 3, 7, 6, 8)  # of the palette: neighbours here are easy to tell apart
MARKERS = "osD^vPX<>*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
DPI = 150
FAR = "0.6"  # grey of what lies far from every mode
COLUMNS = 16  # samples of one row of the grid
MOST_SHOWN = 24  # configurations whose samples are shown: a thousand rows take gigabytes to draw and nobody reads them
OWN_LAYOUT = {"figure.autolayout": False, "figure.constrained_layout.use": False}  # whatever a user's settings say
CANVAS_WIDTH = 7.2  # of a grid of samples, in inches
LEGEND_COLUMNS = 4


#: kind -> what draws it
Drawings = Mapping[str, Callable[[], Figure | None]]


@dataclass(frozen=True)
class Style:
    """How one configuration is drawn."""

    color: tuple[float, float, float]
    marker: str
    line: Any
    hatch: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """label -> style. Where colours come again, they come with another marker and line: a hundred pairs differ."""
    order = [*FIXED, *sorted(set(names) - set(FIXED))]
    palette = [seaborn.color_palette("colorblind", 10)[place] for place in COLORS]
    return {
        name: Style(
            palette[place % 10],
            MARKERS[(place + place // 10) % len(MARKERS)],
            LINES[(place + place // 10) % len(LINES)],
            HATCHES[place % len(HATCHES)],
        )
        for place, name in enumerate(order)
        if name in names
    }


def save_plots(board: Board, values: Sequence[SeedValue], folder: Path, stem: str) -> dict[str, Path]:
    """Write `<stem>-<kind>.png` for each kind that the data allow; kind -> path, in the order of a report."""
    drawn: Drawings = {
        "bars": lambda: bars(board),
        "curves": lambda: curves(board, values),
        "samples": lambda: samples(board),
    }
    return save_figures(drawn, folder, stem)


def save_figures(drawn: Drawings, folder: Path, stem: str) -> dict[str, Path]:
    """Draw each kind in the look of the reports and write `<stem>-<kind>.png`; a figure that is None is left out."""
    paths = {}
    # Labels come from configurations: a dollar sign in one is no formula.
    look: dict[Any, Any] = {**seaborn.axes_style("whitegrid"), "text.parse_math": False, "font.size": 9, **OWN_LAYOUT}
    with matplotlib.rc_context(look):
        for kind, draw in drawn.items():
            if figure := draw():
                paths[kind] = folder / f"{stem}-{kind}.png"
                with atomic_path(paths[kind]) as temporary:
                    # No software version in the file: the same data give the same bytes.
                    figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight")
    return paths


def curves(board: Board, values: Sequence[SeedValue]) -> Figure | None:
    """The first metric against images seen, a panel per NFE: mean over seeds, band from the lowest to the highest.

    An NFE that was looked at only once in a training has no course: it has no panel where another has one. A seed that
    diverged is left out of the mean and drawn by itself, dotted, up to a cross.
    """
    metric = board.metrics[0]
    style = styles([entry.label for entry in board.entries])
    values = [value for value in values if value.metric == metric and math.isfinite(value.value)]
    if not values:
        return None
    looks = {nfe: {value.images for value in values if value.nfe == nfe} for nfe in board.nfes}
    nfes = [nfe for nfe in board.nfes if len(looks[nfe]) > 1] or board.nfes
    found = courses(values)
    figure, panels = side_by_side(len(nfes), height=3.6 + legend_height(entry.label for entry in board.entries))
    for axes, nfe in zip(panels, nfes, strict=True):
        for entry in board.entries:
            if course := found.get((entry.group, metric, nfe)):
                draw_course(axes, course, style[entry.label])
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
    _legend(figure, board, metric, handles)
    return figure


def draw_course(axes: Axes, course: Course, look: Style, image: float = 1.0) -> None:
    """Mean and band of the seeds, and each seed that diverged; `image` is what one image counts on the x axis."""
    at = [moment.images * image for moment in course.moments]
    means, lows, highs = ([getattr(moment, name) for moment in course.moments] for name in ("mean", "low", "high"))
    axes.plot(at, means, color=look.color, ls=look.line, marker=look.marker, ms=5)
    axes.fill_between(at, lows, highs, color=look.color, alpha=0.18, lw=0)
    for seed in course.lost:
        points = [(images * image, value) for images, value in seed]
        axes.plot(*zip(*points, strict=True), color=look.color, ls=":", lw=1)
        axes.plot(*points[-1], color=look.color, marker="x", ms=9, mew=2)


def handle(name: str, look: Style) -> Line2D:
    """A configuration's entry in a legend of lines."""
    return Line2D([], [], color=look.color, marker=look.marker, ls=look.line, ms=5, label=short(name))


def diverged_handle() -> Line2D:
    """The entry of what `draw_course` draws of a seed that diverged."""
    return Line2D([], [], color="0.3", ls=":", marker="x", ms=7, mew=2, label="seed that diverged")


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
    _legend(figure, board, metric, [dot, whisker])
    return figure


def samples(board: Board) -> Figure | None:
    """Real data, then the samples of every configuration from the same latents at NFE 1 and 2.

    Of each configuration the lowest seed that all share is shown, and of many the first `MOST_SHOWN`. Raises
    ValueError, naming the file, for samples that are neither uint8 [n, 1 or 3, H, W] nor float [n, 2].
    """
    chosen = dict(itertools.islice(shown_cells(board).items(), MOST_SHOWN))
    if not chosen:
        return None
    real = next((read_samples(cell.files.real) for cell in chosen.values() if cell.files.real.exists()), None)
    blocks = {
        nfe: {
            label: read_samples(cell.files.samples(nfe))
            for label, cell in chosen.items()
            if cell.files.samples(nfe).exists()
        }
        for nfe in (1, 2)
    }
    blocks = {nfe: rows for nfe, rows in blocks.items() if rows}
    rows = {} if real is None else {"real data": real}
    if next(iter(blocks[min(blocks)].values())).ndim == 2:
        return _scatter(rows, blocks, styles([entry.label for entry in board.entries]))
    return _grid(rows, blocks)


def _grid(top: dict[str, np.ndarray], blocks: dict[int, dict[str, np.ndarray]]) -> Figure:
    """One white canvas in pixels with every strip of samples, so that all rows share their columns exactly."""
    first = next(iter(blocks[min(blocks)].values()))
    height, width = first.shape[2:]
    pad, gap = max(1, height // 16), max(2, round(0.62 * height))
    strips: list[np.ndarray] = []
    ticks: dict[float, str] = {}
    headings: dict[float, str] = {}
    position = 0

    def add(pixels: np.ndarray) -> None:
        nonlocal position
        strips.append(pixels)
        position += len(pixels)

    def add_rows(rows: dict[str, np.ndarray]) -> None:
        for name, images in rows.items():
            ticks[position + height / 2 - 0.5] = short(name)
            add(strip(images, pad))

    add_rows(top)
    across = COLUMNS * (width + pad) - pad
    for nfe, rows in blocks.items():
        headings[position + gap - 1.5 * pad] = f"NFE {nfe}"
        add(np.full((gap, across, 3), 255, np.uint8))
        add_rows(rows)
    canvas = np.concatenate(strips)
    height_in_inches = CANVAS_WIDTH * canvas.shape[0] / across
    figure = Figure(figsize=(CANVAS_WIDTH + 1.3, height_in_inches + 0.1), layout="constrained")
    axes = figure.add_subplot()
    show_canvas(axes, canvas, ticks)
    for y, text in headings.items():
        axes.text(0, y, text, va="bottom", ha="left", weight="bold")
    return figure


def show_canvas(axes: Axes, canvas: np.ndarray, ticks: Mapping[float, str]) -> None:
    """Pixels as they are, uint8 [H, W, 3], with nothing but names on the left: `ticks` is height in pixels -> name."""
    axes.imshow(canvas, interpolation="nearest", aspect="equal")
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def strip(images: np.ndarray, pad: int) -> np.ndarray:
    """uint8 [n, C, H, W] -> one row of at most 16 of them, uint8 [H + pad, 16 (W + pad) − pad, 3]."""
    images = np.broadcast_to(images[:COLUMNS], (len(images[:COLUMNS]), 3, *images.shape[2:]))
    height, width = images.shape[2:]
    row = np.full((height + pad, COLUMNS * (width + pad), 3), 255, np.uint8)
    for column, image in enumerate(images):
        left = column * (width + pad)
        row[:height, left : left + width] = image.transpose(1, 2, 0)
    return row[:, :-pad]


def _scatter(top: dict[str, np.ndarray], blocks: dict[int, dict[str, np.ndarray]], style: dict[str, Style]) -> Figure:
    """Points in the plane: a row per NFE, a panel for the real data and for each configuration, one scale."""
    names = [*top, *dict.fromkeys(name for rows in blocks.values() for name in rows)]
    figure = Figure(figsize=(0.6 + 1.8 * len(names), 0.3 + 1.9 * len(blocks)), layout="constrained")
    panels = figure.subplots(len(blocks), len(names), sharex=True, sharey=True, squeeze=False)
    extent = next(iter(top.values())) if top else np.concatenate([*blocks[min(blocks)].values()])
    low, high = extent.min() - 0.3 * np.ptp(extent), extent.max() + 0.3 * np.ptp(extent)
    for line, (nfe, rows) in zip(panels, blocks.items(), strict=True):
        for axes, name in zip(line, names, strict=True):
            points = (top | rows).get(name, np.empty((0, 2)))
            color = style[name].color if name in style else "0.35"
            axes.scatter(*points.T, s=5, color=color, alpha=0.6, linewidths=0)
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
            axes.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
        line[0].set_ylabel(f"NFE {nfe}", weight="bold")
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(short(name), fontsize=9)
    return figure


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


def mode_colors(modes: np.ndarray | None, count: int, color: tuple[float, float, float]) -> list[Any]:
    """A colour for each of `count` points: that of its mode, grey far from all, `color` where there are no modes."""
    if modes is None:
        return [color] * count
    palette = seaborn.color_palette("colorblind", 10)
    return [FAR if mode < 0 else palette[COLORS[mode % 10]] for mode in modes]


def _legend(figure: Figure, board: Board, metric: str, handles: list[Line2D]) -> None:
    legend_below(figure, [*handles, *reference_handles(board, metric)])


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
    return [Line2D([], [], color="0.3", ls=(0, (1, 1)), label="two halves of the real data")]


def reference_line(board: Board, metric: str, draw: Callable[..., Line2D]) -> None:
    """The value of two halves of the real data, by `draw` (`axhline` or `axvline` of some axes), where it is known."""
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


def _upper_limit(board: Board, metric: str, highest: float) -> float:
    """Room for every interval, but a very wide one may not flatten the bars: at most twice the highest seed."""
    ends = [row.scores[metric].high or 0.0 for row in board.rows]
    return 1.06 * max(highest, min(max(ends), 2 * highest)) or 1.0


def axis_name(metric: str) -> str:
    """A metric and which way is better."""
    return metric + {1: " (higher is better)", 0: "", -1: " (lower is better)"}[direction(metric)]
