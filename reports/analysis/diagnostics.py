"""Variances and losses by noise level: read from the cells, compared pair by pair. docs/diagnostics.md defines them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from .cells import Cell
from .tables import Board, labels

TRAINED = "trained"
VARIANCES = ("target_variance", "gradient_variance", "gradient_ratio")
LOSSES = ("loss", "distance")
MOST_ALL_PAIRS = 4  # configurations of which every pair is compared; of more, each with the first
ZERO = 1e-9  # of the largest value: what is below is rounding, and counts as 0
LEVEL = 0.95

Bin = tuple[float, float]
#: label -> what -> bin -> seed -> value (NaN where it is not defined)
Values = dict[str, dict[str, dict[Bin, dict[int, float]]]]


@dataclass(frozen=True, order=True)
class Setting:
    """How rows were measured; only rows of one setting are compared."""

    weights: str
    ratio: float
    bins: int
    samples: int
    repeats: int
    effective: bool = False

    @property
    def text(self) -> str:
        kinds = {"averaged": "averaged weights of each training", TRAINED: "the weights while they are trained"}
        shared = f"one network for all methods ({self.weights}), so that seeds differ in images and noise alone"
        weights = kinds.get(self.weights, shared)
        rule = "r by each method's rule" if self.ratio < 0 else f"r = {self.ratio:g} t for all"
        batches = f"{self.repeats} batches of {self.samples // self.repeats}"
        levels = "bins of the effective noise; " if self.effective else ""
        return f"{weights}; {rule}; {levels}{self.samples} points a bin, gradients of {batches}"


@dataclass(frozen=True)
class Profile:
    """All that one setting says of the cells of a board.

    bins: (t_low, t_high), rising. images: what the trainings had seen at their last rows, one number or several.
    values: of those last rows. course: the same at every number of images, for what was measured while training.
    """

    setting: Setting
    bins: tuple[Bin, ...]
    images: tuple[int, ...]
    values: Values
    course: Mapping[int, Values]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.values)


@dataclass(frozen=True)
class Ratio:
    """The geometric mean over seeds of first / second, with its t interval in the logarithm; None at n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def profiles(board: Board) -> list[Profile]:
    """One for each setting, those of averaged weights first.

    A cell counts with its last rows of a setting.
    """
    names = labels(board.cells)
    order = {entry.label: place for place, entry in enumerate(board.entries)}
    found: dict[Setting, dict[str, dict[int, list[dict[str, Any]]]]] = {}
    for cell in sorted(board.cells, key=lambda cell: (order[names[cell.group]], cell.seed)):
        for setting, row in _rows(cell):
            found.setdefault(setting, {}).setdefault(cell.id, {}).setdefault(row["images"], []).append(row)
    ranked = sorted(found, key=lambda setting: (setting.weights != "averaged", setting.weights == TRAINED, setting))
    owners = {cell.id: (names[cell.group], cell.seed) for cell in board.cells}
    return [_profile(setting, found[setting], owners) for setting in ranked]


def _rows(cell: Cell) -> list[tuple[Setting, dict[str, Any]]]:
    """The cell's rows with their settings."""
    found = []
    for row in cell.diagnostics:
        ratio = -1.0 if row["ratio"] is None else float(row["ratio"])
        effective = bool(row.get("effective", False))  # rows of before there was a choice have no such key
        setting = Setting(row["weights"], ratio, row["bins"], row["samples"], row["repeats"], effective)
        found.append((setting, row))
    return found


def _profile(
    setting: Setting, cells: Mapping[str, Mapping[int, list[dict[str, Any]]]], owners: Mapping[str, tuple[str, int]]
) -> Profile:
    values: Values = {}
    course: dict[int, Values] = {}
    for cell, snapshots in cells.items():
        label, seed = owners[cell]
        for images, rows in snapshots.items():
            places = [course.setdefault(images, {})] + [values] * (images == max(snapshots))
            for place, row in itertools.product(places, rows):
                bin_ = (float(row["t_low"]), float(row["t_high"]))
                value = math.nan if row["value"] is None else float(row["value"])
                place.setdefault(label, {}).setdefault(str(row["what"]), {}).setdefault(bin_, {})[seed] = value
    bins = sorted({bin_ for whats in values.values() for by_bin in whats.values() for bin_ in by_bin})
    last = sorted({max(snapshots) for snapshots in cells.values()})
    return Profile(setting, tuple(bins), tuple(last), values, dict(sorted(course.items())))


def floor_of(profile: Profile, what: str) -> float:
    """What counts as 0: a vanishing share of the largest value of its kind."""
    values = (v for whats in profile.values.values() for seeds in whats.get(what, {}).values() for v in seeds.values())
    return ZERO * max((value for value in values if math.isfinite(value)), default=0.0)


def pairs(profile: Profile) -> list[tuple[str, str]]:
    """(first, second) of all comparisons: all pairs of few configurations, else each with the first by name."""
    names = sorted(profile.labels)
    if len(names) <= MOST_ALL_PAIRS:
        return [(second, first) for first, second in itertools.combinations(names, 2)]
    return [(name, names[0]) for name in names[1:]]


def compared(profile: Profile, what: str, first: str, second: str) -> dict[Bin, Ratio | None]:
    """first / second in each bin, paired on common seeds; None where a value of either is 0 or not defined."""
    floor = floor_of(profile, what)
    found = {}
    for bin_ in profile.bins:
        one, other = (profile.values[label].get(what, {}).get(bin_, {}) for label in (first, second))
        both = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
        positive = all(math.isfinite(a) and math.isfinite(b) and min(a, b) > floor for a, b in both)
        found[bin_] = ratio_interval(both) if both and positive else None
    return found


def ratio_interval(both: Sequence[tuple[float, float]], level: float = LEVEL) -> Ratio:
    """Of positive pairs (a, b), one a seed: the mean of log (a / b) with its two-sided t interval, as ratios."""
    logs = [math.log(a / b) for a, b in both]
    n = len(logs)
    mean = math.fsum(logs) / n
    if n == 1:
        return Ratio(math.exp(mean), None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / math.sqrt(n)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)
