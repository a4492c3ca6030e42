"""Forward processes and the preconditioning of the network.

Both run over the noise levels 0 < σ <= σ_max and give x_σ = α(σ) x + σ z:

    ve   variance exploding, α = 1                   (EDM, Karras et al. 2022; iCT, ECT, SCT)
    li   linear interpolation, α = 1 - σ / σ_max     (VCT, Silvestri et al. 2025)

The denoiser D = c_skip x + c_out F(c_in x, c_noise) has two published forms that differ in an offset m of the noise
level: m = 0 is EDM's plain form, m = σ_min > 0 the boundary form with D(x, σ_min) = x (Song et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .checks import check_above, check_choice, check_sigma_range

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""F(u, c_noise, labels): [B, ...], [B], [B] or None -> [B, ...]."""

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""D(x_t, t, labels): [B, ...], [B], [B] or None -> [B, ...]."""


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...] so that it multiplies `like` [B, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class ForwardProcess:
    """A forward process with its preconditioning. All noise levels are standard deviations in model units.

    kind: "ve" or "li" (above).
    sigma_min, sigma_max: the least and the largest noise level.
    sigma_data: standard deviation of the data that the preconditioning assumes.
    boundary: "always" uses m = sigma_min in training and evaluation (iCT), "never" m = 0 (ECT).
    eval_shift: m in evaluation when boundary is "never" (0.003 in the published ECT code for CIFAR-10), else 0.
    time_input: the noise label of the network: "quarter_log" is ln(t) / 4 (EDM), "thousand_log" 1000 ln(t) / 4, as in
        the consistency models' code for ImageNet-64.
    """

    kind: str = "ve"
    boundary: str = "always"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    eval_shift: float = 0.0
    time_input: str = "quarter_log"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("ve", "li"))
        check_choice("boundary", self.boundary, ("always", "never"))
        check_choice("time_input", self.time_input, ("quarter_log", "thousand_log"))
        check_sigma_range(self.sigma_min, self.sigma_max)
        check_above("sigma_data", self.sigma_data, 0)
        if self.eval_shift and self.boundary == "always":
            raise ValueError(f"eval_shift is {self.eval_shift:g}, must be 0 with boundary=always, which shifts already")
        if not 0 <= self.eval_shift < self.sigma_max:
            raise ValueError(
                f"eval_shift is {self.eval_shift:g}, must be from 0 to below sigma_max = {self.sigma_max:g}"
            )

    @property
    def limit(self) -> float:
        """The largest noise level there is: beyond σ_max the factor of li would turn negative."""
        return math.inf if self.kind == "ve" else self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the image at noise level t, [B] -> [B]."""
        return t.new_ones(t.shape) if self.kind == "ve" else 1 - t / self.sigma_max

    @property
    def alpha_slope(self) -> float:
        """dα/dt, the same at every level."""
        return 0.0 if self.kind == "ve" else -1 / self.sigma_max

    def perturb(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x_t = α(t) x + t z; x, z: [B, ...], t: [B]."""
        return per_sample(self.alpha(t), x) * x + per_sample(t, x) * z

    def slope(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """dx/dσ of the probability flow at x_t [B, ...] and level t [B], with E[x | x_t] = mean [B, ...] there."""
        return self.alpha_slope * mean + (x_t - per_sample(self.alpha(t), x_t) * mean) / per_sample(t, x_t)

    def precondition(self, t: Tensor, offset: float) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in), each [B], at noise level t with offset m (see the module's docstring).

        c_in is never shifted; with m = 0 this is the plain EDM form.
        """
        shifted = t - offset
        scale = t.new_ones(t.shape)
        if self.kind == "li":
            scale = 1 - shifted / (self.sigma_max - offset)
        c_in = (self.sigma_data**2 * self.alpha(t) ** 2 + t**2).rsqrt()
        c_skip = self.sigma_data**2 * scale / (shifted**2 + self.sigma_data**2 * scale**2)
        c_out = shifted * self.sigma_data * c_in
        return c_skip, c_out, c_in

    def denoiser(self, network: Network, *, evaluating: bool = False) -> Denoise:
        """The preconditioned network; assembled in the precision of its inputs (float32 in training)."""
        if self.boundary == "always":
            offset = self.sigma_min
        else:
            offset = self.eval_shift if evaluating else 0.0
        factor = 250.0 if self.time_input == "thousand_log" else 0.25

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            c_skip, c_out, c_in = (per_sample(c, x_t) for c in self.precondition(t, offset))
            return c_skip * x_t + c_out * network(c_in * x_t, t.log() * factor, labels)

        return denoise


def consistency_function(denoised: Tensor, x_t: Tensor, t: Tensor, boundary: Tensor) -> Tensor:
    """f(x_t, t) = D + (s / t) (x_t - D): from level t to s = `boundary` along the line to the denoised image D.

    denoised, x_t: [B, ...]; t, boundary: [B]. At s = 0 this is D itself, the usual consistency function. Phased
    consistency models (the PCM papers, and SCT's phased option) map to the cleaner end of t's phase.
    """
    return denoised + per_sample(boundary / t, x_t) * (x_t - denoised)
