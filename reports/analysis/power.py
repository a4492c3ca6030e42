"""Which difference a number of seeds can resolve, by the rule of `comparisons.py`.

For one pair among k rows of equal variance σ² (of the residual) and n seeds, with true difference δ: the mean
difference is N(δ, 2σ²/n), the squares within the pair are σ²A with A ~ χ²(n − 1), and those of all other contrasts σ²B
with B ~ χ²((k − 2)(n − 1)), all independent. The pair is significant where |mean| exceeds both half-widths,

    σ √(2/n) · max(c √((A + B)/df), t √(A/(n − 1))),    df = (k − 1)(n − 1),

whose probability is a mean over quantiles of A and B. Rows that the residual leaves out are counted in k as if it had
them, which overstates the power by about one per cent.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import gammaincinv, ndtr, stdtrit

from .comparisons import LEAST_COMMON, Family
from .simultaneous import critical, guard_level

POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = (np.arange(64) + 0.5) / 64


def power(effect: float, rows: int, seeds: int, *, baseline: bool = False) -> float:
    """The probability that a true difference of `effect` standard deviations of the residual is significant."""
    threshold, shift = _threshold(rows, seeds, baseline), effect * math.sqrt(seeds / 2)
    return float((ndtr(shift - threshold) + ndtr(-shift - threshold)).mean())


def detectable(rows: int, seeds: int, *, baseline: bool = False) -> float:
    """The difference, in standard deviations of the residual, that is significant with a probability of `POWER`."""
    most = 2 * float(_threshold(rows, seeds, baseline).max()) + 10
    return root_scalar(
        lambda effect: power(effect, rows, seeds, baseline=baseline) - POWER,
        bracket=(0.0, most),
        method="brentq",
        xtol=1e-6,
    ).root


def seeds_for(effect: float, rows: int, *, baseline: bool = False) -> int | None:
    """The least number of seeds that resolves such a difference; None above `MOST_SEEDS`."""
    low, high = LEAST_COMMON - 1, MOST_SEEDS + 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(effect, rows, middle, baseline=baseline) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= MOST_SEEDS else None


@functools.lru_cache(maxsize=1024)
def _threshold(rows: int, seeds: int, baseline: bool) -> np.ndarray:
    """The larger half-width at each pair of quantiles of A and B, in standard errors of the mean difference."""
    free = seeds - 1
    own = 2 * gammaincinv(free / 2, _QUANTILES)[:, None]
    others = 2 * gammaincinv((rows - 2) * free / 2, _QUANTILES) if rows > 2 else np.zeros(1)
    together = critical(rows, (rows - 1) * free, baseline=baseline) * np.sqrt((own + others) / ((rows - 1) * free))
    alone = float(stdtrit(free, 1 - guard_level(rows) / 2)) * np.sqrt(own / free)
    return np.maximum(together, alone)


@dataclass(frozen=True)
class Resolution:
    """What the finished trainings of a family say of further ones.

    rows, seeds: of the family, the least common seeds of a pair. sd: standard deviation of the residual, of logarithms
    if `log`, else in the metric's unit.
    """

    rows: int
    seeds: int
    sd: float
    log: bool
    baseline: bool

    def difference(self, seeds: int) -> float:
        """The detectable difference with so many seeds, in per cent if `log`, else in the metric's unit."""
        found = self.sd * detectable(self.rows, seeds, baseline=self.baseline)
        return 100 * math.expm1(min(found, 700.0)) if self.log else found

    def seeds_for(self, difference: float) -> int | None:
        """The least number of seeds that resolves a difference of this size, in the same unit."""
        effect = (math.log1p(difference / 100) if self.log else difference) / self.sd
        return seeds_for(effect, self.rows, baseline=self.baseline)


def resolution(family: Family) -> Resolution | None:
    """What a family can resolve; None where it compares nothing by the common residual, or nothing varies."""
    sd = float(family.pairs.sd)
    if not (family.pairs.tested & family.pairs.pooled).any() or not sd > 0:
        return None
    return Resolution(int(family.pairs.rows), family.seeds, sd, family.log, family.baseline is not None)
