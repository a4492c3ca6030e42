"""What a feature extractor is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.base import Dataset


@dataclass(frozen=True, eq=False)
class Features:
    """What one pass over N samples gives, on the CPU.

    values:      float32 or float64 [N, D].
    predictions: int64 [N], the class or mode of each sample (-1: none), or None where the space knows no classes.
    """

    values: Tensor
    predictions: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice) -> Features:
        """The features of some of the samples."""
        return Features(self.values[index], None if self.predictions is None else self.predictions[index])


@dataclass(frozen=True, eq=False)
class Extractor:
    """A space of features.

    identity: all that the features depend on besides the samples: name, protocol, a digest of the weights.
    extract:  samples as the data set stores them, [N, ...] of any N, to their features; splits them as it needs.
    costly:   whether features of real data are worth keeping on disk (`references`).
    """

    identity: str
    extract: Callable[[Tensor], Features]
    costly: bool = False

    def __call__(self, samples: Tensor) -> Features:
        return self.extract(samples)


#: (data set, device, protocol) -> extractor; the protocol is "" where there is one way alone.
Builder = Callable[[Dataset, torch.device, str], Extractor]
