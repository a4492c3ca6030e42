"""Kernel distances: the unbiased squared MMD with KID's cubic kernel, over all rows or over random subsets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .moments import check

_TILE = 1024  # rows and columns of a kernel matrix held at once: 8 MB


def kernel_distance(a: Tensor, b: Tensor, within_a: float | None = None) -> float:
    """Unbiased squared MMD between features [N, D] and [M, D] with the kernel (x·y/D + 1)³.

    The estimator of KID (Bińkowski et al. 2018), over all samples at once rather than random subsets: no seed, and
    the least variance that the samples allow. Being unbiased it can fall below zero for equal distributions.
    `within_a` is `kernel_within(a)` if the caller has it: for a large `a` that is most of the work.
    Raises ValueError unless both sets have at least two rows, equal D and finite values.
    """
    check(a, b)
    within_a = kernel_within(a) if within_a is None else within_a
    return within_a + kernel_within(b) - 2 * _sum_kernel(a, b) / (len(a) * len(b))


def kernel_within(a: Tensor) -> float:
    """The mean of the kernel over all pairs of different rows of `a` [N, D], N at least 2."""
    check(a)
    return (_sum_kernel(a, a) - float(_with_itself(a).sum())) / (len(a) * (len(a) - 1))


def kid(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float | None]:
    """KID as published codes report it: the mean of `kid_subsets`, and the standard error of that mean.

    The standard error is the standard deviation over the subsets / √subsets. It measures how well the number of subsets
    determines the mean, **not** how much the mean would vary with other samples: subsets share rows, so it goes to zero
    with their number. It is None if a subset takes all rows of either set, which would then seem to vary less than they
    do, or not at all. torchmetrics and torch-fidelity print the standard deviation itself:
    `kid_subsets(...).std(correction=0)`.
    Raises ValueError as `kid_subsets`, and for fewer than two subsets.
    """
    if subsets < 2:
        raise ValueError(f"a standard error needs at least 2 subsets, got {subsets}")
    values = kid_subsets(a, b, subsets, size, torch.Generator().manual_seed(seed))
    error = float(values.std()) / subsets**0.5 if size < min(len(a), len(b)) else None
    return float(values.mean()), error


def kid_subsets(a: Tensor, b: Tensor, subsets: int, size: int, generator: torch.Generator) -> Tensor:
    """`kernel_distance` of random subsets of features [N, D] and [M, D]: float64 [subsets] on the CPU.

    A subset takes `size` rows of either set without repetition, at most min(N, M). `generator` (on the CPU) draws a
    permutation of N and then one of M for each subset, whose first `size` entries count: in torchmetrics' order, so
    with `torch.default_generator` and the same seed the values are torchmetrics'. The distribution of subsets is also
    that of clean-fid and torch-fidelity.
    Raises ValueError for fewer than two rows or fewer than one subset, unequal D, and non-finite features.
    """
    check(a, b)
    size = min(size, len(a), len(b))
    if subsets < 1 or size < 2:
        raise ValueError(f"KID needs at least one subset of at least 2 rows, got {subsets} of {size}")
    drawn = [
        [torch.randperm(len(values), generator=generator)[:size].to(values.device) for values in (a, b)]
        for _ in range(subsets)
    ]
    # Rows of small sets are in many subsets: then every kernel value is computed once and summed for all subsets.
    if len(a) ** 2 + len(b) ** 2 + len(a) * len(b) > 3 * subsets * size**2:
        return torch.tensor([kernel_distance(a[i], b[j]) for i, j in drawn], dtype=torch.float64)
    chosen_a, chosen_b = (
        _indicators(list(rows), len(x)) for x, rows in zip((a, b), zip(*drawn, strict=True), strict=True)
    )
    within = sum(
        _sums_kernel(x, x, chosen, chosen) - chosen @ _with_itself(x) for x, chosen in ((a, chosen_a), (b, chosen_b))
    )
    return (within / (size * (size - 1)) - 2 * _sums_kernel(a, b, chosen_a, chosen_b) / size**2).cpu()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    inner = (a.double() @ b.double().T).div_(a.shape[1]).add_(1)
    return inner * inner * inner  # much faster than pow(3)


def _with_itself(a: Tensor) -> Tensor:
    """The kernel of every row with itself: float64 [N]."""
    inner = torch.cat([rows.double().square().sum(dim=1) for rows in a.split(_TILE)]) / a.shape[1] + 1
    return inner * inner * inner


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, rows, _TILE):
        for j in range(0, columns, _TILE):
            yield slice(i, i + _TILE), slice(j, j + _TILE)


def _sum_kernel(a: Tensor, b: Tensor) -> float:
    return sum(float(_kernel(a[i], b[j]).sum()) for i, j in _tiles(len(a), len(b)))


def _sums_kernel(a: Tensor, b: Tensor, chosen_a: Tensor, chosen_b: Tensor) -> Tensor:
    """The sum of the kernel over the rows of each subset: [S, N] and [S, M] of zeros and ones to [S]."""
    total = torch.zeros(len(chosen_a), dtype=torch.float64, device=a.device)
    for i, j in _tiles(len(a), len(b)):
        total += ((chosen_a[:, i] @ _kernel(a[i], b[j])) * chosen_b[:, j]).sum(dim=1)
    return total


def _indicators(subsets: list[Tensor], count: int) -> Tensor:
    chosen = torch.zeros(len(subsets), count, dtype=torch.float64, device=subsets[0].device)
    return chosen.scatter_(1, torch.stack(subsets), 1.0)
