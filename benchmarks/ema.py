"""Exponential moving averages of the weights, for evaluation only: no method here trains against one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ..methods.parts.options import OptionError, part_from_options


class Profile(Protocol):
    def beta(self, batch: int) -> float:
        """What is kept of the average at one step of `batch` images."""
        ...


@dataclass(frozen=True, kw_only=True)
class HalfLife:
    """Half of the average's weight lies on the last `images` images, whatever the batch."""

    images: float

    def __post_init__(self) -> None:
        if self.images <= 0:
            raise ValueError(f"images is {self.images:g}, must be above 0")

    def beta(self, batch: int) -> float:
        return 0.5 ** (batch / self.images)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A fixed factor a step, as papers state it: 0.99993 in iCT, 0.9999 in ECT."""

    factor: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.factor < 1:
            raise ValueError(f"factor is {self.factor:g}, must be from 0 to below 1")

    def beta(self, batch: int) -> float:
        return self.factor


PROFILES: dict[str, type[HalfLife] | type[Constant]] = {"halflife": HalfLife, "constant": Constant}


def build_profile(options: Mapping[str, Any]) -> Profile:
    """The profile of the section `train.ema`: `kind` and its options."""
    kind = options.get("kind")
    if kind not in PROFILES:
        raise OptionError(f"train.ema.kind is {kind!r}, must be one of: {', '.join(PROFILES)}")
    return part_from_options(PROFILES[kind], {k: v for k, v in options.items() if k != "kind"}, "train.ema")


def averaged_copy(weights: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode, where an average starts."""
    return copy.deepcopy(weights).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, weights: nn.Module, beta: float) -> None:
    """average <- beta · average + (1 - beta) · weights; buffers are copied."""
    for mean, weight in zip(average.parameters(), weights.parameters(), strict=True):
        mean.lerp_(weight, 1 - beta)
    for old, new in zip(average.buffers(), weights.buffers(), strict=True):
        old.copy_(new)
