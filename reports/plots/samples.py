"""Samples of every configuration from the same latents."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure

from ..analysis.formatting import short
from ..analysis.samples import read_samples, shown_cells
from ..analysis.tables import Board
from .canvas import CANVAS_WIDTH, COLUMNS, show_canvas, strip
from .panels import BESIDE, LEAST, WIDEST, panels, plain_plane, text_width
from .style import Style, styles

UNITS = "data units"
LINE = 0.16  # inches that a line of text is high
MOST_SHOWN = 24  # configurations: a thousand rows would take gigabytes to draw


def samples(board: Board, width: float | None = None) -> Figure | None:
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
        return _scatter(rows, blocks, styles([entry.label for entry in board.entries]), width)
    return _grid(rows, blocks, width)


def _grid(top: dict[str, np.ndarray], blocks: dict[int, dict[str, np.ndarray]], width: float | None) -> Figure:
    """One white canvas in pixels with every strip of samples, so that all rows share their columns exactly."""
    first = next(iter(blocks[min(blocks)].values()))
    height, side = first.shape[2:]
    names = {name: short(name) for rows in (top, *blocks.values()) for name in rows}
    left = max(map(text_width, names.values())) + 0.3
    lines = max(name.count("\n") + 1 for name in names.values())
    above = width is not None and (left > BESIDE * width or lines * LINE > (width - left) / COLUMNS)
    left = 0.1 if above else left
    pad, gap = max(1, height // 16), max(2, round(0.62 * height))
    strips: list[np.ndarray] = []
    ticks: dict[float, str] = {}
    headings: dict[float, tuple[str, str]] = {}
    position = 0

    def add(pixels: np.ndarray) -> None:
        nonlocal position
        strips.append(pixels)
        position += len(pixels)

    def add_rows(rows: dict[str, np.ndarray]) -> None:
        for name, images in rows.items():
            if above:
                headings[position + gap - 1.5 * pad] = names[name].replace("\n", " "), "normal"
                add(np.full((gap, across, 3), 255, np.uint8))
            else:
                ticks[position + height / 2 - 0.5] = names[name]
            add(strip(images, pad))

    across = COLUMNS * (side + pad) - pad
    wide = CANVAS_WIDTH if width is None else width - left
    if above:  # a line of text needs its height at any scale
        gap = max(gap, round(LINE * across / wide))
    add_rows(top)
    for nfe, rows in blocks.items():
        headings[position + gap - 1.5 * pad] = f"NFE {nfe}", "bold"
        add(np.full((gap, across, 3), 255, np.uint8))
        add_rows(rows)
    canvas = np.concatenate(strips)
    figure = Figure(figsize=(wide + left, wide * canvas.shape[0] / across + 0.12), layout="constrained")
    axes = figure.add_subplot()
    show_canvas(axes, canvas, ticks)
    for y, (text, weight) in headings.items():
        axes.text(0, y, text, va="bottom", ha="left", weight=weight)
    return figure


def _scatter(
    top: dict[str, np.ndarray], blocks: dict[int, dict[str, np.ndarray]], style: dict[str, Style], width: float | None
) -> Figure:
    """Points in the plane: for each NFE the real data and each configuration, all of one scale."""
    names = [*top, *dict.fromkeys(name for rows in blocks.values() for name in rows)]
    shown = [(name, nfe, (top | rows).get(name, np.empty((0, 2)))) for nfe, rows in blocks.items() for name in names]
    titles = [f"{short(name)}\nNFE {nfe}" for name, nfe, _ in shown]
    lines = max(title.count("\n") + 1 for title in titles)
    side = max(1.9 if width is None else 1.4, max(map(text_width, titles)) + 0.15)
    if width is None and len(names) * side + 0.5 <= WIDEST:  # a row for each NFE
        width = max(LEAST, len(names) * side + 0.5)
    grid = panels(len(shown), (side, side - 0.15 + 0.15 * lines), width, names=0.5, narrowest=side)
    extent = next(iter(top.values())) if top else np.concatenate([*blocks[min(blocks)].values()])
    low, high = extent.min() - 0.3 * np.ptp(extent), extent.max() + 0.3 * np.ptp(extent)
    for axes, (name, _, points), title in zip(grid.axes, shown, titles, strict=True):
        color = style[name].color if name in style else "0.35"
        axes.scatter(*points.T, s=5, color=color, alpha=0.6, linewidths=0)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        plain_plane(axes)
        axes.set_title(title)
    grid.name(f"x₁ ({UNITS})", f"x₂ ({UNITS})")
    return grid.figure
