"""`toy2d`: points in the plane from an exactly known distribution, to test methods and to see their transport maps."""

from __future__ import annotations

import math

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


def describe(variant: str | None = None) -> DataInfo:
    """The data set without its samples. The first variant if None. Raises UsageError for an unknown one."""
    exact = _exact(variant)
    return DataInfo(
        name="toy2d", count=TRAINING_POINTS, shape=(2,), classes=exact.classes, quantised=False, exact=exact
    )


def load(variant: str | None = None) -> Dataset:
    """The fixed training set of a variant: 20,000 points, float32 [20000, 2].

    The first variant if None. Raises UsageError for an unknown one.
    """
    exact = _exact(variant)
    points, labels = exact.sample(TRAINING_POINTS, torch.Generator().manual_seed(SEED))
    return Dataset("toy2d", points, labels, exact.classes, exact)


def _exact(variant: str | None) -> Distribution:
    variant = next(iter(VARIANTS)) if variant is None else variant
    if variant not in VARIANTS:
        raise unknown("variant of toy2d", variant, VARIANTS)
    return VARIANTS[variant]
