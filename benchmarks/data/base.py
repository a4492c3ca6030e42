"""Data sets: what their samples look like, the samples themselves, and the way to and from the model's scale."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .distributions import Distribution

SPLIT_SEED = 0  # of the choice of held-out samples, the same in every run


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What is known of a training set without reading its samples.

    name:      the name in the registry.
    count:     number of samples.
    shape:     of one sample: (C, H, W), or (2,) for points in the plane.
    classes:   number of classes (1 if the samples have none).
    quantised: whether samples are uint8 images, to which the model's output is rounded; float32 otherwise.
    exact:     the distribution that the samples were drawn from, if it is known.
    held_out:  number of further samples that are never trained on.
    """

    name: str
    count: int
    shape: tuple[int, ...]
    classes: int
    quantised: bool = True
    exact: Distribution | None = None
    held_out: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of all samples as they are stored."""
        return self.count * math.prod(self.shape) * (1 if self.quantised else 4)

    def to_model(self, batch: Tensor) -> Tensor:
        """Samples on the scale of the model: float32 of the same shape.

        Images become x = uint8/127.5 - 1, as in EDM and in every method here: black is -1, white is 1, and published
        noise levels keep their meaning. Points pass unchanged.
        """
        return batch.float() / 127.5 - 1 if self.quantised else batch

    def from_model(self, x: Tensor, *, truncate: bool = False) -> Tensor:
        """The model's output as samples: uint8 images of the same shape, or points unchanged.

        Images are clamped and rounded half up from 127.5x + 127.5. With `truncate` they are cast instead of rounded:
        every image is then darker by half a grey level on average, which Fréchet distances detect.

        Raises ValueError if an image holds NaN or infinity: as uint8 a diverged sample would pass for an image.
        """
        if not self.quantised:
            return x
        if not torch.isfinite(x).all():
            raise ValueError("cannot quantise samples that are not finite")
        return (x.float() * 127.5 + 127.5).clamp(0, 255).add(0.0 if truncate else 0.5).floor().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Dataset:
    """All samples of a training set.

    name:    the name in the registry.
    images:  uint8 [N, C, H, W], or float32 [N, 2] for points in the plane; possibly mapped from a read-only file.
    labels:  int64 [N], each in [0, classes).
    classes: number of classes (1 if the samples have none).
    exact:   the distribution that the samples were drawn from, if it is known.
    held_out: further samples [M, ...] that are never trained on, for metrics whose name ends in `_refheldout`.

    Images stay uint8: a quarter of the memory, exact copies, and metrics that compare files with files. Only the model
    sees floats.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    exact: Distribution | None = None
    held_out: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def info(self) -> DataInfo:
        """The data set without its samples."""
        return DataInfo(
            name=self.name,
            count=len(self),
            shape=tuple(self.images.shape[1:]),
            classes=self.classes,
            quantised=self.images.dtype == torch.uint8,
            exact=self.exact,
            held_out=0 if self.held_out is None else len(self.held_out),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W), or (2,) for points."""
        return self.info.shape

    @property
    def quantised(self) -> bool:
        """Whether samples are uint8 images, to which the model's output is rounded."""
        return self.info.quantised

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any sample, label, shape or type (a truncated SHA-256)."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def to_model(self, batch: Tensor) -> Tensor:
        """See `DataInfo.to_model`."""
        return self.info.to_model(batch)

    def from_model(self, x: Tensor, *, truncate: bool = False) -> Tensor:
        """See `DataInfo.from_model`."""
        return self.info.from_model(x, truncate=truncate)


def held_out_count(count: int, share: float) -> int:
    """How many of `count` samples a share of them is, rounded half up."""
    return math.floor(count * share + 0.5)


def split(dataset: Dataset, share: float) -> Dataset:
    """The data set with a fixed random share of its samples held out of training.

    The split depends on the number of samples alone. Both parts keep the order of the samples and are copies in memory.
    """
    if not share:
        return dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SPLIT_SEED))
    count = held_out_count(len(dataset), share)
    held, kept = order[:count].sort().values, order[count:].sort().values
    return replace(dataset, images=dataset.images[kept], labels=dataset.labels[kept], held_out=dataset.images[held])


class Source(Protocol):
    """Where a data set is read from."""

    def describe(self) -> DataInfo:
        """The data set without its samples. Nothing is downloaded.

        Raises UsageError if files are missing, unless `load` may download them.
        """
        ...

    def load(self) -> Dataset:
        """The data set. Raises UsageError if files are missing, damaged or cannot be downloaded."""
        ...
