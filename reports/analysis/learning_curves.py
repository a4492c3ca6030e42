"""Learning curves: a metric against training images as mean and range over seeds, and each seed that diverged."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .tables import SeedValue


class Moment(NamedTuple):
    """The seeds after `images` training images: mean, lowest, highest and number of their values."""

    images: int
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class LearningCurve:
    """One configuration, metric and NFE. `moments` are of the seeds that did not diverge, in the order of images.

    lost: (images, value) of each seed that diverged, up to its last value.
    """

    moments: tuple[Moment, ...]
    lost: tuple[tuple[tuple[int, float], ...], ...]


def learning_curves(values: Iterable[SeedValue]) -> dict[tuple[str, str, int], LearningCurve]:
    """(group, metric, NFE) -> learning curve. Values that are not finite are left out."""
    found: dict[tuple[str, str, int], list[SeedValue]] = defaultdict(list)
    for value in values:
        if math.isfinite(value.value):
            found[value.cell.group, value.metric, value.nfe].append(value)
    return {key: _curve(own) for key, own in found.items()}


def _curve(own: Sequence[SeedValue]) -> LearningCurve:
    steady: dict[int, list[float]] = defaultdict(list)
    lost: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for value in sorted(own, key=lambda value: (value.images, value.cell.seed)):
        if value.cell.state == "diverged":
            lost[value.cell.id].append((value.images, value.value))
        else:
            steady[value.images].append(value.value)
    moments = (
        Moment(images, math.fsum(seeds) / len(seeds), min(seeds), max(seeds), len(seeds))
        for images, seeds in steady.items()
    )
    return LearningCurve(tuple(moments), tuple(map(tuple, lost.values())))
