"""Distances between two sets of features. Pure functions in float64, where cancellation leaves digits to spare."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

_TILE = 1024  # rows and columns of a kernel matrix held at once: 8 MB


def frechet(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """|μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ of two Gaussians: means [D], covariances [D, D].

    The squared 2-Wasserstein distance of the Gaussians (Dowson & Landau 1982), the form of FID (Heusel et al. 2017).
    The trace is taken as tr (Σ₁^½ Σ₂ Σ₁^½)^½: a symmetric matrix with the same eigenvalues as Σ₁Σ₂, so the result is
    always real, where a general matrix root of a singular product is not. Rounding below zero is cut off.
    """
    mu1, cov1, mu2, cov2 = (tensor.double() for tensor in (mu1, cov1, mu2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ cov2 @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    return _assemble(mu1 - mu2, torch.trace(cov1) + torch.trace(cov2), cross)


def frechet_from_features(a: Tensor, b: Tensor) -> float:
    """`frechet` of the Gaussians fitted to two sets of features, [N, D] and [M, D], with unbiased covariances.

    Where both sets are smaller than D the trace is the nuclear norm of A Bᵀ (A, B: the centred features over
    √(N − 1) and √(M − 1)), the same value from an [N, M] matrix without forming a covariance.
    Raises ValueError unless both sets have at least two rows and equal D.
    """
    a, b = _pair(a, b)
    mu1, mu2 = a.mean(dim=0), b.mean(dim=0)
    a, b = (a - mu1) / (len(a) - 1) ** 0.5, (b - mu2) / (len(b) - 1) ** 0.5
    if max(len(a), len(b)) < a.shape[1]:
        return _assemble(mu1 - mu2, a.square().sum() + b.square().sum(), torch.linalg.matrix_norm(a @ b.T, "nuc"))
    return frechet(mu1, a.T @ a, mu2, b.T @ b)


def kernel_distance(a: Tensor, b: Tensor, within_a: float | None = None) -> float:
    """Unbiased squared MMD between features [N, D] and [M, D] with the kernel (x·y/D + 1)³.

    The estimator of KID (Bińkowski et al. 2018), over all samples at once rather than random subsets: no seed, and
    the least variance the samples allow. Being unbiased it can fall below zero for equal distributions.
    `within_a` is `kernel_within(a)` where the caller already has it: for a large `a` that is most of the work.
    Raises ValueError unless both sets have at least two rows and equal D.
    """
    a, b = _pair(a, b)
    within_a = kernel_within(a) if within_a is None else within_a
    return within_a + kernel_within(b) - 2 * _sum_kernel(a, b) / (len(a) * len(b))


def kernel_within(a: Tensor) -> float:
    """The mean of the kernel over all pairs of different rows of `a` [N, D], N at least 2."""
    a = a.double()
    itself = float((a.square().sum(dim=1) / a.shape[1] + 1).pow(3).sum())
    return (_sum_kernel(a, a) - itself) / (len(a) * (len(a) - 1))


def w2(a: Tensor, b: Tensor) -> float:
    """The exact 2-Wasserstein distance between two equal-size point sets [N, D].

    It is the root mean squared length of the pairs in the best pairing. Memory grows with N², time with N³.
    Raises ValueError unless the shapes are equal.
    """
    if a.shape != b.shape:
        raise ValueError(f"w2 pairs equally many points, got {tuple(a.shape)} and {tuple(b.shape)}")
    # SciPy's cdist subtracts before it squares; torch's expands the square, which loses half the digits.
    costs = cdist(a.double().numpy(), b.double().numpy(), "sqeuclidean")
    return float(costs[linear_sum_assignment(costs)].mean() ** 0.5)


def coverage(predictions: Tensor, share: float = 0.01) -> int:
    """How many classes get at least `share` of the predictions, int64 [N]; negative ones belong to no class."""
    counts = torch.bincount(predictions[predictions >= 0])
    return int((counts >= max(share * len(predictions), 1)).sum())


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must be [N, D] and [M, D] with N and M at least 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a.double(), b.double()


def _assemble(shift: Tensor, traces: Tensor, cross: Tensor) -> float:
    return max(float(shift.square().sum() + traces - 2 * cross), 0.0)


def _sum_kernel(a: Tensor, b: Tensor) -> float:
    tiles = ((rows @ columns.T / a.shape[1] + 1) for rows in a.split(_TILE) for columns in b.split(_TILE))
    return sum(float((tile * tile * tile).sum()) for tile in tiles)
