"""From noise to images in a few steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import Method
from .kernels import Denoise


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1).

    One step denoises pure noise at σ_max; every further step puts noise back at an intermediate level and denoises.

    sigma_mid: the intermediate levels, noisiest first; n steps use the first n - 1.
    renoise: how much noise is put back at level σ: "sigma" (ECT, VCT) or "sqrt_diff", sqrt(σ² - σ_min²) (iCT).
    recouple: "learned" passes the fresh noise through the method's coupling (VCT), "none" leaves it as drawn.
    """

    sigma_mid: tuple[float, ...] = ()
    renoise: str = "sigma"
    recouple: str = "none"

    def __post_init__(self) -> None:
        if self.renoise not in ("sigma", "sqrt_diff"):
            raise ValueError(f"renoise is '{self.renoise}', must be one of: sigma, sqrt_diff")
        if self.recouple not in ("none", "learned"):
            raise ValueError(f"recouple is '{self.recouple}', must be one of: none, learned")
        if any(sigma <= 0 for sigma in self.sigma_mid) or list(self.sigma_mid) != sorted(self.sigma_mid, reverse=True):
            raise ValueError(f"sigma_mid is {list(self.sigma_mid)}, must be positive levels, noisiest first")

    @torch.no_grad()
    def __call__(self, method: Method, denoise: Denoise, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        steps = len(noise)
        if not 1 <= steps <= len(self.sigma_mid) + 1:
            raise ValueError(
                f"nfe is {steps}: with {len(self.sigma_mid)} intermediate level(s) in sample.sigma_mid it must be "
                f"from 1 to {len(self.sigma_mid) + 1}"
            )
        kernel = method.kernel
        # The state is kept in float64 and each network call sees float32, as in the published samplers.
        x = noise[0].double() * kernel.sigma_max
        x = self._call(denoise, x, kernel.sigma_max, labels)
        for sigma, fresh in zip(self.sigma_mid, noise[1:], strict=False):
            if self.recouple == "learned":
                fresh = method.coupling(x.float(), fresh, labels, method.modules).z
            level = x.new_full((len(x),), sigma)
            std = math.sqrt(max(sigma**2 - kernel.sigma_min**2, 0)) if self.renoise == "sqrt_diff" else sigma
            x = kernel.alpha(level).view(-1, *[1] * (x.ndim - 1)) * x + std * fresh.double()
            x = self._call(denoise, x, sigma, labels)
        return x.float()

    def _call(self, denoise: Denoise, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
        level = torch.full((len(x),), sigma, device=x.device)
        return denoise(x.float(), level, labels).double()
