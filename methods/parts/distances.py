"""How far the student's output is from its target: one value per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def paper_c(student: Tensor) -> float:
    """c = 0.00054 sqrt(d) for samples of d elements (iCT, Song & Dhariwal 2024, section 3.3)."""
    return 0.00054 * math.sqrt(student[0].numel())


@dataclass(frozen=True, kw_only=True)
class Huber:
    """Pseudo-Huber over the whole image: sqrt(‖a - b‖² + c²) - c (iCT; ECT's norm is the limit c -> 0).

    c: null takes iCT's 0.00054 sqrt(d).
    """

    c: float | None = None

    def __post_init__(self) -> None:
        _check_c(self.c)

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return _huber((student - target).flatten(1).square().sum(1), _c(self.c, student))


@dataclass(frozen=True, kw_only=True)
class HuberElementwiseSum:
    """Pseudo-Huber of every element, summed over a sample: what VCT's code and several ports of iCT compute.

    c: null takes 0.00054 sqrt(d), inside every element.
    """

    c: float | None = None

    def __post_init__(self) -> None:
        _check_c(self.c)

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return _elementwise(student, target, self.c).sum(1)


@dataclass(frozen=True, kw_only=True)
class HuberElementwiseMean:
    """Pseudo-Huber of every element, averaged over a sample: what most public ports of iCT compute."""

    c: float | None = None

    def __post_init__(self) -> None:
        _check_c(self.c)

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return _elementwise(student, target, self.c).mean(1)


def _elementwise(student: Tensor, target: Tensor, c: float | None) -> Tensor:
    return _huber((student - target).flatten(1).square(), _c(c, student))


def _check_c(c: float | None) -> None:
    if c is not None and c < 0:
        raise ValueError(f"c is {c:g}, must be at least 0, or null for 0.00054 sqrt(d)")


def _c(c: float | None, student: Tensor) -> float:
    return paper_c(student) if c is None else c


def _huber(square: Tensor, c: float) -> Tensor:
    # The same as sqrt(square + c²) - c without its cancellation: late stages compare nearly equal outputs.
    # The floor keeps the gradient 0 instead of NaN where c = 0 and student and target agree.
    return square / ((square + c * c).clamp(min=1e-30).sqrt() + c)
