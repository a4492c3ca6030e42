"""Pictures of learned couplings: the law of the noise for a few images or points, and its divergence in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..analysis.formatting import short
from ..analysis.posteriors import Divergence, Posterior, divergences, read_posterior
from ..analysis.samples import shown_cells
from ..analysis.tables import Board
from .canvas import CANVAS_WIDTH, show_canvas, strip
from .panels import handle, legend_below, log_scale, panels, planes
from .style import MOST_LINES, Style, mode_colors, styles

MOST_SHOWN = 8  # configurations
ACROSS = 4  # panels of points
ELLIPSES = 24  # of 256: more cannot be told apart
REACH = 0.995  # the share of all values that a colour scale holds
UNITS = "data; noise in std of the prior"
DECADE = 10  # courses that span more are drawn on a logarithmic axis
DEEPEST = 1e-4  # of the largest divergence: what is below is drawn at the lower edge
MARKS = 8  # along a course
SCALES, BAR = 0.75, 0.13  # inches below the strips: for both scales with their names, and of these the bars alone
#: Both can be read in grey: what is below 0 is darker than in the middle, what is above is lighter.
SIGNED = LinearSegmentedColormap.from_list("signed", ("#08306b", "#4a7ab5", "#9c9c9c", "#eab65a", "#fff5cf"))
SPREAD = matplotlib.colormaps["cividis"]


def posterior_plot(board: Board, width: float | None = None) -> Figure | None:
    """The learned laws of the lowest seed that all configurations with one share; of many the first `MOST_SHOWN`."""
    cells = shown_cells(board, lambda cell: cell.run.posterior)
    laws = {label: read_posterior(cell.run.posterior) for label, cell in cells.items()}
    if not laws:
        return None
    first = next(iter(laws.values()))
    # What was trained on data of another size or kind has no place beside the others.
    alike = [(label, law) for label, law in laws.items() if law.x.shape[1:] == first.x.shape[1:]][:MOST_SHOWN]
    if first.has_images:
        return _strips(dict(alike), width)
    return _planes(dict(alike), styles([entry.label for entry in board.entries]), width)


def _strips(laws: Mapping[str, Posterior], width: float | None) -> Figure:
    """Of each configuration three strips with the same columns: images, means and deviations; below them the scales."""
    means = {label: law.mean.astype(float).mean(1) for label, law in laws.items()}
    stds = {label: law.std.astype(float).mean(1) for label, law in laws.items()}
    signed, spread = _signed_scale(list(means.values())), _spread_scale(list(stds.values()))
    height = next(iter(laws.values())).x.shape[2]
    pad, gap = max(1, height // 16), max(2, round(0.62 * height))
    blocks: list[np.ndarray] = []
    ticks: dict[float, str] = {}
    headings: dict[float, str] = {}
    top = 0
    for label, law in laws.items():
        rows = {
            "data": strip(law.x, pad),
            "mean μ": strip(_coloured(means[label], signed, SIGNED), pad),
            "std s": strip(_coloured(stds[label], spread, SPREAD), pad),
        }
        headings[top + gap - 1.5 * pad] = short(label).replace("\n", " ")
        blocks.append(np.full((gap, rows["data"].shape[1], 3), 255, np.uint8))
        top += gap
        for name, row in rows.items():
            ticks[top + height / 2 - 0.5] = name
            blocks.append(row)
            top += len(row)
    canvas = np.concatenate(blocks)
    wide = CANVAS_WIDTH if width is None else width - 0.8
    inches = wide * canvas.shape[0] / canvas.shape[1]
    figure = Figure(figsize=(wide + 0.8, inches + SCALES), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(inches, BAR))
    axes = figure.add_subplot(grid[0, :])
    show_canvas(axes, canvas, ticks)
    for y, text in headings.items():
        axes.text(0, y, text, va="bottom", ha="left", weight="bold", fontsize="medium" if width is None else "small")
    for column, (norm, colors, name) in enumerate(
        ((signed, SIGNED, "mean μ (prior: 0)"), (spread, SPREAD, "std s (prior: 1)"))
    ):
        place = figure.add_subplot(grid[1, column])
        bar = figure.colorbar(ScalarMappable(norm, colors), cax=place, orientation="horizontal", label=name)
        bar.ax.xaxis.set_major_locator(MaxNLocator(5 if width is None else 3))
        bar.outline.set_visible(False)
    return figure


def _signed_scale(values: Sequence[np.ndarray]) -> Normalize:
    """From −a to a: the same distance from 0 is as far from grey, whichever the sign."""
    size = max(float(np.quantile(np.abs(each), REACH)) for each in values) or 1.0
    return Normalize(-size, size, clip=True)


def _spread_scale(values: Sequence[np.ndarray]) -> Normalize:
    low = min(float(np.quantile(each, 1 - REACH)) for each in values)
    high = max(float(np.quantile(each, REACH)) for each in values)
    return Normalize(low, high, clip=True) if high > low else Normalize(0, 2 * high, clip=True)


def _coloured(values: np.ndarray, norm: Normalize, colors: Colormap) -> np.ndarray:
    """float [n, H, W] -> uint8 [n, 3, H, W]."""
    pixels = colors(norm(values), bytes=True)
    return pixels[..., :3].transpose(0, 3, 1, 2)


def _planes(laws: Mapping[str, Posterior], look: Mapping[str, Style], width: float | None) -> Figure:
    """A panel for each configuration: points of the data, a line from each to its mean, around some means an ellipse.

    A half-axis is one standard deviation; the dashed circle is that of the prior.
    """
    ends = [np.abs(np.concatenate((law.x, law.mean))).astype(float).max(1) for law in laws.values()]
    wide = [(np.abs(law.mean).astype(float) + law.std)[:ELLIPSES].max() for law in laws.values()]
    reach = 1.06 * max(1.0, *wide, *(np.quantile(each, REACH) for each in ends))
    grid = planes([short(label) for label in laws], reach, ACROSS, 3.2, width, UNITS)
    for axes, (label, law) in zip(grid.axes, laws.items(), strict=True):
        _draw_plane(axes, law, look[label].color)
    handles = [
        Line2D([], [], color="0.1", marker=".", ls="", ms=5, label="data"),
        Line2D([], [], color="0.45", marker="o", ms=4, lw=0.8, label="line to its mean μ"),
        Line2D([], [], color="0.45", marker="o", ls="", ms=11, mfc="none", label="μ ± s, of some"),
        Line2D([], [], color="0.1", ls="--", lw=1, label="prior, ± 1"),
    ]
    legend_below(grid.figure, handles)
    return grid.figure


def _draw_plane(axes: Axes, law: Posterior, color: tuple[float, float, float]) -> None:
    """Coloured by the mode of the data; where there are no modes in one colour."""
    colors = mode_colors(law.modes, len(law.x), color)
    segments = np.stack((law.x, law.mean), axis=1)
    axes.add_collection(LineCollection(list(segments), colors=colors, linewidths=0.4, alpha=0.5, zorder=2))
    axes.scatter(*law.x.T, s=4, color="0.1", linewidths=0, zorder=2.5)
    widths, heights = 2 * law.std[:ELLIPSES].T
    ellipses = EllipseCollection(
        widths,
        heights,
        np.zeros(len(widths)),
        units="xy",
        offsets=law.mean[:ELLIPSES],
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=colors[:ELLIPSES],
        linewidths=0.8,
        alpha=0.8,
        zorder=2.8,
    )
    axes.add_collection(ellipses)
    axes.scatter(*law.mean.T, s=9, color=colors, edgecolor="white", linewidths=0.3, zorder=3)
    axes.add_patch(Circle((0, 0), 1, fill=False, ls="--", lw=1, color="0.1", zorder=3.5))


def divergence_plot(board: Board, width: float | None = None) -> Figure | None:
    """KL(q(z | x) || N(0, I)) against images seen: mean over seeds, band from the lowest to the highest.

    A seed that diverged is left out of the mean and drawn by itself, dotted, up to a cross.
    """
    found = dict(list(divergences(board).items())[:MOST_LINES])
    if not found:
        return None
    style = styles([entry.label for entry in board.entries])
    values = np.concatenate([course.values for course in found.values()])
    floor = DEEPEST * values.max()
    grid = panels(1, (5.5, 3.1), width)
    figure, axes = grid.figure, grid.axes[0]
    for place, (label, course) in enumerate(found.items()):
        _draw_course(axes, course, style[label], floor, place / len(found))
    axes.set_xlabel("training images seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_ylabel("KL to the prior (nats per sample)")
    if values.max() > DECADE * values.min():
        log_scale(axes)
    else:
        axes.set_ylim(bottom=0)
    handles = [handle(label, look) for label, look in style.items() if label in found]
    if any(course.lost for course in found.values()):
        handles.append(Line2D([], [], color="0.3", ls=":", marker="x", ms=7, mew=2, label="seed that diverged"))
    legend_below(figure, handles)
    return figure


def _draw_course(axes: Axes, course: Divergence, look: Style, floor: float, shift: float) -> None:
    """Marks lie apart from those of other courses, which may run along the same line."""
    lines = np.array([[np.mean(seeds), min(seeds), max(seeds)] for seeds in course.steady.values()]).reshape(-1, 3)
    lines = lines.clip(floor)
    images = list(course.steady)
    marks = sorted({round((len(images) - 1) * (mark + shift) / MARKS) for mark in range(MARKS)}) if images else []
    axes.plot(images, lines[:, 0], color=look.color, ls=look.line, marker=look.marker, ms=4, lw=1.4, markevery=marks)
    axes.fill_between(images, lines[:, 1], lines[:, 2], color=look.color, alpha=0.18, lw=0)
    for values in course.lost:
        axes.plot(list(values), np.clip(list(values.values()), floor, None), color=look.color, ls=":", lw=1)
        last = max(values)
        axes.plot(last, max(values[last], floor), color=look.color, marker="x", ms=9, mew=2)
