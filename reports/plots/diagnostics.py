"""Pictures of variances and losses: against the noise level, and in the course of training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..analysis.diagnostics import LOSSES, TRAINED, VARIANCES, Bin, Profile
from ..analysis.formatting import short
from .panels import handle, legend_below, panels
from .style import MOST_LINES, Drawings, styles

TITLES = {
    "target_variance": "target variance given x_t",
    "gradient_variance": "gradient variance",
    "gradient_ratio": "gradient variance / ‖mean‖²",
    "loss": "loss (weighted)",
    "distance": "distance (unweighted)",
}
DEEPEST = 1e-5  # of the largest value: what is below is drawn at the lower edge
FEW_DECADES = 300  # an axis that spans less has ticks at 2 and 5, too
COURSE = ("gradient_ratio", "loss")
MOST_COLUMNS = 5


def diagnostic_figures(profile: Profile) -> Drawings:
    """The kinds "variance", "losses" and "course", where the data allow them."""
    return {
        "variance": lambda width: by_level(profile, VARIANCES, width),
        "losses": lambda width: by_level(profile, LOSSES, width),
        "course": lambda width: course(profile, width) if profile.setting.weights == TRAINED else None,
    }


def by_level(profile: Profile, whats: tuple[str, ...], width: float | None = None) -> Figure | None:
    """A panel for each quantity: mean over seeds in the middle of each bin, band from the lowest to the highest."""
    shown = [what for what in whats if any(_defined(profile.values[label].get(what, {})) for label in profile.labels)]
    if not shown:
        return None
    look = dict(list(styles(profile.labels).items())[:MOST_LINES])
    grid = panels(len(shown), (3.6, 2.9), width, sharex=False, sharey=False)
    for axes, what in zip(grid.axes, shown, strict=True):
        found = {label: _lines(profile.values[label].get(what, {})) for label in look}
        lowest = DEEPEST * max(lines[:, 3].max() for lines in found.values() if len(lines))
        for label, style in look.items():
            lines = found[label]
            lines[:, 1:] = lines[:, 1:].clip(lowest)
            axes.plot(lines[:, 0], lines[:, 1], color=style.color, ls=style.line, marker=style.marker, ms=4, lw=1.4)
            axes.fill_between(lines[:, 0], lines[:, 2], lines[:, 3], color=style.color, alpha=0.18, lw=0)
        _log_axes(axes)
        axes.set_title(TITLES[what])
        axes.set_xlabel("noise level t")
    legend_below(grid.figure, [handle(label, style) for label, style in look.items()])
    return grid.figure


def course(profile: Profile, width: float | None = None) -> Figure | None:
    """A column for each configuration, a line for each bin against images seen, dark is noisy: mean over seeds."""
    most = MOST_COLUMNS if width is None else max(1, int((width - 0.8) // 1.2))
    names = list(styles(profile.labels))[:most]
    if len(profile.course) < 2:
        return None
    lines = max(short(name).count("\n") for name in names)
    figure = Figure(
        figsize=(width or 0.8 + 2.3 * len(names), 4.3 + 0.15 * lines), layout=ConstrainedLayoutEngine(h_pad=0.1)
    )
    grid = figure.subplots(len(COURSE), len(names), sharex=True, sharey="row", squeeze=False)
    shades = [
        matplotlib.colormaps["viridis_r"](0.1 + 0.9 * k / max(1, len(profile.bins) - 1))
        for k in range(len(profile.bins))
    ]
    for row, what in zip(grid, COURSE, strict=True):
        highest = 0.0
        for axes, name in zip(row, names, strict=True):
            for number, bin_ in enumerate(profile.bins):
                points = [
                    (images, np.mean(seeds))
                    for images, values in profile.course.items()
                    if (seeds := _finite(values.get(name, {}).get(what, {}).get(bin_, {})))
                ]
                if points:
                    highest = max(highest, max(value for _, value in points))
                    axes.plot(*zip(*points, strict=True), color=shades[number], lw=1.4)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(3))
        if highest:
            row[0].set_yscale("log")
            _plain(row[0].yaxis)
        row[0].set_ylabel(TITLES[what])
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(short(name))
    grid[-1][len(names) // 2].set_xlabel("training images seen")
    handles = [
        Line2D([], [], color=shades[number], lw=2, label=f"{low:.2g} to {high:.2g}")
        for number, (low, high) in enumerate(profile.bins)
    ]
    legend_below(figure, handles, title="noise level t")
    return figure


def _finite(seeds: Mapping[int, float]) -> list[float]:
    return [value for value in seeds.values() if math.isfinite(value)]


def _defined(bins: Mapping[Bin, Mapping[int, float]]) -> bool:
    return any(value > 0 for seeds in bins.values() for value in _finite(seeds))


def _lines(bins: Mapping[Bin, Mapping[int, float]]) -> np.ndarray:
    """(middle of the bin, mean, lowest, highest), [n, 4], of the bins that have values."""
    lines = [
        (math.sqrt(low * high), np.mean(values), min(values), max(values))
        for (low, high), seeds in sorted(bins.items())
        if (values := _finite(seeds))
    ]
    return np.array(lines).reshape(-1, 4)


def _log_axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain(axis)


def _plain(axis: Axis) -> None:
    """Ticks as plain numbers: the reports' pictures know no formulas."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < FEW_DECADES * low else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
