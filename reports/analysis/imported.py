"""Values of others as the tables show them: a mean over seeds where these are given, else the value as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ...benchmarks.runs.imported import Imported
from .statistics import Interval, t_interval


@dataclass(frozen=True)
class Foreign:
    """One configuration of others by one metric. `rows` are from one source; seeds: their number, None if not known."""

    rows: tuple[Imported, ...]
    score: Interval
    seeds: int | None


def foreign(imported: Iterable[Imported]) -> list[Foreign]:
    """Each configuration, NFE and metric of each source; per-seed values give a mean with its interval."""
    found: dict[tuple[object, ...], list[Imported]] = defaultdict(list)
    for row in imported:
        found[row.label, row.nfe, row.metric, row.source, row.seed is None].append(row)
    return [
        Foreign(tuple(rows), t_interval(row.value for row in rows), rows[0].seeds if is_mean else len(rows))
        for (*_, is_mean), rows in found.items()
    ]
