"""`imagenet64` and `ffhq64`: 64×64 RGB images in a folder or zip file, in the layout that EDM's tools write.

Classes are listed in `dataset.json` ({"labels": [["00000/img00000000.png", 6], …]}), or each has a folder of its own.
Only image files and `dataset.json` are read.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import walk
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..common.errors import UsageError
from .base import DataInfo, Dataset
from .decoded import decode_once

SIZE = 64
SHAPE = (3, SIZE, SIZE)
#: Number of classes of each data set; 1 for data without any.
CLASSES = {"imagenet64": 1000, "ffhq64": 1}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABELS = "dataset.json"
#: 64×64 RGB is 12 kB; a file of this size is no such image.
IMAGE_BYTES, LABEL_BYTES = 2**20, 2**28


class Files(Protocol):
    """Files by name, with `/` between folders."""

    def names(self) -> list[str]: ...

    def read(self, name: str, limit: int) -> bytes:
        """The content, cut to one byte more than `limit`."""
        ...

    def stamp(self, name: str) -> str:
        """What changes if the content does: size and time, or a checksum."""
        ...


@dataclass(frozen=True)
class Folder:
    """The files below a folder."""

    path: Path

    def names(self) -> list[str]:
        # Not `rglob` with `is_file`, which asks the file system about each of a million files.
        return [
            (Path(top) / name).relative_to(self.path).as_posix() for top, _, names in walk(self.path) for name in names
        ]

    def read(self, name: str, limit: int) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(limit + 1)

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Archive:
    """The files in a zip file."""

    archive: zipfile.ZipFile

    def names(self) -> list[str]:
        return [info.filename for info in self.archive.infolist() if not info.is_dir()]

    def read(self, name: str, limit: int) -> bytes:
        with self.archive.open(name) as file:
            return file.read(limit + 1)

    def stamp(self, name: str) -> str:
        info = self.archive.getinfo(name)
        return f"{info.file_size} {info.CRC}"


@dataclass(frozen=True)
class ImageFolder:
    """The images below `path` (a folder or a zip file) in the order of their names, uint8 [N, 3, 64, 64].

    They are decoded once per machine and content of `path`, and mapped from the user's cache from then on.

    UsageError is raised if there are no images, if a file is not an image of exactly this size, and for labels that are
    missing, do not fit the files or are out of range.
    """

    name: str
    path: Path

    def describe(self) -> DataInfo:
        """Reads file names, labels and the header of the first image."""
        with _opened(self.name, self.path) as files:
            names = _image_names(files, self.name, self.path)
            _labels(files, self.path, names, CLASSES[self.name])
            _check_header(files.read(names[0], IMAGE_BYTES), f"{self.path}: {names[0]}")
        return DataInfo(name=self.name, count=len(names), shape=SHAPE, classes=CLASSES[self.name])

    def load(self) -> Dataset:
        with _opened(self.name, self.path) as files:
            names = _image_names(files, self.name, self.path)
            labels = torch.tensor(_labels(files, self.path, names, CLASSES[self.name]), dtype=torch.int64)
            pixels = (_pixels(files.read(item, IMAGE_BYTES), f"{self.path}: {item}") for item in names)
            images = decode_once(f"{self.name}-{_key(files, names)}", (len(names), *SHAPE), pixels)
        return Dataset(self.name, images, labels, CLASSES[self.name])


def _image_names(files: Files, name: str, path: Path) -> list[str]:
    names = sorted(item for item in files.names() if PurePosixPath(item).suffix.lower() in SUFFIXES)
    if not names:
        raise UsageError(f"data set '{name}': {path} holds no images ({', '.join(SUFFIXES)})")
    return names


def _key(files: Files, names: Sequence[str]) -> str:
    """16 hexadecimal digits that change with the names of the images, their order or their content."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{files.stamp(name)}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _opened(name: str, path: Path) -> Iterator[Files]:
    if path.is_dir():
        yield Folder(path)
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                yield Archive(archive)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UsageError(f"data set '{name}': {path} is not an intact zip file ({error})") from None
    else:
        raise UsageError(
            f"data set '{name}' is not at {path}: name a folder or zip file of {SIZE}×{SIZE} images in EDM's layout "
            "with data.root=PATH"
        )


def _labels(files: Files, path: Path, names: list[str], classes: int) -> list[int]:
    """The class of each image: from `dataset.json`, else from the folders, else, for data of one class, 0."""
    if classes == 1:
        return [0] * len(names)
    if LABELS in files.names():
        known = _label_file(files.read(LABELS, LABEL_BYTES), path)
        if missing := [item for item in names if item not in known]:
            raise UsageError(f"{path}: {LABELS} has no label for {missing[0]} ({len(missing)} images without)")
        labels = [known[item] for item in names]
    else:
        folders = [str(PurePosixPath(item).parent) for item in names]
        position = {folder: number for number, folder in enumerate(sorted(set(folders)))}
        if len(position) < 2:
            raise UsageError(f"{path} has no labels: neither {LABELS} nor a folder for each class")
        labels = [position[folder] for folder in folders]
    if bad := [label for label in labels if type(label) is not int or not 0 <= label < classes]:
        raise UsageError(f"{path} has the label {bad[0]!r}, must be a whole number from 0 to {classes - 1}")
    return labels


def _label_file(content: bytes, path: Path) -> dict[str, Any]:
    try:
        if len(content) > LABEL_BYTES:
            raise ValueError(f"larger than {LABEL_BYTES} bytes")
        return {str(item): label for item, label in json.loads(content)["labels"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: {LABELS} does not hold a list of [file, class] under 'labels' ({error})") from None


def _check_header(content: bytes, where: str) -> None:
    """Raise UsageError unless this is the start of an image of the right size. Nothing is decoded."""
    if len(content) > IMAGE_BYTES:
        raise UsageError(f"{where} is larger than {IMAGE_BYTES} bytes, which no image of {SIZE}×{SIZE} is")
    with _intact(where), Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    if (width, height) != (SIZE, SIZE):
        raise UsageError(f"{where} is {width}×{height}, must be {SIZE}×{SIZE}: resize the data set first")


def _pixels(content: bytes, where: str) -> np.ndarray:
    """uint8 [3, 64, 64], for an image of this size alone: nothing of another size is ever decoded."""
    _check_header(content, where)
    with _intact(where), Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@contextmanager
def _intact(where: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{where} is not an intact image ({error})") from None
