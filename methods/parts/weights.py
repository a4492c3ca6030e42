"""The weight of the loss at a pair of noise levels t > r."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .checks import check_above


@dataclass(frozen=True, kw_only=True)
class InverseGap:
    """1 / (t - r): iCT, and ECT on CIFAR-10."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return 1 / (t - r)

    def penalty_scale(self, t: float, r: float) -> float:
        # The weighted distance grows as the gap closes, so the penalty grows with the current stage's last gap.
        return 1 / (t - r)


@dataclass(frozen=True, kw_only=True)
class Snr:
    """1 / t² + 1 / σ_data², which is 1 / c_out² of the EDM preconditioning: EDM, and ECT on ImageNet-64.

    sigma_data: σ_data, the standard deviation of the data that the weight assumes.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_above("sigma_data", self.sigma_data, 0)

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return 1 / t**2 + 1 / self.sigma_data**2

    def penalty_scale(self, t: float, r: float) -> float:
        return 1.0
