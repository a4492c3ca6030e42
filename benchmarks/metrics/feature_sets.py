"""Feature sets: features of samples and their moments, as far as the metrics need them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .distances import square_root
from .extractors.base import Features
from .kernels import kernel_within
from .moments import MomentAccumulator, Moments


class FeatureSet(ABC):
    """Features of samples in a fixed order. Derived quantities are computed once."""

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


class ComputedFeatures(FeatureSet):
    """Features in memory. `moments` of more samples than these may be given, by their count."""

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


class FeatureAccumulator:
    """Takes features batch by batch and keeps what metrics need: the first `kept` rows, and moments of more.

    kept:   number of rows that metrics read themselves.
    counts: numbers of first samples whose moments are needed beyond that; their rows are not kept.
    """

    def __init__(self, kept: int, counts: frozenset[int]) -> None:
        self.kept = kept
        self.seen = 0
        self._parts: list[Features] = []
        self._moments = {count: MomentAccumulator() for count in sorted(counts)}

    def add(self, batch: Features) -> None:
        """Take the features of the next samples."""
        if self.seen < self.kept:
            self._parts.append(batch[: self.kept - self.seen])
        for count, moments in self._moments.items():
            if self.seen < count:
                moments.add(batch.values[: count - self.seen])
        self.seen += len(batch)

    def features(self) -> ComputedFeatures:
        """The feature set of all samples so far."""
        moments = {count: accumulator.moments() for count, accumulator in self._moments.items()}
        return ComputedFeatures(Features.concatenate(self._parts), moments)
