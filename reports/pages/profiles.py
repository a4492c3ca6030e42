"""The section on the performance profile: sentences and a small table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import ARROWS, number
from ..analysis.profiles import PerformanceProfile, median, share
from .text import Plot, Table, Text, texts

CAUTION = (
    "Ratios depend on which configurations are compared: without one of them, the order of the others may change. A "
    "benchmark with more seeds weighs more. This is a picture and not a test; the verdicts of each benchmark say which "
    "differences are significant."
)
WITHIN = ((1.0, "won"), (1.05, "within 5 %"), (1.1, "within 10 %"))


@dataclass(frozen=True)
class ProfileSection:
    """What a report says of all benchmarks together."""

    sentences: Sequence[str]
    table: Table
    plots: Sequence[Plot]


def profile_section(profile: PerformanceProfile, plots: Sequence[Plot]) -> ProfileSection:
    """Sentences, table and plots of a performance profile."""
    header = ["NFE", "configuration", *(name for _, name in WITHIN), "median ratio", "diverged or failed"]
    rows = [row for nfe in profile.ratios for row in _rows(profile, nfe)]
    table = Table(header, "rl" + "r" * (len(WITHIN) + 2), rows)
    return ProfileSection([_definition(profile), _compared(profile), CAUTION], table, plots)


def _definition(profile: PerformanceProfile) -> str:
    count = Counter(problem.benchmark for problem in profile.problems)
    parts = [
        f"{metric}{ARROWS[direction(metric)]} of {benchmark} ({count[benchmark]} seed{'s' * (count[benchmark] > 1)})"
        for benchmark, metric in profile.metrics.items()
    ]
    return (
        "A curve gives the share of all problems in which its configuration is within a factor τ of the best one "
        "(Dolan and Moré 2002, doi:10.1007/s101070100263). A problem is a benchmark with a training seed, here "
        f"{len(profile.problems)}, each judged by its first metric at the end of training: {', '.join(parts)}. The "
        "ratio is a configuration's value over the best one of the same problem, or the best over it where higher is "
        "better; a training that diverged or failed has no ratio, and its curve stays below 100 %."
    )


def _compared(profile: PerformanceProfile) -> str:
    missing = f" Not run on all of them: {', '.join(profile.left_out)}." if profile.left_out else ""
    return f"Compared are {', '.join(profile.labels)}, without settings of their own, on the same problems.{missing}"


def _rows(profile: PerformanceProfile, nfe: int) -> list[list[Text]]:
    """Most problems won first."""
    found = profile.ratios[nfe]
    order = sorted(found, key=lambda label: (-share(found[label], 1.0), median(found[label]), label))
    return [
        texts(
            str(nfe),
            label,
            *(f"{100 * share(found[label], tau):.0f} %" for tau, _ in WITHIN),
            _ratio(median(found[label])),
            str(sum(math.isinf(ratio) for ratio in found[label])),
        )
        for label in order
    ]


def _ratio(value: float) -> str:
    return number(value) if math.isfinite(value) else "∞"
