"""The two noise levels that are compared, t (noisier, student) and r (cleaner, teacher), in the course of training.

Progress is the share of the training budget in images, so a schedule scales to any budget and batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from .checks import check_above, check_at_least, check_choice, check_sigma_range

CLOSEST = 1e-6
"""The least (t - r) / t that is accepted, 17 roundings of float32: r must not round to t."""


@dataclass(frozen=True, kw_only=True)
class KarrasBins:
    """Neighbours on a grid that doubles in eight stages from 10 to 1280 intervals (iCT, Song & Dhariwal 2024).

    Nodes as in EDM: σ_i = (σ_min^(1/ρ) + (i - 1)/(N - 1) (σ_max^(1/ρ) - σ_min^(1/ρ)))^ρ; t, r = σ_{i+1}, σ_i.
    The index i follows a log-normal distribution of the noise level, integrated over each interval (iCT, eq. 10).

    >>> KarrasBins().last(progress=0.0)  # (t, r) of the noisiest of the first stage's ten intervals
    (80.0, 45.3...)

    sigma_min, sigma_max: the ends of the grid.
    p_mean, p_std: mean and standard deviation of ln σ in the distribution of noise levels.
    s0, s1: intervals of the first grid, and the most that a grid has: min(s0 · 2^stage, s1). By the paper there are
        L = log2(floor(s1 / s0)) + 1 stages; where that is not a whole number, the last is shorter and has s1 intervals.
    rho: exponent of the grid: σ^(1/ρ) is evenly spaced.
    stage_clock: "progress" is stage = floor(L · progress); "steps" the paper's floor(k / floor(K / L)) at step k of K,
        which differs where K is not a multiple of L: the last stage is then longer.
    index: of an interval. "lognormal" as above, "uniform" every interval alike (CT; in VCT's code `uniform_time`).
    scales: how grids grow. "exponential" as above; "baseline" of ceil(sqrt(u ((s1 + 1)² - s0²) + s0²)) nodes at
        progress u (CT, Song et al. 2023), without stages; "none" of s1 intervals throughout.
    total_steps: K; set from the budget, not an option.
    """

    s0: int = 10
    s1: int = 1280
    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    p_mean: float = -1.1
    p_std: float = 2.0
    stage_clock: str = "progress"
    index: str = "lognormal"
    scales: str = "exponential"
    total_steps: int | None = field(default=None, metadata={"option": False})

    phases = 1
    denoises = False

    def __post_init__(self) -> None:
        check_choice("stage_clock", self.stage_clock, ("progress", "steps"))
        check_choice("index", self.index, ("lognormal", "uniform"))
        check_choice("scales", self.scales, ("exponential", "baseline", "none"))
        if not 1 <= self.s0 <= self.s1 <= 10**6:
            raise ValueError(f"s0 = {self.s0} and s1 = {self.s1}: must be 1 <= s0 <= s1 <= 1000000")
        if not 0.1 <= self.rho <= 1000:
            raise ValueError(f"rho is {self.rho:g}, must be from 0.1 to 1000")
        check_above("p_std", self.p_std, 0)
        check_sigma_range(self.sigma_min, self.sigma_max)
        # The nearest neighbours, for their size, are those at the top of the finest grid.
        step = (1 - (self.sigma_min / self.sigma_max) ** (1 / self.rho)) / self.s1
        if 1 - (1 - step) ** self.rho < CLOSEST:
            raise ValueError(
                f"s1 = {self.s1}: with rho = {self.rho:g}, float32 can hardly tell the neighbours on a grid of so many "
                f"levels from {self.sigma_min:g} to {self.sigma_max:g} apart, so it must be smaller"
            )

    def limited_to(self, limit: float) -> KarrasBins:
        if self.sigma_max > limit:
            raise ValueError(f"sigma_max is {self.sigma_max:g}, must be at most that of the process, {limit:g}")
        return self

    @property
    def _stages(self) -> float:
        """L above."""
        return math.log2(self.s1 // self.s0) + 1

    @property
    def _last_stage(self) -> int:
        """The first stage with s1 intervals: log2(s1 / s0) rounded up."""
        return (-(-self.s1 // self.s0) - 1).bit_length()

    def stage(self, progress: float) -> int:
        if self.scales != "exponential":
            return 0
        if self.stage_clock == "steps":
            length = max(1, math.floor(_steps(self.total_steps) / self._stages))
            return min(round(progress * _steps(self.total_steps)) // length, self._last_stage)
        return min(int(self._stages * progress), self._last_stage)

    def phase_boundary(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def grid(self, progress: float) -> Tensor:
        """The nodes σ_1 = σ_min < … < σ_N = σ_max of the current stage, float64 [N]."""
        return _karras_grid(self._intervals(progress), self.rho, self.sigma_min, self.sigma_max)

    def _intervals(self, progress: float) -> int:
        match self.scales:
            case "none":
                return self.s1
            case "baseline":
                nodes = math.ceil(math.sqrt(progress * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2))
                return max(1, nodes - 1)
            case _:
                return min(self.s0 * 2 ** self.stage(progress), self.s1)

    def probabilities(self, progress: float) -> Tensor:
        """Probability of each interval, float64 [N - 1], summing to 1."""
        return self._probabilities(self.grid(progress))

    def _probabilities(self, grid: Tensor) -> Tensor:
        if self.index == "uniform":
            return torch.full((len(grid) - 1,), 1 / (len(grid) - 1), dtype=torch.float64)
        return _lognormal_bins(grid, self.p_mean, self.p_std)

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        grid, probabilities, cumulative = _grid_on_device(self, self._intervals(progress), generator.device)
        if n == 1:
            index = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        else:  # what multinomial draws, which is not deterministic on CUDA; a single sample it draws otherwise
            uniform = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
            index = torch.searchsorted(cumulative, uniform)
        return grid[index + 1].float(), grid[index].float()

    def t_to_r(self, t: Tensor, progress: float) -> Tensor:
        """One interval down in σ^(1/ρ): at the nodes their lower neighbours, the same rule between them.

        [B] -> [B], at least σ_min; t must lie above it.
        """
        grid = self.grid(progress) ** (1 / self.rho)
        step = (grid[-1] - grid[0]) / (len(grid) - 1)
        r = (t.double() ** (1 / self.rho) - step.to(t.device)) ** self.rho
        return r.clamp(min=self.sigma_min).to(t.dtype)

    def last(self, progress: float) -> tuple[float, float]:
        grid = self.grid(progress)
        return grid[-1].item(), grid[-2].item()


@lru_cache(maxsize=32)
def _karras_grid(intervals: int, rho: float, sigma_min: float, sigma_max: float) -> Tensor:
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = (low + torch.arange(intervals + 1, dtype=torch.float64) / intervals * (high - low)) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # exactly, not to rounding: the boundary condition is at σ_min
    return grid


@lru_cache(maxsize=8)
def _grid_on_device(times: KarrasBins, intervals: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes [N], probabilities and cumulative probabilities [N - 1]: copied once, since the host waits for the copy."""
    grid = _karras_grid(intervals, times.rho, times.sigma_min, times.sigma_max)
    probabilities = times._probabilities(grid)
    cumulative = probabilities.cumsum(0)
    return grid.to(device), probabilities.to(device), (cumulative / cumulative[-1]).to(device)


def _lognormal_bins(grid: Tensor, mean: float, std: float) -> Tensor:
    cumulative = torch.erf((grid.log() - mean) / (math.sqrt(2) * std))
    bins = cumulative.diff()
    return bins / bins.sum()


def _steps(total: int | None) -> int:
    if total is None:
        raise ValueError("a stage clock that counts steps needs the total number of steps")
    return total


@dataclass(frozen=True, kw_only=True)
class LognormalGap:
    """Continuous log-normal t, and r = max(0, t (1 - n(t) / q^a)) with a growing exponent a (ECT, Geng et al. 2025).

    ln t ~ N(p_mean, p_std²). With q = 2 and eight stages 1 - r/t halves from stage to stage.

    p_mean, p_std: mean and standard deviation of ln t.
    q: base of the step; with exponent a the relative step (t - r) / t is n(t) / q^a.
    k, b: height and slope of n(t) = 1 + k·sigmoid(-b t), under the mappings "sigmoid" and "smooth".
    sigma_max: the level where sampling starts, and the top of the phases.
    mapping: how r follows t. "sigmoid" has n(t) = 1 + k·sigmoid(-b t) and the staircase a = stage + first_exponent;
        "const" the same staircase with n(t) = 1; "smooth" n(t) as in sigmoid and, in place of the staircase,
        a = first_exponent + (stages - 1) · progress (for SCT's "smoother schedule", whose constants are not published).
    stages: of the staircase, the first with exponent first_exponent.
    first_exponent: 1 as in the published code; 0 has the paper's stage of pure denoising before the others. `stages`
        counts it, so that the last of the others is dropped unless `stages` is one more.
    stage_clock: "progress" is stage = floor(stages · progress); "ticks" reproduces the published loop, whose stages
        start one step late.
    t_max: clamps t from above; None leaves it unbounded, or bounded by the process (li, whose image vanishes at σ_max).
    truncate: (low, high) draws t from the distribution truncated to these levels, as TCM does; () leaves it whole.
    r_min: what r is raised to, short of t itself (1e-6 in TCM); 0 allows r = 0.
    phases: cuts (0, σ_max] into that many pieces at the nodes of the ρ = 7 grid of [0.002, σ_max]; r stays within t's
        piece (SCT's phased option, after the PCM and MCM papers).
    total_steps: of the budget; set from it, not an option.
    """

    p_mean: float = -1.1
    p_std: float = 2.0
    q: float = 2.0
    stages: int = 8
    mapping: str = "sigmoid"
    k: float = 8.0
    b: float = 1.0
    sigma_max: float = 80.0
    first_exponent: int = 1
    stage_clock: str = "progress"
    t_max: float | None = None
    truncate: tuple[float, ...] = ()
    r_min: float = 0.0
    phases: int = 1
    total_steps: int | None = field(default=None, metadata={"option": False})

    denoises = False

    def __post_init__(self) -> None:
        check_choice("mapping", self.mapping, ("sigmoid", "const", "smooth"))
        check_choice("stage_clock", self.stage_clock, ("progress", "ticks"))
        check_above("q", self.q, 1)
        check_at_least("stages", self.stages, 1)
        check_at_least("k", self.k, 0)  # below 0 r would not stay under t
        check_at_least("phases", self.phases, 1)
        if self.first_exponent not in (0, 1):
            raise ValueError(f"first_exponent is {self.first_exponent}, must be 0 or 1")
        exponent = self.stages - 1 + self.first_exponent
        if self.q ** -float(exponent) < CLOSEST:
            raise ValueError(
                f"q = {self.q:g} and stages = {self.stages}: the last stage has r = t (1 - n / {self.q:g}^{exponent}), "
                f"too near to t for float32; q^-{exponent} must be at least {CLOSEST:g}"
            )
        check_above("p_std", self.p_std, 0)
        check_above("sigma_max", self.sigma_max, 0.002)
        if self.t_max is not None:
            check_above("t_max", self.t_max, 0)
        check_at_least("r_min", self.r_min, 0)
        if self.truncate and not (len(self.truncate) == 2 and 0 < self.truncate[0] < self.truncate[1]):
            raise ValueError(f"truncate is {list(self.truncate)}, must be [low, high] with 0 < low < high, or []")

    def limited_to(self, limit: float) -> LognormalGap:
        for name, level in (("t_max", self.t_max or 0.0), ("sigma_max", self.sigma_max), ("truncate", self._highest)):
            if level > limit:
                raise ValueError(f"{name} goes to {level:g}, must be at most sigma_max of the process, {limit:g}")
        return replace(self, t_max=limit) if self.t_max is None and limit < math.inf else self

    @property
    def _highest(self) -> float:
        return self.truncate[1] if self.truncate else 0.0

    def stage(self, progress: float) -> int:
        if self.stage_clock == "ticks":
            total = _steps(self.total_steps)
            return self.stages * max(0, round(progress * total) - 1) // total
        return min(int(self.stages * progress), self.stages - 1)

    def exponent(self, progress: float) -> float:
        """The a of the map t -> r."""
        if self.mapping == "smooth":
            return self.first_exponent + (self.stages - 1) * progress
        return self.stage(progress) + self.first_exponent

    def phase_boundaries(self) -> Tensor:
        """0 = s_0 < s_1 < … < s_M = σ_max for M phases, float64 [M + 1]."""
        if self.phases == 1:
            return torch.tensor([0.0, self.sigma_max], dtype=torch.float64)
        boundaries = _karras_grid(self.phases, 7.0, 0.002, self.sigma_max).clone()
        boundaries[0] = 0.0
        return boundaries

    def phase_boundary(self, t: Tensor) -> Tensor:
        if self.phases == 1:
            return torch.zeros_like(t)
        boundaries = _boundaries_on_device(self, t.device, t.dtype)
        return boundaries[(torch.bucketize(t, boundaries) - 1).clamp(0, self.phases - 1)]

    def t_to_r(self, t: Tensor, progress: float) -> Tensor:
        """The map t -> r, [B] -> [B]."""
        n = 1.0 if self.mapping == "const" else 1 + self.k * torch.sigmoid(-self.b * t)
        r = (t * (1 - n / self.q ** self.exponent(progress))).clamp(min=0)
        if self.r_min:
            r = torch.maximum(r, (0.999 * t).clamp(max=self.r_min))
        return torch.maximum(r, self.phase_boundary(t))

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        t = (self.p_mean + self.p_std * self._normal(n, generator)).exp()
        if self.truncate:
            t = t.clamp(*self.truncate)  # against rounding at the ends; the distribution is truncated already
        if self.t_max is not None:
            t = t.clamp(max=self.t_max)
        return t, self.t_to_r(t, progress)

    def _normal(self, n: int, generator: torch.Generator) -> Tensor:
        if not self.truncate:
            return torch.randn(n, generator=generator, device=generator.device)
        low, high = (math.erf((math.log(level) - self.p_mean) / self.p_std / math.sqrt(2)) for level in self.truncate)
        uniform = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        return (math.sqrt(2) * torch.erfinv(low + (high - low) * uniform)).float()

    def last(self, progress: float) -> tuple[float, float]:
        """At σ_max, where sampling starts and the published factor of the KL is taken, whatever t_max is."""
        t = torch.tensor([self.sigma_max], dtype=torch.float64)
        return self.sigma_max, self.t_to_r(t, progress).item()


@dataclass(frozen=True, kw_only=True)
class LognormalDenoising:
    """Log-normal t against the image itself, r = 0: denoising score matching (EDM, Karras et al. 2022, table 1).

    p_mean, p_std: mean and standard deviation of ln t.
    sigma_max: where sampling starts. t is not bounded by it, as in the published code.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_max: float = 80.0

    phases = 1
    denoises = True

    def __post_init__(self) -> None:
        check_above("p_std", self.p_std, 0)
        check_above("sigma_max", self.sigma_max, 0.002)

    def limited_to(self, limit: float) -> LognormalDenoising:
        if limit < math.inf:
            raise ValueError(f"kind is lognormal_denoising, whose levels have no bound; the process ends at {limit:g}")
        return self

    def stage(self, progress: float) -> int:
        return 0

    def phase_boundary(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def t_to_r(self, t: Tensor, progress: float) -> Tensor:
        return torch.zeros_like(t)

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        t = (self.p_mean + self.p_std * torch.randn(n, generator=generator, device=generator.device)).exp()
        return t, torch.zeros_like(t)

    def last(self, progress: float) -> tuple[float, float]:
        return self.sigma_max, 0.0


@lru_cache(maxsize=8)
def _boundaries_on_device(times: LognormalGap, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The phase boundaries [M + 1]: copied once, since the host waits for the copy."""
    return times.phase_boundaries().to(device, dtype)
