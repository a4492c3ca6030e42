"""Extractors without weights: points in the plane as they are, and coarse pixels of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...common.errors import UsageError
from ...data.base import DataInfo
from ...data.distributions import Mixture
from .base import Extractor, Features, refuse_protocol

BATCH = 500


class Points:
    """Points in the plane [N, 2] are their own features; for a mixture predictions are the modes."""

    def check(self, data: DataInfo, protocol: str) -> None:
        refuse_protocol("points", protocol)
        if data.shape != (2,):
            raise UsageError(
                f"the extractor 'points' reads points in the plane, which data set {data.name!r} does not hold"
            )

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        self.check(data, protocol)
        exact = data.exact

        def extract(samples: Tensor) -> Features:
            values = samples.cpu().double()
            return Features(values, exact.nearest(values) if isinstance(exact, Mixture) else None)

        return Extractor("points", extract)


class Pixels8:
    """Mean values of an 8×8 grid of cells, for uint8 images of any size [N, C, H, W]: 64 C features in [-1, 1].

    Fast and without weights, for short trials: sensitive to layout and contrast, blind to content.
    """

    def check(self, data: DataInfo, protocol: str) -> None:
        refuse_protocol("pixels8", protocol)
        if not data.quantised:
            raise UsageError(f"the extractor 'pixels8' reads images, which data set {data.name!r} does not hold")

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        self.check(data, protocol)

        def extract(samples: Tensor) -> Features:
            parts = [
                F.adaptive_avg_pool2d(data.to_model(batch.to(device)).double(), 8).flatten(1).cpu()
                for batch in samples.split(BATCH)
            ]
            return Features(torch.cat(parts), None)

        return Extractor("pixels8", extract)
