"""`leaderboard.md`: its sentences and table cells are made here and laid out by `templates/leaderboard.md.j2`.

The text holds no time stamp and no machine path: the same records give the same bytes.
"""

from __future__ import annotations

import html
import math
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...benchmarks.metrics.registry import direction
from ...benchmarks.runs.folder import RECORDS, STATUS
from ..analysis.cells import FINAL_STATES, Cell, plain
from ..analysis.comparisons import BETTER, INCONCLUSIVE, WORSE, Difference, Rank
from ..analysis.formatting import ARROWS, NOTHING, count_text, number, score_text, signed, span
from ..analysis.memorisation import TAIL, Memorisation
from ..analysis.posteriors import Learned
from ..analysis.published import ORIENTATION_NFE, Beside, orientation
from ..analysis.rivals import behind
from ..analysis.statistics import Interval, Spread
from ..analysis.tables import Board, Compute, Contest, Entry, Row, SeedValue
from ..analysis.transport import Crossings

#: The shortest full training of these methods published for CIFAR-10 (ECT's README, 100k iterations), in images.
SHORTEST_PUBLISHED = 12_800_000
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
    """An ablation as the leaderboard mentions it: the link to its page, what was varied and what came out.

    page: all that its own page shows; groups: what the rows of its tables belong to, one a row.
    """

    link: str
    title: str
    values: str
    reading: str
    plots: Sequence[Plot]
    page: Mapping[str, Any]
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """What the leaderboard shows of one benchmark. `values` are all evaluations of its cells.

    `memorisation` belongs to the picture in `nearest`, `crossings` to those in `transport`, `learned` to `posteriors`.
    """

    board: Board
    values: Sequence[SeedValue]
    plots: Sequence[Plot]
    ablations: Sequence[Section]
    memorisation: Memorisation | None
    nearest: Sequence[Plot]
    crossings: Sequence[Crossings]
    crossings_apart: float | None
    transport: Sequence[Plot]
    diagnostics: Sequence[Section] = ()
    learned: Sequence[Learned] = ()
    posteriors: Sequence[Plot] = ()


@dataclass(frozen=True)
class Text:
    """A table cell; `mark` is the Markdown put on both sides of it, "**" or "*"; `link` is where it leads."""

    text: str
    mark: str = ""
    link: str = ""


@dataclass(frozen=True)
class Texts:
    """A table cell of several texts with spaces between."""

    parts: tuple[Text, ...]


def leaderboard_text(pages: Iterable[Page], profile: Mapping[str, Any] | None = None) -> str:
    """The whole document, ending in one newline. `profile` is what `profile_text` says of all pages together."""
    template = environment().get_template("leaderboard.md.j2")
    return template.render(pages=list(map(page_content, pages)), profile=profile).strip() + "\n"


def excerpt_text(boards: Iterable[Board], folder: str, heading: str = "###") -> str:
    """Verdicts and tables alone, for another document; `folder` is the way from there to the leaderboard's folder."""
    template = environment().get_template("excerpt.md.j2")
    prefix = "" if folder in ("", ".") else f"{folder}/"
    pages = [_results(board, prefix) for board in boards]
    return template.render(
        boards=pages, link=Markup(urllib.parse.quote(f"{prefix}leaderboard.md", safe="/+")), hashes=heading
    )


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


def verdict(board: Board, nfe: int) -> str:
    """Which configuration is best by the first metric at `nfe`, and whether that is certain. Two or three sentences."""
    metric = board.metrics[0]
    contest = board.contests[nfe, metric]
    if contest.leader is None:
        known = "no training has finished yet" if direction(metric) else f"{metric} has no known better direction"
        return f"There is nothing to rank: {known}."
    row = next(row for row in board.rows if (row.nfe, row.entry.label) == (nfe, contest.leader))
    unfinished = sum(cell.state not in FINAL_STATES for cell in board.cells)
    so_far = f"So far, with {unfinished} of {len(board.cells)} cells unfinished: at" if unfinished else "At"
    best = f"{'highest' if direction(metric) > 0 else 'lowest'} {metric}, {score_text(row.scores[metric])}"
    many = len(board.entries) > 1
    head = f"{contest.leader} is certainly best, with the" if contest.certain else f"{contest.leader} has the"
    nobody = "no configuration is certainly best. " if many and not contest.certain else ""
    head = f"{so_far} NFE {nfe} {nobody}{head} {best}."
    return " ".join([head, *_certainty(contest, row.scores[metric])])


def _certainty(contest: Contest, score: Interval) -> list[str]:
    """What is known of the leader against its rivals, a sentence each."""
    sign = contest.family.sign
    gone = f"{_listed(contest.diverged)} diverged on every seed." if contest.diverged else ""
    if not contest.differences:
        alone = "Nothing else has a value" if contest.diverged else "It is the only configuration here"
        return [f"{alone}, so there is nothing to compare it with.", *filter(None, [gone])]
    said = []
    beaten = [found for label, found in contest.differences.items() if label not in contest.undecided]
    if beaten:
        closest = min(beaten, key=_gap)
        gap = f"which is behind by {_range(closest, sign)}"
        if len(beaten) == 1:
            said.append(f"It is certainly better than {closest.second}, {gap}.")
        else:
            everyone = len(beaten) == len(contest.differences)
            them = "every other one" if everyone else _listed([found.second for found in beaten])
            said.append(f"It is certainly better than {them}; the closest is {closest.second}, {gap}.")
    reasons: dict[str, list[str]] = {}
    for found in sorted((contest.differences[label] for label in contest.undecided), key=_gap):
        gap = "" if found.interval.low is None else f", which is behind by {_range(found, sign)}"
        reasons.setdefault(found.reason, []).append(f"{found.second}{gap}")
    for reason, rivals in reasons.items():
        everyone = len(rivals) == len(contest.differences) > MOST_NAMED
        them = (
            "every other one" if everyone else _listed(rivals, "; " if any("(" in rival for rival in rivals) else ", ")
        )
        said.append(f"Inconclusive against {them}: {reason}.")
    if contest.broken:
        kinds = "diverged" if contest.broken == score.lost else "diverged or failed"
        said.append(f"Its mean knows nothing of {contest.broken} of its seeds that {kinds}.")
    return [*said, *filter(None, [gone])]


def _gap(found: Difference) -> tuple[float, str]:
    """The closest first; those without a common seed last."""
    return abs(found.interval.mean) if found.interval.n else math.inf, found.second


def _listed(names: Sequence[str], between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - MOST_NAMED
    return between.join(names) if rest <= 1 else f"{between.join(names[:MOST_NAMED])} and {rest} others"


def _range(found: Difference, sign: int) -> str:
    """How far the second of a pair is behind the first, with the corrected interval: `0.59 (−1.05 to 2.23)`."""
    mean, low, high = behind(found, sign)
    if low is None or high is None:
        return f"{number(mean)} (n={found.interval.n})"
    shown = (number(value, mean) for value in (low, high))
    return f"{number(mean)} ({' to '.join(shown)})"


def _results(board: Board, prefix: str = "") -> dict[str, Any]:
    """Verdicts and tables of one benchmark. `prefix` goes before every link."""
    return {
        "board": board,
        "runs": _runs(board),
        "hardware": _hardware(board.cells),
        "small_scale": _small_scale(board),
        "tables": [_table(board, nfe) for nfe in board.nfes],
        "costs": _costs(board, prefix),
        "device": ", ".join(sorted({entry.compute.device for entry in board.entries if entry.compute.device})),
        "pretrained": any(entry.compute.pretraining_mimg is not None for entry in board.entries),
        "redrawn": any(spread.draws[1] > 1 for row in board.rows for spread in row.spreads.values()),
        "columns": len(board.nfes) * len(board.metrics),
        "published": _published(board),
    }


def page_content(page: Page) -> dict[str, Any]:
    """Sentences and tables of one benchmark, for a template."""
    board = page.board
    results = _results(board)
    return results | {
        "plots": page.plots,
        "ablations": page.ablations,
        "memorisation": _memorisation(page.memorisation, board) if page.memorisation else None,
        "nearest": page.nearest,
        "crossings": [_crossing_cells(row, page.crossings_apart) for row in page.crossings],
        "transport": page.transport,
        "learned": [_learned_cells(row) for row in page.learned],
        "posteriors": page.posteriors,
        "diagnostics": page.diagnostics,
        "troubles": _troubles(board),
        "orientation": [] if results["published"] else _orientation(board),
    }


def _names(board: Board) -> list[str]:
    """What tells the rows of a board apart: the headings of the columns."""
    entries = board.entries
    names = ["method"]
    if any(entry.variant for entry in entries):
        names.append("variant")
    if len({(entry.method, entry.version, entry.variant) for entry in entries}) < len(entries):
        names.append("group")
    return names


def _name_cells(entry: Entry, names: Sequence[str]) -> list[Text]:
    words = {"method": f"{entry.method} v{entry.version}", "variant": entry.variant, "group": entry.group}
    return [Text(words[name]) for name in names]


def _table(board: Board, nfe: int) -> dict[str, Any]:
    """The results at one NFE, best first: who is better by the first metric, then all metrics and their spread."""
    first = board.metrics[0]
    contest = board.contests[nfe, first]
    rows = sorted((row for row in board.rows if row.nfe == nfe), key=lambda row: _order(row, first))
    names = _names(board)
    left = ["rank", "places", "bootstrap", *names, "seeds × draws"]
    right = [first + ARROWS[direction(first)], "behind the best", "verdict", "chance"]
    return {
        "nfe": nfe,
        "calls": "one network call" if nfe == 1 else f"{nfe} network calls",
        "verdict": verdict(board, nfe),
        "header": [*left, *right],
        "alignment": [":--"] * len(left) + ["--:", "--:", ":--", "--:"],
        "rows": [
            [
                *_places(row.ranks[first]),
                *_name_cells(row.entry, names),
                Text(seeds_text(row.entry, row.spreads[first])),
                _score(row, first),
                *_against(row, contest),
            ]
            for row in rows
        ],
        "measured": _measured(board, rows, names),
        "errors": ", ".join(
            f"{metric} ± {number(board.errors[nfe, metric])}"
            for metric in board.metrics
            if (nfe, metric) in board.errors
        ),
    }


def _measured(board: Board, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """All metrics at one NFE with what they give for real data and noise, and the spread of the first one."""
    first = board.metrics[0]
    redrawn = any(row.spreads[first].draw is not None for row in rows)
    spreads = ["sd of seeds", "sd of draws"] if redrawn else ["sd of seeds"]
    header = [*names, *(metric + ARROWS[direction(metric)] for metric in board.metrics), *spreads]
    references = [
        [
            Text(text, "*"),
            *(Text("") for _ in names[1:]),
            *(_reference(board, what, metric) for metric in board.metrics),
            *(Text("") for _ in spreads),
        ]
        for what, text in REFERENCES.items()
        if any((what, metric) in board.reference for metric in board.metrics)
    ]
    return {
        "header": header,
        "alignment": [":--"] * len(names) + ["--:"] * (len(header) - len(names)),
        "rows": [
            [
                *_name_cells(row.entry, names),
                *(_score(row, metric) for metric in board.metrics),
                *map(Text, _deviations(row.spreads[first])[: len(spreads)]),
            ]
            for row in rows
        ]
        + references,
    }


def _deviations(spread: Spread) -> list[str]:
    """Standard deviation of the seeds (with one draw a training that of the draw is in it) and of the draws."""
    seeds = spread.total if spread.seed is None else spread.seed
    return [NOTHING if value is None else number(value) for value in (seeds, spread.draw)]


def _order(row: Row, metric: str) -> tuple[Any, ...]:
    """Ranked rows by their place, then those with a single seed by their value, then the others by name."""
    place, score = row.ranks[metric].place, row.scores[metric]
    if place is not None:
        return 0, place, row.entry.label
    return (1, -direction(metric) * score.mean, row.entry.label) if score.n else (2, 0.0, row.entry.label)


def _score(row: Row, metric: str) -> Text:
    return Text(score_text(row.scores[metric]), "**" if metric in row.best else "")


def _against(row: Row, contest: Contest) -> list[Text]:
    """How far a row is behind the leader, whether that is certain, and the chance that the leader is better."""
    found = contest.differences.get(row.entry.label)
    if row.entry.label == contest.leader:
        return [Text(NOTHING), Text("best" if contest.certain else NOTHING), Text(NOTHING)]
    if found is None:
        return [Text(NOTHING)] * 3
    chance = NOTHING if found.improvement is None else f"{100 * found.improvement:.0f} %"
    gap = _range(found, contest.family.sign) if found.interval.n else NOTHING
    return [Text(gap), Text(WORSE if found.verdict == BETTER else INCONCLUSIVE), Text(chance)]


def _places(rank: Rank) -> list[Text]:
    """The place by the mean, those that the verdicts leave open, and those of the bootstrap."""
    if rank.place is None or rank.low is None or rank.high is None or rank.bootstrap is None:
        return [Text(NOTHING)] * 3
    return [Text(text) for text in (str(rank.place), span(rank.low, rank.high), span(*rank.bootstrap))]


def seeds_text(entry: Entry, spread: Spread) -> str:
    """`3 × 2, 1 diverged`: finished seeds × draws of samples, and what became of the other cells."""
    draws = f" × {span(*spread.draws)}" if spread.seeds else ""
    others = [f"{count} {kind}" for kind, count in entry.seeds.items() if kind != "finished"]
    return ", ".join([f"{entry.seeds.get('finished', 0)}{draws}", *others])


def _costs(board: Board, prefix: str) -> dict[str, Any]:
    """What each configuration has cost, and where its records are."""
    names = _names(board)
    costs = ["parameters", "Mimg", "passes", "TFLOP", "device-hours"]
    return {
        "header": [*names, *costs, "records of seed"],
        "alignment": [":--"] * len(names) + ["--:"] * len(costs) + [":--"],
        "rows": [
            [
                *_name_cells(entry, names),
                *map(Text, _cost_texts(entry.compute)),
                Texts(tuple(Text(str(cell.seed), link=prefix + evidence(cell)) for cell in entry.cells)),
            ]
            for entry in board.entries
        ],
    }


def _cost_texts(compute: Compute) -> list[str]:
    return [
        NOTHING if compute.parameters is None else count_text(compute.parameters),
        _mimg(compute),
        NOTHING if compute.passes_per_step is None else f"{compute.passes_per_step:g}",
        NOTHING if compute.tflop is None else number(compute.tflop),
        NOTHING if compute.device_hours is None else number(compute.device_hours),
    ]


def evidence(cell: Cell) -> str:
    """The way from the leaderboard to what the numbers of a cell are made of: its records, or else its state."""
    path = cell.files.path
    name = RECORDS if (path / RECORDS).exists() else STATUS
    return _address("/".join([*path.parts[-3:], name]))


def _address(path: str) -> str:
    return urllib.parse.quote(path, safe="/+")


def _mimg(compute: Compute) -> str:
    """`51.2 + 200`: this training, and the one that made the weights it started from."""
    before = compute.pretraining_mimg
    if before is None:
        return number(compute.mimg)
    return f"{number(compute.mimg)} + {'?' if math.isnan(before) else number(before)}"


def _published(board: Board) -> list[list[Text]]:
    """A line for every published value that stands beside one of ours."""
    return [
        [
            Text(text)
            for text in (
                row.entry.label,
                str(row.nfe),
                metric,
                score_text(row.scores[metric]),
                f"{found.published.value:.2f}",
                NOTHING if found.delta is None else signed(found.delta),
                flags(found),
                found.published.variant or NOTHING,
                found.published.source,
                found.published.source_kind,
            )
        ]
        for row in board.rows
        for metric, values in row.published.items()
        for found in values
    ]


def flags(found: Beside) -> str:
    """What differs between a published value and ours: `budget, init differ; network not stated`."""
    differs = (
        f"{', '.join(found.differs)} {'differs' if len(found.differs) == 1 else 'differ'}" if found.differs else ""
    )
    unknown = f"{', '.join(found.unknown)} not stated" if found.unknown else ""
    return "; ".join(filter(None, [differs, unknown])) or "nothing known"


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


def _learned_cells(row: Learned) -> list[Text]:
    return [Text(row.label), *(Text(score_text(value)) for value in (row.kl, row.mean, row.std))]


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


def _line(cells: Iterable[Text | Texts | str]) -> Markup:
    return Markup("| " + " | ".join(map(_written, cells)) + " |")


def _written(cell: Text | Texts | str) -> str:
    if isinstance(cell, Texts):
        return " ".join(map(_written, cell.parts))
    if isinstance(cell, str):
        return escape(cell)
    text = f"{cell.mark}{escape(cell.text)}{cell.mark}"
    return f"[{text}]({cell.link})" if cell.link else text
