"""All pairs of a table compared at once: which rows are better than which, and which ranks each row can have.

A *family* is what one column of one table compares: all pairs of configurations of one benchmark by one metric at one
NFE. Holm's correction (1979) runs over all of its pairs, because which row leads is known only afterwards: testing the
best against the others as if it had been named in advance would find winners among equals. The chance that any two
equal methods of the family are called different is then at most 5 %, whatever depends on whatever.

"Better" needs three things: the corrected paired interval excludes zero; the difference is more than 1.3 % of the
value; and no seed of the better one diverged. Everything else is "inconclusive", with the reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata

from .statistics import LEVEL, Interval, improvement

#: The coefficient of variation of FID over training seeds, by several hundred trainings of SiT on ImageNet: gaps below
#: it are to be called inconclusive (Dufour, Efros, Pérez 2026, "The FID Lottery", arXiv:2606.20536).
SEED_VARIATION = 0.013
BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
OVER_ZERO = "the interval includes zero"
RESAMPLES = 2000
LEAST_SEEDS = 2
_BLOCK = 1_000_000  # differences held at once
_ROUNDING = 1e-10  # relative: differences that agree so closely do so because values lie on a grid

#: What one metric says of several configurations: label -> seed -> value, NaN where the seed diverged.
Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Difference:
    """`first` against `second` on common seeds.

    interval: of the mean difference, first − second in the metric's unit, at 95 %; `n` counts the pairs.
    adjusted: the same at the level of Holm's step. Read it with zero only: it excludes zero where Holm's test does.
    p, holm: two-sided p-value alone, and adjusted for its family of `pairs`; None below two pairs, or without spread.
    improvement: see `statistics.improvement`; None without seeds or a known direction.
    verdict: "better", "worse" (of the first) or "inconclusive", and then `reason` says why.
    """

    first: str
    second: str
    interval: Interval
    adjusted: Interval
    p: float | None
    holm: float | None
    pairs: int
    improvement: float | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class Rank:
    """The rank of a row in a family, and its rank interval.

    place: by the mean, 1 is best; None with fewer than two seeds, for those rows are not ranked.
    low, high: the rank interval, which the verdicts leave open: one more than the rows that are significantly better,
    to all but those that are significantly worse. All of them hold at once with 95 %, as the verdicts do.
    bootstrap: the central 95 % of its places when seeds are resampled; too narrow where seeds are few, because three
    seeds resampled spread less than new ones would.
    """

    place: int | None
    low: int | None
    high: int | None
    bootstrap: tuple[int, int] | None


@dataclass(frozen=True)
class Family:
    """All pairs of one family as arrays [k, k]: row − column, in the order of `labels`. Made by `family`.

    error: the standard error of the mean difference; level: 1 − confidence of the interval of Holm's step.
    verdicts: 1 where the row is significantly better than the column, −1 worse, 0 inconclusive.
    """

    values: Values
    sign: int
    labels: tuple[str, ...]
    pairs: int
    n: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    p: np.ndarray = field(repr=False)
    holm: np.ndarray = field(repr=False)
    level: np.ndarray = field(repr=False)
    verdicts: np.ndarray = field(repr=False)

    def between(self, first: str, second: str) -> Difference:
        """One pair. Raises ValueError for a label that is not in the family."""
        i, j = self.labels.index(first), self.labels.index(second)
        tested = bool(np.isfinite(self.p[i, j]))
        ours, theirs = self.values[first], self.values[second]
        verdict = (INCONCLUSIVE, BETTER, WORSE)[int(self.verdicts[i, j])]
        chance = improvement(ours.values(), theirs.values(), self.sign) if self.sign else None
        return Difference(
            first=first,
            second=second,
            interval=self._interval(i, j, 1 - LEVEL),
            adjusted=self._interval(i, j, float(self.level[i, j])),
            p=float(self.p[i, j]) if tested else None,
            holm=float(self.holm[i, j]) if tested else None,
            pairs=self.pairs,
            improvement=chance,
            verdict=verdict,
            reason=self._reason(i, j) if verdict == INCONCLUSIVE else "",
        )

    def _interval(self, i: int, j: int, level: float) -> Interval:
        n, mean = int(self.n[i, j]), float(self.mean[i, j])
        lost = len(self.values[self.labels[i]].keys() & self.values[self.labels[j]].keys()) - n
        if n < LEAST_SEEDS:
            return Interval(mean, None, None, n, lost)
        half = float(stdtrit(n - 1, 1 - level / 2)) * float(self.error[i, j])
        return Interval(mean, mean - half, mean + half, n, lost)

    def _reason(self, i: int, j: int) -> str:
        if not self.sign:
            return "no better direction is known"
        if self.n[i, j] < LEAST_SEEDS:
            return "fewer than two common seeds"
        if not np.isfinite(self.p[i, j]):
            return "equal on every seed" if self.mean[i, j] == 0 else "the same difference on every seed: no spread"
        if self.holm[i, j] > 1 - LEVEL:
            return OVER_ZERO
        if abs(self.mean[i, j]) <= SEED_VARIATION * self.scale[i, j]:
            return f"the difference is within {100 * SEED_VARIATION:g} % of the value"
        return "seeds of the better one diverged"


def family(values: Values, sign: int) -> Family:
    """Compare all pairs of `values`. `sign`: 1 where more is better, −1 where less is, 0 where that is not known."""
    labels = tuple(values)
    seeds = sorted({seed for own in values.values() for seed in own})
    table = np.array([[own.get(seed, math.nan) for seed in seeds] for own in values.values()])
    table = np.where(np.isfinite(table), table, math.nan).reshape(len(labels), len(seeds))
    n, mean, error, scale = _paired(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > _ROUNDING * scale, 2 * stdtr(n - 1.0, -np.abs(mean / error)), math.nan)
    upper = np.triu_indices(len(labels), 1)
    holm, level = np.full(p.shape, math.nan), np.full(p.shape, 1 - LEVEL)
    holm[upper], level[upper] = holm_steps(p[upper])
    holm.T[upper], level.T[upper] = holm[upper], level[upper]  # (i, j) and (j, i) are one test
    lost = np.array([any(not math.isfinite(value) for value in own.values()) for own in values.values()], bool)
    with np.errstate(invalid="ignore"):
        better = (holm <= 1 - LEVEL) & (sign * mean > SEED_VARIATION * scale) & ~lost[:, None]
    verdicts = better.astype(np.int8) - better.T.astype(np.int8)
    pairs = int(np.isfinite(p[upper]).sum())
    return Family(values, sign, labels, pairs, n, mean, error, scale, p, holm, level, verdicts)


def one_family(differences: Sequence[Difference]) -> list[Difference]:
    """Differences that were taken each by itself (families of two rows), corrected as the one family they are."""
    p = np.array([math.nan if found.p is None else found.p for found in differences])
    holm, level = holm_steps(p)
    tested = int(np.isfinite(p).sum())
    return [_corrected(*item, tested) for item in zip(differences, holm.tolist(), level.tolist(), strict=True)]


def _corrected(found: Difference, holm: float, level: float, pairs: int) -> Difference:
    if found.p is None:
        return dataclasses.replace(found, pairs=pairs)
    n, mean, half = found.interval.n, found.interval.mean, found.interval.half_width or 0.0
    half *= float(stdtrit(n - 1, 1 - level / 2) / stdtrit(n - 1, (1 + LEVEL) / 2))
    adjusted = dataclasses.replace(found.interval, low=mean - half, high=mean + half)
    found = dataclasses.replace(found, adjusted=adjusted, holm=holm, pairs=pairs)
    # A correction can only remove significance.
    return dataclasses.replace(found, verdict=INCONCLUSIVE, reason=OVER_ZERO) if holm > 1 - LEVEL else found


def _paired(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[k, seeds] -> number of common seeds, mean difference, its standard error, larger of both absolute means [k, k].

    NaN where there are too few seeds for it.
    """
    k, seeds = table.shape
    n, mean, error, scale = np.zeros((k, k), int), *(np.full((k, k), math.nan) for _ in range(3))
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    rows = max(1, _BLOCK // max(1, k * seeds))
    for start in range(0, k, rows):
        part = slice(start, start + rows)
        both = known[part, None] & known
        count = both.sum(-1)
        difference = np.where(both, filled[part, None] - filled, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = difference.sum(-1) / count
            squares = (np.where(both, difference - centre[..., None], 0.0) ** 2).sum(-1)
            error[part] = np.sqrt(squares / np.where(count > 1, count - 1, math.nan) / count)
            ours, theirs = (np.abs(np.where(both, own, 0.0).sum(-1) / count) for own in (filled[part, None], filled))
        n[part], mean[part], scale[part] = count, centre, np.maximum(ours, theirs)
    return n, mean, error, scale


def holm_steps(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Holm's adjusted p-values of a family [m], and the level at which each interval excludes zero where Holm rejects.

    NaNs are no tests and stay out of the family. The i-th smallest p is tested at 5 % / (m − i + 1); from the first
    that is not rejected on, the level stays.
    """
    adjusted, level = np.full(p.shape, math.nan), np.full(p.shape, 1 - LEVEL)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]  # NaNs are sorted last
    left = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(left * p[order])) if len(order) else []
    kept = np.flatnonzero(adjusted[order] > 1 - LEVEL)
    first = kept[0] if len(kept) else len(order)
    level[order] = (1 - LEVEL) / np.maximum(left, left[first] if len(kept) else 1)
    return adjusted, level


def ranks(compared: Family) -> dict[str, Rank]:
    """Places by the mean, of the rows with two seeds or more; of the others, and without a direction, nothing."""
    means = {label: _mean(own) for label, own in compared.values.items()}
    # One seed heads no table by luck.
    ranked = [i for i, label in enumerate(compared.labels) if compared.sign and means[label][1] >= LEAST_SEEDS]
    found = dict.fromkeys(compared.labels, Rank(None, None, None, None))
    if not ranked:
        return found
    level = np.array([-compared.sign * means[compared.labels[place]][0] for place in ranked])
    places = rankdata(level, method="min").astype(int)
    verdicts = compared.verdicts[np.ix_(ranked, ranked)]
    low, high = 1 + (verdicts < 0).sum(1), len(ranked) - (verdicts > 0).sum(1)
    spans = _resampled([compared.values[compared.labels[place]] for place in ranked], compared.sign)
    for index, place in enumerate(ranked):
        # Means are over all seeds of a row, verdicts over common ones: where these disagree, both are among its places.
        bounds = min(low[index], places[index]), max(high[index], places[index])
        found[compared.labels[place]] = Rank(int(places[index]), int(bounds[0]), int(bounds[1]), spans[index])
    return found


def _mean(own: Mapping[int, float]) -> tuple[float, int]:
    finite = [value for value in own.values() if math.isfinite(value)]
    return (math.fsum(finite) / len(finite), len(finite)) if finite else (math.nan, 0)


def _resampled(rows: list[Mapping[int, float]], sign: int) -> list[tuple[int, int]]:
    """The central 95 % of each row's places when seeds are drawn with replacement, the same seeds for all rows."""
    seeds = sorted({seed for own in rows for seed, value in own.items() if math.isfinite(value)})
    table = np.array([[own.get(seed, math.nan) for seed in seeds] for own in rows])
    known = np.isfinite(table)
    centre = np.nanmean(np.where(known, table, math.nan), axis=1).mean()
    filled = np.where(known, table - centre, 0.0)
    generator = np.random.default_rng(0)  # fixed: the same records give the same report
    chosen = generator.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    weight = (chosen[:, :, None] == np.arange(len(seeds))).sum(1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weight @ filled.T) / (weight @ known.T.astype(float))
    scale = float(np.abs(filled).max()) or 1.0
    # Rounded, so that ties stay ties however the sums were ordered. Rows that a resample has no seed of are not in it.
    level = np.round(-sign * means / scale, 12)
    places = rankdata(np.where(np.isnan(level), math.inf, level), method="min", axis=1).astype(float)
    places[np.isnan(level)] = math.nan
    low, high = np.nanpercentile(places, [2.5, 97.5], axis=0, method="inverted_cdf")
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]
