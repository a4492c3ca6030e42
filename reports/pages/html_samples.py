"""Samples for the page: of each configuration one small picture per NFE, the same place in all is the same latent."""

from __future__ import annotations

import base64
import io
import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..analysis.samples import read_samples, shown_cells
from ..analysis.tables import Board
from ..plots.samples import MOST_SHOWN

MOST_SAMPLES = 36  # of one configuration
MOST_POINTS = 400
MOST_BYTES = 2_700_000  # of pixels in all pictures of one benchmark, before compression
MARGIN = 40  # around points, in thousandths of the plane's width


@dataclass(frozen=True)
class Card:
    """One configuration, or the real data: NFE -> picture. Of images a PNG's data address, of points an SVG path."""

    label: str
    at: int | None
    seed: int | None
    pictures: dict[int, str]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a benchmark: each of `count` samples in rows of `columns`, `width` pixels wide in all."""

    cards: tuple[Card, ...]
    nfes: tuple[int, ...]
    points: bool
    count: int
    columns: int
    width: int
    left_out: int


def gallery(board: Board) -> Gallery | None:
    """The samples of the lowest seed that all configurations share; None where there are none.

    Raises ValueError, naming the file, for damaged samples.
    """
    cells = shown_cells(board)
    chosen = dict(itertools.islice(cells.items(), MOST_SHOWN))
    if not chosen:
        return None
    found = {
        label: {nfe: read_samples(path) for nfe in board.nfes if cell.has(path := cell.run.samples(nfe))}
        for label, cell in chosen.items()
    }
    real = next((read_samples(cell.run.real) for cell in chosen.values() if cell.has(cell.run.real)), None)
    nfes = tuple(nfe for nfe in board.nfes if any(nfe in arrays for arrays in found.values()))
    arrays = [array for own in found.values() for array in own.values()]
    points = arrays[0].ndim == 2
    if points:
        count = columns = 0
        extent = arrays[0] if real is None else real
        middle, half = (extent.max(0) + extent.min(0)) / 2, 0.65 * float(np.ptp(extent, axis=0).max()) or 1.0
        draw, width = (lambda array: _path(array, middle, half)), 1000
    else:
        size = arrays[0][0].size
        most = min(MOST_SAMPLES, MOST_BYTES // (size * (len(arrays) + 1)), *map(len, arrays))
        columns = max(1, math.isqrt(most))
        count = columns * max(1, most // columns)
        draw, width = (lambda array: _sprite(array[:count], columns)), columns * (arrays[0].shape[3] + 1)
    places = {entry.label: place for place, entry in enumerate(board.entries)}
    cards = [] if real is None else [Card("real data", None, None, dict.fromkeys(nfes, draw(real)))]
    cards += [
        Card(label, places[label], chosen[label].seed, {nfe: draw(array) for nfe, array in own.items()})
        for label, own in found.items()
    ]
    return Gallery(tuple(cards), nfes, points, count, columns, width, len(cells) - len(chosen))


def _sprite(images: np.ndarray, columns: int) -> str:
    """uint8 [n, C, H, W] -> a PNG with `columns` images a row, a transparent pixel right of and below each."""
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows, columns, height + 1, width + 1, channels + 1), np.uint8)
    for place, image in enumerate(images):
        tile = canvas[place // columns, place % columns, :height, :width]
        tile[..., :channels] = image.transpose(1, 2, 0)
        tile[..., channels] = 255
    pixels = canvas.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 1), columns * (width + 1), channels + 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")  # two channels are grey, four are colour, both with transparency
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _path(points: np.ndarray, middle: np.ndarray, half: float) -> str:
    """float [n, 2] -> dots as the path of an SVG of 1000 × 1000; what lies outside or is not finite is not drawn."""
    place = (points[:MOST_POINTS] - middle) / half * [1, -1]  # up is up
    place = place[np.isfinite(place).all(1) & (np.abs(place) <= 1).all(1)]
    pixels = np.round(500 + (500 - MARGIN) * place).astype(int)
    return "".join(f"M{x} {y}h0" for x, y in pixels.tolist())
