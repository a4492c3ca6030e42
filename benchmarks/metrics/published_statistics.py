"""Reference statistics that others publish: those of clean-fid, for the data sets of this suite that it covers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from ..common.cache import fetch
from ..common.errors import UsageError
from ..common.files import DamagedError
from ..data.base import DataInfo
from .extractors.base import Features
from .feature_sets import FeatureSet
from .moments import Moments

URL = "https://www.cs.cmu.edu/~clean-fid/stats"

#: Our data set: clean-fid's name, split and resolution of the same images, and their number.
NAMES = {"cifar10": ("cifar10", "train", 32, 50_000)}
WIDTH = 2048


class PublishedMoments(FeatureSet):
    """Published moments, for Fréchet distances alone. The file is searched in `folder`, else downloaded to it.

    Raises UsageError for a data set without published statistics, and if the file is missing and cannot be downloaded
    or holds something else.
    """

    def __init__(self, data: DataInfo, protocol: str, folder: Path) -> None:
        super().__init__()
        check_published(data)
        name, split, size, count = NAMES[data.name]
        file = f"{name}_{protocol}_{split}_{size}.npz"
        path = folder / file
        if not path.exists():
            fetch(f"{URL}/{file}", path, lambda downloaded: _read(downloaded, count), f"put the file at {path}")
        self._moments = _read(path, count)

    def first(self, count: int) -> Features:
        raise NotImplementedError("published statistics hold no features")

    def moments(self, count: int | None = None) -> Moments:
        return self._moments


def check_published(data: DataInfo) -> None:
    """Raise UsageError for a data set without published statistics."""
    if data.name not in NAMES:
        raise UsageError(f"clean-fid publishes no statistics for {data.name!r}; it does for: {', '.join(NAMES)}")


def _read(path: Path, count: int) -> Moments:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, cov = (torch.from_numpy(np.asarray(arrays[key], dtype=np.float64)) for key in ("mu", "sigma"))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} does not hold the arrays mu and sigma ({error}); remove it") from None
    if len(mean) != WIDTH:
        raise DamagedError(f"{path} holds statistics of {len(mean)} features, not of {WIDTH}; remove it")
    try:
        return Moments(count, mean, cov)
    except ValueError as error:
        raise DamagedError(f"{path}: {error}; remove it") from None
