"""Mean and covariance of features that arrive in batches: D² numbers in memory for any number of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 4096  # rows turned to float64 at once: 64 MB at 2,048 features


@dataclass(frozen=True, eq=False)
class Moments:
    """The Gaussian fitted to a set of features.

    count: number of rows it was fitted to, which bounds the rank of the covariance; a large one if unknown.
    mean:  float64 [D].
    cov:   float64 [D, D], unbiased (divided by count − 1).

    Raises ValueError for other shapes or types, NaN or infinity, a negative variance, and a count below 2.
    """

    count: int
    mean: Tensor
    cov: Tensor

    def __post_init__(self) -> None:
        size = len(self.mean) if self.mean.ndim == 1 else -1
        if tuple(self.cov.shape) != (size, size) or {self.mean.dtype, self.cov.dtype} != {torch.float64}:
            raise ValueError(
                f"moments are a mean [D] and a covariance [D, D] in float64, got {self.mean.dtype} "
                f"{list(self.mean.shape)} and {self.cov.dtype} {list(self.cov.shape)}"
            )
        if self.count < 2:
            raise ValueError(f"moments need at least 2 rows, got {self.count}")
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.cov).all()):
            raise ValueError("moments hold NaN or infinity")
        if size and float(self.cov.diagonal().min()) < 0:
            raise ValueError("moments hold a negative variance, so the covariance is none")

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [N, D], N at least 2, on their device. Raises ValueError as `MomentAccumulator`."""
        accumulator = MomentAccumulator()
        accumulator.add(features)
        return accumulator.moments()


class MomentAccumulator:
    """Moments of rows that arrive in batches, on the device of the first batch, in float64.

    Every chunk is centred on its own mean before it is squared and then merged (Chan, Golub & LeVeque 1979), so a
    mean that is large relative to the spread costs no digits, and the split into batches has next to no effect.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0)
        self._scatter = torch.zeros(0)

    def add(self, values: Tensor) -> None:
        """Add the rows of `values` [B, D], any B. Raises ValueError for NaN, infinity or another D than before.

        The moments are then unchanged.
        """
        check(values, least=0)
        if self.count and values.shape[1] != len(self._mean):
            raise ValueError(f"features must be equally wide: {len(self._mean)} before, now {values.shape[1]}")
        if not len(values):
            return
        if not self.count:
            size = values.shape[1]
            self._mean = torch.zeros(size, dtype=torch.float64, device=values.device)
            self._scatter = torch.zeros(size, size, dtype=torch.float64, device=values.device)
        for chunk in values.split(_CHUNK):
            self._merge(chunk.double())

    def moments(self) -> Moments:
        """The moments of all rows so far. Raises ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError(f"moments need at least 2 rows, got {self.count}")
        # A matrix product may be asymmetric in the last bit, a covariance is not.
        return Moments(self.count, self._mean.clone(), (self._scatter + self._scatter.T) / (2 * (self.count - 1)))

    def _merge(self, chunk: Tensor) -> None:
        total = self.count + len(chunk)
        mean = chunk.mean(dim=0)
        shift = mean - self._mean
        centred = chunk - mean
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.count * len(chunk) / total)
        self._mean += shift * (len(chunk) / total)
        self.count = total


def check(*sets: Tensor, least: int = 2) -> None:
    """Raise ValueError unless all sets of features are [N, D] with one D, finite, and N at least `least`."""
    shapes = ", ".join(str(list(values.shape)) for values in sets)
    if any(values.ndim != 2 or len(values) < least for values in sets):
        raise ValueError(f"features must be [N, D] with N at least {least}, got {shapes}")
    if len({values.shape[1] for values in sets}) != 1:
        raise ValueError(f"features must be equally wide, got {shapes}")
    # By chunks, because isfinite of a whole set needs several times its memory.
    if not all(torch.isfinite(chunk).all() for values in sets for chunk in values.split(_CHUNK)):
        raise ValueError("features hold NaN or infinity")
