"""Distances between two sets of features. Pure functions in float64, where cancellation costs no significant digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from .moments import Moments, check


def square_root(cov: Tensor) -> Tensor:
    """A matrix R [D, D] with R Rᵀ = `cov` [D, D], symmetric and without negative eigenvalues: float64.

    Cholesky's factor if there is one, ten times as fast as eigenvectors; these for a singular matrix. Rounding
    may let a singular matrix pass, which does not matter: a factor that is found reproduces `cov` to
    rounding (Higham 2002, theorem 10.3). Negative eigenvalues, which come from rounding, count as zero.
    """
    cov = cov.double()
    factor, failed = torch.linalg.cholesky_ex(cov)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp_min(0).sqrt()


def frechet_moments(a: Moments, b: Moments, root: Tensor | None = None) -> float:
    """|μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ of two fitted Gaussians.

    The squared 2-Wasserstein distance of the Gaussians (Dowson & Landau 1982), the form of FID (Heusel et al. 2017).
    The trace is taken as tr (Rᵀ Σ₂ R)^½ with R Rᵀ = Σ₁: a symmetric matrix with the same eigenvalues as Σ₁Σ₂, so the
    result is always real, unlike a general matrix root of a singular product. Rounding below zero is cut off.
    A covariance of n rows has rank n − 1 at most, so only that many eigenvalues count: the others are zero but for
    rounding, whose root would be 1e-8 of the largest each.
    `root` is `square_root(a.cov)` if the caller has it. Raises ValueError for unequal D.
    """
    _check_width(a, b.mean)
    root = square_root(a.cov) if root is None else root
    cross = _trace_of_root(_product(root, b.cov), min(a.count, b.count) - 1)
    return _assemble(a.mean - b.mean, torch.trace(a.cov) + torch.trace(b.cov), cross)


def frechet_mixed(a: Moments, b: Tensor) -> float:
    """`frechet_moments(a, Moments.of(b))` for features `b` [N, D] with N < D, from an [N, N] matrix.

    With B the centred features over √(N − 1), the eigenvalues of B Σ_a Bᵀ are the non-zero ones of Σ_a Bᵀ B: no
    matrix [D, D] is decomposed and no root is needed.
    Raises ValueError for fewer than two rows, another D than that of `a`, and non-finite features.
    """
    check(b)
    _check_width(a, b[0])
    b = b.double()
    mean = b.mean(dim=0)
    b = (b - mean) / (len(b) - 1) ** 0.5
    cross = _trace_of_root(b @ a.cov @ b.T, min(a.count - 1, len(b) - 1, b.shape[1]))
    return _assemble(a.mean - mean, torch.trace(a.cov) + b.square().sum(), cross)


def frechet_from_features(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of the Gaussians fitted to features [N, D] and [M, D], with unbiased covariances.

    If both sets are smaller than D, the trace is the nuclear norm of A Bᵀ (A, B: the centred features over √(N − 1) and
    √(M − 1)), the same value from an [N, M] matrix without a covariance. If one of them is, this is `frechet_mixed`.
    Raises ValueError unless both sets have at least two rows, equal D and finite values.
    """
    check(a, b)
    few, many = sorted((a, b), key=len)
    size = a.shape[1]
    if len(few) >= size:
        return frechet_moments(Moments.of(a), Moments.of(b))
    if len(many) >= size:
        return frechet_mixed(Moments.of(many), few)
    a, b = a.double(), b.double()
    mu1, mu2 = a.mean(dim=0), b.mean(dim=0)
    a, b = (a - mu1) / (len(a) - 1) ** 0.5, (b - mu2) / (len(b) - 1) ** 0.5
    return _assemble(mu1 - mu2, a.square().sum() + b.square().sum(), torch.linalg.matrix_norm(a @ b.T, "nuc"))


def frechet_of_rows(reference: Moments, features: Tensor, root: Tensor | None = None) -> Callable[[Tensor], float]:
    """The distance from `reference` to any choice of rows of `features` [N, D], as a function of the rows' indices.

    The function takes int64 indices [n], n at least 2 and repeats allowed: `frechet_moments(reference,
    Moments.of(features[rows]), root)`. What does not depend on the choice is computed once, so that many subsets or
    bootstrap resamples are cheap: up to N = 2 D this is the matrix X Σ Xᵀ [N, N], of which a choice takes and centres a
    part. Raises ValueError for fewer than two rows, another D than the reference's, and non-finite features.
    """
    check(features)
    _check_width(reference, features[0])
    size = features.shape[1]
    if len(features) <= 2 * size:
        return _of_few_rows(reference, features.double())
    root = square_root(reference.cov) if root is None else root

    def value(rows: Tensor) -> float:
        chosen = features[rows]
        if len(chosen) < size:
            return frechet_mixed(reference, chosen)
        return frechet_moments(reference, Moments.of(chosen), root)

    return value


def extrapolated_frechet(
    reference: Moments, features: Tensor, seed: int, points: int = 15, root: Tensor | None = None
) -> float:
    """FID∞: the Fréchet distance from `reference` to infinitely many samples, extrapolated from `features` [N, D].

    The bias of a Fréchet distance falls with 1/N (Chong & Forsyth 2020): distances of random subsets of `points` sizes,
    evenly from N/10 to N, are fitted by a line in 1/N, whose value at zero this is. Unbiased only to that order: it can
    fall below zero, and it keeps the bias of a finite `reference`. The relation does not hold for subsets smaller than
    D. Measured on Gaussians of 64 features whose standard deviations fall by 1.5 orders of magnitude, at a true
    distance of 0.09 (mean of 12): −0.07 at N = 2 D, 0.008 at 5 D, 0.065 at 10 D and 0.091 at 25 D, while the plain
    distances are 0.68, 0.31, 0.20 and 0.13. It is reliable from N = 25 D, the paper's 50,000 for Inception.
    `root` as in `frechet_moments`. Raises ValueError as `frechet_of_rows`, for fewer than two points, and if N is
    below twice the points.
    """
    if points < 2:
        raise ValueError(f"a line needs at least 2 points, got {points}")
    if len(features) < 2 * points:
        raise ValueError(f"extrapolating over {points} sizes needs at least {2 * points} rows, got {len(features)}")
    value = frechet_of_rows(reference, features, root)
    count = len(features)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(max(count // 10, 2), count, points).round().long().tolist()
    values = [value(torch.randperm(count, generator=generator)[:size].to(features.device)) for size in sizes]
    x, y = 1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean())


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
    """The number of classes with at least `share` of the predictions, int64 [N]; negative ones belong to no class."""
    counts = torch.bincount(predictions[predictions >= 0])
    return int((counts >= max(share * len(predictions), 1)).sum())


def _of_few_rows(reference: Moments, features: Tensor) -> Callable[[Tensor], float]:
    centre = features.mean(
        dim=0
    )  # subtracted first: centring the matrix afterwards would cancel digits of a large mean
    features = features - centre
    inner = features @ reference.cov @ features.T
    squares = features.square().sum(dim=1)
    trace = torch.trace(reference.cov)
    rank = min(reference.count - 1, features.shape[1])

    def value(rows: Tensor) -> float:
        if len(rows) < 2:
            raise ValueError(f"features must be at least 2 rows, got {len(rows)}")
        count = len(rows)
        # A row that is chosen w times is one row of weight √w: a bootstrap resample has a third fewer rows.
        rows, weights = torch.unique(rows, return_counts=True)
        weights = weights.double()
        mean = weights @ features[rows] / count
        part = inner[rows][:, rows]
        means = part @ weights / count
        centred = part - means[:, None] - means + weights @ means / count
        scale = weights.sqrt()
        cross = _trace_of_root(scale[:, None] * centred * scale / (count - 1), min(len(rows) - 1, rank))
        spread = (weights @ squares[rows] - count * mean.square().sum()) / (count - 1)
        return _assemble(reference.mean - centre - mean, trace + spread, cross)

    return value


def _product(root: Tensor, cov: Tensor) -> Tensor:
    return root.T @ cov @ root


def _trace_of_root(matrix: Tensor, rank: int | None = None) -> Tensor:
    """tr M^½ of a symmetric matrix [K, K] without negative eigenvalues, from its `rank` largest if that is known."""
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).clamp_min(0).sqrt()  # in ascending order
    return values.sum() if rank is None else values[max(len(values) - rank, 0) :].sum()


def _check_width(reference: Moments, row: Tensor) -> None:
    if len(row) != len(reference.mean):
        raise ValueError(f"features must be equally wide, got {len(reference.mean)} and {len(row)}")


def _assemble(shift: Tensor, traces: Tensor, cross: Tensor) -> float:
    return max(float(shift.square().sum() + traces - 2 * cross), 0.0)
