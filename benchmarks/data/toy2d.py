"""`toy2d`: points in the plane from an exactly known distribution, to test methods and to show their transport maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..common.errors import unknown
from .base import DataInfo, Dataset
from .distributions import Distribution, Mixture, Spiral

TRAINING_POINTS = 20_000
SEED = 2026  # of the one training set that every run shares

VARIANTS: dict[str, Distribution] = {
    # The example of figure 1 of the VCT paper.
    "two_modes": Mixture(means=((0.0, 0.5), (0.0, -0.5)), std=0.05),
    "eight_modes": Mixture(
        means=tuple((0.8 * math.cos(k * math.pi / 4), 0.8 * math.sin(k * math.pi / 4)) for k in range(8)),
        std=0.05,
    ),
    "spiral": Spiral(turns=1.5, std=0.02),
}


@dataclass(frozen=True)
class Toy2d:
    """The fixed training set of a variant: 20,000 points, float32 [20000, 2].

    variant: one of `VARIANTS`, the first one if None; UsageError is raised for an unknown one.
    """

    variant: str | None = None

    def describe(self) -> DataInfo:
        exact = _exact(self.variant)
        count = TRAINING_POINTS
        return DataInfo(name="toy2d", count=count, shape=(2,), classes=exact.classes, quantised=False, exact=exact)

    def load(self) -> Dataset:
        exact = _exact(self.variant)
        points, labels = exact.sample(TRAINING_POINTS, torch.Generator().manual_seed(SEED))
        return Dataset("toy2d", points, labels, exact.classes, exact)


def _exact(variant: str | None) -> Distribution:
    variant = next(iter(VARIANTS)) if variant is None else variant
    if variant not in VARIANTS:
        raise unknown("variant of toy2d", variant, VARIANTS)
    return VARIANTS[variant]
