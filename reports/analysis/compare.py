"""Two configurations, runs or sweeps on their common seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...benchmarks.metrics.registry import direction, is_log_scale
from .cells import Cell
from .comparisons import Difference, among, family
from .tables import final_values, labels, metric_names, seed_values

FIRST, SECOND = "A", "B"


@dataclass(frozen=True)
class Comparison:
    """One metric, of A at `nfe` and of B at `second_nfe`. `first`, `second`: seed -> value, NaN where a seed diverged.

    difference: A − B on common seeds, corrected for the pairs of configurations compared by this metric at these NFE.
    headline: whether it is the first metric at the lowest NFE; all others are exploratory.
    same: whether A and B are one configuration at one NFE, so that they differ in hardware and chance alone.
    """

    benchmark: str
    names: tuple[str, str]
    metric: str
    nfe: int
    second_nfe: int
    first: Mapping[int, float]
    second: Mapping[int, float]
    difference: Difference
    headline: bool
    same: bool


@dataclass(frozen=True)
class Side:
    """What is compared: cells, and group -> name of a configuration."""

    cells: Sequence[Cell]
    names: Mapping[str, str]

    @classmethod
    def of(cls, cells: Sequence[Cell], board: Sequence[Cell] | None = None) -> Side:
        """Cells with the names that they have among all cells of `board` (default: among themselves)."""
        names: dict[str, str] = {}
        for benchmark in sorted({cell.benchmark for cell in cells}):
            names |= labels(cell for cell in board or cells if cell.benchmark == benchmark)
        return cls(cells, {cell.group: names[cell.group] for cell in cells})

    def on(self, benchmark: str) -> Side:
        """The part of it on one benchmark."""
        cells = [cell for cell in self.cells if cell.benchmark == benchmark]
        return Side(cells, {cell.group: self.names[cell.group] for cell in cells})

    def named(self, name: str) -> list[Cell]:
        """The cells of one configuration."""
        return [cell for cell in self.cells if self.names[cell.group] == name]


#: (benchmark, names, cells, cells) of two configurations that are compared.
Pair = tuple[str, tuple[str, str], list[Cell], list[Cell]]


def matches(first: Side, second: Side, *, itself: bool = False) -> list[Pair]:
    """What of the one side belongs to what of the other, by benchmark and name.

    itself: whether cells are also compared with themselves, as at another NFE.

    In a benchmark where each side is one configuration these are a pair. Otherwise configurations of the same name are,
    or, where two methods are compared, of the same settings.
    """
    found = []
    for benchmark in sorted({cell.benchmark for cell in first.cells} & {cell.benchmark for cell in second.cells}):
        ours, theirs = first.on(benchmark), second.on(benchmark)
        found += [
            (benchmark, (a, b), ours.named(a), theirs.named(b))
            for a, b in _pairs(ours, theirs)
            if itself or {cell.run.path for cell in ours.named(a)} != {cell.run.path for cell in theirs.named(b)}
        ]
    return found


def _pairs(ours: Side, theirs: Side) -> list[tuple[str, str]]:
    left, right = ours.names, theirs.names
    if len(left) == len(right) == 1:
        return list(zip(left.values(), right.values(), strict=True))
    same = sorted({*left.values()} & {*right.values()})
    if same:
        return [(name, name) for name in same]
    settings = [
        {side.names[cell.group].removeprefix(cell.method): side.names[cell.group] for cell in side.cells}
        for side in (ours, theirs)
    ]
    return [(settings[0][key], settings[1][key]) for key in sorted(settings[0].keys() & settings[1].keys())]


def evaluated(pairs: Iterable[Pair]) -> tuple[list[int], list[int]]:
    """The NFEs at which the first and the second cells of pairs have values, in order."""
    first: set[int] = set()
    second: set[int] = set()
    for _, _, ours, theirs in pairs:
        first |= {nfe for nfe, _ in _finals(ours)}
        second |= {nfe for nfe, _ in _finals(theirs)}
    return sorted(first), sorted(second)


def compare(
    pairs: Iterable[Pair],
    metrics: Collection[str] | None = None,
    nfes: Collection[tuple[int, int]] | None = None,
) -> list[Comparison]:
    """All comparisons that `matches` and the chosen metrics and NFEs, of A and B each (None: all in common), allow.

    Families are those of a benchmark, metric and pair of NFEs: the pairs of configurations that are compared by it.
    """
    made: list[Comparison] = []
    for benchmark, names, first, second in pairs:
        values, own = [_finals(side) for side in (first, second)], len(made)
        same = {cell.group for cell in first} == {cell.group for cell in second}
        common = {(nfe, nfe) for cell in [*first, *second] for nfe in cell.nfe}
        for metric in metric_names([*first, *second]):
            for calls in sorted(common if nfes is None else nfes):
                if metrics is not None and metric not in metrics:
                    continue
                ours, theirs = (dict(found.get((nfe, metric), {})) for nfe, found in zip(calls, values, strict=True))
                if ours and theirs:
                    both = family({FIRST: ours, SECOND: theirs}, direction(metric), log=is_log_scale(metric))
                    alone, headline = both.between(FIRST, SECOND), len(made) == own
                    is_same = same and calls[0] == calls[1]
                    made.append(Comparison(benchmark, names, metric, *calls, ours, theirs, alone, headline, is_same))
    counts = Counter(_column(item) for item in made if item.difference.p is not None)
    return [dataclasses.replace(item, difference=among(item.difference, counts[_column(item)])) for item in made]


def _column(item: Comparison) -> tuple[str, str, int, int]:
    return item.benchmark, item.metric, item.nfe, item.second_nfe


def _finals(cells: Sequence[Cell]) -> dict[tuple[int, str], dict[int, float]]:
    """(nfe, metric) -> seed -> value of the cells of one configuration."""
    found = final_values(labels(cells), seed_values(cells), cells)
    return {key: seeds for key, values in found.items() for seeds in values.values()}
