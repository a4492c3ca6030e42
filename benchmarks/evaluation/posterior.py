"""Exact draws from p(x | x_t) on the finite training set: the images that a noisy point may have come from.

On a training set of N images x given x_t is discrete: its weights are the softmax over the images of log p(x_t | x_i).
With independent noise p(x_t | x_i) = N(α_t x_i, t² I), with a learned one N(α_t x_i + t μ_i, t² s_i²). A coupling
without a density (optimal transport, generated images) has no such posterior.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...methods.parts.bank import Bank, all_references
from ...methods.parts.base import Gaussian, Method
from ...methods.parts.posterior import log_likelihood
from ...methods.parts.process import per_sample
from ...methods.parts.variational import kl_to_standard_normal

ROWS = 64  # points whose weights are computed at a time: [64, N]
ENCODED = 1024  # images per forward pass of the encoder
PART_DRAWS = 2  # of the noise of each image, for the mutual information


def bank_noise_posterior(method: Method, bank: Bank) -> Gaussian | None:
    """The distribution of the noise of every training image, [N, ...]; None where it is the standard normal.

    Holds two tensors of the size of the whole set as floats.
    """
    if not method.coupling.learns_noise_posterior:
        return None
    parts = []
    for start in range(0, len(bank), ENCODED):
        rows = slice(start, start + ENCODED)
        labels = None if bank.labels is None else bank.labels[rows]
        parts.append(method.coupling.noise_posterior(bank.to_model(bank.stored(rows)), labels, method.modules))
    if parts[0] is None:
        return None
    return Gaussian(mean=torch.cat([part.mean for part in parts]), std=torch.cat([part.std for part in parts]))


def noise_posterior_at(posterior: Gaussian | None, index: Tensor) -> Gaussian | None:
    """The rows of the images at `index` [B]."""
    return None if posterior is None else Gaussian(mean=posterior.mean[index], std=posterior.std[index])


@dataclass(frozen=True)
class KlParts:
    """Means over `images` images x of the distributions q(z | x) of their noise, in nats per sample.

    kl: E KL(q(z | x) || prior) = information + KL(aggregate || prior), where the aggregate is the mixture of all q.
    information: the mutual information I(x; z), at most ln(images).
    variance: of the aggregate, mean over its elements; 1 for the prior.
    """

    images: int
    kl: float
    information: float
    variance: float


def kl_parts(posterior: Gaussian, generator: torch.Generator) -> KlParts:
    """The parts of the KL divergence of couplings [N, ...] from N(0, I), in float64 on the CPU.

    The information is a mean over PART_DRAWS draws of z per image; all else is exact on these images.
    """
    mean, std = (array.double().cpu().flatten(1) for array in (posterior.mean, posterior.std))
    precision, count = std**-2, len(mean)
    # log q(z | x_j) up to a constant, as products of [N, d] and [d, N]
    offset = -0.5 * (mean**2 * precision).sum(1) - std.log().sum(1)
    gains = []
    for _ in range(PART_DRAWS):
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        z = mean + std * noise
        logs = offset - 0.5 * (z**2) @ precision.T + z @ (mean * precision).T
        own = -0.5 * (noise**2).sum(1) - std.log().sum(1)
        gains.append(own - logs.logsumexp(1) + math.log(count))
    kl = kl_to_standard_normal(Gaussian(mean=mean, std=std)).mean()
    return KlParts(count, kl.item(), torch.cat(gains).mean().item(), aggregate_variance(posterior))


def aggregate_variance(posterior: Gaussian) -> float:
    """The variance of the mixture of couplings [N, ...], mean over its elements; 1 for the prior."""
    mean, std = (array.double().cpu().flatten(1) for array in (posterior.mean, posterior.std))
    return ((std**2).mean(0) + mean.var(0, correction=0)).mean().item()


@dataclass(frozen=True)
class Points:
    """Noisy points x_t [B, ...], their levels t [B], and the classes [B] of their images; None without labels."""

    x_t: Tensor
    t: Tensor
    labels: Tensor | None = None


def posterior_draws(
    method: Method, bank: Bank, posterior: Gaussian | None, points: Points, count: int, generator: torch.Generator
) -> Tensor:
    """Positions in the bank of `count` independent draws from p(x | x_t) for every point, int64 [count, B].

    With labels only images of the point's own class are drawn. generator: on the device of the bank.
    """
    x_t, t = points.x_t, points.t
    found = torch.empty(count, len(x_t), dtype=torch.int64, device=x_t.device)
    every = torch.arange(len(x_t), device=x_t.device)
    for group, index in all_references(bank).groups(points.labels, every):
        for rows in group.split(ROWS):
            weights = log_likelihood(method.process, x_t[rows], t[rows], bank, index, posterior).softmax(1)
            with _any_algorithm():
                picked = torch.multinomial(weights, count, replacement=True, generator=generator)
            found[:, rows] = (picked if index is None else index[picked]).T
    return found


@contextlib.contextmanager
def _any_algorithm() -> Iterator[None]:
    """Within, algorithms need not be deterministic: cumulative sums, as of `multinomial`, have no other on CUDA."""
    before, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def implied_noise(method: Method, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise that leads from image x to the point x_t at level t, [B, ...]."""
    return (x_t - per_sample(method.process.alpha(t), x) * x) / per_sample(t, x)
