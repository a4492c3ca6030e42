"""The rows of one column compared at once: which are better than which, and which ranks each row can have.

A *family* is what one column of one table compares: the configurations of one benchmark by one metric at one NFE. All
pairs are in it, because which row leads is known only afterwards; where a baseline was named in advance, only the pairs
with it. Values are taken as row + seed + residual, on a log scale where the metric has one. A corrected interval is the
wider of two:

- Tukey's (with a baseline Dunnett's) on the residual of the rows and seeds, with (k − 1)(n − 1) degrees of freedom;
- the t interval of the pair itself at `guard_level`, which protects against rows of unequal variance.

The first has the power of all rows together, and alone reports a difference between equal methods in up to 20 % of
tables where one of them varies much more than the others. Such a row would also widen Tukey's interval of all other
pairs. Where its variance is far above that of the others (`erratic`), the residual leaves it out, and its own pairs
have the t interval of the pair with Bonferroni's correction. Measured rates of the whole rule: docs/statistics.md.

"Better" needs three things: the corrected interval excludes zero; the difference is more than 1.3 % of the value; and
no seed of the better one diverged. Everything else is "inconclusive", with the reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import fdtri, stdtr, stdtrit
from scipy.stats import rankdata

from .simultaneous import ERROR, critical, exceedance, guard_level, pair_count
from .statistics import LEVEL, Interval, improvement

#: The coefficient of variation of FID over training seeds, by several hundred trainings of SiT on ImageNet: gaps below
#: it are to be called inconclusive (Dufour, Efros, Pérez 2026, "The FID Lottery", arXiv:2606.20536).
SEED_VARIATION = 0.013
BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
OVER_ZERO = "the interval includes zero"
RESAMPLES = 2000
LEAST_SEEDS = 2  # of a row with a rank
LEAST_COMMON = 3  # of a pair with an interval: at two, the t quantile alone is 12.7
ERRATIC = 0.001  # how often chance makes one of two equal variances look so much larger
MOST_ERRATIC = 0.25  # share of the rows of a family; where more would be erratic, none is
_BLOCK = 1_000_000  # differences held at once
_ROUNDING = 1e-10  # relative: differences that agree so closely do so because values lie on a grid

#: What one metric says of several configurations: label -> seed -> value, NaN where the seed diverged.
Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Difference:
    """`first` against `second` on common seeds.

    log: whether differences are of logarithms, else they are in the metric's unit.
    interval: of the mean difference, first − second, at 95 %; `n` counts the pairs. adjusted: the same for all pairs
    of the family at once. Both are without ends below three common seeds.
    p, corrected: two-sided p-value alone, and for the family; None without an interval or without spread.
    pairs: in the family. improvement: see `statistics.improvement`; None without seeds or a known direction.
    verdict: "better", "worse" (of the first) or "inconclusive", and then `reason` says why.
    """

    first: str
    second: str
    log: bool
    interval: Interval
    adjusted: Interval
    p: float | None
    corrected: float | None
    pairs: int
    improvement: float | None
    verdict: str
    reason: str

    def shown(self, *, reverse: bool = False) -> tuple[Interval, Interval]:
        """`interval` and `adjusted` as pages show them: on a log scale by how many per cent `first` exceeds `second`.

        reverse: of `second` against `first`.
        """
        turn = -1.0 if reverse else 1.0

        def one(found: Interval) -> Interval:
            ends = (found.low, found.high)[:: int(turn)]
            mean, low, high = (None if end is None else self._shown(turn * end) for end in (found.mean, *ends))
            return Interval(math.nan if mean is None else mean, low, high, found.n, found.lost)

        return one(self.interval), one(self.adjusted)

    def _shown(self, value: float) -> float:
        return 100 * math.expm1(min(value, 700.0)) if self.log else value + 0.0  # no −0


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
class Pairs:
    """All pairs of rows of tables [..., k, seeds] as arrays [..., k, k]: row − column. Made by `compare_pairs`.

    n: common seeds. mean, error: the mean difference and its standard error from the pair alone. tested: whether the
    pair is in the family, with an interval and with spread. half: half the width of the corrected interval.
    rows: how many rows are in the family [...]. sd: standard deviation of the residual [...], with df [...].
    erratic: the rows that the residual leaves out [..., k]. pooled: whether it has both rows of a pair.
    """

    n: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    tested: np.ndarray
    half: np.ndarray
    rows: np.ndarray
    sd: np.ndarray
    df: np.ndarray
    erratic: np.ndarray
    pooled: np.ndarray

    @property
    def significant(self) -> np.ndarray:
        """Where the corrected interval excludes zero."""
        return self.tested & (np.abs(self.mean) > self.half)


@dataclass(frozen=True)
class Family:
    """The comparisons of one column. Made by `family`.

    scale: the larger of both absolute means, which 1.3 % refers to; on a log scale 1.
    verdicts: 1 where the row is significantly better than the column, −1 worse, 0 inconclusive.
    """

    values: Values
    sign: int
    log: bool
    labels: tuple[str, ...]
    baseline: str | None
    pairs: Pairs = field(repr=False)
    scale: np.ndarray = field(repr=False)
    verdicts: np.ndarray = field(repr=False)

    @property
    def size(self) -> int:
        """How many pairs are compared."""
        return int(np.triu(self.pairs.tested, 1).sum())

    @property
    def erratic(self) -> list[str]:
        """The rows that the common residual leaves out."""
        return [label for label, out in zip(self.labels, self.pairs.erratic, strict=True) if out]

    @property
    def seeds(self) -> int:
        """The least number of common seeds of a pair that is compared; 0 without one."""
        return int(self.pairs.n[self.pairs.tested].min()) if self.size else 0

    def between(self, first: str, second: str) -> Difference:
        """One pair. Raises ValueError for a label that is not in the family."""
        i, j = self.labels.index(first), self.labels.index(second)
        found, tested = self.pairs, bool(self.pairs.tested[i, j])
        ours, theirs = self.values[first], self.values[second]
        verdict = (INCONCLUSIVE, BETTER, WORSE)[int(self.verdicts[i, j])]
        n, error = int(found.n[i, j]), float(found.error[i, j])
        alone = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error if n >= LEAST_COMMON else None
        p = 2 * float(stdtr(n - 1, -abs(found.mean[i, j]) / error)) if tested else None
        return Difference(
            first=first,
            second=second,
            log=self.log,
            interval=self._interval(i, j, alone),
            adjusted=self._interval(i, j, float(found.half[i, j]) if tested else alone),
            p=p,
            corrected=None if p is None else self._corrected(i, j, p),
            pairs=self.size,
            improvement=improvement(ours.values(), theirs.values(), self.sign) if self.sign else None,
            verdict=verdict,
            reason=self._reason(i, j) if verdict == INCONCLUSIVE else "",
        )

    def _interval(self, i: int, j: int, half: float | None) -> Interval:
        n, mean = int(self.pairs.n[i, j]), float(self.pairs.mean[i, j])
        lost = len(self.values[self.labels[i]].keys() & self.values[self.labels[j]].keys()) - n
        if half is None:
            return Interval(mean, None, None, n, lost)
        return Interval(mean, mean - half, mean + half, n, lost)

    def _corrected(self, i: int, j: int, p: float) -> float:
        """The larger p-value of the two tests, by their levels; of a pair outside the residual its own."""
        found, against = self.pairs, self.baseline is not None
        rows, pooled = int(found.rows), bool(found.pooled[i, j])
        level = guard_level(rows) if pooled else ERROR / pair_count(rows, baseline=against)
        alone = min(1.0, p * ERROR / level)
        if not pooled:
            return alone
        error = float(found.sd) * math.sqrt(2 / found.n[i, j])
        together = exceedance(abs(float(found.mean[i, j])) / error, rows, int(found.df), baseline=against)
        return max(together, alone)

    def _reason(self, i: int, j: int) -> str:
        found = self.pairs
        if not self.sign:
            return "no better direction is known"
        if found.n[i, j] < LEAST_COMMON:
            return f"needs {LEAST_COMMON} common seeds"
        if self.baseline is not None and self.baseline not in (self.labels[i], self.labels[j]):
            return f"only differences to {self.baseline} are tested"
        if not found.tested[i, j]:
            return "equal on every seed" if found.mean[i, j] == 0 else "the same difference on every seed: no spread"
        if not found.significant[i, j]:
            return OVER_ZERO
        if abs(found.mean[i, j]) <= SEED_VARIATION * self.scale[i, j]:
            return f"the difference is within {100 * SEED_VARIATION:g} % of the value"
        return "seeds of the better one diverged"


def family(values: Values, sign: int, *, log: bool = False, baseline: str | None = None) -> Family:
    """Compare all pairs of `values`, or those with a baseline.

    Args:
        values: label -> seed -> value, NaN where the seed diverged.
        sign: 1 where more is better, −1 where less is, 0 where that is not known.
        log: compare logarithms, unless a value is not positive.
        baseline: a label; one without values is no baseline.
    """
    labels = tuple(values)
    seeds = sorted({seed for own in values.values() for seed in own})
    table = np.array([[own.get(seed, math.nan) for seed in seeds] for own in values.values()])
    table = np.where(np.isfinite(table), table, math.nan).reshape(len(labels), len(seeds))
    log = log and not (table <= 0).any()
    baseline = baseline if baseline in values else None
    scaled = np.log(table) if log else table
    pairs, scale = compare_pairs(scaled, None if baseline is None else labels.index(baseline))
    scale = np.ones_like(scale) if log else scale
    lost = np.array([any(not math.isfinite(value) for value in own.values()) for own in values.values()], bool)
    with np.errstate(invalid="ignore"):
        better = pairs.significant & (sign * pairs.mean > SEED_VARIATION * scale) & ~lost[:, None]
    verdicts = better.astype(np.int8) - better.swapaxes(0, 1).astype(np.int8)
    return Family(values, sign, log, labels, baseline, pairs, scale, verdicts)


def among(found: Difference, count: int) -> Difference:
    """A difference of a family of its own as one of `count` such differences, by Bonferroni's correction."""
    if found.p is None or count < 2:
        return found
    n, mean, corrected = found.interval.n, found.interval.mean, min(1.0, count * found.p)
    half = (found.interval.half_width or 0.0) * float(
        stdtrit(n - 1, 1 - ERROR / 2 / count) / stdtrit(n - 1, (1 + LEVEL) / 2)
    )
    adjusted = dataclasses.replace(found.interval, low=mean - half, high=mean + half)
    found = dataclasses.replace(found, adjusted=adjusted, corrected=corrected, pairs=count)
    # A correction can only remove significance.
    return dataclasses.replace(found, verdict=INCONCLUSIVE, reason=OVER_ZERO) if corrected > ERROR else found


def compare_pairs(table: np.ndarray, baseline: int | None = None) -> tuple[Pairs, np.ndarray]:
    """All pairs of rows of tables [..., k, seeds], NaN where there is no value, and the `scale` of each [..., k, k].

    Each pair is compared on its own common seeds. The residual is that of the least squares fit of rows and seeds to
    the rows of the family that are not erratic, whichever seeds they have. baseline: the row that alone is compared
    with others.
    """
    n, mean, error, scale = _paired(table)
    with np.errstate(invalid="ignore"):
        tested = (n >= LEAST_COMMON) & (error > _ROUNDING * scale)
    if baseline is not None:
        against = np.arange(table.shape[-2]) == baseline
        tested &= against[:, None] ^ against
    inside = tested.any(-1, keepdims=True)
    rows = inside.sum((-1, -2))
    against_one = baseline is not None
    with np.errstate(invalid="ignore"):
        left_out = erratic(n, np.where(error > _ROUNDING * scale, error, 0.0), np.squeeze(inside, -1))
    pooled = ~(left_out[..., :, None] | left_out[..., None, :])
    sd, df = _residual(np.where(inside & ~left_out[..., None], table, math.nan))
    quantile = np.vectorize(lambda k, f: critical(int(k), int(f), baseline=against_one), otypes=[float])(rows, df)
    guard = np.vectorize(lambda k: guard_level(max(2, int(k))), otypes=[float])(rows)
    single = np.vectorize(lambda k: ERROR / pair_count(max(2, int(k)), baseline=against_one), otypes=[float])(rows)
    level = np.where(pooled, guard[..., None, None], single[..., None, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        together = np.where(pooled, (quantile * sd)[..., None, None] * np.sqrt(2 / n), 0.0)
        half = np.maximum(together, stdtrit(n - 1.0, 1 - level / 2) * error)
    return Pairs(n, mean, error, tested, half, rows, sd, df, left_out, pooled), scale


def erratic(n: np.ndarray, error: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Which rows vary so much more than the others that the residual leaves them out [..., k].

    The variance of a row is the lower median of those of its differences to the other rows: how a single other row
    varies does not change it. A row is erratic where this exceeds the lower median of all rows by a factor that the F
    distribution exceeds with probability `ERRATIC`. Where more than a quarter of the rows do, none is.
    """
    used = (n >= LEAST_COMMON) & ~np.eye(n.shape[-1], dtype=bool) & inside[..., None] & inside[..., None, :]
    own, free = _lower_median(np.where(used, error**2 * n, math.inf)), _lower_median(np.where(used, n - 1.0, math.inf))
    usual, usual_free = _lower_median(own)[..., None], _lower_median(free)[..., None]
    far = np.isfinite(own) & (usual > 0) & (own > fdtri(free, usual_free, 1 - ERRATIC) * usual)
    return far & (far.sum(-1, keepdims=True) <= MOST_ERRATIC * inside.sum(-1, keepdims=True))


def _lower_median(values: np.ndarray) -> np.ndarray:
    """Of the finite ones of [..., m]; infinite without one."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], math.inf)
    place = np.maximum(np.isfinite(values).sum(-1, keepdims=True) - 1, 0) // 2
    return np.take_along_axis(np.sort(values, -1), place, -1)[..., 0]


def _residual(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of what row + seed leaves of tables [..., k, seeds], and its degrees of freedom (0: NaN).

    Rows are eliminated first, which leaves normal equations of the seeds alone.
    """
    known = np.isfinite(table).astype(float)
    count = known.sum(-1, keepdims=True)
    share = known / np.maximum(count, 1)
    filled = np.where(known > 0, table, 0.0)
    centred = known * (filled - (share * filled).sum(-1, keepdims=True))
    normal = known.sum(-2)[..., None] * np.eye(table.shape[-1]) - known.swapaxes(-1, -2) @ share
    sums = centred.sum(-2)
    fitted = (np.linalg.pinv(normal, hermitian=True) @ sums[..., None])[..., 0]
    squares = (centred**2).sum((-1, -2)) - (sums * fitted).sum(-1)
    rank = np.linalg.matrix_rank(normal, hermitian=True) if table.size else np.zeros(table.shape[:-2], int)
    df = np.maximum(0, known.sum((-1, -2)) - (count > 0).sum((-1, -2)) - rank).astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(squares, 0.0) / np.where(df > 0, df, math.nan)), df


def _paired(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[..., k, seeds] -> common seeds, mean difference, its standard error, larger of both absolute means [..., k, k].

    NaN where there are too few seeds for it.
    """
    step = max(1, _BLOCK // max(1, table.size))
    parts = [
        _paired_part(table[..., start : start + step, None, :], table[..., None, :, :])
        for start in range(0, max(1, table.shape[-2]), step)
    ]
    n, mean, error, scale = (np.concatenate(arrays, axis=-2) for arrays in zip(*parts, strict=True))
    return n, mean, error, scale


def _paired_part(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    both = np.isfinite(first) & np.isfinite(second)
    count = both.sum(-1)
    difference = np.where(both, first - second, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = difference.sum(-1) / count
        squares = (np.where(both, difference - centre[..., None], 0.0) ** 2).sum(-1)
        error = np.sqrt(squares / np.where(count > 1, count - 1, math.nan) / count)
        ours, theirs = (np.abs(np.where(both, own, 0.0).sum(-1) / count) for own in (first, second))
    return count, centre, error, np.maximum(ours, theirs)


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
