"""Which two noise levels are compared: t (noisier, student) and r (cleaner, teacher), and how they close in.

Progress is the share of the training budget in images, so a schedule scales to any budget and batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KarrasBins:
    """Neighbours on a grid that doubles in eight stages from 10 to 1280 intervals (iCT, Song & Dhariwal 2024).

    The index follows a log-normal law of the noise level, integrated over each interval (iCT, eq. 10);
    stage = floor(stages · progress), which is the paper's clock when the number of stages divides the steps.
    """

    s0: int = 10
    s1: int = 1280
    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    p_mean: float = -1.1
    p_std: float = 2.0

    def __post_init__(self) -> None:
        if self.s0 < 1 or self.s1 < self.s0:
            raise ValueError(f"s0 = {self.s0} and s1 = {self.s1}: must be 1 <= s0 <= s1")
        if self.p_std <= 0:
            raise ValueError(f"p_std is {self.p_std:g}, must be above 0")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min:g} and sigma_max = {self.sigma_max:g}: must be 0 < min < max"
            )

    @property
    def stages(self) -> int:
        return int(math.log2(self.s1 // self.s0)) + 1

    def stage(self, progress: float) -> int:
        return min(int(self.stages * progress), self.stages - 1)

    def grid(self, progress: float) -> Tensor:
        """The nodes σ_1 = σ_min < … < σ_N = σ_max of the current stage, float64 [N]."""
        intervals = min(self.s0 * 2 ** self.stage(progress), self.s1)
        return _karras_grid(intervals, self.rho, self.sigma_min, self.sigma_max)

    def probabilities(self, progress: float) -> Tensor:
        """The law of the interval, float64 [N - 1], summing to 1."""
        return _lognormal_bins(self.grid(progress), self.p_mean, self.p_std)

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        grid = self.grid(progress).to(generator.device)
        probabilities = self.probabilities(progress).to(generator.device)
        index = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        return grid[index + 1].float(), grid[index].float()

    def last(self, progress: float) -> tuple[float, float]:
        grid = self.grid(progress)
        return grid[-1].item(), grid[-2].item()


@lru_cache(maxsize=32)
def _karras_grid(intervals: int, rho: float, sigma_min: float, sigma_max: float) -> Tensor:
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = (low + torch.arange(intervals + 1, dtype=torch.float64) / intervals * (high - low)) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # exactly, not to rounding: the boundary condition is at σ_min
    return grid


def _lognormal_bins(grid: Tensor, mean: float, std: float) -> Tensor:
    cumulative = torch.erf((grid.log() - mean) / (math.sqrt(2) * std))
    bins = cumulative.diff()
    return bins / bins.sum()


@dataclass(frozen=True, kw_only=True)
class LognormalGap:
    """Continuous log-normal t, and r = max(0, t (1 - n(t) / q^(s+1))) in stage s (ECT, Geng et al. 2025).

    mapping: "sigmoid" has n(t) = 1 + k·sigmoid(-b t), "const" n(t) = 1. stage s = floor(stages · progress).
    t_max: clamps t from above (needed by the li kernel, whose image vanishes at σ_max); None leaves it unbounded.
    """

    p_mean: float = -1.1
    p_std: float = 2.0
    q: float = 2.0
    stages: int = 8
    mapping: str = "sigmoid"
    k: float = 8.0
    b: float = 1.0
    sigma_max: float = 80.0
    t_max: float | None = None

    def __post_init__(self) -> None:
        if self.mapping not in ("sigmoid", "const"):
            raise ValueError(f"mapping is '{self.mapping}', must be one of: sigmoid, const")
        if self.q <= 1:
            raise ValueError(f"q is {self.q:g}, must be above 1")
        if self.stages < 1:
            raise ValueError(f"stages is {self.stages}, must be at least 1")
        if self.p_std <= 0:
            raise ValueError(f"p_std is {self.p_std:g}, must be above 0")
        if self.t_max is not None and self.t_max <= 0:
            raise ValueError(f"t_max is {self.t_max:g}, must be above 0 or null")

    def stage(self, progress: float) -> int:
        return min(int(self.stages * progress), self.stages - 1)

    def cleaner(self, t: Tensor, progress: float) -> Tensor:
        """The map t -> r, [B] -> [B]."""
        n = 1 + self.k * torch.sigmoid(-self.b * t) if self.mapping == "sigmoid" else 1.0
        return (t * (1 - n / self.q ** (self.stage(progress) + 1))).clamp(min=0)

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        normal = torch.randn(n, generator=generator, device=generator.device)
        t = (self.p_mean + self.p_std * normal).exp()
        if self.t_max is not None:
            t = t.clamp(max=self.t_max)
        return t, self.cleaner(t, progress)

    def last(self, progress: float) -> tuple[float, float]:
        t = torch.tensor([self.sigma_max], dtype=torch.float64)
        return self.sigma_max, self.cleaner(t, progress).item()
