"""Every configuration of a contest against its leader or baseline, paired by seed; a positive difference is worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .comparisons import BETTER, WORSE, Difference
from .tables import Contest


@dataclass(frozen=True)
class Rival:
    """A configuration against the reference of a contest; more is worse.

    percent: whether differences are in per cent of the reference, else they are in the metric's unit.
    n: common seeds. mean: NaN without one. plain: the 95 % interval of the mean; low, high: the corrected one; all are
    None below three common seeds. worse, better: whether the difference is significant; else `reason` says why not.
    improvement: probability that the reference is better.
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
    percent: bool = False

    @property
    def ends(self) -> list[float]:
        """The ends of the corrected interval, then those of the plain one; [] below three common seeds."""
        return [end for end in (self.low, self.high, *self.plain) if end is not None]


def rivals(contest: Contest) -> dict[str, Rival]:
    """label -> rival, smallest difference first; those without a common seed last."""
    found = [rival_of(item, contest.family.sign) for item in contest.differences.values()]
    found.sort(key=lambda rival: (math.inf if math.isnan(rival.mean) else abs(rival.mean), rival.label))
    return {rival.label: rival for rival in found}


def rival_of(found: Difference, sign: int) -> Rival:
    """The second of a difference against the first. sign: 1 where more is better, −1 where less is."""
    alone, corrected = found.shown(reverse=sign < 0)
    return Rival(
        label=found.second,
        n=found.interval.n,
        mean=alone.mean,
        plain=(alone.low, alone.high),
        low=corrected.low,
        high=corrected.high,
        worse=found.verdict == BETTER,
        reason=found.reason,
        improvement=found.improvement,
        better=found.verdict == WORSE,
        percent=found.log,
    )
