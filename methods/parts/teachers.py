"""The point at time r that the target is computed from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bank import Bank, References, all_references, batch_references, sampled_references
from .base import Draw, Gaussian, Method, Pair
from .process import per_sample


@dataclass(frozen=True, kw_only=True)
class SamePoint:
    """x_r from the same image and the same noise as x_t (iCT, ECT, VCT).

    shared_dropout: whether both passes see one dropout mask; false is what several ports do.
    """

    shared_dropout: bool = True
    needs_density = False
    in_batch = True

    def draw_references(
        self, x: Tensor, labels: Tensor | None, index: Tensor | None, generator: torch.Generator
    ) -> None:
        return None

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        return method.process.perturb(pair.x, draw.r, pair.z)


@dataclass(frozen=True, kw_only=True)
class PosteriorMean:
    """x_r one step down the probability flow with a self-normalised score estimate (SCT, Wang et al. 2024).

    With weights W = softmax of log p(x_t | x_i) over reference images x_i, the generating image among them exactly
    once, x̂ = Σ W_i x_i estimates E[x | x_t] and x_r = α_r x̂ + r (x_t - α_t x̂) / t. At r = 0 this is x̂ itself.
    Conditional rows average over images of their own class.

    references: "all" (the training set), "batch" (the global batch), "sampled:n" (n images, the own one and others
        drawn for the batch) or "none" (the image alone, which is ECT).
    solver: "euler", or "heun" with a second estimate at r, which takes most of the bias out of moderate steps (a third
        of it is left at r/t = 0.7 on four points) and makes steps below r/t = 0.4 worse.
    gate: rows below this noise level take the image itself for the estimate and skip its computation. Harmless where
        the own weight is 1 to rounding, below about 2.5 for CIFAR-like images; 0 gates nothing.
    coarse: what rows with 0 < r/t < 1/2 do: "estimate" as all others, "image" the plain pair of ECT.
    r0_target: the target at r = 0: the "estimate", or the "image", to which other codes fall back.
    shared_dropout: as in SamePoint.
    bank: the training set; set by `sct`, not an option.
    """

    references: str = "all"
    solver: str = "euler"
    gate: float = 0.0
    coarse: str = "estimate"
    r0_target: str = "estimate"
    shared_dropout: bool = True
    bank: Bank | None = field(default=None, repr=False, metadata={"option": False})

    def __post_init__(self) -> None:
        if self.references not in ("all", "batch", "none") and not re.fullmatch(r"sampled:[1-9]\d*", self.references):
            raise ValueError(
                f"references is '{self.references}', must be one of: all, batch, none, sampled:<n> with n at least 1"
            )
        for name, choices in (
            ("solver", ("euler", "heun")),
            ("coarse", ("estimate", "image")),
            ("r0_target", ("estimate", "image")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}', must be one of: {', '.join(choices)}")
        if self.gate < 0:
            raise ValueError(f"gate is {self.gate:g}, must be a noise level, at least 0")

    @property
    def needs_density(self) -> bool:
        return self.references != "none"

    @property
    def in_batch(self) -> bool:
        return self.references == "batch"

    def draw_references(
        self, x: Tensor, labels: Tensor | None, index: Tensor | None, generator: torch.Generator
    ) -> References | None:
        match self.references.split(":"):
            case ["none"]:
                return None
            case ["batch"]:
                return batch_references(x, labels)
            case _ if self.bank is None:
                raise ValueError(f"references={self.references} needs the training set")
            case ["all"]:
                return all_references(self.bank)
            case [_, n]:
                if index is None:
                    raise ValueError(f"references={self.references} needs to know which images the batch holds")
                return sampled_references(self.bank, labels, index, int(n), generator)

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        process, t, r = method.process, draw.t, draw.r
        x_r = process.perturb(pair.x, r, pair.z)
        estimated = self._estimated(t, r)
        if draw.references is None or not len(estimated):
            return x_r
        posterior = reference_noise_posterior(method, pair, draw.references)
        mean = posterior_mean(method, pair, x_t, t, draw.references, estimated, posterior)
        # The same as the formula above, written as ECT's point and a correction: where the estimate is the image
        # itself the two methods agree to the last bit.
        share = process.alpha(r) - process.alpha(t) * r / t
        x_r = x_r + per_sample(share, x_t) * (mean - pair.x)
        if self.solver == "heun":
            again = estimated[r[estimated] > method.times.phase_boundary(t[estimated])]
            x_r = self._corrected(method, pair, x_t, x_r, draw, mean, again, posterior)
        return x_r

    def _estimated(self, t: Tensor, r: Tensor) -> Tensor:
        """The rows that get an estimate, int64 [b]."""
        rows = t >= self.gate
        if self.coarse == "image":
            rows &= (r == 0) | (r >= t / 2)
        if self.r0_target == "image":
            rows &= r > 0
        return rows.nonzero()[:, 0]

    def _corrected(
        self,
        method: Method,
        pair: Pair,
        x_t: Tensor,
        x_r: Tensor,
        draw: Draw,
        mean: Tensor,
        rows: Tensor,
        posterior: Gaussian | None,
    ) -> Tensor:
        """Heun's step: the mean of the slopes at both ends, in `rows`."""
        if not len(rows) or draw.references is None:
            return x_r
        mean_r = posterior_mean(method, pair, x_r, draw.r, draw.references, rows, posterior)
        half = per_sample((draw.r - draw.t) / 2, x_t)
        step = half * (_slope(method, x_r, draw.r, mean_r) - _slope(method, x_t, draw.t, mean))
        corrected = x_r.clone()
        corrected[rows] += step[rows]
        return corrected


def _slope(method: Method, x: Tensor, level: Tensor, mean: Tensor) -> Tensor:
    """dx/dσ of the probability flow with the posterior mean `mean` at x."""
    alpha, sigma = per_sample(method.process.alpha(level), x), per_sample(level, x)
    return method.process.alpha_slope * mean + (x - alpha * mean) / sigma


def reference_noise_posterior(method: Method, pair: Pair, references: References) -> Gaussian | None:
    """The distribution of the noise of every image of the pool, [n, ...], if learned; None for the standard normal.

    Images of the pair keep the distribution that their noise was drawn from. An encoder with dropout returns another
    one at every pass, and weights by a density that did not make the points are biased. Images of the batch beyond the
    pair, which is a part of it with micro-batches, get theirs from one more pass.

    Raises:
        ValueError: the noise is learned and the pool is not the batch.
    """
    if pair.noise_posterior is None:
        return None
    if references.places is None:
        raise ValueError(
            "references other than the batch have no distribution that the noise of the pair was drawn from"
        )
    if len(references.places) == len(references.pool):
        return pair.noise_posterior
    pool = references.pool
    with _full_precision(pair.x.device):
        posterior = method.coupling.noise_posterior(pool.to_model(pool.images), pool.labels, method.modules)
    assert posterior is not None
    mean, std = (
        every.index_copy(0, references.places, own)
        for every, own in (
            (posterior.mean, pair.noise_posterior.mean),
            (posterior.std, pair.noise_posterior.std),
        )
    )
    return Gaussian(mean=mean, std=std)


def posterior_mean(
    method: Method,
    pair: Pair,
    x_t: Tensor,
    t: Tensor,
    references: References,
    rows: Tensor,
    posterior: Gaussian | None = None,
) -> Tensor:
    """The estimate of E[x | x_t] in `rows` (positions, int64 [b]) and the image itself elsewhere, [B, ...].

    posterior: of the noise of every image of the pool, see `reference_noise_posterior`.

    Self-normalised importance sampling (STF, Xu et al. 2023) in float32 whatever the training's precision: in half
    precision or TF32 the logits, thousands at small t, would lose the image they belong to.
    """
    mean, wide = pair.x.clone(), torch.promote_types(x_t.dtype, torch.float32)
    with _full_precision(x_t.device):
        for group, index, _ in references.groups(pair.labels, rows):
            points, own = x_t[group].to(wide), pair.x[group].to(wide)
            logits = log_likelihood(method, points, t[group], references.pool, index, posterior)
            if references.own is not None and index is not None:
                known = index[None, :] == references.own[group][:, None]
                # n references in all: the own image in its place, or else in that of the last one.
                replaced = known.clone()
                replaced[:, -1] |= ~known[:, :-1].any(1)
                own_logit = _own_log_likelihood(method, points, t[group], own)
                logits = torch.cat([logits.masked_fill(replaced, -torch.inf), own_logit[:, None]], dim=1)
            weights = logits.softmax(1)
            estimate = torch.zeros_like(points.flatten(1))
            start = 0
            for images, _ in references.pool.chunks(index):
                estimate += weights[:, start : start + len(images)] @ images
                start += len(images)
            if start < weights.shape[1]:
                estimate += weights[:, start:] * own.flatten(1)
            mean[group] = estimate.view_as(points).to(mean.dtype)
    return mean


def log_likelihood(
    method: Method,
    x_t: Tensor,
    t: Tensor,
    pool: Bank,
    index: Tensor | None = None,
    posterior: Gaussian | None = None,
) -> Tensor:
    """log p(x_t | x_i) of the images at `index` (None: all), up to a constant of the row: [b, n].

    posterior: of the noise of every image of the pool; None for the standard normal.
    """
    points, alpha, sigma = x_t.flatten(1), method.process.alpha(t)[:, None], t[:, None]
    parts, start = [], 0
    for images, half_squares in pool.chunks(index):
        chunk = slice(start, start + len(images))
        start = chunk.stop
        if posterior is None:
            # The dot form: ‖x_t‖² is common to a row, and leaving it out avoids a cancellation at large t.
            parts.append((alpha * (points @ images.T) - alpha**2 * half_squares) / sigma**2)
            continue
        # A learned noise: x_t ~ N(α x_i + σ μ_i, σ² s_i²). Row by row, as [b, n, d] would not fit for large images.
        mean, std = (
            values[chunk if index is None else index[chunk]].flatten(1) for values in (posterior.mean, posterior.std)
        )
        log_std = std.log().sum(1)
        rows = [
            -((point - a * images - s * mean) / (s * std)).square().sum(1) / 2 - log_std
            for point, a, s in zip(points, alpha, sigma, strict=True)
        ]
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)


def _own_log_likelihood(method: Method, x_t: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """log p(x_t | x) of each row's own image under independent noise, with the constant of `log_likelihood`: [b]."""
    alpha, points, images = method.process.alpha(t), x_t.flatten(1), x.flatten(1)
    return (alpha * (points * images).sum(1) - alpha**2 * images.square().sum(1) / 2) / t**2


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = before
