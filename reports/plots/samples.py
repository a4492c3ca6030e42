"""Samples of every configuration from the same latents."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..analysis.formatting import short
from ..analysis.samples import read_samples, shown_cells
from ..analysis.tables import Board
from .canvas import CANVAS_WIDTH, COLUMNS, show_canvas, strip
from .style import Style, styles

MOST_SHOWN = 24  # configurations: a thousand rows would take gigabytes to draw


def samples(board: Board) -> Figure | None:
    """Real data, then the samples of every configuration from the same latents at NFE 1 and 2.

    Of each configuration the lowest seed that all share is shown, and of many the first `MOST_SHOWN`. Raises
    ValueError, naming the file, for samples that are neither uint8 [n, 1 or 3, H, W] nor float [n, 2].
    """
    chosen = dict(itertools.islice(shown_cells(board).items(), MOST_SHOWN))
    if not chosen:
        return None
    real = next((read_samples(cell.run.real) for cell in chosen.values() if cell.has(cell.run.real)), None)
    blocks = {
        nfe: {
            label: read_samples(cell.run.samples(nfe))
            for label, cell in chosen.items()
            if cell.has(cell.run.samples(nfe))
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
