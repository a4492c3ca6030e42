"""How an image gets its noise: apart from it, by optimal transport, or learned; or a noise its generated image."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .base import Gaussian, Pair
from .process import Denoise, per_sample

if TYPE_CHECKING:
    from .base import Draw, Method, Times, Weight


@dataclass(frozen=True, kw_only=True)
class Independent:
    """Noise drawn apart from the image."""

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
    """Minibatch optimal transport: the assignment of noises to images with the least Σ ‖x_i - σ_max z_π(i)‖².

    Noise is permuted and images stay, so labels stay with their images; the whole global batch is one assignment
    problem (`train.batch` is its size), or several:

    batch: images per assignment problem; null takes the global batch. Published codes solve one a device.
    """

    batch: int | None = None
    has_density = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}, must be at least 1, or null for the whole batch")

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        size = self.batch or len(x)
        return torch.cat([assigned(a, b) for a, b in zip(x.split(size), z.split(size), strict=True)])


def assigned(x: Tensor, z: Tensor) -> Tensor:
    """z [B, ...] permuted so that Σ ‖x_i - σ z_i‖² is least, for every σ > 0 at once.

    The norms do not depend on the permutation, so the exact assignment maximises Σ x_i · z_i.
    """
    affinity = x.flatten(1) @ z.flatten(1).T
    _, permutation = linear_sum_assignment(affinity.double().cpu().numpy(), maximize=True)
    return z[torch.as_tensor(permutation, device=z.device)]


@dataclass(frozen=True, kw_only=True)
class GeneratorAugmented(Independent):
    """Some rows train on the model's own prediction x̂ = D(x + r z, r) in place of x (GC, Issenhuth et al. 2024).

    The noise stays the same z, so that the pair lies on a trajectory of the model; one more network pass without
    gradient.

    generated_fraction: share of the rows whose image is replaced.
    predictor: "ema" predicts with the averaged weights, "online" with the trained ones (in training mode).
    """

    generated_fraction: float = 0.5
    predictor: str = "ema"
    has_density = False

    def __post_init__(self) -> None:
        if not 0 <= self.generated_fraction <= 1:
            raise ValueError(f"generated_fraction is {self.generated_fraction:g}, must be from 0 to 1")
        if self.predictor not in ("ema", "online"):
            raise ValueError(f"predictor is '{self.predictor}', must be one of: ema, online")

    @property
    def share(self) -> float:
        return self.generated_fraction

    @property
    def needs_average(self) -> bool:
        return self.predictor == "ema"

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        with torch.no_grad():
            x_r = method.process.perturb(x, draw.r, draw.z)
            at_zero = draw.r == 0  # D(x, 0) = x, and ln(0) is no noise label
            generated = predict(x_r, torch.where(at_zero, draw.t, draw.r), labels)
            replaced = ~at_zero if draw.coupled is None else draw.coupled & ~at_zero
            x = torch.where(per_sample(replaced, x), generated, x)
        return Pair(x=x, z=draw.z, labels=labels, penalty=x.new_zeros(len(x)))


@dataclass(frozen=True, kw_only=True)
class Variational:
    """Noise from a learned distribution q(z | x) = N(μ(x), s(x)²) near the prior (VCT, Silvestri et al. 2025).

    The encoder is trained by the consistency loss through z = μ + s e, plus kl_weight · scale · KL(q || N(0, I)).

    kl_schedule: the scale. "last_gap" is 1 / (t - r) of the current stage's noisiest interval, "constant" is 1,
        "auto" what fits the weight of the method: last_gap under inverse_gap, constant under snr.
    kl_warmup: share of the budget over which the KL's factor rises linearly from 0.
    encoder: size of the encoder beside the network: "small", "big" or width and blocks, such as "48x2".
    encoder_variance: "learned" has s from the encoder, "fixed:0.3" s = 0.3 everywhere, "scaled:0.5" half the learned s.
    share: of the rows that are coupled; the others keep e, without a KL. At 0 the encoder is neither trained nor used.
    """

    kl_weight: float = 10.0
    kl_schedule: str = "auto"
    kl_warmup: float = 0.0
    encoder: str = "small"
    encoder_variance: str = "learned"
    share: float = 1.0
    learns_noise_posterior = True
    needs_average = False

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight is {self.kl_weight:g}, must be at least 0")
        if self.kl_schedule not in ("auto", "last_gap", "constant"):
            raise ValueError(f"kl_schedule is '{self.kl_schedule}', must be one of: auto, last_gap, constant")
        if not 0 <= self.kl_warmup <= 1:
            raise ValueError(f"kl_warmup is {self.kl_warmup:g}, must be a share of the budget, from 0 to 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share:g}, must be from 0 to 1")
        encoder_size(self.encoder)
        std_rule(self.encoder_variance)

    @property
    def has_density(self) -> bool:
        return self.share == 1  # a mixture of coupled and free noise is not normal

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        return z

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        posterior = self.noise_posterior(x, labels, method.modules)
        if posterior is None:
            return Pair(x=x, z=draw.z, labels=labels, penalty=x.new_zeros(len(x)))
        z, penalty = posterior.mean + posterior.std * draw.z, kl_to_standard_normal(posterior)
        if draw.coupled is None:
            return Pair(x=x, z=z, labels=labels, penalty=penalty, noise_posterior=posterior)
        z = torch.where(per_sample(draw.coupled, z), z, draw.z)
        return Pair(x=x, z=z, labels=labels, penalty=torch.where(draw.coupled, penalty, 0.0))

    def noise_posterior(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian | None:
        if self.share == 0:  # the encoder is not trained then
            return None
        mean, std = modules["encoder"](x, labels)
        return Gaussian(mean=mean, std=std_rule(self.encoder_variance)(std))

    def penalty_weight(self, times: Times, weight: Weight, progress: float) -> float:
        t, r = times.last(progress)
        match self.kl_schedule:
            case "last_gap":
                scale = 1 / (t - r)
            case "constant":
                scale = 1.0
            case _:
                scale = weight.penalty_scale(t, r)
        warmed = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        return self.kl_weight * scale * warmed


def std_rule(text: str) -> Callable[[Tensor], Tensor]:
    """What `encoder_variance` makes of the encoder's standard deviation.

    Raises:
        ValueError: none of "learned", "fixed:<std>", "scaled:<factor>" with a number above 0.
    """
    if text == "learned":
        return lambda std: std
    kind, colon, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if kind not in ("fixed", "scaled") or not colon or not 0 < value < math.inf:
        raise ValueError(
            f"encoder_variance is '{text}', must be one of: learned, fixed:<std>, scaled:<factor>, "
            "with a number above 0, such as fixed:0.3"
        )
    return (lambda std: torch.full_like(std, value)) if kind == "fixed" else (lambda std: value * std)


def kl_to_standard_normal(posterior: Gaussian) -> Tensor:
    """KL(N(μ, s²) || N(0, I)), summed over the elements of a sample: [B, ...] -> [B]."""
    elements = 0.5 * (posterior.std**2 + posterior.mean**2 - 1) - posterior.std.log()
    return elements.flatten(1).sum(1)


def encoder_size(text: str) -> Literal["small", "big"] | tuple[int, int]:
    """The size of an encoder: "small" or "big", whose meaning is the network family's, or "48x2": (width, blocks).

    Raises:
        ValueError: anything else, or a width that is no multiple of 4.
    """
    if text == "small" or text == "big":
        return text
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None or int(match[1]) % 4:
        raise ValueError(
            f"encoder is '{text}', must be one of: small, big, or <width>x<blocks> such as 48x2, "
            "whose width is a multiple of 4"
        )
    return int(match[1]), int(match[2])
