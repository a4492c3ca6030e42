"""`leaderboard.md`: its sentences and table cells are made here and laid out by `templates/leaderboard.md.j2`.

The text holds no time stamp and no machine path: the same records give the same bytes.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..benchmarks.metrics.registry import direction
from .cells import FINAL_STATES, Cell, plain
from .memorisation import TAIL, Memorisation
from .published import ORIENTATION_NFE, Published, orientation
from .statistics import Interval
from .tables import Board, Compute, Contest, Row
from .transport import Crossings

#: The shortest full training of these methods published for CIFAR-10 (ECT's README, 100k iterations), in images.
SHORTEST_PUBLISHED = 12_800_000
NOTHING = "–"
ARROWS = {1: " ↑", 0: "", -1: " ↓"}
REFERENCES = {"halves": "two halves of the real data", "noise": "noise"}
LONGEST_MESSAGE = 200
MOST_NAMED = 3  # rivals that are named where the same holds for all of them


@dataclass(frozen=True)
class Plot:
    """A picture: its path relative to the leaderboard, its title for who cannot see it, the sentence below it."""

    link: str
    title: str
    caption: str


@dataclass(frozen=True)
class Section:
    """An ablation as the leaderboard mentions it: the link to its page, what was varied and what came out."""

    link: str
    title: str
    values: str
    reading: str
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Page:
    """What the leaderboard shows of one benchmark.

    `memorisation` belongs to the picture in `nearest`, `crossings` to those in `transport`.
    """

    board: Board
    plots: Sequence[Plot]
    ablations: Sequence[Section]
    memorisation: Memorisation | None
    nearest: Sequence[Plot]
    crossings: Sequence[Crossings]
    crossings_apart: float | None
    transport: Sequence[Plot]
    diagnostics: Sequence[Section] = ()


@dataclass(frozen=True)
class Text:
    """A table cell; `mark` is the Markdown put on both sides of it, "**" or "*"."""

    text: str
    mark: str = ""


def leaderboard_text(pages: Iterable[Page]) -> str:
    """The whole document, ending in one newline."""
    template = environment().get_template("leaderboard.md.j2")
    return template.render(pages=list(map(_page, pages))).strip() + "\n"


def environment() -> jinja2.Environment:
    """Where the templates live: every expression in them is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["line"] = _line
    return environment


def escape(value: Any) -> str:
    """`value` as text that Markdown and HTML show literally, on one line, also inside a table."""
    if isinstance(value, Markup):
        return value
    text = html.escape(plain(str(value)), quote=False)
    # An underscore between letters is literal in Markdown; metric names stay readable in the source.
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def number(value: float, beside: float = 0.0) -> str:
    """Three significant digits of the larger of `value` and `beside`, never in scientific notation."""
    scale = max(abs(value), abs(beside))
    decimals = min(6, max(0, 2 - math.floor(math.log10(scale)))) if scale else 0
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def score_text(score: Interval) -> str:
    """`31.2 ± 4.1 (n=3)`; a single seed has no interval, and diverged seeds are named."""
    lost = f", {score.lost} diverged" if score.lost else ""
    if score.n == 0:
        return "diverged" if score.lost else NOTHING
    half = score.half_width
    interval = "" if half is None else f" ± {number(half, score.mean)}"
    return f"{number(score.mean, half or 0.0)}{interval} (n={score.n}{lost})"


def verdict(board: Board) -> str:
    """Which configuration is best by the first metric at the lowest NFE, and whether that is certain."""
    metric, nfe = board.metrics[0], board.nfes[0]
    contest = board.contests[nfe, metric]
    if contest.leader is None:
        known = "no training has finished yet" if direction(metric) else f"{metric} has no known better direction"
        return f"There is nothing to rank: {known}."
    row = next(row for row in board.rows if (row.nfe, row.entry.label) == (nfe, contest.leader))
    unfinished = sum(cell.state not in FINAL_STATES for cell in board.cells)
    best = f"{'highest' if direction(metric) > 0 else 'lowest'} {metric}, {score_text(row.scores[metric])}"
    so_far = f"So far, with {unfinished} of {len(board.cells)} cells unfinished: at" if unfinished else "At"
    return f"{so_far} NFE {nfe} {contest.leader} has the {best}. {_certainty(contest, row.scores[metric])}"


def _certainty(contest: Contest, score: Interval) -> str:
    if not contest.margins:
        return "It is the only configuration here, so there is nothing to compare it with."
    if contest.certain:
        met = {label: margin for label, margin in contest.margins.items() if margin.n}
        closest = min(met, key=lambda label: (met[label].mean, label), default=None)
        margin = f" (closest: {closest}, behind by {_range(met[closest])})" if closest else ""
        return (
            "This is certain at the 95 % level: the interval of the paired difference excludes zero "
            f"against every other configuration{margin}."
        )
    open_ = [label for label in contest.undecided if contest.margins[label].low is not None]
    unmet = [label for label in contest.undecided if contest.margins[label].low is None]
    reasons = []
    if open_:
        margins = "; ".join(f"{label}, behind by {_range(contest.margins[label])}" for label in open_)
        reasons.append(f"the 95 % interval of the paired difference includes zero ({margins})")
    if unmet:
        everyone = len(unmet) == len(contest.margins) > MOST_NAMED
        them = "any other configuration" if everyone else ", ".join(unmet)
        reasons.append(f"fewer than two seeds can be paired with {them}")
    if score.lost:
        reasons.append("seeds that diverged are missing from its mean")
    return f"This is not certain: {', and '.join(reasons)}."


def _range(margin: Interval) -> str:
    if margin.low is None or margin.high is None:
        return f"{number(margin.mean)}, n={margin.n}"
    low, high = (number(bound, margin.mean) for bound in (margin.low, margin.high))
    return f"{number(margin.mean)}, 95 % interval {low} to {high}"


def _page(page: Page) -> dict[str, Any]:
    board = page.board
    published = any(row.published for row in board.rows)
    return {
        "board": board,
        "runs": _runs(board),
        "hardware": _hardware(board.cells),
        "small_scale": _small_scale(board),
        "verdict": verdict(board),
        "tables": [_table(board, nfe) for nfe in board.nfes],
        "device": ", ".join(sorted({entry.compute.device for entry in board.entries if entry.compute.device})),
        "pretrained": any(entry.compute.pretraining_mimg is not None for entry in board.entries),
        "plots": page.plots,
        "ablations": page.ablations,
        "memorisation": _memorisation(page.memorisation, board) if page.memorisation else None,
        "nearest": page.nearest,
        "crossings": [_crossing_cells(row, page.crossings_apart) for row in page.crossings],
        "transport": page.transport,
        "diagnostics": page.diagnostics,
        "troubles": _troubles(board),
        "orientation": [] if published else _orientation(board),
    }


def _table(board: Board, nfe: int) -> dict[str, Any]:
    rows = [row for row in board.rows if row.nfe == nfe]
    entries = [row.entry for row in rows]
    names = ["#", "method", "seeds"]
    if any(entry.variant for entry in entries):
        names.insert(2, "variant")
    if len({(entry.method, entry.version, entry.variant) for entry in entries}) < len(entries):
        names.insert(-1, "group")
    published = [metric for metric in board.metrics if any(metric in row.published for row in rows)]
    header = [
        *names,
        *(metric + ARROWS[direction(metric)] for metric in board.metrics),
        *(f"published {metric}" for metric in published),
        *("parameters", "Mimg", "passes", "TFLOP", "device-hours"),
    ]
    references = [
        [
            Text(""),
            Text(text, "*"),
            *(Text("") for _ in names[2:]),
            *(_reference(board, what, metric) for metric in board.metrics),
            *(Text("") for _ in header[len(names) + len(board.metrics) :]),
        ]
        for what, text in REFERENCES.items()
        if any((what, metric) in board.reference for metric in board.metrics)
    ]
    return {
        "nfe": nfe,
        "calls": "one network call" if nfe == 1 else f"{nfe} network calls",
        "header": header,
        "alignment": [":--"] * len(names) + ["--:"] * (len(header) - len(names)),
        "rows": [_cells(row, rank, names, board.metrics, published) for rank, row in enumerate(rows, 1)] + references,
        "errors": ", ".join(
            f"{metric} ± {number(board.errors[nfe, metric])}"
            for metric in board.metrics
            if (nfe, metric) in board.errors
        ),
    }


def _cells(row: Row, rank: int, names: Sequence[str], metrics: Sequence[str], published: Sequence[str]) -> list[Text]:
    entry, compute = row.entry, row.entry.compute
    words = {
        "#": str(rank) if row.scores[metrics[0]].n else NOTHING,
        "method": f"{entry.method} v{entry.version}",
        "variant": entry.variant,
        "group": entry.group,
        "seeds": ", ".join(f"{count} {kind}" for kind, count in entry.seeds.items()),
    }
    costs = [
        NOTHING if compute.parameters is None else count_text(compute.parameters),
        _mimg(compute),
        NOTHING if compute.passes_per_step is None else f"{compute.passes_per_step:g}",
        NOTHING if compute.tflop is None else number(compute.tflop),
        NOTHING if compute.device_hours is None else number(compute.device_hours),
    ]
    return [
        *(Text(words[name]) for name in names),
        *(Text(score_text(row.scores[m]), "**" if m in row.best else "") for m in metrics),
        *(Text(_published(row.published.get(metric, ()))) for metric in published),
        *(Text(cost) for cost in costs),
    ]


def _mimg(compute: Compute) -> str:
    """`51.2 + 200`: this training, and the one that made the weights it started from."""
    before = compute.pretraining_mimg
    if before is None:
        return number(compute.mimg)
    return f"{number(compute.mimg)} + {'?' if math.isnan(before) else number(before)}"


def count_text(count: float) -> str:
    """A large count with a unit: 1,024,000 -> "1.02 M"."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _published(values: Iterable[Published]) -> str:
    return "; ".join(f"{row.value:.2f} ({row.source_kind})" for row in values) or NOTHING


def _reference(board: Board, what: str, metric: str) -> Text:
    value = board.reference.get((what, metric))
    return Text(NOTHING) if value is None else Text(number(value), "*")


def _runs(board: Board) -> str:
    seeds = ", ".join(str(seed) for seed in sorted({cell.seed for cell in board.cells}))
    kinds = Counter(FINAL_STATES.get(cell.state, "unfinished") for cell in board.cells)
    states = ", ".join(f"{kinds[kind]} {kind}" for kind in (*FINAL_STATES.values(), "unfinished") if kinds[kind])
    budgets = " or ".join(count_text(budget) for budget in sorted({cell.budget for cell in board.cells}))
    batches = " or ".join(str(batch) for batch in sorted({cell.batch for cell in board.cells}))
    parameters = {entry.compute.parameters for entry in board.entries if entry.compute.parameters is not None}
    size = " or ".join(count_text(count) for count in sorted(parameters))
    network = f" Networks have {size} parameters." if size else ""
    common = f" All with {', '.join(board.common)}." if board.common else ""
    configurations = f"{len(board.entries)} configuration{'s' * (len(board.entries) > 1)}"
    return (
        f"{configurations}, seeds {seeds}: {len(board.cells)} cells ({states}). "
        f"Each training sees {budgets} images of {board.benchmark} in batches of {batches}.{network}{common}"
    )


def _hardware(cells: Iterable[Cell]) -> str:
    machines = set()
    for cell in cells:
        for attempt in cell.attempts:
            hardware = attempt.get("hardware") or {}
            cpu = f"{hardware.get('cpu') or 'unknown CPU'} ({hardware.get('cores') or '?'} cores)"
            machines.add(" and ".join(filter(None, [hardware.get("gpu"), cpu])))
    return f"Hardware: {'; '.join(sorted(machines)) or 'not recorded'}."


def _small_scale(board: Board) -> str:
    budget = max(cell.budget for cell in board.cells)
    if budget >= SHORTEST_PUBLISHED:
        return ""
    ratio = SHORTEST_PUBLISHED / budget
    times = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
    return (
        f"the shortest full training published for these methods on CIFAR-10 sees {count_text(SHORTEST_PUBLISHED)} "
        f"images, {times} times as many. What wins here need not win there."
    )


def _troubles(board: Board) -> list[list[Text]]:
    names = {entry.group: entry.label for entry in board.entries}
    cells = sorted(
        (cell for cell in board.cells if cell.state != "done"), key=lambda cell: (names[cell.group], cell.seed)
    )
    return [
        [
            Text(text)
            for text in (
                cell.id,
                names[cell.group],
                str(cell.seed),
                cell.state,
                f"{count_text(cell.images)} of {count_text(cell.budget)}",
                _shortened(cell.error) if cell.error else NOTHING,
            )
        ]
        for cell in cells
    ]


def _crossing_cells(row: Crossings, apart: float | None) -> list[Text]:
    independent = NOTHING if apart is None else f"{100 * apart:.1f} (independent)"
    coupled = independent if row.coupled is None else _percent(row.coupled)
    return [Text(row.label), Text(_percent(row.samples)), Text(coupled)]


def _percent(share: Interval) -> str:
    half = "" if share.half_width is None else f" ± {100 * share.half_width:.1f}"
    return f"{100 * share.mean:.1f}{half} (n={share.n})"


def _memorisation(found: Memorisation, board: Board) -> dict[str, Any]:
    halves = [board.reference.get(("halves", metric)) for metric in found.metrics]
    rows = [
        [
            Text(text)
            for text in (
                row.label,
                score_text(row.median),
                number(row.baseline),
                *(score_text(row.authenticity[metric]) for metric in found.metrics),
            )
        ]
        for row in found.rows
    ]
    if any(value is not None for value in halves):
        values = (NOTHING if value is None else number(value) for value in halves)
        rows.append([Text(text, "*") for text in (REFERENCES["halves"], NOTHING, NOTHING, *values)])
    return {
        "reading": _nearness(found),
        "header": ["configuration", "median distance", "median of the baseline", *found.metrics],
        "alignment": [":--"] + ["--:"] * (2 + len(found.metrics)),
        "rows": rows,
    }


def _nearness(found: Memorisation) -> str:
    """How far samples lie from training images, in units of the baseline, and how many are nearer than it explains."""
    ratios = [(row.median.mean / row.baseline, row.label) for row in found.rows if row.baseline]
    times = f"{_from_to(ratios, number)} times" if ratios else "not to be expressed in"
    near = _from_to([(row.tail, row.label) for row in found.rows], lambda share: f"{100 * share:.1f} %")
    return (
        f"At NFE {found.nfe} the median distance of samples to their nearest training image is {times} the median of "
        f"the baseline, which is the distance of real images to the nearest other real one; {near} of the samples are "
        f"nearer than {100 * (1 - TAIL):g} % of the real images."
    )


def _from_to(values: Sequence[tuple[float, str]], written: Callable[[float], str]) -> str:
    """The least and the greatest number with the names they belong to; once where both are written alike."""
    (low, first), (high, last) = min(values), max(values)
    if written(low) == written(high):
        return written(low)
    return f"{written(low)} ({first}) to {written(high)} ({last})"


def _shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"


def _orientation(board: Board) -> list[list[Text]]:
    return [
        [
            Text(text)
            for text in (
                row.method,
                row.variant or NOTHING,
                *(f"{values[nfe]:.2f}" if nfe in values else NOTHING for nfe in ORIENTATION_NFE),
                NOTHING if row.training_mimg is None else f"{row.training_mimg:g}",
                row.init or NOTHING,
                row.source,
                row.source_kind,
                row.note,
            )
        ]
        for row, values in orientation(dict.fromkeys(entry.method for entry in board.entries))
    ]


def _line(cells: Iterable[Text | str]) -> Markup:
    texts = (cell if isinstance(cell, Text) else Text(cell) for cell in cells)
    return Markup("| " + " | ".join(f"{t.mark}{escape(t.text)}{t.mark}" for t in texts) + " |")
