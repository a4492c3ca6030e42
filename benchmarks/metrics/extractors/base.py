"""What a feature extractor is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...common.errors import UsageError
from ...data.base import DataInfo


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N samples, on the CPU.

    values:      float32 or float64 [N, D].
    predictions: int64 [N], the class or mode of each sample (-1: none); None if the extractor does not classify.
    """

    values: Tensor
    predictions: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice) -> Features:
        """The features of some of the samples."""
        return Features(self.values[index], None if self.predictions is None else self.predictions[index])

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Features of all samples of the parts, in order."""
        values = torch.cat([part.values for part in parts]) if parts else torch.empty(0, 0)
        predictions = [part.predictions for part in parts if part.predictions is not None]
        return cls(values, torch.cat(predictions) if predictions else None)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A function from samples to features.

    identity: all that the features depend on besides the samples: name, protocol, a digest of the weights.
    extract:  samples as the data set stores them, [N, ...] of any N, to their features; splits them as it needs.
    costly:   whether features of real data are worth keeping on disk (`references`).
    """

    identity: str
    extract: Callable[[Tensor], Features]
    costly: bool = False

    def __call__(self, samples: Tensor) -> Features:
        return self.extract(samples)


class ExtractorKind(Protocol):
    """How an extractor is built for a data set. `protocol` is "" for extractors with one preprocessing protocol."""

    def check(self, data: DataInfo, protocol: str) -> None:
        """Raise UsageError if `build` would: other samples, an unknown protocol, missing weights. Loads nothing."""
        ...

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        """The extractor, running on `device`. Raises UsageError as `check`, and for damaged weights."""
        ...


def require_images(name: str, data: DataInfo) -> None:
    """Raise UsageError unless the data are images of one or three channels."""
    if not data.quantised or len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise UsageError(
            f"the extractor {name!r} reads images of 1 or 3 channels, which data set {data.name!r} does not hold"
        )


def refuse_protocol(name: str, protocol: str) -> None:
    """Raise UsageError for a protocol of an extractor that has only one."""
    if protocol:
        raise UsageError(f"the extractor {name!r} has no protocol {protocol!r}: only inception has protocols")
