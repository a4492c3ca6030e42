"""Reference statistics that others publish: those of clean-fid, for the data sets of this suite that it has."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import torch

from ..common.errors import UsageError
from ..common.files import atomic_path
from ..data.base import Dataset
from .accumulator import Side
from .extractors.base import Features
from .moments import Moments

URL = "https://www.cs.cmu.edu/~clean-fid/stats"
TIMEOUT_SECONDS = 30

#: Our data set: clean-fid's name, split and resolution of the same images, and how many these are.
NAMES = {"cifar10": ("cifar10", "train", 32, 50_000)}
WIDTH = 2048


class PublishedSide(Side):
    """Published moments as one side of a Fréchet distance. Its files are looked for in `folder`, then downloaded.

    Raises UsageError where clean-fid has nothing for the data set, where the file can be had neither way, and for one
    that holds something else.
    """

    def __init__(self, dataset: Dataset, protocol: str, folder: Path) -> None:
        super().__init__()
        if dataset.name not in NAMES:
            raise UsageError(f"clean-fid publishes no statistics for {dataset.name!r}; it does for: {', '.join(NAMES)}")
        name, split, size, count = NAMES[dataset.name]
        file = f"{name}_{protocol}_{split}_{size}.npz"
        path = folder / file
        if not path.exists():
            _download(f"{URL}/{file}", path)
        self._moments = _parse(path.read_bytes(), str(path), count)

    def first(self, count: int) -> Features:
        raise NotImplementedError("published statistics hold no features")

    def moments(self, count: int | None = None) -> Moments:
        return self._moments


def _download(url: str, path: Path) -> None:
    try:
        with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read()
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"the statistics {url} cannot be had ({reason}): download the file and put it at {path}"
        ) from None
    _parse(content, url, 2)  # before it is kept
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _parse(content: bytes, where: str, count: int) -> Moments:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            mean, cov = (torch.from_numpy(np.asarray(arrays[key], dtype=np.float64)) for key in ("mu", "sigma"))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{where} does not hold the arrays mu and sigma ({error}); remove it") from None
    if len(mean) != WIDTH:
        raise UsageError(f"{where} holds statistics of {len(mean)} features, not of {WIDTH}; remove it")
    try:
        return Moments(count, mean, cov)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; remove it") from None
