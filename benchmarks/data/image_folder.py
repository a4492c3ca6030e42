"""`imagenet64` and `ffhq64`: 64×64 RGB images in a folder or zip file, in the layout that EDM's tools write.

Classes stand in `dataset.json` ({"labels": [["00000/img00000000.png", 6], …]}), or each is a folder of its own.
Nothing is unpacked to disk and nothing but image files and `dataset.json` is read.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UsageError
from .base import Dataset

SIZE = 64
#: Number of classes of each data set; 1 for data without any.
CLASSES = {"imagenet64": 1000, "ffhq64": 1}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABELS = "dataset.json"
#: 64×64 RGB is 12 kB; whatever claims or turns out to be this large is no such image.
IMAGE_BYTES, LABEL_BYTES = 2**20, 2**28


class Source(Protocol):
    """Files by name, with `/` between folders."""

    def names(self) -> list[str]: ...

    def read(self, name: str, limit: int) -> bytes:
        """The content, cut to one byte more than `limit`."""
        ...


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]

    def read(self, name: str, limit: int) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(limit + 1)


class Archive:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def names(self) -> list[str]:
        return [info.filename for info in self.archive.infolist() if not info.is_dir()]

    def read(self, name: str, limit: int) -> bytes:
        with self.archive.open(name) as file:
            return file.read(limit + 1)


def load(name: str, path: Path) -> Dataset:
    """The images below `path` (a folder or a zip file) in the order of their names, uint8 [N, 3, 64, 64].

    Raises UsageError where there is nothing, where a file is no image of exactly this size, and for labels that are
    missing, do not fit the files or are out of range.
    """
    classes = CLASSES[name]
    with _opened(name, path) as source:
        names = sorted(item for item in source.names() if PurePosixPath(item).suffix.lower() in SUFFIXES)
        if not names:
            raise UsageError(f"data set '{name}': {path} holds no images ({', '.join(SUFFIXES)})")
        labels = torch.tensor(_labels(source, path, names, classes), dtype=torch.int64)
        images = torch.empty(len(names), 3, SIZE, SIZE, dtype=torch.uint8)
        for number, item in enumerate(names):
            images[number] = _image(source.read(item, IMAGE_BYTES), f"{path}: {item}")
    return Dataset(name, images, labels, classes)


@contextmanager
def _opened(name: str, path: Path) -> Iterator[Source]:
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


def _labels(source: Source, path: Path, names: list[str], classes: int) -> list[int]:
    """The class of each image: from `dataset.json`, else from the folders, else, for data of one class, 0."""
    if classes == 1:
        return [0] * len(names)
    if LABELS in source.names():
        known = _label_file(source.read(LABELS, LABEL_BYTES), path)
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


def _image(content: bytes, where: str) -> Tensor:
    from PIL import Image

    if len(content) > IMAGE_BYTES:
        raise UsageError(f"{where} is larger than {IMAGE_BYTES} bytes, which no image of {SIZE}×{SIZE} is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                size = image.size  # from the header: nothing of another size is ever decoded
                pixels = np.asarray(image.convert("RGB")) if size == (SIZE, SIZE) else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{where} is not an intact image ({error})") from None
    if pixels is None:
        raise UsageError(f"{where} is {size[0]}×{size[1]}, must be {SIZE}×{SIZE}: resize the data set first")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
