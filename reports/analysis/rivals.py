"""Every configuration of a contest against its leader, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

from .comparisons import BETTER, Difference
from .tables import Contest


@dataclass(frozen=True)
class Rival:
    """A configuration against the leader of a contest, in the metric's unit; more is worse.

    n: common seeds. plain: the 95 % interval of the mean; low, high: the same at the level of Holm's step, to be read
    with zero only; all are None below two common seeds. worse: whether that is certain; else `reason` says why not.
    """

    label: str
    n: int
    mean: float
    plain: tuple[float | None, float | None]
    low: float | None
    high: float | None
    worse: bool
    reason: str

    @property
    def ends(self) -> list[float]:
        """The ends of the corrected interval, then those of the plain one; [] below two common seeds."""
        return [end for end in (self.low, self.high, *self.plain) if end is not None]


def rivals(contest: Contest) -> list[Rival]:
    """Those that share a seed with the leader, the closest first."""
    sign, found = contest.family.sign, []
    for item in contest.differences.values():
        if not item.interval.n:
            continue
        mean, low, high = behind(item, sign)
        ends = [None if end is None else sign * end for end in (item.interval.low, item.interval.high)]
        first, last = ends if sign > 0 else ends[::-1]
        worse = item.verdict == BETTER
        found.append(Rival(item.second, item.interval.n, mean, (first, last), low, high, worse, item.reason))
    return sorted(found, key=lambda rival: (rival.mean, rival.label))


def behind(found: Difference, sign: int) -> tuple[float, float | None, float | None]:
    """By how much the second is worse than the first, with the ends of the corrected interval."""
    ends = [None if end is None else sign * end for end in (found.adjusted.low, found.adjusted.high)]
    low, high = ends if sign > 0 else ends[::-1]
    return sign * found.interval.mean, low, high
