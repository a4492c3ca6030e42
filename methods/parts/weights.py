"""The weight of the loss at a pair of noise levels t > r."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .checks import check_above, check_count


class Fixed:
    """A weight without modules, which leaves weighted distances as they are."""

    def modules(self) -> dict[str, nn.Module]:
        return {}

    def balanced(self, weighted: Tensor, t: Tensor, modules: nn.ModuleDict) -> Tensor:
        return weighted


@dataclass(frozen=True, kw_only=True)
class InverseGap(Fixed):
    """1 / (t - r): iCT, and ECT on CIFAR-10."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return 1 / (t - r)

    def penalty_scale(self, t: float, r: float) -> float:
        # The weighted distance grows as the gap closes, so the penalty grows with the current stage's last gap.
        return 1 / (t - r)


@dataclass(frozen=True, kw_only=True)
class Snr(Fixed):
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


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Snr):
    """λ(t) d / exp(u(t)) + u(t), with λ of `snr` and u learned with the network (EDM2, Karras et al. 2024).

    The loss then has about the same magnitude at all levels, as exp(u) follows λ d. EDM2 adds u to each element of an
    image. Here d is the distance of the whole image, so exp(u) contains the number of elements, the same at all levels.

    channels: Fourier features of ln(t) / 4 that u is linear in.
    """

    channels: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("channels", self.channels, 2**16)

    def modules(self) -> dict[str, nn.Module]:
        return {"log_uncertainty": LogUncertainty(self.channels)}

    def balanced(self, weighted: Tensor, t: Tensor, modules: nn.ModuleDict) -> Tensor:
        u = modules["log_uncertainty"](t)
        return weighted / u.exp() + u


class LogUncertainty(nn.Module):
    """u(t), [B] -> [B]: linear in cos(2π (f ln(t) / 4 + φ)) with random f ~ N(0, 1) and φ ~ U(0, 1). 0 at the start."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels))
        self.register_buffer("phases", torch.rand(channels))
        self.output = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, t: Tensor) -> Tensor:
        angle = t.log()[:, None] / 4 * self.frequencies + self.phases
        return self.output((2 * math.pi * angle).cos()).squeeze(1)
