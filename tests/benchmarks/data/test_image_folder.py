"""Folders and zip files of images: EDM's layout, class folders, and whatever is not that."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import describe, load

FILES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png"]


def pixels(number: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(number: int, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number, size)).save(buffer, "png")
    return buffer.getvalue()


def content(labels: Any = (6, 0, 999)) -> dict[str, bytes]:
    files = {name: png(number) for number, name in enumerate(FILES)}
    if labels is not None:
        pairs = list(zip(FILES, labels, strict=True))
        files["dataset.json"] = json.dumps({"labels": pairs}).encode()
    return files


def write(files: dict[str, bytes], path: Path) -> Path:
    """As a zip file where the path says so, else as a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded images, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "consistency-bench" / "decoded"


@pytest.fixture(params=["images", "images.zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_images_come_in_the_order_of_their_names_with_their_labels(place: Path) -> None:
    data = load("imagenet64", root=write(content(), place))
    assert data.images.dtype == torch.uint8
    assert data.shape == (3, 64, 64)
    assert data.classes == 1000
    assert data.labels.tolist() == [6, 0, 999]
    for number, image in enumerate(data.images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(number))


def test_folders_are_classes_where_no_file_says_otherwise(place: Path) -> None:
    data = load("imagenet64", root=write(content(labels=None), place))
    assert data.labels.tolist() == [0, 0, 1]


def labelled(*pairs: tuple[str, int]) -> dict[str, bytes]:
    return {**content(None), "dataset.json": json.dumps({"labels": pairs}).encode()}


def test_an_image_listed_with_two_classes_is_refused(place: Path) -> None:
    pairs = [(FILES[0], 1), (FILES[1], 2), (FILES[2], 3), (FILES[1], 7)]
    refused("imagenet64", labelled(*pairs), f"lists {FILES[1]} twice, with the classes 2 and 7", place)


def test_an_image_listed_twice_with_the_same_class_has_it(place: Path) -> None:
    pairs = [(FILES[0], 1), (FILES[1], 2), (FILES[2], 3), (FILES[1], 2)]
    assert load("imagenet64", root=write(labelled(*pairs), place)).labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["imagenet64", "images"])
@pytest.mark.parametrize("labels", [b'{"labels": null}', None], ids=["null", "no file"])
def test_images_without_labels_have_one_class(name: str, labels: bytes | None, place: Path) -> None:
    files = {"dataset.json": labels} if labels else {}
    data = load(name, root=write({"00000/a.png": png(0), "00000/b.png": png(1), **files}, place))
    assert (data.classes, data.labels.tolist()) == (1, [0, 0])


def test_shards_are_no_classes_below_one_folder_around_everything(place: Path) -> None:
    files = {f"my-data/{name}": data for name, data in content((900, 901, 903)).items()}
    data = load("images", root=write({**files, "readme.txt": b"x"}, place))
    assert (data.labels.tolist(), data.classes) == ([900, 901, 903], 904)


def test_labels_that_are_not_beside_all_images_are_refused(place: Path) -> None:
    files = {"train/dataset.json": b'{"labels": null}', "train/a.png": png(0), "test/a.png": png(1)}
    refused("images", files, "holds train/dataset.json, which must be in the folder that holds all images", place)


def test_what_systems_leave_behind_is_ignored(place: Path) -> None:
    junk = ("__MACOSX/00000/._img00000000.png", "00000/._img00000000.png", ".hidden/a.png", ".DS_Store", "Thumbs.db")
    data = load("imagenet64", root=write({**content(), **dict.fromkeys(junk, b"x")}, place))
    assert data.labels.tolist() == [6, 0, 999]


def test_a_name_that_occurs_twice_in_a_zip_file_is_refused(tmp_path: Path) -> None:
    path = write(content(), tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(FILES[0], png(9))
    with pytest.raises(UsageError, match=rf"images\.zip holds {FILES[0]} twice$"):
        load("imagenet64", root=path)


def test_zip_files_of_windows_name_folders_with_a_backslash(tmp_path: Path) -> None:
    path = write({name.replace("/", "\\"): data for name, data in content().items()}, tmp_path / "images.zip")
    assert load("imagenet64", root=path).labels.tolist() == [6, 0, 999]


def test_an_entry_without_a_name_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "a.png"):
            archive.writestr(name, png(0))
            archive.infolist()[0].filename = ""
    assert len(load("ffhq64", root=path)) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_is_named(tmp_path: Path, method: int) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", png(0))
        archive.writestr("b.png", png(1))
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"images\.zip: a\.png is damaged"):
        load("ffhq64", root=path)


def test_linked_folders_are_read_and_loops_are_refused(tmp_path: Path) -> None:
    elsewhere = write({"a.png": png(0)}, tmp_path / "elsewhere")
    folder = write({"cat/b.png": png(1)}, tmp_path / "images")
    (folder / "dog").symlink_to(elsewhere)
    assert load("images", root=folder).labels.tolist() == [0, 1]
    (folder / "loop").symlink_to(folder)
    with pytest.raises(UsageError, match=r"loop is a link to a folder that is in .* already"):
        load("images", root=folder)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    folder = write({"a.png": png(0)}, tmp_path / "images")
    os.mkfifo(folder / "b.png")
    with pytest.raises(UsageError, match=r"b\.png is not a regular file"):
        load("images", root=folder)


def test_cifar10_in_edms_layout(place: Path) -> None:
    files = {f"00000/{number}.png": png(number, 32) for number in range(3)}
    files["dataset.json"] = json.dumps({"labels": [[name, 9 - k] for k, name in enumerate(files)]}).encode()
    write(files, place)
    data = load("cifar10", root=place)
    assert (data.shape, data.classes, data.labels.tolist()) == ((3, 32, 32), 10, [9, 8, 7])
    assert describe("cifar10", root=place) == data.info


def test_cifar10_in_a_folder_below_the_root(tmp_path: Path) -> None:
    """As it is unpacked from a zip file with one folder around everything."""
    files = {f"00000/{number}.png": png(number, 32) for number in range(3)}
    files["dataset.json"] = json.dumps({"labels": [[name, 9 - k] for k, name in enumerate(files)]}).encode()
    write(files, tmp_path / "around" / "my-data")
    assert load("cifar10", root=tmp_path / "around").labels.tolist() == [9, 8, 7]


def test_an_array_of_negative_size_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (-2, -16, 16)})
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(512))
    with pytest.raises(UsageError, match=r"odd\.npz: images is uint8 \[-2, -16, 16\], must be"):
        load("images", root=tmp_path / "odd.npz")


def test_a_missing_zip_of_cifar10_is_never_taken_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data set 'cifar10' is not at .*: name a folder or zip file of 32×32 images"):
        load("cifar10", root=tmp_path / "none.zip", download=True)
    assert not (tmp_path / "none.zip").exists()


def test_faces_have_no_classes(place: Path) -> None:
    data = load("ffhq64", root=write(content(labels=None), place))
    assert (data.name, data.classes, data.labels.tolist()) == ("ffhq64", 1, [0, 0, 0])


def test_grey_images_become_rgb(place: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels(0)[..., 0]).save(buffer, "png")
    image = load("ffhq64", root=write({"a.png": buffer.getvalue()}, place)).images[0]
    assert np.array_equal(image.numpy(), np.stack([pixels(0)[..., 0]] * 3))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


#: A PNG of a few bytes that claims 100,000 × 100,000 pixels.
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    + chunk(b"IEND", b"")
)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "holds no images"),
        (content((6, 0, 1000)), "has the label 1000, must be a whole number from 0 to 999"),
        (content((6, 0, "cat")), "has the label 'cat', must be a whole number"),
        (content((6, 0, True)), "has the label True, must be a whole number"),
        ({**content(), "b.png": png(5)}, "dataset.json has no label for b.png (1 images without)"),
        ({**content(), "dataset.json": b"{"}, "dataset.json does not hold a list of [file, class]"),
        (
            {**content(), "dataset.json": b'{"labels": 5}'},
            "dataset.json does not hold a list of [file, class], or null",
        ),
        ({**content(), "dataset.json": b"[" * 200_000}, "dataset.json is nested too deeply"),
        (content((6, 0, 3.0)), f"{FILES[2]} has the label 3.0, must be a whole number"),
        (content((6, 0, [0, 0, 1])), f"{FILES[2]} has the label [0, 0, 1], must be a whole number"),
        (content((6, 0, float("nan"))), f"{FILES[2]} has the label nan, must be a whole number"),
        (content((6, 0, -1)), f"{FILES[2]} has the label -1, must be a whole number"),
        ({**content(), "dataset.json": b'{"labels": [["a", ' + b"9" * 5000 + b"]]}"}, "does not hold a list of"),
        (content((6, 0, 10**4000)), f"{FILES[2]} has the label a huge number, must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_proper_labels_is_refused(files: dict[str, bytes], message: str, place: Path) -> None:
    refused("imagenet64", files, message, place)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": png(0, 32)}, "a.png is 32×32, must be 64×64"),
        ({"a.png": png(0)[:200]}, "a.png is not an intact image"),
        ({"a.png": b"x"}, "a.png is not an intact image"),
        ({"a.png": BOMB}, "a.png is not an intact image"),
        ({"a.png": bytes(2**21)}, "a.png is larger than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_of_the_size_is_refused(files: dict[str, bytes], message: str, place: Path) -> None:
    refused("ffhq64", files, message, place)


def refused(name: str, files: dict[str, bytes], message: str, place: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(name, root=write(files, place))
    assert message in str(caught.value)
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_lead_out_of_an_archive_write_nothing(tmp_path: Path) -> None:
    path = write({"../../escaped.png": png(0), "/tmp/escaped.png": png(1)}, tmp_path / "images.zip")
    assert len(load("ffhq64", root=path)) == 2
    assert not list(tmp_path.parent.rglob("escaped.png"))


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^data set 'imagenet64' is not at .*none: name a folder or zip file of 64×64"
    ):
        load("imagenet64", root=tmp_path / "none")


def test_without_a_root_the_cache_is_searched(cache: Path) -> None:
    place = cache.with_name("data")
    place.mkdir(parents=True)
    write(content(), place / "imagenet64.zip")
    assert len(load("imagenet64")) == 3


def test_images_are_described_by_names_labels_and_one_header(place: Path) -> None:
    write({**content(), FILES[1]: b"is never opened"}, place)
    info = describe("imagenet64", root=place)
    assert (info.name, info.count, info.shape, info.classes, info.quantised) == (
        "imagenet64",
        3,
        (3, 64, 64),
        1000,
        True,
    )
    assert info.nbytes == 3 * 3 * 64 * 64
    with pytest.raises(UsageError, match="must be 64×64"):
        describe("ffhq64", root=write({FILES[0]: png(0, 32)}, place))


def test_images_are_decoded_once_and_shared(place: Path, cache: Path) -> None:
    write(content(), place)
    first = load("imagenet64", root=place)
    (file,) = cache.glob("*.npy")
    written = file.stat().st_mtime_ns
    second = load("imagenet64", root=place)
    assert file.stat().st_mtime_ns == written
    assert (len(first), first.info) == (3, describe("imagenet64", root=place))
    assert torch.equal(first.images, second.images)
    in_memory = Dataset("imagenet64", first.images.clone(), first.labels, 1000)
    assert first.fingerprint == second.fingerprint == in_memory.fingerprint
    maps = Path("/proc/self/maps")
    assert not maps.exists() or file.name in maps.read_text()


def test_changed_images_and_damaged_copies_are_decoded_again(place: Path, cache: Path) -> None:
    before = load("ffhq64", root=write({FILES[0]: png(0)}, place)).images.clone()
    (file,) = cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:500])
    assert torch.equal(load("ffhq64", root=place).images, before)
    after = load("ffhq64", root=write({FILES[0]: png(1)}, place)).images
    assert np.array_equal(after[0].permute(1, 2, 0).numpy(), pixels(1))


def test_a_cache_that_cannot_be_written_is_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(UsageError, match=r"set XDG_CACHE_HOME to a folder with 0\.0 GB of free space") as caught:
        load("ffhq64", root=write({FILES[0]: png(0)}, place))
    assert "\n" not in str(caught.value)
