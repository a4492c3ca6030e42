"""Images in an `.npz` file: uint8 `images` (or `arr_0`) and, if they have classes, whole numbers `labels`.

The arrays are read as streams: nothing is unpickled, and nothing is allocated because a header says so.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..common.errors import UsageError
from ..common.text import plain
from .decoding import Outline
from .labels import checked_labels
from .listing import digest, naming_damage, opened_zip
from .pictures import Picture

KEYS = ("images", "arr_0")
LABELS = "labels"
LAYOUTS = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] of 1 or 3 channels"


@dataclass(frozen=True)
class Arrays:
    """The images of an `.npz` file.

    key, shape: of the array of images.
    """

    path: Path
    archive: zipfile.ZipFile
    key: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.shape[0]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content of the file."""
        return digest((info.filename, info.file_size, info.CRC) for info in self.archive.infolist())

    def labels(self, classes: int | None) -> list[int] | None:
        """The class of each image; None if the file holds no labels. Raises UsageError for what is no class."""
        if f"{LABELS}.npy" not in self.archive.namelist():
            return None
        with _member(self.path, self.archive, LABELS) as (file, shape, dtype):
            if dtype.kind not in "iu" or shape != (self.count,):
                raise _refused(self.path, LABELS, shape, dtype, f"whole numbers [{self.count}], one for each image")
            values = np.frombuffer(file.read(self.count * dtype.itemsize), dtype).tolist()
        return checked_labels(values, lambda place: f"{self.path}: image {place}", classes)

    def pictures(self) -> Iterator[Picture]:
        """All images, in order."""
        shape = self.shape[1:]
        planes = len(shape) == 3 and shape[2] not in (1, 3)
        height, width = shape[1:] if planes else shape[:2]
        outline = Outline(width, height, is_grey=math.prod(shape) == width * height)
        with _member(self.path, self.archive, self.key) as (file, _, _):
            for place in range(self.count):
                pixels = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
                pixels = pixels.transpose(1, 2, 0) if planes else pixels
                image = partial(Image.fromarray, np.squeeze(pixels, axis=2) if pixels.shape[2:] == (1,) else pixels)
                yield Picture(f"{self.path}: image {place}", outline, image)


def from_array(values: Tensor | np.ndarray) -> Tensor:
    """Images in memory as uint8 [N, C, H, W]. Raises UsageError for another type or shape."""
    pixels = torch.as_tensor(values)
    shape = tuple(pixels.shape)
    if pixels.dtype is not torch.uint8 or not _fits(shape):
        raise UsageError(f"images are {str(pixels.dtype).removeprefix('torch.')} {list(shape)}, must be {LAYOUTS}")
    if len(shape) == 3:
        return pixels[:, None]
    return pixels.movedim(3, 1) if shape[3] in (1, 3) else pixels


def _fits(shape: tuple[int, ...]) -> bool:
    is_known = len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3)))
    return is_known and min(shape) >= 1


@contextmanager
def opened_arrays(path: Path) -> Iterator[Arrays]:
    """The images of the file at `path`. Raises UsageError if there are none, or arrays of another type or shape."""
    with opened_zip(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        if twice := [key for key in (*KEYS, LABELS) if keys.count(key) > 1]:
            raise UsageError(plain(f"{path} holds {twice[0]} twice"))
        key = next((key for key in KEYS if key in keys), None)
        if key is None:
            raise UsageError(plain(f"{path} holds none of the arrays {', '.join(KEYS)}, but {', '.join(keys)[:200]}"))
        with _member(path, archive, key) as (_, shape, dtype):
            if dtype != np.uint8 or not _fits(shape):
                raise _refused(path, key, shape, dtype, LAYOUTS)
        yield Arrays(path, archive, key, shape)


@contextmanager
def _member(
    path: Path, archive: zipfile.ZipFile, key: str
) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[np.generic]]]:
    """The values of an array as a stream, with shape and type. Raises UsageError if it is damaged."""
    info = archive.getinfo(f"{key}.npy")
    with naming_damage(f"{path}: {key} is damaged"), archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version > (2, 0):
            raise ValueError(f"an array of version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        if is_fortran or math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError("the array is cut short, or its values are not in C order")
        yield file, shape, dtype


def _refused(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], wanted: str) -> UsageError:
    return UsageError(plain(f"{path}: {key} is {dtype} {list(shape)}, must be {wanted}"))
