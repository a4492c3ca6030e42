"""The point at time r that the target is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..base import Draw, Method, Pair, References
from .kernels import per_sample


@dataclass(frozen=True, kw_only=True)
class SamePoint:
    """x_r from the same image and the same noise as x_t (iCT, ECT, VCT)."""

    needs_density = False
    in_batch = True

    def draw_references(self, x: Tensor, labels: Tensor | None, generator: torch.Generator) -> None:
        return None

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        return method.kernel.perturb(pair.x, draw.r, pair.z)


@dataclass(frozen=True, kw_only=True)
class PosteriorMean:
    """x_r one Euler step down the probability flow with a self-normalised score estimate (SCT, Wang et al. 2024).

    With weights W = softmax of log p(x_t | x_i) over reference images x_i, the generating image among them exactly
    once, x̂ = Σ W_i x_i estimates E[x | x_t] and x_r = α_r x̂ + r (x_t - α_t x̂) / t. At r = 0 this is x̂ itself.

    references: "all" (the training set), "batch" (the global batch) or "none" (the image alone, which is ECT).
    bank: the training set in model units; set by `sct`, not an option.
    """

    references: str = "all"
    bank: References | None = field(default=None, repr=False, metadata={"option": False})

    def __post_init__(self) -> None:
        if self.references not in ("all", "batch", "none"):
            raise ValueError(f"references is '{self.references}', must be one of: all, batch, none")

    @property
    def needs_density(self) -> bool:
        return self.references != "none"

    @property
    def in_batch(self) -> bool:
        return self.references == "batch"

    def draw_references(self, x: Tensor, labels: Tensor | None, generator: torch.Generator) -> References | None:
        match self.references:
            case "all":
                return self.bank
            case "batch":
                return References(x=x, labels=labels)
            case _:
                return None

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        kernel, references = method.kernel, draw.references
        if references is None:
            return kernel.perturb(pair.x, draw.r, pair.z)
        logits = log_likelihood(method, x_t, draw.t, references)
        if references.labels is not None and pair.labels is not None:
            other_class = pair.labels[:, None] != references.labels[None, :]
            logits = logits.masked_fill(other_class, -torch.inf)
        mean = (logits.softmax(1) @ references.x.flatten(1)).view_as(x_t)
        alpha, sigma = per_sample(kernel.alpha(draw.t), x_t), per_sample(draw.t, x_t)
        return kernel.perturb(mean, draw.r, (x_t - alpha * mean) / sigma)


def log_likelihood(method: Method, x_t: Tensor, t: Tensor, references: References) -> Tensor:
    """log p(x_t | x_i) up to a constant of the row, float32 [B, n]."""
    law = method.coupling.noise_law(references.x, references.labels, method.modules)
    images, points = references.x.flatten(1), x_t.flatten(1)
    alpha, sigma = method.kernel.alpha(t)[:, None], t[:, None]
    if law is None:
        # The dot form: ‖x_t‖² is common to a row, and leaving it out avoids a cancellation at large t.
        half_square = images.square().sum(1) / 2
        return (alpha * (points @ images.T) - alpha**2 * half_square) / sigma**2
    # A learned noise: x_t ~ N(α x_i + σ μ_i, σ² s_i²). Row by row, as [B, n, d] would not fit for large images.
    mean, std = law.mean.flatten(1), law.std.flatten(1)
    log_std = std.log().sum(1)
    rows = [
        -((point - a * images - s * mean) / (s * std)).square().sum(1) / 2 - log_std
        for point, a, s in zip(points, alpha, sigma, strict=True)
    ]
    return torch.stack(rows)
