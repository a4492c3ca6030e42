"""Nearest neighbours among features: precision and recall, density and coverage, and copies of training data.

Distances between rows of two sets are computed tile by tile: no [N, M] matrix is ever held. Squares are expanded,
because a matrix product is fast, in float64 and with the mean subtracted. The remaining rounding (about 1e-7 of the
length of a row) decides no comparison, and distances that are returned are computed again from the difference.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .moments import check

_ROWS, _COLUMNS = 2048, 4096  # in a tile: 64 MB
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of an expanded square, relative to the squared lengths of its rows


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, radii: Tensor | None = None) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features `real` [N, D] and `fake` [M, D].

    Precision is the share of fake rows inside the ball of a real row, whose radius is the distance to its k-th nearest
    other real row; recall is the same with the sets exchanged. Balls are closed. Both depend on N and M: only values at
    equal counts are comparable.
    `radii` is `kth_distances(real, k)` if the caller has it.
    Raises ValueError for k or fewer rows in a set, unequal D, and non-finite features.
    """
    radii = _radii(real, fake, k, radii)
    inside, _, recalled = _balls(real, radii, fake, kth_distances(fake, k))
    return _share(inside > 0), _share(recalled)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5, radii: Tensor | None = None) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020) of features `real` [N, D] and `fake` [M, D].

    Density is the mean number of real balls (as in `precision_recall`) that contain a fake row, over k: about 1 for
    samples from the data's distribution, and above 1 for samples that concentrate. Coverage is the share of real balls
    that contain a fake row: for samples from the distribution about 1 − 2⁻ᵏ if N = M.
    `radii` is `kth_distances(real, k)` if the caller has it.
    Raises ValueError for k or fewer real rows, no fake ones, unequal D, and non-finite features.
    """
    radii = _radii(real, fake, k, radii)
    inside, containing, _ = _balls(real, radii, fake, fake.new_zeros(len(fake)))
    return float(inside.double().mean()) / k, _share(containing)


def authenticity(real: Tensor, fake: Tensor) -> float:
    """The share of `fake` rows [M, D] that are not copies of rows of `real` [N, D] (Alaa et al. 2022).

    A row is a copy if it is at most as far from its nearest real row as that one is from its own nearest other real
    row. New samples may be so by chance: compare with the value of held-out data, which is far below 1.
    Raises ValueError for fewer than two real rows, no fake ones, unequal D, and non-finite features.
    """
    distances, indices = nearest(fake, real)
    found, places = torch.unique(indices, return_inverse=True)
    apart, _ = _nearest_k(real[found], real, 1, excluded=found)
    return _share(distances > apart[places])


def nearest(queries: Tensor, rows: Tensor, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """For each of `queries` [N, D] the distance to its nearest of `rows` [M, D], float64 [N], and its index, int64 [N].

    With `exclude_self` query i is row i, which is not its own neighbour: the queries are the first of the rows. To
    check for memorisation, compare samples with the training set, and the training set with itself: samples much nearer
    than training rows are to each other are copies. Among equally near rows the index is any of them.
    Raises ValueError for no queries, no (other) row, unequal D, and non-finite features.
    """
    if exclude_self and len(queries) > len(rows):
        raise ValueError(f"excluding a row itself needs queries among the rows, got {len(queries)} and {len(rows)}")
    excluded = torch.arange(len(queries), device=rows.device) if exclude_self else None
    return _nearest_k(queries, rows, 1, excluded)


def kth_distances(rows: Tensor, k: int) -> Tensor:
    """The distance of each of `rows` [N, D] to its k-th nearest other row: float64 [N].

    Raises ValueError for k or fewer rows, k below 1, and non-finite features.
    """
    distances, _ = _nearest_k(rows, rows, k, torch.arange(len(rows), device=rows.device))
    return distances


def _nearest_k(queries: Tensor, rows: Tensor, k: int, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distance and index of the k-th nearest row of each query; row `excluded[i]` is skipped for query i."""
    check(queries, rows, least=1)
    others = len(rows) - (excluded is not None)
    if not 1 <= k <= others:
        raise ValueError(f"k must be between 1 and {others}, the number of other rows, got {k}")
    centre = _mean(rows)
    best = []
    for i in range(0, len(queries), _ROWS):
        block = slice(i, i + _ROWS)
        values = torch.zeros(len(queries[block]), 0, dtype=torch.float64, device=rows.device)
        indices = torch.zeros(values.shape, dtype=torch.int64, device=rows.device)
        for columns, squares, _ in _tiles(queries[block], rows, centre):
            if excluded is not None:
                own = excluded[block] - columns.start
                hit = (own >= 0) & (own < squares.shape[1])
                squares[hit.nonzero().squeeze(1), own[hit]] = torch.inf
            near, places = squares.topk(min(k, squares.shape[1]), largest=False)
            values, indices = torch.cat((values, near), dim=1), torch.cat((indices, places + columns.start), dim=1)
            values, order = values.topk(min(k, values.shape[1]), largest=False)
            indices = indices.gather(1, order)
        best.append(indices[:, k - 1])
    found = torch.cat(best)
    return torch.cat(
        [_lengths(q, rows[j]) for q, j in zip(queries.split(_ROWS), found.split(_ROWS), strict=True)]
    ), found


def _balls(a: Tensor, radii_a: Tensor, b: Tensor, radii_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows of `a` [N, D] and `b` [M, D] lie in balls around rows of the other set, in one pass.

    Returns the number of balls of `a` around each row of `b`, int64 [M]; whether each ball of `a` contains a row of
    `b`, bool [N]; and whether each row of `a` lies in a ball of `b`, bool [N].
    """
    middle = _mean(a)
    count = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    containing, contained = (torch.zeros(len(a), dtype=torch.bool, device=b.device) for _ in range(2))
    limits_a, limits_b = radii_a.to(b.device).square(), radii_b.to(b.device).square()
    for i in range(0, len(a), _ROWS):
        rows = slice(i, i + _ROWS)
        for columns, squares, lengths in _tiles(a[rows], b, middle):
            squares.sub_(lengths.mul_(_ROUNDING))
            inside = squares <= limits_a[rows, None]
            count[columns] += inside.sum(dim=0)
            containing[rows] |= inside.any(dim=1)
            contained[rows] |= (squares <= limits_b[columns]).any(dim=1)
    return count, containing, contained


def _tiles(block: Tensor, rows: Tensor, centre: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Squared distances from `block` [B, D] to the rows, tile by tile.

    Yields (which rows, squared distances [B, C], the sum of both squared lengths [B, C]), in new tensors.
    """
    block = block.double() - centre
    own = block.square().sum(dim=1)
    for start in range(0, len(rows), _COLUMNS):
        columns = slice(start, min(start + _COLUMNS, len(rows)))
        others = rows[columns].double() - centre
        lengths = own[:, None] + others.square().sum(dim=1)
        yield columns, torch.addmm(lengths, block, others.T, alpha=-2).clamp_min_(0), lengths


def _lengths(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().sum(dim=1).sqrt()


def _mean(rows: Tensor) -> Tensor:
    # In chunks: a mean in float64 would first copy all rows in float64.
    return torch.stack([chunk.double().sum(dim=0) for chunk in rows.split(_COLUMNS)]).sum(dim=0) / len(rows)


def _radii(real: Tensor, fake: Tensor, k: int, radii: Tensor | None) -> Tensor:
    check(real, fake, least=1)
    if radii is None:
        return kth_distances(real, k)
    if radii.shape != (len(real),):
        raise ValueError(f"radii must hold one value per real row, [{len(real)}], got {list(radii.shape)}")
    return radii


def _share(which: Tensor) -> float:
    return float(which.double().mean())
