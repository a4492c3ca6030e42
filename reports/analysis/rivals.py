"""Every configuration of a contest against its leader or baseline, paired by seed; a positive difference is worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .comparisons import BETTER, WORSE, Difference
from .statistics import Interval
from .tables import Contest


@dataclass(frozen=True)
class Rival:
    """A configuration against the reference of a contest, in the metric's unit; more is worse.

    n: common seeds. mean: NaN without one. plain: the 95 % interval of the mean; low, high: the same at the level of
    Holm's step, to be read with zero only; all are None below two common seeds. worse, better: whether the difference
    is significant; else `reason` says why not. improvement: probability that the reference is better.
    """

    label: str
    n: int
    mean: float
    plain: tuple[float | None, float | None]
    low: float | None
    high: float | None
    worse: bool
    reason: str
    improvement: float | None = None
    better: bool = False

    @property
    def ends(self) -> list[float]:
        """The ends of the corrected interval, then those of the plain one; [] below two common seeds."""
        return [end for end in (self.low, self.high, *self.plain) if end is not None]


def rivals(contest: Contest) -> dict[str, Rival]:
    """label -> rival, smallest difference first; those without a common seed last."""
    found = [rival_of(item, contest.family.sign) for item in contest.differences.values()]
    found.sort(key=lambda rival: (math.inf if math.isnan(rival.mean) else abs(rival.mean), rival.label))
    return {rival.label: rival for rival in found}


def rival_of(found: Difference, sign: int) -> Rival:
    """The second of a difference against the first. sign: 1 where more is better, −1 where less is."""
    low, high = _ends(found.adjusted, sign)
    return Rival(
        label=found.second,
        n=found.interval.n,
        mean=sign * found.interval.mean,
        plain=_ends(found.interval, sign),
        low=low,
        high=high,
        worse=found.verdict == BETTER,
        reason=found.reason,
        improvement=found.improvement,
        better=found.verdict == WORSE,
    )


def _ends(interval: Interval, sign: int) -> tuple[float | None, float | None]:
    if interval.low is None or interval.high is None:
        return None, None
    return (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
