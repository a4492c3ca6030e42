"""`images`: a folder, zip file or npz file of images of any square size, and the fingerprint of what is in it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.image_folder import ImageFolder
from consistency_bench.benchmarks.data.listing import fingerprint

from .test_image_folder import cache, write  # noqa: F401  (cache is a fixture)

LAYOUTS = {"NHW": lambda grey: grey, "NHWC": lambda grey: grey[..., None], "NCHW": lambda grey: grey[:, None]}


def grey(count: int = 3, height: int = 20, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def files(images: Iterable[np.ndarray], prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{number}.png": png(pixels) for number, pixels in enumerate(images)}


def loaded(path: Path, resolution: int | None = None, resize: str | None = None) -> Dataset:
    """The images at `path`, described as they are."""
    source = ImageFolder("images", path, resolution, resize)
    described, dataset = source.describe(), source.load()
    assert described == dataset.info
    return dataset


@pytest.mark.parametrize("size", [8, 20, 33])
@pytest.mark.parametrize("place", ["images", "images.zip"])
def test_grey_images_of_any_size_keep_one_channel(size: int, place: str, tmp_path: Path) -> None:
    images = grey(3, size, size)
    dataset = loaded(write(files(images), tmp_path / place))
    assert np.array_equal(dataset.images.numpy(), images[:, None])
    assert (dataset.classes, dataset.labels.tolist()) == (1, [0, 0, 0])


def test_one_image_of_colour_makes_all_rgb(tmp_path: Path) -> None:
    colour = np.stack([grey(1)[0]] * 3, axis=2)
    dataset = loaded(write({**files(grey()), "z.png": png(colour)}, tmp_path / "images"))
    assert dataset.shape == (3, 20, 20)
    assert np.array_equal(dataset.images[0].numpy(), np.stack([grey()[0]] * 3))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            [(20, 20), (20, 24)],
            r"1\.png is 24×20, which is not square: .* data\.resolution=32 data\.resize=center_crop$",
        ),
        ([(20, 20), (24, 24)], r"1\.png is 24×24, but .*0\.png is 20×20: .* data\.resolution=32$"),
        ([(4, 4)], r"0\.png is 4×4: set data\.resolution, to at least 8$"),
    ],
)
def test_images_that_need_to_be_resized_are_named_with_the_option(
    sizes: list[tuple[int, int]], message: str, tmp_path: Path
) -> None:
    path = write(files([grey(1, *size)[0] for size in sizes]), tmp_path / "images")
    with pytest.raises(UsageError, match=message):
        ImageFolder("images", path).describe()


def test_photos_are_cropped_and_scaled(tmp_path: Path) -> None:
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[:, 8:56] = (250, 100, 50)
    path = write({"a.jpg": png(photo, "JPEG"), "b.jpg": png(photo.transpose(1, 0, 2), "JPEG")}, tmp_path / "photos")
    with pytest.raises(UsageError, match="not square"):
        ImageFolder("images", path, 32).describe()
    dataset = loaded(path, 32, "center_crop")
    assert dataset.shape == (3, 32, 32)
    middle = dataset.images[:, :, 4:-4, 4:-4].float()
    assert (middle - torch.tensor([250.0, 100, 50])[:, None, None]).abs().max() < 8
    assert loaded(path, 16, "center_crop").shape == (3, 16, 16)


def test_square_images_are_scaled_without_a_crop(tmp_path: Path) -> None:
    path = write(files(np.full((2, 24, 24), 90, np.uint8)), tmp_path / "images")
    assert (loaded(path, 12).images == 90).all()


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("key", ["images", "arr_0"])
def test_arrays_of_every_layout(layout: str, key: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "images.npz", **{key: LAYOUTS[layout](grey()), "labels": np.array([2, 0, 1])})
    dataset = loaded(path)
    assert np.array_equal(dataset.images.numpy(), grey()[:, None])
    assert (dataset.classes, dataset.labels.tolist()) == (3, [2, 0, 1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_colour_are_the_images_of_files(save: Any, tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)
    expected = loaded(write(files(colour), tmp_path / "images"), 8, "center_crop")
    for pixels in (colour, colour.transpose(0, 3, 1, 2)):
        save(tmp_path / "images.npz", images=np.ascontiguousarray(pixels))
        dataset = loaded(tmp_path / "images.npz", 8, "center_crop")
        assert torch.equal(dataset.images, expected.images)
        assert dataset.classes == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": grey()}, "holds none of the arrays images, arr_0, but pictures"),
        ({"images": grey().astype(np.float32)}, r"images is float32 \[3, 20, 20\], must be uint8 \[N, H, W\]"),
        ({"images": grey()[0]}, r"images is uint8 \[20, 20\], must be"),
        ({"images": grey()[:0]}, r"images is uint8 \[0, 20, 20\], must be"),
        (
            {"images": np.zeros((2, 16, 16, 4), np.uint8)},
            r"images is uint8 \[2, 16, 16, 4\], must be .* 1 or 3 channels",
        ),
        ({"images": np.array([{}], dtype=object)}, "images is damaged"),
        ({"images": grey(), "labels": np.eye(3, dtype=int)}, r"labels is int64 \[3, 3\], must be whole numbers \[3\]"),
        ({"images": grey(), "labels": np.array([0.0, 1, 2])}, r"labels is float64 \[3\], must be whole numbers"),
        ({"images": grey(), "labels": np.array([0, 1])}, r"labels is int64 \[2\], must be whole numbers \[3\]"),
        ({"images": grey(), "labels": np.array([0, -1, 2])}, "image 1 has the label -1, must be a whole number"),
        ({"images": grey(), "labels": np.array([0, 1, 2**40])}, "image 2 has the label 1099511627776, must be"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_other_arrays_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        loaded(npz(tmp_path / "images.npz", **arrays))
    assert str(tmp_path / "images.npz") in str(caught.value)


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "images.npz", images=grey())
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"images\.npz: images is damaged"):
        loaded(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_stored_twice_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "images.npz", images=grey())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images.npy", archive.read("images.npy"))
    with pytest.raises(UsageError, match=r"images\.npz holds images twice"):
        loaded(path)


def edm(images: np.ndarray, labels: list[int] | None) -> dict[str, bytes]:
    entries = files(images, "00000/")
    pairs = None if labels is None else list(zip(entries, labels, strict=True))
    return {**entries, "dataset.json": json.dumps({"labels": pairs}).encode()}


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    same = [
        write(edm(grey(), [0, 1, 2]), tmp_path / "a"),
        write(edm(grey(), [0, 1, 2]), tmp_path / "b"),
        write(edm(grey(), [0, 1, 2]), tmp_path / "c.zip"),
        write({f"top/{name}": data for name, data in edm(grey(), [0, 1, 2]).items()}, tmp_path / "d.zip"),
        write({**edm(grey(), [0, 1, 2]), "readme.txt": b"x", ".DS_Store": b"x"}, tmp_path / "e"),
    ]
    other = [
        write(edm(grey(seed=1), [0, 1, 2]), tmp_path / "f"),
        write(edm(grey(), [0, 1, 3]), tmp_path / "g"),
        write(edm(grey(), None), tmp_path / "h.zip"),
        write(edm(grey(2), [0, 1]), tmp_path / "i"),
        npz(tmp_path / "k.npz", images=grey()),
        npz(tmp_path / "l.npz", images=grey(seed=1)),
    ]
    assert len({fingerprint(path) for path in same}) == 1
    assert len({fingerprint(path) for path in [same[0], *other]}) == 1 + len(other)
    assert fingerprint(npz(tmp_path / "m.npz", images=grey())) == fingerprint(tmp_path / "k.npz")


def test_the_fingerprint_is_taken_again_where_size_and_time_are_the_same(tmp_path: Path) -> None:
    """As after `cp -p`, `rsync` or unpacking an archive."""
    content = [bytearray(png(pixels, "BMP")) for pixels in grey(2)]
    places = [write({"x.bmp": bytes(one)}, tmp_path / name) / "x.bmp" for one, name in zip(content, "ab", strict=True)]
    for place in places:
        os.utime(place, (0, 0))
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    before = fingerprint(tmp_path / "a")
    places[0].write_bytes(places[1].read_bytes())
    os.utime(places[0], (0, 0))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != before


def test_a_folder_is_read_once(tmp_path: Path) -> None:
    folder = write(files(grey()), tmp_path / "images")
    before = fingerprint(folder)
    (kept,) = (tmp_path / "cache" / "consistency-bench" / "fingerprints").glob("*.txt")
    kept.write_text("0123456789abcdef")
    assert fingerprint(folder) == "0123456789abcdef"
    kept.write_text("damaged")
    assert fingerprint(folder) == before


def test_without_a_cache_the_fingerprint_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(files(grey()), tmp_path / "images")
    before = fingerprint(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert fingerprint(folder) == before


def test_other_images_at_the_path_of_a_cell_are_refused(tmp_path: Path) -> None:
    folder = write(files(grey()), tmp_path / "images")
    source = ImageFolder("images", folder, fingerprint=fingerprint(folder))
    assert len(source.load()) == 3
    write(files(grey(seed=1)), folder)
    for use in (source.describe, source.load):
        with pytest.raises(UsageError, match=r"^the data at .*images changed since the cell was composed: "):
            use()


def test_other_images_under_the_same_names_are_never_taken_from_the_cache(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        folder = write({"x.bmp": png(grey(1, seed=seed)[0], "BMP")}, tmp_path / name)
        os.utime(folder / "x.bmp", (0, 0))
        assert np.array_equal(loaded(folder).images[0, 0].numpy(), grey(1, seed=seed)[0])


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(png(grey()[0]))
    assert len(loaded(folder)) == 1


def test_a_zip_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04" + b"\xff" * 100, zipped_tail()):
        (tmp_path / "images.zip").write_bytes(content)
        with pytest.raises(UsageError, match=r"images\.zip"):
            loaded(tmp_path / "images.zip")


def zipped_tail() -> bytes:
    """A central directory that points to nothing."""
    buffer = io.BytesIO()
    np.savez(buffer, images=grey())
    return buffer.getvalue()[-80:]
