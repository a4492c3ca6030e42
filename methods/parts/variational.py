"""The coupling of VCT: noise from a learned distribution q(z | x) near the prior (Silvestri et al. 2025)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from .base import Gaussian, Pair
from .checks import check_choice, check_share
from .process import Denoise, per_sample

if TYPE_CHECKING:
    from .base import Draw, Method, Times, Weight


@dataclass(frozen=True, kw_only=True)
class Variational:
    """Noise z = μ(x) + s(x) e with e ~ N(0, I), so q(z | x) = N(μ, s²); μ and s come from an encoder.

    The encoder is trained by the consistency loss through z, plus kl_weight · scale · KL(q || N(0, I)).

    kl_weight: weight of the KL divergence from the prior in the loss.
    kl_schedule: the scale of that weight. "last_gap" is 1 / (t - r) of the current stage's noisiest interval,
        "constant" is 1, "auto" is last_gap under the weight inverse_gap and constant under snr.
    kl_warmup: share of the budget over which the KL's factor rises linearly from 0.
    encoder: size of the encoder: "small", "big" or width and blocks, such as "48x2"; see `encoder_size`.
    encoder_variance: the variance s² of q(z | x). "learned" is the encoder's; "fixed:0.09" is 0.09 everywhere, a
        standard deviation of 0.3; "scaled:0.25" is the encoder's times 0.25, which halves its standard deviation;
        "matched:0.09" is 0.09 everywhere with the mean of each sample scaled to a mean square of 0.91, so that the
        noise has the second moment 1 of the prior, and the KL is the constant -ln(0.09) / 2 per element.
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
        check_choice("kl_schedule", self.kl_schedule, ("auto", "last_gap", "constant"))
        check_share("kl_warmup", self.kl_warmup)
        check_share("share", self.share)
        encoder_size(self.encoder)
        posterior_rule(self.encoder_variance)

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
        return posterior_rule(self.encoder_variance)(Gaussian(mean=mean, std=std))

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


def posterior_rule(text: str) -> Callable[[Gaussian], Gaussian]:
    """The map from the encoder's output to q(z | x), for a value of `encoder_variance`.

    The numbers in it are variances: "fixed:0.09" has a standard deviation of 0.3 everywhere, "scaled:0.25" half the
    encoder's, "matched:0.09" 0.3 and a mean whose square averages 0.91 over the elements of a sample.

    Raises:
        ValueError: none of "learned", "fixed:<variance>", "scaled:<factor>" with a number above 0, "matched:<variance>"
            with one of at most 1.
    """
    if text == "learned":
        return lambda posterior: posterior
    kind, colon, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if kind not in RULES or not colon or not 0 < value < math.inf or (kind == "matched" and value > 1):
        raise ValueError(
            f"encoder_variance is '{text}', must be one of: learned, fixed:<variance>, scaled:<factor>, with a "
            "number above 0: a variance and a factor of it, so that fixed:0.09 is a standard deviation of 0.3; or "
            "matched:<variance>, with a number above 0 and at most 1"
        )
    return partial(RULES[kind], value)


def _fixed(variance: float, posterior: Gaussian) -> Gaussian:
    return Gaussian(mean=posterior.mean, std=torch.full_like(posterior.std, math.sqrt(variance)))


def _scaled(factor: float, posterior: Gaussian) -> Gaussian:
    return Gaussian(mean=posterior.mean, std=math.sqrt(factor) * posterior.std)


def _matched(variance: float, posterior: Gaussian) -> Gaussian:
    mean = posterior.mean
    size = math.sqrt((1 - variance) * mean[0].numel())
    direction = nn.functional.normalize(mean.flatten(1), dim=1)
    return _fixed(variance, Gaussian(mean=(size * direction).view_as(mean), std=posterior.std))


RULES = {"fixed": _fixed, "scaled": _scaled, "matched": _matched}


def kl_to_standard_normal(posterior: Gaussian) -> Tensor:
    """KL(N(μ, s²) || N(0, I)), summed over the elements of a sample: [B, ...] -> [B]."""
    elements = 0.5 * (posterior.std**2 + posterior.mean**2 - 1) - posterior.std.log()
    return elements.flatten(1).sum(1)


def encoder_size(text: str) -> Literal["small", "big"] | tuple[int, int]:
    """The size of an encoder: "small" or "big", whose meaning is the network family's, or "48x2": (width, blocks).

    Raises:
        ValueError: anything else, or a width that is not a multiple of 4.
    """
    if text == "small" or text == "big":
        return text
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,2})", text)
    if match is None or int(match[1]) % 4:
        raise ValueError(
            f"encoder is '{text}', must be one of: small, big, or <width>x<blocks> such as 48x2, "
            "whose width is a multiple of 4"
        )
    return int(match[1]), int(match[2])
