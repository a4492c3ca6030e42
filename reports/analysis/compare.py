"""Two configurations, runs or sweeps on their common seeds: every metric at every NFE as one family."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...benchmarks.metrics.registry import direction
from .cells import Cell
from .comparisons import Difference, family, one_family
from .tables import final_values, labels, metric_names, seed_values

FIRST, SECOND = "A", "B"


@dataclass(frozen=True)
class Comparison:
    """One metric at one NFE. `first` and `second` are seed -> value, NaN where the seed diverged.

    `difference` is A − B on common seeds, corrected for all comparisons that were made together.
    """

    benchmark: str
    names: tuple[str, str]
    metric: str
    nfe: int
    first: Mapping[int, float]
    second: Mapping[int, float]
    difference: Difference


def matches(first: Sequence[Cell], second: Sequence[Cell]) -> list[tuple[str, tuple[str, str], list[Cell], list[Cell]]]:
    """What of the one side belongs to what of the other: (benchmark, names, cells, cells), by benchmark and name.

    In a benchmark where each side is one configuration these are a pair. Otherwise configurations of the same name are,
    or, where two methods are compared, of the same settings.
    """
    found = []
    for benchmark in sorted({cell.benchmark for cell in first} & {cell.benchmark for cell in second}):
        ours, theirs = ([cell for cell in side if cell.benchmark == benchmark] for side in (first, second))
        found += [
            (benchmark, (a, b), _named(ours, a), _named(theirs, b))
            for a, b in _pairs(ours, theirs)
            if {cell.run.path for cell in _named(ours, a)} != {cell.run.path for cell in _named(theirs, b)}
        ]
    return found


def _pairs(ours: Sequence[Cell], theirs: Sequence[Cell]) -> list[tuple[str, str]]:
    left, right = (labels(side) for side in (ours, theirs))
    if len(left) == len(right) == 1:
        return list(zip(left.values(), right.values(), strict=True))
    same = sorted({*left.values()} & {*right.values()})
    if same:
        return [(name, name) for name in same]
    settings = [
        {names[cell.group].removeprefix(cell.method): names[cell.group] for cell in side}
        for names, side in ((left, ours), (right, theirs))
    ]
    return [(settings[0][key], settings[1][key]) for key in sorted(settings[0].keys() & settings[1].keys())]


def _named(cells: Iterable[Cell], name: str) -> list[Cell]:
    cells = list(cells)
    names = labels(cells)
    return [cell for cell in cells if names[cell.group] == name]


def compare(
    pairs: Iterable[tuple[str, tuple[str, str], list[Cell], list[Cell]]],
    metrics: Collection[str] | None = None,
    nfes: Collection[int] | None = None,
) -> list[Comparison]:
    """All comparisons that `matches` and the chosen metrics and NFEs (None: all in common) allow, as one family."""
    made: list[Comparison] = []
    for benchmark, names, first, second in pairs:
        values = [_finals(side) for side in (first, second)]
        for metric in metric_names([*first, *second]):
            for nfe in sorted({nfe for cell in [*first, *second] for nfe in cell.nfe}):
                if (metrics is not None and metric not in metrics) or (nfes is not None and nfe not in nfes):
                    continue
                ours, theirs = (dict(found.get((nfe, metric), {})) for found in values)
                if ours and theirs:
                    alone = family({FIRST: ours, SECOND: theirs}, direction(metric)).between(FIRST, SECOND)
                    made.append(Comparison(benchmark, names, metric, nfe, ours, theirs, alone))
    corrected = one_family([item.difference for item in made])
    return [dataclasses.replace(item, difference=found) for item, found in zip(made, corrected, strict=True)]


def _finals(cells: Sequence[Cell]) -> dict[tuple[int, str], dict[int, float]]:
    """(nfe, metric) -> seed -> value of the cells of one configuration."""
    found = final_values(labels(cells), seed_values(cells), cells)
    return {key: seeds for key, values in found.items() for seeds in values.values()}
