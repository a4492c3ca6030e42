"""Feature extractors by name: from samples to the space in which distances are taken."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...common.errors import UsageError, unknown
from ...data.base import Dataset
from ...data.distributions import Mixture
from .base import Builder, Extractor, Features
from .custom import custom
from .digits import SHA256, load_digits_classifier
from .dinov2 import dinov2
from .efficientnet_lite0 import efficientnet_lite0
from .inception import inception
from .squeezenet import squeezenet

_BATCH = 500


def digits(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
    """The shipped digits classifier: 64 features and the predicted class of uint8 images [N, 1, 8, 8]."""
    if not dataset.quantised or dataset.shape != (1, 8, 8):
        raise UsageError(
            f"the extractor 'digits' reads grey images of 8×8 pixels, which data set {dataset.name!r} does not hold"
        )
    classifier = load_digits_classifier().to(device)

    @torch.no_grad()
    def extract(samples: Tensor) -> Features:
        outputs = [classifier(dataset.to_model(batch.to(device))) for batch in samples.split(_BATCH)]
        features, logits = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
        return Features(features.double(), logits.argmax(dim=1))

    return Extractor(f"digits {SHA256[:16]}", extract)


def points(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
    """Points in the plane [N, 2] are their own features; a mixture also knows each point's mode."""
    if dataset.shape != (2,):
        raise UsageError(
            f"the extractor 'points' reads points in the plane, which data set {dataset.name!r} does not hold"
        )
    exact = dataset.exact

    def extract(samples: Tensor) -> Features:
        values = samples.cpu().double()
        return Features(values, exact.nearest(values) if isinstance(exact, Mixture) else None)

    return Extractor("points", extract)


def pixels8(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
    """Mean values of an 8×8 grid of cells, for uint8 images of any size [N, C, H, W]: 64 C features in [-1, 1].

    No weights and hardly any time, so it serves short trials; it sees layout and contrast, not what is in an image.
    """
    if not dataset.quantised:
        raise UsageError(f"the extractor 'pixels8' reads images, which data set {dataset.name!r} does not hold")

    def extract(samples: Tensor) -> Features:
        parts = [
            functional.adaptive_avg_pool2d(dataset.to_model(batch.to(device)).double(), 8).flatten(1).cpu()
            for batch in samples.split(_BATCH)
        ]
        return Features(torch.cat(parts), None)

    return Extractor("pixels8", extract)


BUILDERS: dict[str, Builder] = {
    "inception": inception,
    "efficientnet_lite0": efficientnet_lite0,
    "squeezenet": squeezenet,
    "dinov2": dinov2,
    "digits": digits,
    "points": points,
    "pixels8": pixels8,
}


def build(name: str, dataset: Dataset, device: torch.device, protocol: str = "") -> Extractor:
    """The extractor called `name` for samples of `dataset`, running on `device`; `module:function` is one's own.

    Raises UsageError for an unknown name and for a data set whose samples the extractor cannot read.
    """
    if ":" in name:
        return custom(name)(dataset, device, protocol)
    if name not in BUILDERS:
        raise unknown("feature extractor", name, BUILDERS)
    return BUILDERS[name](dataset, device, protocol)
