"""One side of a comparison: features of samples, and their moments, as far as the metrics need them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .distances import square_root
from .extractors.base import Features
from .kernels import kernel_within
from .moments import Accumulator, Moments


class Side(ABC):
    """Samples seen through an extractor, in a fixed order. What is worked out of them is remembered."""

    def __init__(self) -> None:
        self._roots: dict[int | None, Tensor] = {}
        self._within: dict[int, float] = {}

    @abstractmethod
    def first(self, count: int) -> Features:
        """The features of the first `count` samples, or of as many as there are."""

    @abstractmethod
    def moments(self, count: int | None = None) -> Moments:
        """Mean and covariance of the first `count` samples; of all, if None."""

    def root(self, count: int | None = None) -> Tensor:
        """A matrix R [D, D] with R Rᵀ = the covariance of the same samples: half the work of a Fréchet distance."""
        if count not in self._roots:
            self._roots[count] = square_root(self.moments(count).cov)
        return self._roots[count]

    def within(self, count: int) -> float:
        """The mean of the kernel over pairs of different rows among the first `count`."""
        if count not in self._within:
            self._within[count] = kernel_within(self.first(count).values)
        return self._within[count]


class Held(Side):
    """A side whose features are in memory; of longer runs than these the `moments` may be given, by their count."""

    def __init__(self, features: Features, moments: dict[int, Moments] | None = None) -> None:
        super().__init__()
        self.features = features
        self._moments = dict(moments or {})

    def first(self, count: int) -> Features:
        return self.features[:count]

    def moments(self, count: int | None = None) -> Moments:
        whole = max([len(self.features), *self._moments])
        count = whole if count is None else min(count, whole)
        if count not in self._moments:
            self._moments[count] = Moments.of(self.features.values[:count])
        return self._moments[count]


class Collector:
    """Takes features batch by batch and keeps what is needed of them: the first `kept` rows, moments of longer runs.

    kept:   how many rows metrics read as they are.
    counts: of how many first samples moments are wanted beyond that; no row is kept for these.
    """

    def __init__(self, kept: int, counts: frozenset[int]) -> None:
        self.kept, self.counts = kept, sorted(counts)
        self.seen = 0
        self._parts: list[Features] = []
        self._accumulators = {count: Accumulator() for count in self.counts}

    @property
    def missing(self) -> int:
        """How many more samples are needed."""
        return max(self.kept, *self.counts, 0) - self.seen

    def add(self, batch: Features) -> None:
        if self.seen < self.kept:
            self._parts.append(batch[: self.kept - self.seen])
        for count, accumulator in self._accumulators.items():
            if self.seen < count:
                accumulator.add(batch.values[: count - self.seen])
        self.seen += len(batch)

    def side(self) -> Held:
        """All that was added."""
        values = torch.cat([part.values for part in self._parts]) if self._parts else torch.empty(0, 0)
        predictions = [part.predictions for part in self._parts if part.predictions is not None]
        moments = {count: accumulator.moments() for count, accumulator in self._accumulators.items()}
        return Held(Features(values, torch.cat(predictions) if predictions else None), moments)
