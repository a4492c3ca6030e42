"""Images in rows on one canvas of pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

COLUMNS = 16  # images of one row
CANVAS_WIDTH = 7.2  # of a grid of images, in inches


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
