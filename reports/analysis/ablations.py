"""Ablations: which settings were overridden, and what each of their values gives.

Configurations belong together where benchmark, method, versions and sampling are the same. An overridden key that
has several values is a `Factor`. The comparison of its values is made where everything else is equal (`Ablation`),
at the defaults of the other factors where they were run; two factors also make a `Grid`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...benchmarks.metrics.registry import direction, is_log_scale
from .cells import Cell, value_text
from .comparisons import Difference, Family, family
from .statistics import Interval, t_interval
from .tables import Board, Finals, SeedValue, final_values, labels

SAMPLING = ("sample.labels", "sample.guid", "eval.")  # which are said of a row in other words
ABSENT = "unset"  # stands for the value of a key that a configuration does not have


@dataclass(frozen=True)
class Value:
    """A swept setting as a configuration holds it (numbers, texts, lists, …); `text` is how it is written."""

    raw: Any
    text: str


@dataclass(frozen=True)
class Factor:
    """A key with its swept values in natural order.

    `default` is the place in `values` of the default of method and benchmark, None where it was not run; `usual` is its
    text, "" where it is not known. `along` are keys that change with this one, value by value: what they do cannot be
    told apart.
    """

    key: str
    values: tuple[Value, ...]
    default: int | None
    along: tuple[str, ...]
    usual: str = ""

    @property
    def name(self) -> str:
        """The last part of the key, which is how pictures name it."""
        return self.key.rpartition(".")[2]

    @property
    def reference(self) -> int:
        """The place of the value that others are compared with: the default, or else the first."""
        return self.default or 0


@dataclass(frozen=True)
class Point:
    """What one value gives. `scores` and `differences` (to the reference, see `comparisons`) go by (nfe, metric).

    The differences of all values of one (nfe, metric) to the reference are one family.
    seeds: (nfe, metric) -> seed -> value, NaN where the seed diverged.
    states: how many cells are finished, diverged, failed, unfinished.
    penalty: the KL divergence at the end of training, in nats; None where the method has none.
    """

    value: Value
    group: str
    states: dict[str, int]
    seeds: Mapping[tuple[int, str], Mapping[int, float]]
    scores: dict[tuple[int, str], Interval]
    differences: dict[tuple[int, str], Difference] | None
    penalty: Interval | None


@dataclass(frozen=True)
class Ablation:
    """One factor, everything else equal.

    points: in the order of the values.
    fixed: the other factors' keys and values.
    reference: the place in `points` of the value that the differences are taken to: the default if `is_default`.
    grid: this factor together with the other one, where there are two.
    """

    board: Board
    method: str
    version: int
    sampling: str
    factor: Factor
    fixed: tuple[tuple[str, Value], ...]
    points: tuple[Point, ...]
    reference: int
    is_default: bool
    grid: Grid | None


@dataclass(frozen=True)
class Grid:
    """Two factors at once: (place of the row's value, place of the column's) -> metric by (nfe, metric)."""

    board: Board
    method: str
    rows: Factor
    columns: Factor
    scores: dict[tuple[int, int], dict[tuple[int, str], Interval]]


def ablations(board: Board, values: Iterable[SeedValue]) -> tuple[Ablation, ...]:
    """Every comparison of two or more values of one key that the cells of a board allow, by method and key."""
    names = labels(board.cells)
    finals = final_values(names, values, board.cells)
    families: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
    for cell in board.cells:
        version = cell.run.config.benchmark.version
        families[cell.method, cell.version, cell.sampling, str(version)].setdefault(cell.group, cell)
    return tuple(
        ablation
        for _, family in sorted(families.items())
        if len(family) > 1
        for ablation in _of_family(board, list(family.values()), names, finals)
    )


def _of_family(board: Board, family: Sequence[Cell], names: Mapping[str, str], finals: Finals) -> Iterator[Ablation]:
    """The ablations of configurations (a cell stands for each) that can be compared with each other."""
    factors = swept(family)
    places = {cell.group: _places(cell, factors) for cell in family}
    lines = {factor.key: _line(index, factors, places) for index, factor in enumerate(factors)}
    grid = _grid(board, family, factors, places, lines, names, finals)
    for index, factor in enumerate(factors):
        line = lines[factor.key]
        if len(line) < 2:
            continue
        reference = factor.default if factor.default in line else min(line)
        found = _families(finals, [names[group] for _, group in sorted(line.items())], names[line[reference]])
        points = [
            _point(board, factor.values[place], group, names[group], finals, None if place == reference else found)
            for place, group in sorted(line.items())
        ]
        others = [
            (other.key, other.values[places[line[reference]][position]])
            for position, other in enumerate(factors)
            if position != index
        ]
        yield Ablation(
            board=board,
            method=family[0].method,
            version=family[0].version,
            sampling=family[0].sampling,
            factor=factor,
            fixed=tuple(others),
            points=tuple(points),
            reference=sorted(line).index(reference),
            is_default=reference == factor.default,
            grid=grid,
        )


def swept(cells: Sequence[Cell]) -> list[Factor]:
    """The keys in which configurations differ, sorted; a cell stands for each configuration.

    Keys that say nothing of their own are left out: options of a part (`method.times.k`) that follow from its kind.
    Keys that always change together make one factor. It is named by the initial weights if they are among them: a
    tuning often has a budget or a learning rate of its own.
    """
    keys = sorted({key for cell in cells for key in cell.overrides if not key.startswith(SAMPLING)})
    columns = {key: tuple(_value(cell, key) for cell in cells) for key in keys}
    columns = {key: column for key, column in columns.items() if len({value.text for value in column}) > 1}
    kinds = [key for key in columns if key.endswith(".kind")]
    own = [
        key
        for key in columns
        if not any(
            key != kind and key.startswith(kind.removesuffix("kind")) and _follows(columns[key], columns[kind])
            for kind in kinds
        )
    ]
    factors, told = [], set()
    for key in sorted(own, key=lambda key: (not key.endswith(".kind"), key != "train.init", key)):
        if key not in told:
            along = [
                other
                for other in own
                if other != key and _follows(columns[other], columns[key]) and _follows(columns[key], columns[other])
            ]
            told |= {key, *along}
            factors.append(_factor(key, columns[key], along, cells))
    return sorted(factors, key=lambda factor: factor.key)


def natural_order(values: Iterable[Value]) -> list[Value]:
    """Numbers by size, then texts with the numbers in them by size (`fixed:3` before `fixed:10`)."""

    def order(value: Value) -> tuple[Any, ...]:
        if is_number(value.raw):
            return (0, value.raw, ())
        parts = re.split(r"(\d+(?:\.\d+)?)", value.text)
        return (1, 0, tuple(float(part) if place % 2 else part for place, part in enumerate(parts)))

    return sorted(values, key=order)


def is_number(raw: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)


def _factor(key: str, column: Sequence[Value], along: Sequence[str], cells: Sequence[Cell]) -> Factor:
    values = natural_order({value.text: value for value in column}.values())
    defaults = {value.text for value, cell in zip(column, cells, strict=True) if key not in cell.overrides}
    texts = [value.text for value in values]
    default = texts.index(defaults.pop()) if len(defaults) == 1 else None
    usual = _usual(cells[0], key) if default is None else texts[default]
    return Factor(key, tuple(values), default, tuple(along), usual)


def _usual(cell: Cell, key: str) -> str:
    """The text of a default that was not run, "" where it is not known."""
    from ...benchmarks.config.compose import default_of

    value = default_of(cell.run.config, str(cell.overrides.get("preset", "none")), key)
    return "" if value is None else value_text(value)


def _follows(column: Sequence[Value], other: Sequence[Value]) -> bool:
    """Whether a key's value is known where another key's is."""
    pairs = {(a.text, b.text) for a, b in zip(column, other, strict=True)}
    return len(pairs) == len({b for _, b in pairs})


def _places(cell: Cell, factors: Sequence[Factor]) -> tuple[int, ...]:
    """Where a configuration stands: the place of its value in each factor."""
    texts = [_value(cell, factor.key).text for factor in factors]
    return tuple(
        [value.text for value in factor.values].index(text) for factor, text in zip(factors, texts, strict=True)
    )


def _line(index: int, factors: Sequence[Factor], places: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Place of a factor's value -> group, everything else equal: at the others' defaults, or where most values are."""
    lines: dict[tuple[int, ...], dict[int, str]] = defaultdict(dict)
    for group, own in sorted(places.items()):
        lines[own[:index] + own[index + 1 :]][own[index]] = group
    home = tuple(factor.reference for position, factor in enumerate(factors) if position != index)
    if len(lines.get(home, {})) > 1:
        return lines[home]
    return lines[min(lines, key=lambda rest: (-len(lines[rest]), rest))]


def _grid(
    board: Board,
    family: Sequence[Cell],
    factors: Sequence[Factor],
    places: Mapping[str, tuple[int, ...]],
    lines: Mapping[str, Mapping[int, str]],
    names: Mapping[str, str],
    finals: Finals,
) -> Grid | None:
    """The grid of exactly two factors; None where all that was run lies on their two lines anyway."""
    if len(factors) != 2 or set(places) <= {group for line in lines.values() for group in line.values()}:
        return None
    scores = {
        (own[0], own[1]): {key: t_interval(seeds.values()) for key, seeds in _seeds(finals, names[group]).items()}
        for group, own in places.items()
    }
    return Grid(board, family[0].method, factors[0], factors[1], scores)


def _seeds(finals: Finals, label: str) -> dict[tuple[int, str], dict[int, float]]:
    return {key: values[label] for key, values in finals.items() if label in values}


def _families(finals: Finals, labels: Sequence[str], reference: str) -> dict[tuple[int, str], Family]:
    """(nfe, metric) -> the values of one line against its reference, where the reference has a value or is to have."""
    return {
        key: family(
            {label: values[label] for label in labels if label in values},
            direction(key[1]),
            log=is_log_scale(key[1]),
            baseline=reference,
        )
        for key, values in finals.items()
        if reference in values
    }


def _point(
    board: Board,
    value: Value,
    group: str,
    label: str,
    finals: Finals,
    families: Mapping[tuple[int, str], Family] | None,
) -> Point:
    seeds = _seeds(finals, label)
    entry = next(entry for entry in board.entries if entry.group == group)
    return Point(
        value=value,
        group=group,
        states=entry.seeds,
        seeds=seeds,
        scores={key: t_interval(own.values()) for key, own in seeds.items()},
        differences=None
        if families is None
        else {
            key: found.between(label, found.baseline)
            for key, found in families.items()
            if key in seeds and found.baseline is not None
        },
        penalty=_penalty(cell for cell in board.cells if cell.group == group and cell.state == "done"),
    )


def _penalty(cells: Iterable[Cell]) -> Interval | None:
    last = []
    for cell in cells:
        last += [float(row["penalty"]) for row in cell.train_log[-1:] if row.get("penalty") is not None]
    return t_interval(last) if any(last) else None  # where pairing is free, every penalty is exactly zero


def _value(cell: Cell, key: str) -> Value:
    """What a cell has for a key that it, or another one, overrides."""
    raw: Any = cell.overrides.get(key, ABSENT)
    if key not in cell.overrides:
        raw = cell.run.config.to_dict()
        for name in key.split("."):
            raw = raw.get(name, ABSENT) if isinstance(raw, dict) else ABSENT
    return Value(raw, value_text(raw))
