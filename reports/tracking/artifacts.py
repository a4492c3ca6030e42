"""Files that are kept with a cell's run: the configuration, the diagnostics, and one picture of the samples."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..analysis.cells import Cell
from ..analysis.samples import read_samples

GRID = "samples.png"
SIDE, SQUARE = 8, 128  # images in a row of the grid; side of a picture of points, in pixels


def write_files(cell: Cell, folder: Path) -> None:
    """What is kept with the run: the configuration, the diagnostics, and one picture of the samples."""
    for path in (cell.run.config_file, cell.run.diagnostics_file):
        if cell.has(path):
            (folder / path.name).write_bytes(path.read_bytes())
    _draw_grid(cell, folder / GRID)


def sampled(cell: Cell) -> list[Path]:
    """The files of samples that the cell has, fewest steps first."""
    return [path for nfe in sorted(cell.nfe) if cell.has(path := cell.run.samples(nfe))]


def _draw_grid(cell: Cell, target: Path) -> None:
    """The samples of each NFE side by side, fewest steps first: images in a grid, points as dots in a square."""
    pictures = []
    for samples in map(read_samples, sampled(cell)):
        pictures.append(_dots(samples) if samples.ndim == 2 else _tiles(samples))
    if not pictures:
        return
    high = max(len(picture) for picture in pictures)
    framed = [np.pad(p, ((0, high - len(p)), (0, 4), (0, 0)), constant_values=255) for p in pictures]
    # Z_HUFFMAN_ONLY: images of noise and nature come out as small as by any other way, in half the time.
    Image.fromarray(np.concatenate(framed, axis=1)[:, :-4]).save(target, compress_type=zlib.Z_HUFFMAN_ONLY)


def _tiles(samples: np.ndarray) -> np.ndarray:
    """uint8 [n, C, H, W] -> [rows * H, SIDE * W, 3]."""
    count, channels, height, width = samples.shape
    rows = math.ceil(count / SIDE)
    padded = np.pad(samples, ((0, rows * SIDE - count), (0, 0), (0, 0), (0, 0)), constant_values=255)
    grid = padded.reshape(rows, SIDE, channels, height, width).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * height, SIDE * width, channels)
    return grid if channels == 3 else np.repeat(grid[..., :1], 3, axis=-1)


def _dots(samples: np.ndarray) -> np.ndarray:
    """float [n, 2] -> uint8 [128, 128, 3], dark where points are. Points outside (-2, 2) are not shown."""
    edges = np.linspace(-2, 2, SQUARE + 1)
    counts, _, _ = np.histogram2d(-samples[:, 1], samples[:, 0], bins=(edges, edges))
    shade = (255 * np.exp(-counts)).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=-1)
