"""Lines of points in the plane: from noise to samples, and from data to the noise coupled with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..analysis.formatting import short
from ..analysis.samples import read_samples, shown_cells
from ..analysis.tables import Board
from ..analysis.transport import Lines, coupling_lines, crossing_share, sample_lines
from .panels import planes
from .style import mode_colors, styles

MOST_PANELS, ACROSS = 12, 4
UNITS = "data; noise in σ_max"


def sample_plot(board: Board, width: float | None = None) -> Figure | None:
    """A panel for each configuration: its lines from noise to samples over the real data."""
    cells = shown_cells(board)
    panels = {label: lines for label, cell in cells.items() if (lines := sample_lines(cell))}
    if not panels:
        return None
    real = next((read_samples(cell.run.real) for cell in cells.values() if cell.run.real.exists()), None)
    look = styles([entry.label for entry in board.entries])
    return _figure({label: (lines, look[label].color) for label, lines in panels.items()}, real, width)


def coupling_plot(board: Board, width: float | None = None) -> Figure | None:
    """The independent coupling, then a panel for each configuration that couples its noise."""
    cells = shown_cells(board)
    pairs = {label: lines for label, cell in cells.items() if (lines := coupling_lines(cell))}
    if not pairs:
        return None
    look = styles([entry.label for entry in board.entries])
    _, apart = next(iter(pairs.values()))
    panels = {"independent": (apart, (0.35, 0.35, 0.35))}
    panels |= {label: (coupled, look[label].color) for label, (coupled, _) in pairs.items()}
    return _figure(panels, None, width)


def _figure(
    panels: Mapping[str, tuple[Lines, tuple[float, float, float]]], real: np.ndarray | None, width: float | None
) -> Figure:
    panels = dict(list(panels.items())[:MOST_PANELS])
    # A few lines may run out of the picture: one that reaches far would make all others small.
    reach = 1.1 * max(np.quantile(np.abs([lines.start, lines.end]).max(2), 0.99) for lines, _ in panels.values())
    titles = [
        f"{short(label)}\n{100 * crossing_share(lines):.1f} % of pairs cross" for label, (lines, _) in panels.items()
    ]
    grid = planes(titles, reach, ACROSS, 3.0, width, UNITS)
    for axes, (lines, color) in zip(grid.axes, panels.values(), strict=True):
        if real is not None:
            axes.scatter(*real.T, s=4, color="0.1", linewidths=0, zorder=2.5)
        _draw(axes, lines, color)
    return grid.figure


def _draw(axes: Axes, lines: Lines, color: tuple[float, float, float]) -> None:
    """Lines and both ends, coloured by mode; where there are no modes in one colour."""
    colors = mode_colors(lines.modes, len(lines.start), color)
    segments = np.stack((lines.start, lines.end), axis=1)
    axes.add_collection(LineCollection(list(segments), colors=colors, linewidths=0.5, alpha=0.5, zorder=2))
    axes.scatter(*lines.start.T, s=5, color=colors, linewidths=0, zorder=3)
    axes.scatter(*lines.end.T, s=5, color=colors, linewidths=0, zorder=3)
