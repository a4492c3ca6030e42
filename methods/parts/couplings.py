"""How an image gets its noise: apart from it, by optimal transport within the batch, or from a learned encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..base import Gaussian, Pair

if TYPE_CHECKING:
    from ..base import Times, Weight


@dataclass(frozen=True, kw_only=True)
class Independent:
    """Noise drawn apart from the image."""

    has_density = True

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        return z

    def __call__(self, x: Tensor, z: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Pair:
        return Pair(x=x, z=z, labels=labels, penalty=x.new_zeros(len(x)))

    def noise_law(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian | None:
        return None

    def penalty_weight(self, times: Times, weight: Weight, progress: float) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class OptimalTransport(Independent):
    """Minibatch optimal transport: the assignment of noises to images with the least Σ ‖x_i - σ_max z_π(i)‖².

    The norms do not depend on π, so the exact assignment maximises Σ x_i · z_π(i), whatever σ_max is. Noise is
    permuted and images stay, so labels stay with their images; the whole global batch is one assignment problem.
    """

    has_density = False

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        affinity = x.flatten(1) @ z.flatten(1).T
        _, permutation = linear_sum_assignment(affinity.double().cpu().numpy(), maximize=True)
        return z[torch.as_tensor(permutation, device=z.device)]


@dataclass(frozen=True, kw_only=True)
class Variational:
    """Noise from a learned law q(z | x) = N(μ(x), s(x)²) near the prior (VCT, Silvestri et al. 2025).

    The encoder is trained by the consistency loss through z = μ + s e, plus kl_weight · scale · KL(q || N(0, I)).

    encoder: size of the encoder beside the network, "small" or "big".
    kl_schedule: the scale. "last_gap" is 1 / (t - r) of the current stage's noisiest interval, "constant" is 1,
        "auto" what fits the weight of the method: last_gap under the gap weight, constant under snr.
    """

    kl_weight: float = 10.0
    kl_schedule: str = "auto"
    encoder: str = "small"
    has_density = True

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight is {self.kl_weight:g}, must be at least 0")
        if self.kl_schedule not in ("auto", "last_gap", "constant"):
            raise ValueError(f"kl_schedule is '{self.kl_schedule}', must be one of: auto, last_gap, constant")
        if self.encoder not in ("small", "big"):
            raise ValueError(f"encoder is '{self.encoder}', must be one of: small, big")

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        return z

    def __call__(self, x: Tensor, z: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Pair:
        law = self.noise_law(x, labels, modules)
        return Pair(x=x, z=law.mean + law.std * z, labels=labels, penalty=kl_to_standard_normal(law))

    def noise_law(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian:
        mean, std = modules["encoder"](x, labels)
        return Gaussian(mean=mean, std=std)

    def penalty_weight(self, times: Times, weight: Weight, progress: float) -> float:
        t, r = times.last(progress)
        match self.kl_schedule:
            case "last_gap":
                scale = 1 / (t - r)
            case "constant":
                scale = 1.0
            case _:
                scale = weight.penalty_scale(t, r)
        return self.kl_weight * scale


def kl_to_standard_normal(law: Gaussian) -> Tensor:
    """KL(N(μ, s²) || N(0, I)), summed over the elements of a sample: [B, ...] -> [B]."""
    elements = 0.5 * (law.std**2 + law.mean**2 - 1) - law.std.log()
    return elements.flatten(1).sum(1)
