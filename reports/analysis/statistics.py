"""Means and their uncertainty. The unit is the training seed: draws of samples within a seed are averaged first.

With fewer than ten seeds a t interval is the honest choice (a percentile bootstrap of the mean covers about
75 % at n = 3 where 95 % is claimed). Values that are not finite come from runs that diverged: they cannot
enter a mean, so they are counted beside it. Whole tables of comparisons are in `comparisons.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    `mean` is NaN where `n` is 0; `low` and `high` are None where `n` < 2. `n` counts the finite values, `lost`
    the others.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    lost: int = 0

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, in the unit of the mean."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and does not include zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Spread:
    """Where the spread of a value comes from, as standard deviations in its unit.

    seeds: how many seeds have a value; draws: the least and the greatest number of draws of a seed.
    total: between the values of the seeds (their means over draws), None below two seeds.
    seed: between trainings, with the part of the draws taken out; None where it cannot be told (see `spread`).
    draw: between draws of samples of one training, None where no seed has two.
    """

    seeds: int
    draws: tuple[int, int]
    total: float | None
    seed: float | None
    draw: float | None


def t_interval(values: Iterable[float], level: float = LEVEL) -> Interval:
    """Mean and two-sided Student t interval of independent values, one per training seed."""
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    n, lost = len(finite), len(values) - len(finite)
    if n == 0:
        return Interval(math.nan, None, None, 0, lost)
    mean = math.fsum(finite) / n  # fsum rounds once: the order of the seeds cannot change a printed digit
    if n == 1:
        return Interval(mean, None, None, 1, lost)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, lost)


def seed_mean(draws: Iterable[float]) -> float:
    """The value of one seed: the mean over its draws of samples, NaN where any draw is not finite."""
    interval = t_interval(draws)
    return math.nan if interval.lost else interval.mean


def paired_interval(first: Mapping[int, float], second: Mapping[int, float], level: float = LEVEL) -> Interval:
    """t interval of `first` − `second` over the seeds that both have.

    Methods share initialisation, data order and evaluation noise seed by seed, so much of the spread cancels
    in the difference. A pair with a value that is not finite is counted in `lost`.
    """
    return t_interval((first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())), level)


def spread(values: Mapping[int, Mapping[int, float]], *, shared: bool = True) -> Spread:
    """Split the variance of seed -> draw -> value into training seed and sampling draw (analysis of variance).

    shared: draw d uses the same latents for every seed, as in this suite. What a draw adds to all seeds alike then
    says nothing of the difference between seeds, and the split is that of two crossed factors, over the draws that
    all seeds have. Otherwise draws are nested in seeds, and their number may differ from seed to seed.

    A variance is never below zero: where draws explain more than all there is, `seed` is 0. It is None with fewer
    than two seeds or, shared, fewer than two common draws. Seeds with a value that is not finite are left out.
    """
    kept = [dict(draws) for draws in values.values() if draws and all(map(math.isfinite, draws.values()))]
    counts = [len(draws) for draws in kept]
    means = [math.fsum(draws.values()) / len(draws) for draws in kept]
    within = [(v - mean) ** 2 for draws, mean in zip(kept, means, strict=True) for v in draws.values()]
    freedom = sum(counts) - len(kept)
    noise = math.fsum(within) / freedom if freedom else None
    split = _crossed(kept) if shared else _nested(kept, noise)
    return Spread(
        seeds=len(kept),
        draws=(min(counts, default=0), max(counts, default=0)),
        total=None if len(kept) < 2 else math.sqrt(_variance(means)),
        seed=None if split is None else math.sqrt(max(0.0, split)),
        draw=None if noise is None else math.sqrt(noise),
    )


def _crossed(kept: list[dict[int, float]]) -> float | None:
    """Variance between seeds where row and column are seed and draw, one value each."""
    common = sorted(set.intersection(*map(set, kept))) if kept else []
    if len(kept) < 2 or len(common) < 2:
        return None
    table = np.array([[draws[draw] for draw in common] for draws in kept])
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    seeds, draws = table.shape
    error = float((rest**2).sum()) / ((seeds - 1) * (draws - 1))
    return float(table.mean(1).var(ddof=1)) - error / draws


def _nested(kept: list[dict[int, float]], noise: float | None) -> float | None:
    """Variance between seeds, (MS between − MS within) / n0, where n0 is the number of draws if it is always the same.

    Unequal numbers: n0 = (N − Σ m² / N) / (seeds − 1) makes the estimate unbiased (Searle, Linear Models, ch. 11).
    """
    if len(kept) < 2 or noise is None:
        return None
    counts = np.array([len(draws) for draws in kept], float)
    means = np.array([math.fsum(draws.values()) / len(draws) for draws in kept])
    total = counts.sum()
    between = float((counts * (means - (counts * means).sum() / total) ** 2).sum()) / (len(kept) - 1)
    return (between - noise) / float((total - (counts**2).sum() / total) / (len(kept) - 1))


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def improvement(first: Iterable[float], second: Iterable[float], sign: int) -> float | None:
    """The chance that a new training of the first is better than one of the second: the share of all pairs of seeds.

    sign: 1 where more is better, −1 where less is. Ties count half; a diverged seed is worse than any value and ties
    with another. None where either has no seed. (Agarwal et al. 2021, "Deep RL at the edge of the statistical
    precipice", use the same share.)
    """
    ours, theirs = (np.array([sign * v if math.isfinite(v) else -math.inf for v in own]) for own in (first, second))
    if not (ours.size and theirs.size):
        return None
    wins = (ours[:, None] > theirs).sum() + 0.5 * (ours[:, None] == theirs).sum()
    return float(wins) / (ours.size * theirs.size)
