"""Distance between the student's output and its target, one value per sample: pseudo-Huber in three forms, square."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .checks import check_at_least


def paper_c(student: Tensor) -> float:
    """c = 0.00054 sqrt(d) for samples of d elements (iCT, Song & Dhariwal 2024, section 3.3)."""
    return 0.00054 * math.sqrt(student[0].numel())


@dataclass(frozen=True, kw_only=True)
class _PseudoHuber:
    c: float | None = None

    def __post_init__(self) -> None:
        if self.c is not None:
            check_at_least("c", self.c, 0)

    def _of(self, square: Tensor, student: Tensor) -> Tensor:
        """sqrt(square + c²) - c, elementwise."""
        c = paper_c(student) if self.c is None else self.c
        # The same without its cancellation: late stages compare nearly equal outputs. The floor keeps the gradient 0
        # instead of NaN where c = 0 and student and target agree.
        return square / ((square + c * c).clamp(min=1e-30).sqrt() + c)


@dataclass(frozen=True, kw_only=True)
class Huber(_PseudoHuber):
    """Pseudo-Huber over the whole image: sqrt(‖a - b‖² + c²) - c (iCT; ECT's norm is the limit c -> 0).

    c: the scale below which the distance is quadratic; null takes iCT's 0.00054 sqrt(d) for samples of d elements.
    """

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return self._of((student - target).flatten(1).square().sum(1), student)


@dataclass(frozen=True, kw_only=True)
class HuberElementwiseSum(_PseudoHuber):
    """Pseudo-Huber of every element, summed over a sample: VCT's code and several ports of iCT.

    c: the scale below which the distance is quadratic; null takes 0.00054 sqrt(d), inside every element.
    """

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return self._of((student - target).flatten(1).square(), student).sum(1)


@dataclass(frozen=True, kw_only=True)
class HuberElementwiseMean(_PseudoHuber):
    """Pseudo-Huber of every element, averaged over a sample: most public ports of iCT.

    c: the scale below which the distance is quadratic; null takes 0.00054 sqrt(d), inside every element.
    """

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return self._of((student - target).flatten(1).square(), student).mean(1)


@dataclass(frozen=True, kw_only=True)
class Squared:
    """‖a - b‖², summed over a sample (EDM)."""

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        return (student - target).flatten(1).square().sum(1)
