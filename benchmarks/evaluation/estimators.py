"""Unbiased estimates from independent draws, with standard errors: a variance given a condition, and of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Elements of gradients converted to float64 at a time (128 MiB)."""


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; None where it is not defined, or not finite."""

    value: float | None
    error: float | None

    @staticmethod
    def of(value: float, error: float) -> Estimate:
        """With None in the place of what is not finite, which JSON cannot hold."""
        if not math.isfinite(value):
            return UNDEFINED
        return Estimate(value, error if math.isfinite(error) else None)


UNDEFINED = Estimate(None, None)


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of independent values [n] and its standard error, None at n = 1."""
    values = values.detach().double().cpu()
    error = values.std() / math.sqrt(len(values)) if len(values) > 1 else torch.tensor(math.nan)
    return Estimate.of(values.mean().item(), error.item())


def conditional_variance(draws: Sequence[Tensor]) -> Tensor:
    """Trace of the covariance of K >= 2 draws [S, ...] for each of S conditions, unbiased: [S], float64."""
    values = torch.stack([draw.double().flatten(1) for draw in draws])
    return values.var(0, correction=1).sum(1)


@dataclass(frozen=True)
class GradientSpread:
    """What R independent gradients g_1 … g_R say about the distribution of a gradient.

    variance: tr Cov(g), unbiased.
    norm2: ‖E g‖², unbiased (it may come out below 0 where noise hides the mean).
    ratio: their quotient, a share of noise that no rescaling of the loss changes; times the batch it is the "simple
        noise scale" of McCandlish et al. 2018 (arXiv 1812.06162, section 2.2). None where norm2 is not above 0.

    Errors are by the jackknife.
    """

    variance: Estimate
    norm2: Estimate
    ratio: Estimate


def gradient_spread(products: Tensor) -> GradientSpread:
    """From the products G_ij = g_i · g_j of R >= 3 gradients, float64 [R, R].

    With ḡ the mean, tr Cov = Σ ‖g_i − ḡ‖² / (R − 1) and ‖E g‖² = ‖ḡ‖² − tr Cov / R, which is the mean of the products
    of different gradients.
    """
    count = len(products)
    own, total = products.diagonal(), products.sum()
    whole = _spread(own.sum(), total, count)
    # Without gradient i its row and its column are gone from the sum of all products.
    left_out = _spread(own.sum() - own, total - 2 * products.sum(1) + own, count - 1)
    spread = left_out - left_out.mean(0)
    errors = ((count - 1) / count * spread.square().sum(0)).sqrt()
    variance, norm2, ratio = (Estimate.of(v, e) for v, e in zip(whole.tolist(), errors.tolist(), strict=True))
    return GradientSpread(variance, norm2, ratio)


def _spread(own: Tensor, total: Tensor, count: int) -> Tensor:
    """(variance, norm2, ratio), [..., 3], from Σ G_ii and Σ G_ij; the ratio is NaN where norm2 is not above 0."""
    variance = (own - total / count) / (count - 1)
    norm2 = (total - own) / (count * (count - 1))
    return torch.stack([variance, norm2, torch.where(norm2 > 0, variance / norm2, math.nan)], dim=-1)


def inner_products(vectors: Sequence[Tensor]) -> Tensor:
    """All products of R vectors [P], float64 [R, R] on the CPU.

    Sums run in float64: where vectors hardly differ, their variance is a small difference of large products. (Devices
    without float64 send their vectors over in pieces.)
    """
    products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    size = max(1, CHUNK_ELEMENTS // len(vectors))
    for start in range(0, len(vectors[0]), size):
        piece = torch.stack([vector[start : start + size] for vector in vectors])
        piece = piece.cpu().double() if piece.device.type == "mps" else piece.double()
        products += (piece @ piece.T).cpu()
    return products
