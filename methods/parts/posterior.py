"""The posterior mean E[x | x_t] of an image given a noisy point, estimated over reference images (SCT).

Self-normalised importance sampling (STF, Xu et al. 2023): with reference images x_i, the generating image among them
exactly once, and weights W = softmax_i log p(x_t | x_i), the estimate is x̂ = Σ W_i x_i.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .bank import Bank, References
from .base import Gaussian, Method, Pair
from .process import ForwardProcess


@dataclass(frozen=True, kw_only=True)
class PosteriorEstimate:
    """x̂ for the rows of one batch.

    noise_posterior: distribution of the noise of every image of the pool, see `reference_noise_posterior`.
    """

    process: ForwardProcess
    pair: Pair
    references: References
    noise_posterior: Gaussian | None = None

    def __call__(self, x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """x̂ in `rows` (positions, int64 [b]) and the image itself elsewhere, [B, ...].

        In float32 whatever the training's precision: in half precision or TF32 the logits, thousands at small t, would
        lose the image they belong to.
        """
        mean, wide = self.pair.x.clone(), torch.promote_types(x_t.dtype, torch.float32)
        with _full_precision(x_t.device):
            for group, index in self.references.groups(self.pair.labels, rows):
                points, own = x_t[group].to(wide), self.pair.x[group].to(wide)
                weights = self._logits(points, t[group], own, group, index).softmax(1)
                mean[group] = self._weighted_sum(weights, own, index).view_as(points).to(mean.dtype)
        return mean

    def _logits(self, points: Tensor, t: Tensor, own: Tensor, group: Tensor, index: Tensor | None) -> Tensor:
        """log p(x_t | x_i) [b, n]; [b, n + 1] with the own image last, where references are drawn without it."""
        logits = log_likelihood(self.process, points, t, self.references.pool, index, self.noise_posterior)
        if self.references.own is None or index is None:
            return logits
        known = index[None, :] == self.references.own[group][:, None]
        # n references in all: the own image in its place, or else in that of the last one.
        replaced = known.clone()
        replaced[:, -1] |= ~known[:, :-1].any(1)
        own_logit = _own_log_likelihood(self.process, points, t, own)
        return torch.cat([logits.masked_fill(replaced, -torch.inf), own_logit[:, None]], dim=1)

    def _weighted_sum(self, weights: Tensor, own: Tensor, index: Tensor | None) -> Tensor:
        """Σ W_i x_i, flat: [b, d]."""
        estimate = torch.zeros_like(own.flatten(1))
        start = 0
        for images, _ in self.references.pool.chunks(index):
            estimate += weights[:, start : start + len(images)] @ images
            start += len(images)
        if start < weights.shape[1]:
            estimate += weights[:, start:] * own.flatten(1)
        return estimate


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
        raise ValueError("a learned coupling needs references=batch: of other images the noise posterior is not known")
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


def log_likelihood(
    process: ForwardProcess,
    x_t: Tensor,
    t: Tensor,
    pool: Bank,
    index: Tensor | None = None,
    noise_posterior: Gaussian | None = None,
) -> Tensor:
    """log p(x_t | x_i) of the images at `index` (None: all), up to a constant of the row: [b, n].

    x_t: [b, ...], t: [b]. noise_posterior: of every image of the pool; None for the standard normal, where
    p(x_t | x_i) = N(α x_i, t² I). A learned one gives N(α x_i + t μ_i, t² s_i²).
    """
    points, alpha, sigma = x_t.flatten(1), process.alpha(t)[:, None], t[:, None]
    parts, start = [], 0
    for images, half_squares in pool.chunks(index):
        chunk = slice(start, start + len(images))
        start = chunk.stop
        if noise_posterior is None:
            # The dot form: ‖x_t‖² is common to a row, and leaving it out avoids a cancellation at large t.
            parts.append((alpha * (points @ images.T) - alpha**2 * half_squares) / sigma**2)
            continue
        mean, std = (
            values[chunk if index is None else index[chunk]].flatten(1)
            for values in (noise_posterior.mean, noise_posterior.std)
        )
        log_std = std.log().sum(1)
        rows = [  # one by one, as [b, n, d] would not fit for large images
            -((point - a * images - s * mean) / (s * std)).square().sum(1) / 2 - log_std
            for point, a, s in zip(points, alpha, sigma, strict=True)
        ]
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)


def _own_log_likelihood(process: ForwardProcess, x_t: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """log p(x_t | x) of each row's own image under independent noise, with the constant of `log_likelihood`: [b]."""
    alpha, points, images = process.alpha(t), x_t.flatten(1), x.flatten(1)
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
