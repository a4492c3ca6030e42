"""Every way to store pixels: taken rightly, or refused with the file's name."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data.decoding import center_crop, decode, outline

SIZE = 16
RGB = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
GREY = RGB[..., 0]
RAMP = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
SMOOTH = np.stack([np.tile(np.linspace(0, 255, SIZE), (SIZE, 1))] * 3, axis=2).astype(np.uint8)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels: np.ndarray, alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([pixels, np.full((SIZE, SIZE), alpha, np.uint8)]))


def palette(**transparency: int) -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(RGB).quantize(16)
    return stored(image, **transparency), np.asarray(image.convert("RGB"))


def taken(content: bytes) -> np.ndarray:
    image = decode(content, "x.png")
    assert image.mode == ("L" if outline(content, "x.png").is_grey else "RGB")
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_the_content_says_what_a_file_is_not_its_name(kind: str) -> None:
    content = stored(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(taken(content), RGB)


def test_a_gif_of_one_frame_is_an_image() -> None:
    image = Image.fromarray(RGB).quantize(64)
    assert np.array_equal(taken(stored(image, "GIF")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "PPM")])
def test_16_bits_are_reduced_to_the_upper_8(dtype: type, kind: str) -> None:
    pixels = taken(stored(Image.fromarray(RAMP.astype(dtype)), kind))
    assert np.array_equal(pixels, RAMP >> 8)
    assert abs(pixels.mean() - 127.5) < 1


def test_16_bits_of_colour_are_reduced_likewise() -> None:
    header = f"P6 {SIZE} {SIZE} 65535\n".encode()
    colour = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
    assert np.abs(taken(header + colour.astype(">u2").tobytes()).astype(int) - (colour >> 8)).max() <= 1


def test_single_bits_are_black_and_white() -> None:
    bits = GREY > 127
    assert np.array_equal(taken(stored(Image.fromarray(bits))), bits * np.uint8(255))


def test_palettes_become_colours() -> None:
    content, colours = palette()
    assert np.array_equal(taken(content), colours)


def test_a_transparent_colour_of_a_palette_becomes_white() -> None:
    opaque, _ = palette()
    content, colours = palette(transparency=3)
    index = np.asarray(Image.open(io.BytesIO(opaque)))
    expected = np.where((index == 3)[..., None], 255, colours)
    assert np.array_equal(taken(content), expected)


@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["RGBA", "LA"])
@pytest.mark.parametrize(("alpha", "share"), [(255, 0.0), (0, 1.0), (102, 0.6)])
def test_transparent_images_are_laid_over_white(pixels: np.ndarray, alpha: int, share: float) -> None:
    result = taken(stored(with_alpha(pixels, alpha))).astype(float)
    assert np.abs(result - (pixels * (1 - share) + 255 * share)).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_the_colours_of_jpeg_become_rgb(mode: str) -> None:
    content = stored(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=100)
    assert np.abs(taken(content).astype(int) - SMOOTH).max() <= 4


def test_the_orientation_in_exif_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    content = stored(Image.fromarray(RGB[:8]), exif=exif)
    assert np.array_equal(taken(content), np.rot90(RGB[:8], -1))


def test_a_photo_of_several_exposures_shows_the_first() -> None:
    first = Image.fromarray(SMOOTH)
    content = stored(first, "MPO", save_all=True, append_images=[Image.fromarray(RGB)], quality=100)
    assert np.abs(taken(content).astype(int) - SMOOTH).max() <= 4


FRAMES = [Image.fromarray(GREY), Image.fromarray(GREY.T)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animations_and_pages_are_refused(kind: str) -> None:
    content = stored(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:])
    with pytest.raises(UsageError, match=r"^x\.png is an animation or has several pages"):
        decode(content, "x.png")


@pytest.mark.parametrize("pixels", [GREY.astype(np.float32), RAMP.astype(np.int32)], ids=["F", "I"])
def test_pixels_of_32_bits_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"^x\.png has pixels of 32 bits, whose range is not known"):
        decode(stored(Image.fromarray(pixels), "TIFF"), "x.png")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "nothing", "PostScript"])
def test_what_cannot_be_read_is_named_and_no_object_shown(kind: str) -> None:
    broken = {"nothing": b"", "PostScript": POSTSCRIPT}
    content = broken[kind] if kind in broken else stored(Image.fromarray(RGB), kind)
    with pytest.raises(UsageError, match=r"^x\.png is not an intact image") as caught:
        decode(content[: len(content) // 2] if kind not in broken else content, "x.png")
    assert not re.search("object at|<|\n", str(caught.value))


def test_the_central_square_is_cropped_and_scaled() -> None:
    wide = np.concatenate([np.zeros((8, 4), np.uint8), np.full((8, 8), 200, np.uint8), np.zeros((8, 5), np.uint8)], 1)
    for image in (wide, wide.T):
        assert (np.asarray(center_crop(Image.fromarray(image), 8)) == 200).all()
        assert (np.asarray(center_crop(Image.fromarray(image), 4)) == 200).all()
