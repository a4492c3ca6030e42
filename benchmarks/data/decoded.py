"""Decoded images, one copy per machine: a `.npy` file in the user's cache that all processes map into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.cache import cache_folder, read_or_build
from ..common.errors import UsageError


def decode_once(name: str, shape: tuple[int, ...], images: Iterable[np.ndarray]) -> Tensor:
    """uint8 `shape` [N, …], mapped read-only from the cache; `images` are decoded only if they are not there yet.

    name:   of the file. It must depend on everything that the images depend on.
    images: N arrays of uint8 and of the shape of one image.

    Raises UsageError if the file cannot be written, and whatever decoding raises.
    """
    path = cache_folder("decoded") / f"{name}.npy"

    def build(temporary: Path) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())

    def read(path: Path) -> Tensor | None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # missing, cut short or something else
            return None
        if array.dtype != np.uint8 or array.shape != shape:
            return None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(array)

    try:
        return read_or_build(path, read, build)
    except OSError as error:
        raise UsageError(
            f"the decoded images cannot be stored in {path.parent} ({error}): "
            f"set XDG_CACHE_HOME to a folder with {np.prod(shape) / 1e9:.1f} GB of free space"
        ) from None
