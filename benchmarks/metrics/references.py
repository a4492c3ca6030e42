"""Features of the real data: extracted once, cached on disk if that takes long, and read back.

A folder of the cache belongs to one data set and extractor. Its name is a hash of all that the features depend on: the
bytes of the images and the extractor's identity, which includes its weights and its protocol. Features are stored in
pieces of 200 rows, each written atomically, so that an hour of work on a slow machine can be interrupted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.cache import build_unless_taken, cache_folder, read_or_build
from ..common.files import atomic_path
from ..data.base import Dataset
from .extractors.base import Extractor, Features
from .feature_sets import FeatureSet
from .moments import MomentAccumulator, Moments

SEED = 0  # of everything random in the choice of real samples, so that every run has the same references
PIECE = 200  # samples per file, and between two checks whether to stop: 20 s of Inception on two slow cores
KEPT = 100_000  # features that are kept at most: 800 MB of Inception's; moments are taken from all samples
FORMAT = 1  # increased when the content of the files changes

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """A fixed sequence of `count` samples: `samples(start, stop)` returns a part, the fingerprint identifies it."""

    name: str
    fingerprint: str
    count: int
    samples: Callable[[int, int], Tensor]


def real_samples(dataset: Dataset) -> Source:
    """The samples of a data set in a random order that never changes."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SEED))
    return Source(
        dataset.name, dataset.fingerprint, len(dataset), lambda start, stop: dataset.images[order[start:stop]]
    )


def held_out_samples(dataset: Dataset) -> Source:
    """The samples that are held out of training, in their order. Raises ValueError where there are none."""
    images = dataset.held_out
    if images is None:
        raise ValueError(f"no samples of {dataset.name} are held out")
    held = replace(dataset, images=images, labels=torch.zeros(len(images), dtype=torch.int64), held_out=None)
    return Source(f"{dataset.name}-heldout", held.fingerprint, len(images), lambda start, stop: images[start:stop])


def noise(dataset: Dataset) -> Source:
    """Standard normal noise, quantised as a model's output is, without end."""

    def piece(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED + number)
        return dataset.from_model(torch.randn(PIECE, *dataset.shape, generator=generator))

    def samples(start: int, stop: int) -> Tensor:
        first = start // PIECE
        pieces = [piece(number) for number in range(first, -(-stop // PIECE))]
        return torch.cat(pieces)[start - first * PIECE :][: stop - start]

    return Source(f"{dataset.name}-noise", f"noise {dataset.shape} {dataset.images.dtype}", sys.maxsize, samples)


class StoppedError(Exception):
    """A signal or a time limit asked to stop, which was noticed between two pieces; finished pieces stay on disk."""


class Reference(FeatureSet):
    """The features of a fixed source of samples: the real ones of a data set in a fixed random order, or noise.

    Nothing is computed before it is needed. Results of a costly extractor are stored in `folder` below the cache; of
    several processes that need the same pieces, each extracts some.

    should_stop: called between pieces of a costly extractor; StoppedError is raised if it returns True.
    """

    def __init__(
        self,
        source: Source,
        extractor: Extractor,
        cache: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.source, self.extractor, self.should_stop = source, extractor, should_stop
        self._features: Features | None = None
        self._moments: dict[int, Moments] = {}
        self.folder: Path | None = None
        if extractor.costly:
            text = f"{FORMAT} {SEED} {source.fingerprint} {extractor.identity}"
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            self.folder = (cache or cache_folder("references")) / f"{source.name}-{key}"

    def first(self, count: int) -> Features:
        """The features of the first `count` samples in the fixed order, or of as many as there are and are kept."""
        count = min(count, self.source.count, KEPT)
        if self._features is None or len(self._features) < count:
            self._features = Features.concatenate(list(self._pieces(count)))
        return self._features[:count]

    def moments(self, count: int | None = None) -> Moments:
        """Mean and covariance of the first `count` samples; of all, if None."""
        count = self.source.count if count is None else min(count, self.source.count)
        if count not in self._moments:
            self._moments[count] = self._read_moments(count) or self._compute_moments(count)
        return self._moments[count]

    def _compute_moments(self, count: int) -> Moments:
        accumulator = MomentAccumulator()
        for piece in self._pieces(count):
            accumulator.add(piece.values)
        moments = accumulator.moments()
        if self.folder is not None:
            with atomic_path(self._moments_path(count)) as temporary:
                safetensors.torch.save_file({"mean": moments.mean, "cov": moments.cov.contiguous()}, temporary)
        return moments

    def _read_moments(self, count: int) -> Moments | None:
        if self.folder is None or not self._moments_path(count).exists():
            return None
        try:
            held = safetensors.torch.load_file(self._moments_path(count))
            return Moments(count, held["mean"], held["cov"])
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s) and is computed again", self._moments_path(count), error)
            return None

    def _moments_path(self, count: int) -> Path:
        assert self.folder is not None
        return self.folder / f"moments-{count}.safetensors"

    def _pieces(self, count: int) -> Iterator[Features]:
        """The features of the first `count` samples, in pieces; only the last one may be short."""
        for start in range(0, count, PIECE):
            if self.extractor.costly and self.should_stop():
                raise StoppedError
            wanted = min(PIECE, count - start)
            if self.folder is None or start >= KEPT:
                yield self.extractor(self.source.samples(start, start + wanted))
            else:
                yield self._stored(start)[:wanted]

    def extract(self, count: int) -> None:
        """Extract the pieces of the first `count` samples that are not on disk and that no other process extracts.

        What others have taken may be unfinished at the end. Raises StoppedError.
        """
        if self.folder is None:
            return
        for start in range(0, min(count, self.source.count, KEPT), PIECE):
            if self.should_stop():
                raise StoppedError
            build_unless_taken(self._piece_path(start), self._builder(start))

    def _piece_path(self, start: int) -> Path:
        assert self.folder is not None
        return self.folder / f"features-{start // PIECE:05d}.npy"

    def _rows(self, start: int) -> int:
        return min(PIECE, self.source.count - start)

    def _builder(self, start: int) -> Callable[[Path], None]:
        """A function that extracts the piece from sample `start` on and writes it to a file."""

        def build(temporary: Path) -> None:
            began, rows = time.monotonic(), self._rows(start)
            values = self.extractor(self.source.samples(start, start + rows)).values.float()
            with temporary.open("wb") as file:
                np.save(file, values.numpy(), allow_pickle=False)
            rate = rows / max(time.monotonic() - began, 1e-9)
            log.info("%s: features of %d samples extracted, %.0f/s", self.source.name, start + rows, rate)

        return build

    def _stored(self, start: int) -> Features:
        """The features of the piece from sample `start` on, through the cache."""

        def read(path: Path) -> Tensor | None:
            return _read_piece(path, self._rows(start))

        return Features(read_or_build(self._piece_path(start), read, self._builder(start)), None)


def _read_piece(path: Path, rows: int) -> Tensor | None:
    """The features in a file; None if it is missing or damaged."""
    try:
        values = np.load(path, allow_pickle=False)
        if values.dtype != np.float32 or values.ndim != 2 or len(values) != rows or not np.isfinite(values).all():
            raise ValueError(f"{values.dtype} {values.shape} instead of {rows} rows of finite float32")
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        log.warning("%s is damaged (%s) and is extracted again", path, error)
        return None
    return torch.from_numpy(values)
