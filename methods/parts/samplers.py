"""Sampling: from noise to images in a few network calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .base import Method, Times
from .checks import check_at_least, check_choice
from .couplings import assign_noise
from .process import Denoise, consistency_function, per_sample


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1).

    The first step denoises pure noise at σ_max; every further step adds noise of an intermediate level and denoises.

    sigma_mid: the intermediate levels, noisiest first; n steps use the first n - 1. Where there are fewer, the n - 1
        levels go from σ_max to the last of them in geometric progression, `levels`.
    renoise: how much noise is put back at level σ: "sigma" (ECT, VCT) or "sqrt_diff", sqrt(σ² - σ_min²) (iCT).
    recouple: how fresh noise is coupled to the images so far: "learned" by the method's q(z | x) (VCT; no effect at
        share 0, where none is trained), "ot" by an optimal assignment within the batch of samples, "none" not at all.
    """

    sigma_mid: tuple[float, ...] = ()
    renoise: str = "sigma"
    recouple: str = "none"

    def __post_init__(self) -> None:
        check_choice("renoise", self.renoise, ("sigma", "sqrt_diff"))
        check_choice("recouple", self.recouple, ("none", "learned", "ot"))
        if any(sigma <= 0 for sigma in self.sigma_mid) or list(self.sigma_mid) != sorted(self.sigma_mid, reverse=True):
            raise ValueError(f"sigma_mid is {list(self.sigma_mid)}, must be positive levels, noisiest first")

    def check_compatible(self, method: Method) -> None:
        limit = method.process.limit
        if any(sigma > limit for sigma in self.sigma_mid):
            raise ValueError(
                f"sigma_mid is {list(self.sigma_mid)}, must be levels of at most sigma_max of the process, {limit:g}"
            )
        if self.recouple == "learned" and not method.coupling.learns_noise_posterior:
            raise ValueError(
                f"recouple is 'learned', must be one of: none, ot, as '{method.name}' learns no noise posterior"
            )

    def check_nfe(self, times: Times, nfe: int) -> None:
        if times.phases > 1:
            raise ValueError(f"method.times.phases is {times.phases}: such a model is sampled with sample.kind=phased")
        if nfe < 1 or (nfe > 1 and not self.sigma_mid):
            raise ValueError(f"eval.nfe is {nfe}: without intermediate levels in sample.sigma_mid it must be 1")

    def levels(self, nfe: int, sigma_max: float) -> tuple[float, ...]:
        """The noise levels of all steps but the first, noisiest first.

        The papers publish one level, for two steps (0.821, 1.526 with EDM2). For n steps beyond the levels given, that
        of step k = 1 … n - 1 is σ_max (σ/σ_max)^(k/(n - 1)), σ the last one given: equal ratios, and the last step is
        the published one. A rule of this suite, the same for all methods.
        """
        if nfe - 1 <= len(self.sigma_mid):
            return self.sigma_mid[: nfe - 1]
        return tuple(sigma_max * (self.sigma_mid[-1] / sigma_max) ** (step / (nfe - 1)) for step in range(1, nfe))

    @torch.no_grad()
    def __call__(self, method: Method, denoise: Denoise, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_nfe(method.times, len(noise))
        process = method.process
        # The state is kept in float64 and each network call sees float32, as in the published samplers.
        x = noise[0].double() * process.sigma_max
        x = _call(denoise, x, x.new_full((len(x),), process.sigma_max), labels)
        for sigma, fresh in zip(self.levels(len(noise), process.sigma_max), noise[1:], strict=True):
            fresh = self._couple(method, x.float(), fresh, labels)
            level = x.new_full((len(x),), sigma)
            std = math.sqrt(max(sigma**2 - process.sigma_min**2, 0)) if self.renoise == "sqrt_diff" else sigma
            x = per_sample(process.alpha(level), x) * x + std * fresh.double()
            x = _call(denoise, x, level, labels)
        return x.float()

    def _couple(self, method: Method, x: Tensor, fresh: Tensor, labels: Tensor | None) -> Tensor:
        if self.recouple == "ot":
            return assign_noise(x, fresh)
        posterior = method.coupling.noise_posterior(x, labels, method.modules) if self.recouple == "learned" else None
        return fresh if posterior is None else posterior.mean + posterior.std * fresh


@dataclass(frozen=True, kw_only=True)
class Phased:
    """Deterministic sampling of a phased model, one network call per phase (PCM and MCM papers).

    eta: each step lands at eta times the phase boundary ("edge skipping", SCT; the published value is not known).
        The last step always lands at 0.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta is {self.eta:g}, must be above 0 and at most 1")

    def check_compatible(self, method: Method) -> None:
        """`eta` has an effect with every method."""

    def check_nfe(self, times: Times, nfe: int) -> None:
        if nfe != times.phases:
            raise ValueError(f"eval.nfe is {nfe}: with method.times.phases={times.phases} NFE must be {times.phases}")

    @torch.no_grad()
    def __call__(self, method: Method, denoise: Denoise, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_nfe(method.times, len(noise))
        x = noise[0].double() * method.process.sigma_max
        t = x.new_full((len(x),), method.process.sigma_max)
        boundary = method.times.phase_boundary(t)
        for _ in range(method.times.phases):
            x = consistency_function(_call(denoise, x, t, labels), x, t, self.eta * boundary)
            t, boundary = self.eta * boundary, method.times.phase_boundary(boundary)
        return x.float()


@dataclass(frozen=True, kw_only=True)
class Heun:
    """The probability flow from σ_max to 0 by Heun's method (EDM, Karras et al. 2022, algorithms 1 and 2).

    The levels are N nodes from σ_max to σ_min, evenly spaced in σ^(1/ρ), and 0. The last step, to 0, is Euler's, so N
    steps take 2 N - 1 network calls. An even NFE (not in the paper) takes Euler's first step, too: 2 N - 2 calls.

    rho: exponent of the levels.
    churn: S_churn of algorithm 2, the noise that is added before each step: γ = min(churn / N, sqrt(2) - 1). 0 is
        deterministic.
    churn_min, churn_max: the levels between which noise is added (S_tmin, S_tmax).
    churn_noise: the standard deviation of that noise (S_noise).
    """

    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.rho <= 1000:
            raise ValueError(f"rho is {self.rho:g}, must be from 0.1 to 1000")
        for name in ("churn", "churn_min", "churn_noise"):
            check_at_least(name, getattr(self, name), 0)
        if self.churn_max < self.churn_min:
            raise ValueError(f"churn_max is {self.churn_max:g}, must be at least churn_min, {self.churn_min:g}")

    def check_compatible(self, method: Method) -> None:
        if self.churn and method.process.kind != "ve":
            raise ValueError(f"churn is {self.churn:g}, must be 0 with method.process.kind={method.process.kind}")

    def check_nfe(self, times: Times, nfe: int) -> None:
        least = 3 if self.churn else 1
        if nfe < least:
            raise ValueError(f"eval.nfe is {nfe}, must be at least {least}{' with sample.churn' if self.churn else ''}")

    def levels(self, nfe: int, sigma_min: float, sigma_max: float) -> tuple[float, ...]:
        """The noise levels of all steps, noisiest first, and 0: N + 1 of them."""
        steps = nfe // 2 + 1
        low, high = sigma_min ** (1 / self.rho), sigma_max ** (1 / self.rho)
        shares = (step / max(steps - 1, 1) for step in range(steps))
        return (sigma_max, *tuple((high + share * (low - high)) ** self.rho for share in shares)[1:], 0.0)

    @torch.no_grad()
    def __call__(self, method: Method, denoise: Denoise, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_nfe(method.times, len(noise))
        process, nfe = method.process, len(noise)
        levels = self.levels(nfe, process.sigma_min, process.sigma_max)

        def slope(x: Tensor, sigma: float) -> Tensor:
            level = x.new_full((len(x),), sigma)
            return process.slope(x, level, _call(denoise, x, level, labels))

        x = noise[0].double() * process.sigma_max
        for step, (sigma, to) in enumerate(pairwise(levels)):
            churned = sigma * (1 + self._gamma(sigma, len(levels) - 1))
            if churned > sigma:  # noise[0] is the first point's
                x = x + math.sqrt(churned**2 - sigma**2) * self.churn_noise * noise[step + 1].double()
            first = slope(x, churned)
            euler = x + (to - churned) * first
            is_corrected = to > 0 and not (step == 0 and nfe % 2 == 0)
            x = x + (to - churned) * (first + slope(euler, to)) / 2 if is_corrected else euler
        return x.float()

    def _gamma(self, sigma: float, steps: int) -> float:
        is_churned = self.churn_min <= sigma <= self.churn_max
        return min(self.churn / steps, math.sqrt(2) - 1) if is_churned else 0.0


def _call(denoise: Denoise, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    return denoise(x.float(), t.float(), labels).double()


def guided(denoise: Denoise, weak: Denoise, w: float) -> Denoise:
    """D + (w - 1)(D - D_weak): away from a worse model, here an earlier snapshot of the same run (SCT).

    Two network calls per step; NFE counts steps.
    """

    def both(x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        strong = denoise(x_t, t, labels)
        return strong + (w - 1) * (strong - weak(x_t, t, labels))

    return both


KINDS: dict[str, type[Multistep] | type[Phased] | type[Heun]] = {
    "multistep": Multistep,
    "phased": Phased,
    "heun": Heun,
}
