"""Tables of one benchmark: ranking and metrics at each NFE, cost, and where the records are."""

from __future__ import annotations

import math
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...benchmarks.common.text import plain
from ...benchmarks.metrics.registry import direction
from ..analysis.cells import FINAL_STATES, Cell
from ..analysis.comparisons import INCONCLUSIVE, Rank
from ..analysis.formatting import ARROWS, NOTHING, count_text, number, score_text, span
from ..analysis.imported import Foreign, foreign
from ..analysis.recipes import paper_names
from ..analysis.rivals import Rival, rivals
from ..analysis.statistics import Spread
from ..analysis.tables import Board, Compute, Entry, Row
from .text import Table, Text, Texts, texts
from .verdicts import gap_text, verdict

#: The smallest budget of these methods published for CIFAR-10, in images: ECT's tuning of 100k iterations (its README).
SHORTEST_PUBLISHED = 12_800_000
SIGNIFICANTLY_WORSE, SIGNIFICANTLY_BETTER = "significantly worse", "significantly better"
REFERENCES = {"halves": "real-vs-real baseline", "noise": "noise baseline"}


@dataclass(frozen=True)
class Results:
    """What one NFE gave. ranking: by the first metric. measured: all metrics, and the spread of the first.

    verdict: of the question fixed in advance; "" at other NFEs.
    """

    nfe: int
    calls: str
    verdict: str
    ranking: Table
    measured: Table
    errors: str


def results(board: Board, nfe: int) -> Results:
    """The results at one NFE, best first."""
    first = board.metrics[0]
    rows = sorted((row for row in board.rows if row.nfe == nfe), key=lambda row: _order(row, first))
    errors = (f"{m} ± {number(board.errors[nfe, m])}" for m in board.metrics if (nfe, m) in board.errors)
    return Results(
        nfe=nfe,
        calls="one network call" if nfe == 1 else f"{nfe} network calls",
        verdict=verdict(board, nfe) if nfe == board.nfes[0] else "",
        ranking=_ranking(board, nfe, rows),
        measured=_measured(board, rows),
        errors=", ".join(errors),
    )


def cost_table(board: Board, prefix: str = "") -> Table:
    """What each configuration has cost, and where its records are. `prefix` goes before every link."""
    names = names_of(board)
    costs = ["parameters", "Mimg", "passes", "TFLOP", "device-hours"]
    rows = [
        [
            *_name_cells(entry, names),
            *texts(*_cost_texts(entry.compute)),
            Texts(tuple(Text(str(cell.seed), link=prefix + board.root + evidence(cell)) for cell in entry.cells)),
        ]
        for entry in board.entries
    ]
    return Table([*names, *costs, "records of seed"], "l" * len(names) + "r" * len(costs) + "l", rows)


def evidence(cell: Cell) -> str:
    """The path from the output folder to what the numbers of a cell are made of: its records, or else its state."""
    records, status = cell.run.records_file, cell.run.status_file
    return urllib.parse.quote("/".join((records if records.exists() else status).parts[-4:]), safe="/+")


def runs_text(board: Board) -> str:
    """How many cells there are, in which state, and what each training sees."""
    seeds = ", ".join(str(seed) for seed in sorted({cell.seed for cell in board.cells}))
    kinds = Counter(FINAL_STATES.get(cell.state, "unfinished") for cell in board.cells)
    states = ", ".join(f"{kinds[kind]} {kind}" for kind in (*FINAL_STATES.values(), "unfinished") if kinds[kind])
    budgets = " or ".join(count_text(budget) for budget in sorted({cell.budget for cell in board.cells}))
    batches = " or ".join(str(batch) for batch in sorted({cell.batch for cell in board.cells}))
    parameters = {entry.compute.parameters for entry in board.entries if entry.compute.parameters is not None}
    size = " or ".join(count_text(count) for count in sorted(parameters))
    network = f" Networks have {size} parameters." if size else ""
    common = f" Common to all: {', '.join(board.common)}." if board.common else ""
    names = "; ".join(paper_names(board.cells))
    common += f" Names: {names}." if names else ""
    return (
        f"{_count(len(board.entries), 'configuration')}, seeds {seeds}: {_count(len(board.cells), 'cell')} ({states}). "
        f"Each training sees {budgets} images of {board.cells[0].benchmark} in batches of {batches}.{network}{common}"
    )


def machine(hardware: dict[str, object]) -> str:
    """Graphics processor and processor of one attempt, as `run.json` names them."""
    cpu = f"{hardware.get('cpu') or 'unknown CPU'} ({hardware.get('cores') or '?'} cores)"
    return " and ".join(str(part) for part in (hardware.get("gpu"), cpu) if part)


def hardware_text(cells: Iterable[Cell]) -> str:
    """Every machine that the cells ran on, and which cells were computed on several kinds of device."""
    cells = list(cells)
    mixed = [(cell, plain(", then ".join(found))) for cell in cells if (found := _devices(cell))]
    names = ", ".join(f"{cell.method} s{cell.seed}-{cell.id}" for cell, _ in mixed)
    kinds = "; ".join(sorted({found for _, found in mixed}))
    note = f" Computed on more than one kind of device ({kinds}), which a rerun does not repeat bit for bit: {names}."
    return f"Hardware: {machines(cells)}.{note if mixed else ''}"


def _devices(cell: Cell) -> list[str]:
    """The kinds of device that a cell was computed on, if there are several."""
    return max((row.get("devices", []) for row in cell.records), key=len, default=[])


def machines(cells: Iterable[Cell]) -> str:
    """Every machine that the cells ran on."""
    found = {machine(attempt.get("hardware") or {}) for cell in cells for attempt in cell.attempts}
    return "; ".join(sorted(found)) or "not recorded"


def small_scale_text(board: Board) -> str:
    """How much shorter the trainings are than the shortest published one; "" where they are not."""
    budget = max(cell.budget for cell in board.cells)
    if budget >= SHORTEST_PUBLISHED:
        return ""
    ratio = SHORTEST_PUBLISHED / budget
    times = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
    return (
        f"the smallest budget published for these methods on CIFAR-10 is {times} times as large (ECT's tuning, "
        f"{count_text(SHORTEST_PUBLISHED)} images after its pre-training). The order may differ at that scale."
    )


def seeds_text(entry: Entry, spread: Spread) -> str:
    """`3 × 2, 1 diverged`: finished seeds × sampling draws, and the states of the other cells."""
    draws = f" × {span(*spread.draws)}" if spread.seeds else ""
    others = [f"{count} {kind}" for kind, count in entry.seeds.items() if kind != "finished"]
    return ", ".join([f"{entry.seeds.get('finished', 0)}{draws}", *others])


def seed_deviation(spread: Spread) -> float | None:
    """Standard deviation between trainings; with one draw per training that of sampling is part of it."""
    return spread.total if spread.seed is None else spread.seed


def verdict_text(row: Row, metric: str, rival: Rival | None) -> str:
    """The verdict of a row: `rival` is its comparison with the reference, None for the reference itself or without."""
    if rival is None:
        return "best" if metric in row.best else NOTHING
    return SIGNIFICANTLY_WORSE if rival.worse else SIGNIFICANTLY_BETTER if rival.better else INCONCLUSIVE


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def names_of(board: Board) -> list[str]:
    """What distinguishes the rows of a board: the headings of the columns."""
    entries = board.entries
    names = ["method"]
    if any(entry.variant for entry in entries):
        names.append("variant")
    if len({(entry.method, entry.version, entry.variant) for entry in entries}) < len(entries):
        names.append("group")
    return names


def _name_cells(entry: Entry, names: Sequence[str]) -> list[Text]:
    words = {"method": f"{entry.method} v{entry.version}", "variant": entry.variant, "group": entry.group}
    return texts(*(words[name] for name in names))


def _ranking(board: Board, nfe: int, rows: Sequence[Row]) -> Table:
    """Which rows are better by the first metric, and how far each is from the best, or from the baseline."""
    first, names = board.metrics[0], names_of(board)
    found = rivals(board.contests[nfe, first])
    left = ["rank", "rank interval", "bootstrap", *names, "seeds × draws"]
    right = [first + ARROWS[direction(first)], difference_to(board), "verdict", "probability of improvement"]
    lines = [
        [
            *_ranks(row.ranks[first]),
            *_name_cells(row.entry, names),
            Text(seeds_text(row.entry, row.spreads[first])),
            _score(row, first),
            *_against(row, first, found.get(row.entry.label), board.baseline),
        ]
        for row in rows
    ]
    return Table([*left, *right], "l" * len(left) + "rrlr", lines)


def _against(row: Row, metric: str, rival: Rival | None, baseline: str | None) -> list[Text]:
    """The difference to the reference, the verdict, and the probability that the reference is better."""
    if rival is None:
        is_baseline = row.entry.label == baseline
        return texts(NOTHING, "baseline" if is_baseline else verdict_text(row, metric, None), NOTHING)
    better = NOTHING if rival.improvement is None else f"{100 * rival.improvement:.0f} %"
    return texts(gap_text(rival) if rival.n else NOTHING, verdict_text(row, metric, rival), better)


def difference_to(board: Board) -> str:
    """The heading of the column of differences."""
    return f"difference to {board.baseline or 'the best'}"


def _ranks(rank: Rank) -> list[Text]:
    """The rank by the mean, the ranks that the verdicts leave open, and those of the bootstrap."""
    if rank.place is None or rank.low is None or rank.high is None or rank.bootstrap is None:
        return texts(NOTHING, NOTHING, NOTHING)
    return texts(str(rank.place), span(rank.low, rank.high), span(*rank.bootstrap))


def _measured(board: Board, rows: Sequence[Row]) -> Table:
    """All metrics at one NFE with what they give for real data and noise, and the spread of the first one."""
    first, names = board.metrics[0], names_of(board)
    redrawn = any(row.spreads[first].draw is not None for row in rows)
    spreads = ["sd of seeds", "sd of draws"] if redrawn else ["sd of seeds"]
    header = [*names, *(metric + ARROWS[direction(metric)] for metric in board.metrics), *spreads]
    lines = [
        [
            *_name_cells(row.entry, names),
            *(_score(row, metric) for metric in board.metrics),
            *texts(*_deviations(row.spreads[first])[: len(spreads)]),
        ]
        for row in rows
    ]
    rest = [""] * (len(names) - 1), [""] * len(spreads)
    lines += [[Text(label, "*"), *texts(*rest[0]), *shown, *texts(*rest[1])] for label, shown in _imported(board, rows)]
    for what, name in REFERENCES.items():
        values = [board.reference.get((what, metric)) for metric in board.metrics]
        if any(value is not None for value in values):
            shown = [Text(NOTHING) if value is None else Text(number(value), "*") for value in values]
            lines.append([Text(name, "*"), *texts(*rest[0]), *shown, *texts(*rest[1])])
    return Table(header, "l" * len(names) + "r" * (len(header) - len(names)), lines)


def _imported(board: Board, rows: Sequence[Row]) -> Iterator[tuple[str, list[Text]]]:
    """Values of others at the NFE of these rows, in italics: a row for each configuration and source."""
    found: dict[tuple[str, str], dict[str, Foreign]] = defaultdict(dict)
    for item in foreign(board.imported):
        first = item.rows[0]
        if first.nfe == rows[0].nfe and first.metric in board.metrics:
            found[first.label, first.source].setdefault(first.metric, item)
    for (label, _), values in found.items():
        yield label, [Text(foreign_text(values[m]), "*") if m in values else Text(NOTHING) for m in board.metrics]


def foreign_text(item: Foreign) -> str:
    """A value of others: with an interval where it has values by seed, else as it was reported."""
    return score_text(item.score) if item.score.n > 1 else number(item.score.mean)


def _deviations(spread: Spread) -> list[str]:
    return [NOTHING if value is None else number(value) for value in (seed_deviation(spread), spread.draw)]


def _order(row: Row, metric: str) -> tuple[int, float, str]:
    """Ranked rows by their rank, then those with a single seed by their value, then the others by name."""
    place, score = row.ranks[metric].place, row.scores[metric]
    if place is not None:
        return 0, place, row.entry.label
    return (1, -direction(metric) * score.mean, row.entry.label) if score.n else (2, 0.0, row.entry.label)


def _score(row: Row, metric: str) -> Text:
    return Text(score_text(row.scores[metric]), "**" if metric in row.best else "")


def _cost_texts(compute: Compute) -> list[str]:
    return [
        NOTHING if compute.parameters is None else count_text(compute.parameters),
        _sum(compute.mimg, compute.pretraining_mimg),
        NOTHING if compute.passes_per_step is None else f"{compute.passes_per_step:g}",
        NOTHING if compute.tflop is None else _sum(compute.tflop, compute.pretraining_tflop or None),
        NOTHING if compute.device_hours is None else number(compute.device_hours),
    ]


def _sum(own: float, before: float | None) -> str:
    """`51.2 + 200`: of this training, and of the one that produced its initial weights."""
    if before is None:
        return number(own)
    return f"{number(own)} + {'?' if math.isnan(before) else number(before)}"
