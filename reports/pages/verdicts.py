"""Verdicts as sentences: who is best at one NFE, and which differences are significant."""

from __future__ import annotations

from collections.abc import Sequence

from ...benchmarks.metrics.registry import direction
from ..analysis.cells import FINAL_STATES
from ..analysis.formatting import difference_text, number, score_text
from ..analysis.power import POWER, resolution
from ..analysis.rivals import Rival, rivals
from ..analysis.statistics import Interval
from ..analysis.tables import Board, Contest

MOST_NAMED = 3  # configurations that are named where the same holds for all of them


def verdict(board: Board, nfe: int) -> str:
    """Which configuration is best by the first metric at `nfe`, and against which the difference is significant.

    The question fixed in advance is that at the first NFE; elsewhere differences are exploratory.
    """
    metric = board.metrics[0]
    contest = board.contests[nfe, metric]
    if contest.leader is None:
        known = "no training has finished yet" if direction(metric) else f"{metric} has no known better direction"
        return f"There is nothing to rank: {known}."
    score = next(row for row in board.rows if (row.nfe, row.entry.label) == (nfe, contest.leader)).scores[metric]
    unfinished = sum(cell.state not in FINAL_STATES for cell in board.cells)
    so_far = f"So far, with {unfinished} of {len(board.cells)} cells unfinished: at" if unfinished else "At"
    value = f"{'highest' if direction(metric) > 0 else 'lowest'} {metric}, {score_text(score)}"
    head = f"{contest.leader} is best, with the" if contest.significant else f"{contest.leader} has the"
    if len(board.entries) > 1 and not contest.significant and board.baseline is None:
        head = f"no configuration is significantly better than all others. {head}"
    compared = _comparisons(contest, score) if board.baseline is None else _against_baseline(board.baseline, contest)
    return " ".join([f"{so_far} NFE {nfe}, {head} {value}.", *compared, *_resolved(contest)])


def gap_text(rival: Rival) -> str:
    """The difference to the reference with its corrected interval."""
    return difference_text(Interval(rival.mean, rival.low, rival.high, rival.n), percent=rival.percent)


def _resolved(contest: Contest) -> list[str]:
    """Which difference the seeds of a contest can resolve, and which configurations that does not cover."""
    sentences, erratic = [], contest.family.erratic
    if found := resolution(contest.family):
        size = f"{number(found.difference(found.seeds))}{' %' if found.log else f' in {contest.metric}'}"
        sentences.append(f"Detectable with {found.seeds} seeds: a difference of {size} (power {100 * POWER:.0f} %).")
    if erratic:
        vary, them, their = ("vary", "them", "their") if len(erratic) > 1 else ("varies", "it", "its")
        sentences.append(
            f"{_listed(erratic)} {vary} much more over seeds than the others. The common residual leaves {them} out, "
            f"and {their} differences have intervals of their own."
        )
    return sentences


def _comparisons(contest: Contest, score: Interval) -> list[str]:
    """How the leader compares with the others, a sentence for each kind of result."""
    found = list(rivals(contest).values())
    diverged = [f"{_listed(contest.diverged)} diverged on every seed."] if contest.diverged else []
    if not found:
        alone = "Nothing else has a value" if contest.diverged else "It is the only configuration here"
        return [f"{alone}, so there is nothing to compare it with.", *diverged]
    sentences = [*_significant([rival for rival in found if rival.worse], len(found)), *_inconclusive(found)]
    if contest.broken:
        kinds = "diverged" if contest.broken == score.lost else "diverged or failed"
        sentences.append(f"Its mean excludes {contest.broken} of its seeds, which {kinds}.")
    return sentences + diverged


def _against_baseline(baseline: str, contest: Contest) -> list[str]:
    """How the others compare with the baseline of a study."""
    found = list(rivals(contest).values())
    if not found:
        return [f"There is nothing to compare with the baseline {baseline}."]
    sentences = []
    for word, named in (("better", [r for r in found if r.better]), ("worse", [r for r in found if r.worse])):
        if named:
            them = _listed([f"{rival.label} with a difference of {gap_text(rival)}" for rival in named], "; ")
            sentences.append(f"Significantly {word} (family-wise 95 %) than the baseline {baseline}: {them}.")
    open_ones = _inconclusive([rival for rival in found if not rival.better])
    diverged = [f"{_listed(contest.diverged)} diverged on every seed."] if contest.diverged else []
    against = f"Inconclusive against the baseline {baseline}: "
    return sentences + [text.replace("Inconclusive against ", against, 1) for text in open_ones] + diverged


def _significant(worse: Sequence[Rival], count: int) -> list[str]:
    if not worse:
        return []
    closest = f"{worse[0].label}, with a difference of {gap_text(worse[0])}"
    if len(worse) == 1:
        return [f"It is significantly better (family-wise 95 %) than {closest}."]
    them = "every other configuration" if len(worse) == count else _listed([rival.label for rival in worse])
    return [f"It is significantly better (family-wise 95 %) than {them}; the closest is {closest}."]


def _inconclusive(found: Sequence[Rival]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for rival in found:
        if not rival.worse:
            gap = "" if rival.low is None else f" with a difference of {gap_text(rival)}"
            reasons.setdefault(rival.reason, []).append(f"{rival.label}{gap}")
    sentences = []
    for reason, named in reasons.items():
        everyone = len(named) == len(found) > MOST_NAMED
        between = "; " if any("(" in name for name in named) else ", "
        them = "every other configuration" if everyone else _listed(named, between)
        sentences.append(f"Inconclusive against {them}: {reason}.")
    return sentences


def _listed(names: Sequence[str], between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - MOST_NAMED
    return between.join(names) if rest <= 1 else f"{between.join(names[:MOST_NAMED])} and {rest} others"
