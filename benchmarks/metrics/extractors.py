"""Feature extractors by name: from samples to the space in which distances are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..data.base import Dataset
from ..data.distributions import Mixture
from ..errors import UsageError, unknown
from .digits_classifier import load_digits_classifier

_BATCH = 500


@dataclass(frozen=True, eq=False)
class Features:
    """What one pass over N samples gives, on the CPU.

    values:      float64 [N, D].
    predictions: int64 [N], the class or mode of each sample (-1: none), or None where the space knows no classes.
    """

    values: Tensor
    predictions: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice) -> Features:
        """The features of some of the samples."""
        return Features(self.values[index], None if self.predictions is None else self.predictions[index])


Extractor = Callable[[Tensor], Features]


def digits(dataset: Dataset, device: torch.device) -> Extractor:
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

    return extract


def points(dataset: Dataset, _device: torch.device) -> Extractor:
    """Points in the plane [N, 2] are their own features; a mixture also knows each point's mode."""
    if dataset.shape != (2,):
        raise UsageError(
            f"the extractor 'points' reads points in the plane, which data set {dataset.name!r} does not hold"
        )
    exact = dataset.exact

    def extract(samples: Tensor) -> Features:
        values = samples.cpu().double()
        return Features(values, exact.nearest(values) if isinstance(exact, Mixture) else None)

    return extract


def pixels8(dataset: Dataset, device: torch.device) -> Extractor:
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

    return extract


BUILDERS: dict[str, Callable[[Dataset, torch.device], Extractor]] = {
    "digits": digits,
    "points": points,
    "pixels8": pixels8,
}


def build(name: str, dataset: Dataset, device: torch.device) -> Extractor:
    """The extractor called `name` for samples of `dataset`, running on `device`.

    Raises UsageError for an unknown name and for a data set whose samples the extractor cannot read.
    """
    if name not in BUILDERS:
        raise unknown("feature extractor", name, BUILDERS)
    return BUILDERS[name](dataset, device)
