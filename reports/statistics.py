"""Means and their uncertainty. The unit is the training seed: draws of samples within a seed are averaged first.

With fewer than ten seeds a t interval is the honest choice (a percentile bootstrap of the mean covers about
75 % at n = 3 where 95 % is claimed). Values that are not finite come from runs that diverged: they cannot
enter a mean, so they are counted beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
