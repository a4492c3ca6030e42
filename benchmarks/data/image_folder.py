"""Images of a user in a folder, a zip file or an `.npz` file: EDM's layout, class folders, or no classes at all.

`images` takes square images of any size. `ffhq64` and `imagenet64`, and `cifar10` in EDM's layout, have a fixed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import exists
from pathlib import Path

import numpy as np
import torch

from ..common.cache import cache_folder, read_or_build
from ..common.errors import UsageError
from .base import DataInfo, Dataset
from .decoded import decode_once
from .decoding import Outline, center_crop
from .pictures import Picture, Pictures, opened_pictures

#: Size and number of classes (1: labels are not read) of the data sets that have fixed ones. All are RGB.
FIXED = {"cifar10": (32, 10), "ffhq64": (64, 1), "imagenet64": (64, 1000)}
LEAST_SIZE = 8
#: No file of a fixed data set is larger than 1 MB: the largest, 64×64 RGB, has 12 kB of pixels.
FIXED_BYTES, IMAGE_BYTES = 2**20, 2**26


@dataclass(frozen=True)
class ImageFolder:
    """The images at `path` in the order of their names, uint8 [N, C, R, R].

    resolution:  R, for `images` alone: each image is scaled to it; None takes them as they are.
    resize:      center_crop: images that are not square are cropped to their central square first.
    fingerprint: that the images must have; None for any.

    The images of `images` are grey (C = 1) if all files are stored as grey, RGB otherwise. Images without labels have
    one class. They are decoded once per machine and content, and mapped from the user's cache from then on.

    UsageError is raised, naming the file, for an image that is damaged or of another size, and for labels that are
    missing, contradictory or out of range.
    """

    name: str
    path: Path
    resolution: int | None = None
    resize: str | None = None
    fingerprint: str | None = None

    def describe(self) -> DataInfo:
        """Reads file names, labels and headers: of the first image, or, for `images`, of all, once."""
        with self._opened() as (pictures, key):
            _, classes = self._labels(pictures)
            shape = self._shape(pictures, key)
            return DataInfo(name=self.name, count=pictures.count, shape=shape, classes=classes)

    def load(self) -> Dataset:
        with self._opened() as (pictures, key):
            labels, classes = self._labels(pictures)
            shape = self._shape(pictures, key)
            pixels = (self._pixels(picture, shape) for picture in pictures.pictures())
            images = decode_once(f"{self._stem(key)}-{shape[0]}", (pictures.count, *shape), pixels)
        return Dataset(self.name, images, torch.tensor(labels, dtype=torch.int64), classes)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Pictures, str]]:
        """The images and their fingerprint."""
        if not exists(self.path):
            what = f"{FIXED[self.name][0]}×{FIXED[self.name][0]} images" if self.name in FIXED else "images"
            raise UsageError(
                f"data set '{self.name}' is not at {self.path}: name a folder or zip file of {what} in EDM's layout "
                "with data.root=PATH"
            )
        with opened_pictures(self.path, FIXED_BYTES if self.name in FIXED else IMAGE_BYTES) as pictures:
            key = pictures.fingerprint()
            if self.fingerprint not in (None, key):
                raise UsageError(
                    f"the data at {self.path} changed since the cell was composed: their fingerprint is {key}, not "
                    f"{self.fingerprint}; start the command again for a cell of the new data"
                )
            yield pictures, key

    def _stem(self, key: str) -> str:
        """The beginning of the names of cached files, which depend on the images and on how they are resized."""
        resized = "" if self.resolution is None else f"-{self.resolution}-{self.resize or 'square'}"
        return f"{self.name}-{key}{resized}"

    def _labels(self, pictures: Pictures) -> tuple[list[int], int]:
        """The class of each image, and how many classes there are."""
        fixed = FIXED[self.name][1] if self.name in FIXED else None
        labels = None if fixed == 1 else pictures.labels(fixed)
        if labels is None:
            return [0] * pictures.count, 1
        return labels, fixed or max(labels) + 1

    def _shape(self, pictures: Pictures, key: str) -> tuple[int, int, int]:
        if self.name in FIXED:
            size = FIXED[self.name][0]
            self._check_fixed(next(pictures.pictures()), size)
            return 3, size, size

        def build(temporary: Path) -> None:
            temporary.write_text(json.dumps(self._scan(pictures)))

        path = cache_folder("decoded") / f"{self._stem(key)}.json"
        try:
            channels, size = read_or_build(path, _read_shape, build)
        except OSError:  # no place to keep it
            channels, size = self._scan(pictures)
        return channels, size, size

    def _scan(self, pictures: Pictures) -> tuple[int, int]:
        """Channels and size of images of no fixed size, from the headers of all."""
        first: Picture | None = None
        is_grey = True
        for picture in pictures.pictures():
            first = first or picture
            self._check_own(picture, first)
            is_grey = is_grey and picture.outline.is_grey
        assert first is not None
        size = self.resolution or first.outline.width
        if size < LEAST_SIZE:
            raise UsageError(f"{first.where} is {first.outline.size}: set data.resolution, to at least {LEAST_SIZE}")
        return 1 if is_grey else 3, size

    def _check_own(self, picture: Picture, first: Picture) -> None:
        outline = picture.outline
        if outline.width != outline.height and self.resize is None:
            raise UsageError(
                f"{picture.where} is {outline.size}, which is not square: crop and scale all images, for example with "
                f"data.resolution={self.resolution or 32} data.resize=center_crop"
            )
        if self.resolution is None and outline.size != first.outline.size:
            raise UsageError(
                f"{picture.where} is {outline.size}, but {first.where} is {first.outline.size}: scale all images to "
                "one size, for example with data.resolution=32"
            )

    def _check_fixed(self, picture: Picture, size: int) -> None:
        if picture.outline != Outline(size, size, picture.outline.is_grey):
            raise UsageError(
                f"{picture.where} is {picture.outline.size}, must be {size}×{size}: resize the data set first, or use "
                "benchmark=images"
            )

    def _pixels(self, picture: Picture, shape: tuple[int, int, int]) -> np.ndarray:
        """uint8 [C, R, R]. Of a data set of fixed size, nothing of another size is ever decoded."""
        if self.name in FIXED:
            self._check_fixed(picture, shape[1])
        image = center_crop(picture.decode().convert("L" if shape[0] == 1 else "RGB"), shape[1])
        return np.asarray(image).reshape(*shape[1:], shape[0]).transpose(2, 0, 1)


def _read_shape(path: Path) -> tuple[int, int] | None:
    try:
        channels, size = map(int, json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return (channels, size) if channels in (1, 3) and size >= LEAST_SIZE else None
