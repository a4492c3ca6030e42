"""From records to the leaderboard: one row per configuration and NFE, and who leads each metric, how significantly.

The headline is always the last snapshot of a finished training (a rule fixed before any run), never the best.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from ...benchmarks.metrics.registry import direction, is_log_scale
from ...benchmarks.runs.imported import Imported
from .cells import FINAL_STATES, Cell
from .comparisons import BETTER, LEAST_SEEDS, Difference, Family, Rank, Values, family, ranks
from .published import Comparison, Setup, compare_published
from .statistics import Interval, Spread, seed_mean, spread, t_interval

Item = TypeVar("Item")

#: (nfe, metric) -> label -> seed -> value
Finals = dict[tuple[int, str], dict[str, dict[int, float]]]


class Training(Protocol):
    """What values need to know of their cell: a `Cell`, or the rows of one in a table of results."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def budget(self) -> int: ...


class SeedValue(NamedTuple):
    """What a metric says of one cell after `images` training images: its draws averaged, NaN where any is."""

    cell: Training
    metric: str
    nfe: int
    images: int
    value: float


@dataclass(frozen=True)
class Compute:
    """The cost of one training; None where no cell has recorded it. Hours are the mean over finished cells.

    `pretraining_mimg` is what the weights it started from had seen, in millions of images: NaN where that is not
    known, None where it started from random ones. `pretraining_tflop` is the same in TFLOP, 0 for random weights.
    """

    mimg: float
    pretraining_mimg: float | None
    pretraining_tflop: float
    parameters: int | None
    passes_per_step: float | None
    tflop: float | None
    device_hours: float | None
    device: str | None

    @property
    def total_tflop(self) -> float | None:
        """With what is known of the training behind the initial weights."""
        before = 0.0 if math.isnan(self.pretraining_tflop) else self.pretraining_tflop
        return None if self.tflop is None else self.tflop + before


@dataclass(frozen=True)
class Entry:
    """One configuration (all its seeds). `label` is its short name, unique within the benchmark.

    `variant` leaves out what is common to all configurations of the board.
    `seeds` counts cells as finished, diverged, failed and unfinished; a kind without cells is left out.
    `cells` are in the order of their seeds.
    """

    label: str
    method: str
    version: int
    variant: str
    group: str
    seeds: dict[str, int]
    compute: Compute
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard at one NFE; all mappings go by metric.

    `seeds` are the values behind the interval in `scores`; `best` names the metrics that the row leads significantly.
    `published` has only metrics with a published value.
    """

    entry: Entry
    nfe: int
    seeds: dict[str, tuple[float, ...]]
    scores: dict[str, Interval]
    spreads: dict[str, Spread]
    ranks: dict[str, Rank]
    best: frozenset[str]
    published: dict[str, tuple[Comparison, ...]]


@dataclass(frozen=True)
class Focus:
    """What a study asks first: a metric and an NFE (None: the usual ones), and the group of its baseline, if any."""

    metric: str | None = None
    nfe: int | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class Contest:
    """Who leads one metric at one NFE. `family` compares all pairs, or with a baseline those with it.

    leader: the best mean of those with two seeds or more; only where none has two, of those with one.
    reference: what the others are compared with: the baseline of a study, or else the leader.
    differences: rival -> reference against it, for every rival with a value or still to come.
    diverged: rivals that diverged on every seed: they have no value to compare with.
    undecided: rivals that the leader is not significantly better than, in the order of the table.
    broken: cells of the leader that diverged or failed, which its mean knows nothing of.
    significant: there are rivals to compare with, none is undecided, and no cell of the leader is broken.
    """

    metric: str
    nfe: int
    leader: str | None
    reference: str | None
    differences: dict[str, Difference]
    diverged: tuple[str, ...]
    undecided: tuple[str, ...]
    broken: int
    significant: bool
    family: Family


@dataclass(frozen=True)
class Board:
    """Everything the leaderboard says of one benchmark. `metrics[0]` at `nfes[0]` orders `entries` and `rows`.

    baseline: the label of a study's baseline, None without one. root: from the report's folder to the output folder.
    common: the settings that all configurations share, see `common_settings`.
    errors: (nfe, metric) -> standard error of the sampling, see `sampling_errors`.
    imported: values of others on this benchmark, which no comparison contains.
    """

    benchmark: str
    metrics: tuple[str, ...]
    nfes: tuple[int, ...]
    cells: tuple[Cell, ...]
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    contests: dict[tuple[int, str], Contest]
    reference: dict[tuple[str, str], float]
    common: tuple[str, ...]
    errors: dict[tuple[int, str], float]
    imported: tuple[Imported, ...] = ()
    baseline: str | None = None
    root: str = ""


def common_settings(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The `key=value`s that the variants of all configurations name, in their order; of one configuration none.

    They need not be repeated in every name. None are common where two names would be equal without them.
    """
    groups = {cell.group: cell for cell in cells}
    if len(groups) < 2:
        return ()
    each = [cell.settings for cell in groups.values()]
    common = tuple(dict.fromkeys(setting for setting in each[0] if all(setting in own for own in each)))
    names, shorter = ({(c.method, variant(c, left_out)) for c in groups.values()} for left_out in ((), common))
    return common if len(shorter) == len(names) else ()


def variant(cell: Cell, common: Sequence[str]) -> str:
    """The variant of a cell without the `common` settings; what was special about the sampling is always said."""
    own = [setting for setting in cell.settings if setting not in common]
    return ", ".join(filter(None, [*own, cell.sampling]))


def labels(cells: Iterable[Cell]) -> dict[str, str]:
    """group -> "method variant", the variant without the settings that all configurations have in common.

    The version, then the group, are added only where names would collide.
    """
    groups = {cell.group: cell for cell in cells}
    common = common_settings(groups.values())
    names = {group: f"{cell.method} {variant(cell, common)}".strip() for group, cell in groups.items()}
    for suffix in (lambda cell: f" v{cell.version}", lambda cell: f" #{cell.group}"):
        count = Counter(names.values())
        names = {group: name + suffix(groups[group]) if count[name] > 1 else name for group, name in names.items()}
    return names


def seed_values(cells: Iterable[Cell]) -> list[SeedValue]:
    """All evaluations of `cells`, draws averaged. A repeated evaluation of a draw replaces the former one."""
    values = []
    for cell in cells:
        draws: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)
        for row in cell.records:
            value = math.nan if row["value"] is None else float(row["value"])
            draws[row["metric"], row["nfe"], row["images"]][row["draw"]] = value
        values += [SeedValue(cell, *key, seed_mean(found.values())) for key, found in draws.items()]
    return values


def sampling_errors(cells: Iterable[Cell]) -> dict[tuple[int, str], float]:
    """(nfe, metric) -> the standard error of the sampling of one draw, the median over the finished cells.

    Only last snapshots count, and of a cell the median over its draws. What no row knows the error of is left out.
    """
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for cell in cells:
        draws: dict[tuple[int, str], dict[int, float | None]] = defaultdict(dict)
        for row in cell.records if cell.state == "done" else ():
            if row["images"] == cell.budget:
                draws[row["nfe"], row["metric"]][row["draw"]] = row.get("error")  # the column is younger than records
        for key, errors in draws.items():
            if known := [error for error in errors.values() if error is not None and math.isfinite(error)]:
                found[key].append(statistics.median(known))
    return {key: statistics.median(errors) for key, errors in found.items()}


def final_draws(cells: Iterable[Cell]) -> dict[tuple[str, int, str], dict[int, dict[int, float]]]:
    """(group, nfe, metric) -> seed -> draw -> value at the last snapshot of finished cells."""
    found: dict[tuple[str, int, str], dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        for row in cell.records if cell.state == "done" else ():
            if row["images"] == cell.budget:
                value = math.nan if row["value"] is None else float(row["value"])
                found[cell.group, row["nfe"], row["metric"]][cell.seed][row["draw"]] = value
    return found


def leaderboard(
    cells: Sequence[Cell],
    values: Iterable[SeedValue],
    reference: Mapping[tuple[str, str], float],
    focus: Focus = Focus(),
) -> Board:
    """The board of one benchmark from its cells and their `seed_values`."""
    names = labels(cells)
    metrics = _first(focus.metric, metric_names(cells))
    nfes = _first(focus.nfe, sorted({nfe for cell in cells for nfe in cell.nfe}))
    baseline = names.get(focus.baseline or "")
    finals = final_values(names, values, cells)
    common = common_settings(cells)
    own: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        own[cell.group].append(cell)
    entries = [_entry(names[group], own[group], group, common) for group in names]
    entries = ranked(entries, metrics[0], nfes[0], finals)
    failed = {entry.label: entry.seeds.get("failed", 0) for entry in entries}
    contests = {
        (nfe, metric): contest(finals.get((nfe, metric), {}), metric, nfe, failed, baseline)
        for nfe in nfes
        for metric in metrics
    }
    places = {key: ranks(found.family) for key, found in contests.items()}
    draws = final_draws(cells)
    rows = tuple(_row(entry, nfe, metrics, contests, places, draws) for nfe in nfes for entry in entries)
    return Board(
        benchmark=cells[0].benchmark,
        metrics=metrics,
        nfes=nfes,
        cells=tuple(cells),
        entries=entries,
        rows=rows,
        contests=contests,
        reference=dict(reference),
        common=common,
        errors=sampling_errors(cells),
        baseline=baseline,
    )


def _first(item: Item | None, items: Iterable[Item]) -> tuple[Item, ...]:
    """`items` with `item` before all others, if it is among them."""
    return tuple(sorted(items, key=lambda other: other != item))


def _row(
    entry: Entry,
    nfe: int,
    metrics: Sequence[str],
    contests: Mapping[tuple[int, str], Contest],
    places: Mapping[tuple[int, str], Mapping[str, Rank]],
    draws: Mapping[tuple[str, int, str], Mapping[int, Mapping[int, float]]],
) -> Row:
    own = {metric: contests[nfe, metric].family.values.get(entry.label, {}) for metric in metrics}
    values = {metric: tuple(own[metric][seed] for seed in sorted(own[metric])) for metric in metrics}
    scores = {metric: t_interval(values[metric]) for metric in metrics}
    setup = _setup(entry)
    return Row(
        entry=entry,
        nfe=nfe,
        seeds=values,
        scores=scores,
        spreads={metric: spread(draws.get((entry.group, nfe, metric), {})) for metric in metrics},
        ranks={metric: places[nfe, metric].get(entry.label, Rank(None, None, None, None)) for metric in metrics},
        best=frozenset(m for m in metrics if contests[nfe, m].significant and contests[nfe, m].leader == entry.label),
        published={m: found for m in metrics if (found := compare_published(setup, nfe, m, scores[m].mean))},
    )


def _setup(entry: Entry) -> Setup:
    cell = entry.cells[0]
    config = cell.run.config
    return Setup(
        method=cell.method,
        dataset=config.benchmark.name,
        mimg=entry.compute.mimg,
        network=config.network,
        init=config.train.init,
        conditional=config.data.conditional,
        sampling=cell.sampling,
    )


def contest(
    values: Values, metric: str, nfe: int, failed: Mapping[str, int] | None = None, baseline: str | None = None
) -> Contest:
    """Who leads `metric`, and whether the comparison of all pairs makes it significant.

    A rival with fewer than three common seeds leaves the matter undecided, and so does a metric whose better direction
    is not known. failed: label -> cells that failed: like diverged ones they keep the leader from being called best.
    """
    sign = direction(metric)
    compared = family(values, sign, log=is_log_scale(metric), baseline=baseline)
    means = {label: t_interval(seeds.values()) for label, seeds in values.items()}
    ranked = sorted((mean.n < LEAST_SEEDS, -sign * mean.mean, label) for label, mean in means.items() if mean.n)
    if not ranked or not sign:
        return Contest(metric, nfe, None, None, {}, (), (), 0, False, compared)
    leader = ranked[0][2]
    reference = compared.baseline or leader
    diverged = tuple(label for label, mean in means.items() if mean.lost and not mean.n)
    rivals = [label for label in values if label != leader and label not in diverged]
    undecided = tuple(label for label in rivals if compared.between(leader, label).verdict != BETTER)
    others = [label for label in values if label != reference and label not in diverged]
    differences = {label: compared.between(reference, label) for label in others}
    broken = means[leader].lost + (failed or {}).get(leader, 0)
    significant = bool(rivals) and not undecided and not broken
    return Contest(metric, nfe, leader, reference, differences, diverged, undecided, broken, significant, compared)


def metric_names(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Metric names in the order of the configuration; where cells differ, the most common list comes first."""
    lists = Counter(cell.metrics for cell in cells)
    ordered = sorted(lists, key=lambda metrics: (-lists[metrics], metrics))
    return tuple(dict.fromkeys(metric for metrics in ordered for metric in metrics))


def final_values(names: Mapping[str, str], values: Iterable[SeedValue], cells: Iterable[Cell]) -> Finals:
    """Values at the last snapshot of finished cells. A diverged cell counts as NaN in all its metrics.

    A configuration without a finished seed is there with an empty mapping: a rival not yet met.
    """
    finals: Finals = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        for key in itertools.product(cell.nfe, cell.metrics):
            seeds = finals[key][names[cell.group]]
            if cell.state == "diverged":
                seeds[cell.seed] = math.nan
    for cell, metric, nfe, images, value in values:
        if cell.state == "done" and images == cell.budget:
            finals[nfe, metric][names[cell.group]][cell.seed] = value
    return finals


def _entry(label: str, cells: Sequence[Cell], group: str, common: Sequence[str]) -> Entry:
    kinds = Counter(FINAL_STATES.get(cell.state, "unfinished") for cell in cells)
    seeds = {kind: kinds[kind] for kind in (*FINAL_STATES.values(), "unfinished") if kinds[kind]}
    first = cells[0]
    cells_by_seed = tuple(sorted(cells, key=lambda cell: (cell.seed, cell.id)))
    return Entry(
        label, first.method, first.version, variant(first, common), group, seeds, _compute(cells), cells_by_seed
    )


def _compute(cells: Sequence[Cell]) -> Compute:
    budget = cells[0].budget
    # A cell that has just begun knows only some of it.
    known = {key: value for cell in reversed(cells) for key, value in cell.compute.items() if value is not None}
    flops, before = known.get("flops_per_image"), pretraining(cells)
    seconds = [
        cell.compute["train_seconds"]
        for cell in cells
        if cell.state == "done" and cell.compute.get("train_seconds") is not None
    ]
    return Compute(
        mimg=budget / 1e6,
        pretraining_mimg=math.nan if before.images is None else before.images / 1e6 or None,
        pretraining_tflop=math.nan if before.tflop is None else before.tflop,
        parameters=known.get("parameters"),
        passes_per_step=known.get("passes_per_step"),
        tflop=None if flops is None else flops * budget / 1e12,
        device_hours=math.fsum(seconds) / len(seconds) / 3600 if seconds else None,
        device=known.get("device"),
    )


class Pretraining(NamedTuple):
    """What was trained for the initial weights, 0 for random ones; None where that is not known."""

    images: int | None
    tflop: float | None


def pretraining(cells: Iterable[Cell]) -> Pretraining:
    """That of the cells of one configuration; cells that have not started say nothing."""
    # A cell that started from random weights holds 0 images, and null where the count is not known.
    started = [cell.compute for cell in cells if cell.compute.get("pretraining_images", 0) != 0]
    images: list[int | None] = [compute["pretraining_images"] for compute in started]
    flops: list[float | None] = [compute.get("pretraining_flops") for compute in started]
    known, work = [count for count in images if count is not None], [count for count in flops if count is not None]
    return Pretraining(
        max(known, default=0) if len(known) == len(images) else None,
        max(work, default=0.0) / 1e12 if len(work) == len(flops) else None,
    )


def ranked(entries: Iterable[Entry], metric: str, nfe: int, finals: Finals) -> tuple[Entry, ...]:
    """Best mean first, those with a single seed after all others; then, by name, those without a value.

    Where no direction is known all are in the order of their names.
    """
    values = finals.get((nfe, metric), {})

    def key(entry: Entry) -> tuple[int, float, str]:
        score = t_interval(values.get(entry.label, {}).values())
        few = 2 - min(score.n, LEAST_SEEDS)
        return few, -direction(metric) * score.mean if score.n else 0.0, entry.label

    return tuple(sorted(entries, key=key))
