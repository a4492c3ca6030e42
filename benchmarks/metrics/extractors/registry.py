"""Feature extractors by name."""

from __future__ import annotations

import torch

from ...common.errors import unknown
from ...data.base import DataInfo
from .base import Extractor, ExtractorKind
from .custom import Custom
from .digits import Digits
from .dinov2 import DINOV2
from .inception import INCEPTION
from .plain import Pixels8, Points

KINDS: dict[str, ExtractorKind] = {
    "inception": INCEPTION,
    "dinov2": DINOV2,
    "digits": Digits(),
    "points": Points(),
    "pixels8": Pixels8(),
}


def build(name: str, data: DataInfo, device: torch.device, protocol: str = "") -> Extractor:
    """The extractor called `name` for samples of `data`, running on `device`; `module:function` is the user's own.

    Raises UsageError for an unknown name and for samples that the extractor cannot read.
    """
    return extractor_kind(name).build(data, device, protocol)


def extractor_kind(name: str) -> ExtractorKind:
    """Checks and builds the extractors called `name`. Raises UsageError for an unknown name."""
    if ":" in name:
        return Custom(name)
    if name not in KINDS:
        raise unknown("feature extractor", name, KINDS)
    return KINDS[name]
