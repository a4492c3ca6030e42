"""Feature extractors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...common.errors import unknown
from ...data.base import DataInfo
from .base import Extractor, ExtractorKind
from .custom import Custom, Function
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

_SHIPPED = tuple(KINDS)


def extend(functions: Mapping[str, tuple[Callable[[Tensor], Tensor], str]]) -> None:
    """Add extractors, name -> (function, digest of its source), in place of those added before."""
    for name in [name for name in KINDS if name not in _SHIPPED]:
        del KINDS[name]
    KINDS.update({name: Function(name, function, digest) for name, (function, digest) in functions.items()})


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
