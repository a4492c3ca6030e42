"""`report.html`: the whole report in one file that opens from disk, makes no network request, and sorts and filters.

Built from the same tables and sentences as `leaderboard.md`, laid out by `templates/report.html.j2`. Names, variants
and messages come from files: everything is escaped, and the content security policy admits only the page's own script.
The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...benchmarks.common.text import plain
from ...benchmarks.metrics.registry import direction
from ..analysis.cells import Cell
from ..analysis.formatting import NOTHING, count_text, last_keys, number, score_text, span
from ..analysis.rivals import rivals
from ..analysis.tables import Board, Entry, Row
from .html_data import ChartData, chart_data
from .html_samples import Gallery, gallery
from .leaderboard import Content, Page, Section, page_content
from .profiles import ProfileSection
from .results import evidence, machine, seed_deviation, seeds_text, verdict_text
from .studies import StudyText
from .text import TEMPLATES, Plot, Text, Texts
from .verdicts import gap_text

MANY = 8  # configurations that plots show at first


@dataclass(frozen=True, kw_only=True)
class HtmlRow:
    """A line of the sortable table: texts, and a number to sort by where a column has one (None comes last)."""

    row: Row
    metric: str
    anchor: str
    best: bool
    direction: int
    rank: int | None
    rank_low: int | None
    ranks: str
    score: str
    mean: float | None
    seeds: str
    deviation: float | None
    gap: str
    gap_mean: float | None
    verdict: str
    reason: str
    improvement: float | None


@dataclass(frozen=True)
class SeedRow:
    """What one cell gave, with the path to its files. values: (text, sort key) by NFE and metric."""

    cell: Cell
    images: str
    values: Sequence[tuple[str, float | None]]
    records: str
    folder: str


@dataclass(frozen=True)
class Configuration:
    """The cells of one configuration."""

    entry: Entry
    anchor: str
    seeds: Sequence[SeedRow]


@dataclass(frozen=True, kw_only=True)
class HtmlPage:
    """What the template shows of one benchmark. ablations: each with the anchors of the rows of its tables."""

    id: str
    content: Content
    rows: Sequence[HtmlRow]
    configurations: Sequence[Configuration]
    columns_of_seeds: Sequence[tuple[int, str]]
    data: ChartData
    gallery: Gallery | None
    ablations: Sequence[tuple[Section, Sequence[str]]]


def report_html(
    pages: Sequence[Page],
    out: Path,
    profile: ProfileSection | None = None,
    damaged: Sequence[str] = (),
    study: StudyText | None = None,
) -> str:
    """The whole document. profile, damaged, study: as in `leaderboard_text`.

    Pictures are read from `out`, where `page.plots` and the like are. Raises OSError.
    """
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    # Ablations compare configurations of other rankings, too.
    groups = {
        entry.group: anchor
        for place, page in enumerate(pages, start=1)
        for entry, anchor in zip(page.board.entries, _anchors(page.board, place), strict=True)
    }
    text = (
        _environment(out)
        .get_template("report.html.j2")
        .render(
            pages=[_page(page, place, groups) for place, page in enumerate(pages, start=1)],
            profile=profile,
            damaged=damaged,
            study=study,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            facts=_facts([cell for page in pages for cell in page.board.cells]),
        )
    )
    return text.strip() + "\n"


def _environment(out: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["picture"] = lambda plot: _picture(out, plot)
    environment.filters["json"] = script_json
    environment.filters["number"] = lambda value: NOTHING if value is None else number(value)
    environment.filters["last_keys"] = last_keys
    environment.filters["key"] = lambda value: "" if value is None else f"{value:.9g}"
    environment.tests["texts"] = lambda cell: isinstance(cell, Texts)
    environment.tests["text"] = lambda cell: isinstance(cell, Text)
    return environment


def script_json(value: object) -> Markup:
    """`value` as JSON that can stand in a <script> element: no tag can end or begin in it. Raises ValueError on NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _picture(out: Path, plot: Plot) -> str:
    """The PNG file that a plot links to, whichever document the link was made for, as a data address."""
    path = out / plot.link.removeprefix("../")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _anchors(board: Board, place: int) -> list[str]:
    """The ids of the rows of its configurations."""
    return [f"rows-{place}-{number}" for number in range(1, len(board.entries) + 1)]


def _page(page: Page, place: int, groups: Mapping[str, str]) -> HtmlPage:
    """`place` makes the page's ids; groups: the anchor of each configuration of the report."""
    board = page.board
    anchors = dict(zip((entry.label for entry in board.entries), _anchors(board, place), strict=True))
    columns = [(nfe, metric) for nfe in board.nfes for metric in board.metrics]
    return HtmlPage(
        id=f"benchmark-{place}",
        content=page_content(page),
        rows=[_row(board, row, metric, anchors[row.entry.label]) for row in board.rows for metric in board.metrics],
        configurations=[
            Configuration(entry, anchors[entry.label], [_seed(board, entry, cell, columns) for cell in entry.cells])
            for entry in board.entries
        ],
        columns_of_seeds=columns,
        data=chart_data(board, page.values, MANY),
        gallery=gallery(board),
        ablations=[(section, [groups.get(group, "") for group in section.groups]) for section in page.ablations],
    )


def _row(board: Board, row: Row, metric: str, anchor: str) -> HtmlRow:
    score, rank, contest = row.scores[metric], row.ranks[metric], board.contests[row.nfe, metric]
    rival = rivals(contest).get(row.entry.label)
    gap = (gap_text(rival), rival.mean) if rival and rival.n else (NOTHING, None)
    return HtmlRow(
        row=row,
        metric=metric,
        anchor=anchor,
        best=metric in row.best,
        direction=direction(metric),
        rank=rank.place,
        rank_low=rank.low,
        ranks=NOTHING if rank.low is None or rank.high is None else span(rank.low, rank.high),
        score=score_text(score),
        mean=score.mean if score.n else None,
        seeds=seeds_text(row.entry, row.spreads[metric]),
        deviation=seed_deviation(row.spreads[metric]),
        gap=gap[0],
        gap_mean=0.0 if row.entry.label == contest.reference else gap[1],
        verdict="baseline" if row.entry.label == board.baseline else verdict_text(row, metric, rival),
        reason="" if rival is None else rival.reason,
        improvement=None if rival is None else rival.improvement,
    )


def _seed(board: Board, entry: Entry, cell: Cell, columns: Sequence[tuple[int, str]]) -> SeedRow:
    values: list[tuple[str, float | None]] = []
    for key in columns:
        value = board.contests[key].family.values.get(entry.label, {}).get(cell.seed)
        if value is None or cell.state not in ("done", "diverged"):
            values.append((NOTHING, None))
        else:
            values.append(("diverged", None) if value != value else (number(value), value))
    folder = urllib.parse.quote("/".join(cell.run.path.parts[-3:]), safe="/+")
    return SeedRow(cell, count_text(cell.images), values, board.root + evidence(cell), board.root + folder)


def _facts(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """What the numbers were made with, by the records: (what, one or several values)."""
    attempts = [attempt for cell in cells for attempt in cell.attempts]
    versions: dict[str, set[str]] = {}
    for attempt in attempts:
        for name, version in (attempt.get("versions") or {}).items():
            versions.setdefault(plain(str(name)), set()).add(plain(str(version)))
    commits = {text for attempt in attempts if (text := _commit(attempt.get("git") or {}))}
    machines = {plain(machine(attempt.get("hardware") or {})) for attempt in attempts}
    devices = {plain(str(attempt.get("device") or "unknown")) for attempt in attempts}
    seeds = {cell.seed for cell in cells}
    counts = f"{len(cells)} cells, {len({(c.benchmark, c.group) for c in cells})} configurations, {len(seeds)} seeds"
    return [
        ("Evidence", counts),
        ("Versions", ", ".join(f"{name} {' or '.join(sorted(found))}" for name, found in sorted(versions.items()))),
        ("Commits", ", ".join(sorted(commits)) or "not recorded"),
        ("Hardware", "; ".join(sorted(machines)) or "not recorded"),
        ("Devices", ", ".join(sorted(devices)) or "not recorded"),
    ]


def _commit(git: Mapping[str, object]) -> str:
    if not git.get("commit"):
        return ""
    return plain(str(git["commit"]))[:12] + (" with changes" if git.get("dirty") else "")
