"""How an image gets its noise: independently, by optimal transport, or with the model's own prediction as the image.

The learned coupling of VCT is in `variational.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .base import Gaussian, Pair
from .checks import check_choice, check_share
from .process import Denoise, per_sample

if TYPE_CHECKING:
    from .base import Draw, Method, Times, Weight


@dataclass(frozen=True, kw_only=True)
class Independent:
    """Noise drawn independently of the image; no penalty."""

    has_density = True
    learns_noise_posterior = False
    needs_average = False
    share = 1.0

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        return z

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        return Pair(x=x, z=draw.z, labels=labels, penalty=x.new_zeros(len(x)))

    def noise_posterior(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian | None:
        return None

    def penalty_weight(self, times: Times, weight: Weight, progress: float) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class OptimalTransport(Independent):
    """Minibatch optimal transport: the assignment π of noises to images with the least Σ ‖x_i - σ_max z_π(i)‖².

    Noise is permuted and images stay, so labels stay with their images. The global batch (`train.batch`) is one
    assignment problem, or is split into several:

    batch: images per assignment problem; null takes the global batch. Published codes solve one per device.
    """

    batch: int | None = None
    has_density = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}, must be at least 1, or null for the whole batch")

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        size = self.batch or len(x)
        return torch.cat([assign_noise(a, b) for a, b in zip(x.split(size), z.split(size), strict=True)])


def assign_noise(x: Tensor, z: Tensor) -> Tensor:
    """z [B, ...] permuted so that Σ ‖x_i - σ z_i‖² is least, for every σ > 0 at once.

    The norms do not depend on the permutation, so the exact assignment maximises Σ x_i · z_i.
    """
    affinity = x.flatten(1) @ z.flatten(1).T
    _, permutation = linear_sum_assignment(affinity.double().cpu().numpy(), maximize=True)
    return z[torch.as_tensor(permutation).to(z.device, non_blocking=True)]


@dataclass(frozen=True, kw_only=True)
class GeneratorAugmented(Independent):
    """Some rows train on the model's prediction x̂ = D(x + r z, r) in place of x (GC, Issenhuth et al. 2024).

    The noise stays the same z, so that the pair lies on a trajectory of the model. Costs one more network pass without
    gradient.

    generated_fraction: share of the rows whose image is replaced.
    predictor: "ema" predicts with the averaged weights, "online" with the trained ones (in training mode).
    """

    generated_fraction: float = 0.5
    predictor: str = "ema"
    has_density = False

    def __post_init__(self) -> None:
        check_share("generated_fraction", self.generated_fraction)
        check_choice("predictor", self.predictor, ("ema", "online"))

    @property
    def share(self) -> float:
        return self.generated_fraction

    @property
    def needs_average(self) -> bool:
        return self.predictor == "ema"

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        with torch.no_grad():
            x_r = method.process.perturb(x, draw.r, draw.z)
            at_zero = draw.r == 0  # D(x, 0) = x, and ln(0) is not a noise label
            generated = predict(x_r, torch.where(at_zero, draw.t, draw.r), labels)
            replaced = ~at_zero if draw.coupled is None else draw.coupled & ~at_zero
            x = torch.where(per_sample(replaced, x), generated, x)
        return Pair(x=x, z=draw.z, labels=labels, penalty=x.new_zeros(len(x)))
