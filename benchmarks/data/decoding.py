"""From the content of an image file to pixels: 8 bits, upright, grey or RGB. All else is refused by name.

16 bits per channel are reduced to the upper 8. Palettes, CMYK and YCbCr become RGB. Transparent images are laid over
white. The orientation in EXIF is applied. Animations, several pages and floating-point pixels are refused.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..common.errors import UsageError
from .listing import naming_damage

#: Pillow knows more, some of which start other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
GREY = ("1", "L", "LA", "La", "I")
RESAMPLING = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Outline:
    """What the header of an image says: size in pixels as stored, and whether it is stored as grey."""

    width: int
    height: int
    is_grey: bool

    @property
    def size(self) -> str:
        return f"{self.width}×{self.height}"


def outline(content: bytes, where: str) -> Outline:
    """The header of an image; nothing is decoded. Raises UsageError for what `decode` would refuse by its header."""
    with _opened(content, where) as image:
        return Outline(*image.size, image.mode in GREY or image.mode.startswith("I;16"))


def decode(content: bytes, where: str) -> Image.Image:
    """The image in mode L, if it is stored as grey, or RGB. Raises UsageError naming `where`."""
    with _opened(content, where) as image:
        is_grey = image.mode in GREY or image.mode.startswith("I;16")
        return _opaque(_eight_bits(ImageOps.exif_transpose(image))).convert("L" if is_grey else "RGB")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square scaled to `size` × `size` by Pillow's Lanczos filter, as EDM's tool does it."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), RESAMPLING)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)


@contextmanager
def _opened(content: bytes, where: str) -> Iterator[Image.Image]:
    with naming_damage(f"{where} is not an intact image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:  # whose message shows an object
            raise UsageError(f"{where} is not an intact image of a known format ({', '.join(FORMATS)})") from None
        with image:
            _check(image, where)
            yield image


def _check(image: Image.Image, where: str) -> None:
    # A photo of several exposures (MPO) shows its first one.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UsageError(f"{where} is an animation or has several pages: each file must hold one image")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise UsageError(f"{where} has pixels of 32 bits, whose range is not known: store 8 or 16 bits per channel")
