"""`report.html`: the whole report in one file that opens from disk, asks nothing of the network, and sorts and filters.

Made of the same tables and sentences as `leaderboard.md`, laid out by `templates/report.html.j2`. Names, variants and
messages come from files: everything is escaped, and the page's content security policy runs no script but its own.
The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...benchmarks.metrics.registry import direction
from ..analysis.cells import Cell, plain
from ..analysis.formatting import NOTHING, count_text, number, score_text, span
from ..analysis.rivals import behind
from ..analysis.tables import Board, Contest, Entry, Row
from .html_data import chart_data
from .html_samples import Gallery, gallery
from .markdown import (
    Page,
    Plot,
    Section,
    Text,
    Texts,
    evidence,
    page_content,
    seeds_text,
)

TEMPLATES = Path(__file__).with_name("templates")
MANY = 8  # configurations that plots show at first


def report_html(pages: Sequence[Page], out: Path, profile: Mapping[str, Any] | None = None) -> str:
    """The whole document. `profile` is what `profile_text` says of all pages together.

    Pictures are read from `out`, where `page.plots` and the like lie. Raises OSError.
    """
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    cells = [cell for page in pages for cell in page.board.cells]
    text = (
        _environment(out)
        .get_template("report.html.j2")
        .render(
            pages=[_page(page, place) for place, page in enumerate(pages, start=1)],
            profile=profile,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=digest,
            facts=_facts(cells),
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
    environment.filters["number"] = number
    environment.filters["key"] = lambda value: "" if value is None else f"{value:.9g}"
    environment.tests["texts"] = lambda cell: isinstance(cell, Texts)
    environment.tests["text"] = lambda cell: isinstance(cell, Text)
    return environment


def script_json(value: Any) -> Markup:
    """`value` as JSON that can stand in a <script> element: no tag can end or begin in it. Raises ValueError on NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _picture(out: Path, plot: Plot) -> str:
    """The PNG file that a plot links to, whichever document the link was made for, as a data address."""
    path = out / plot.link.removeprefix("../")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _page(page: Page, place: int) -> dict[str, Any]:
    """What the template shows of one benchmark; `place` makes its ids."""
    board = page.board
    content = page_content(page)
    anchors = {entry.label: f"rows-{place}-{number}" for number, entry in enumerate(board.entries, start=1)}
    groups = {entry.group: anchors[entry.label] for entry in board.entries}
    shown: Gallery | None = gallery(board)
    return content | {
        "id": f"benchmark-{place}",
        "place": place,
        "rows": [_row(board, row, metric, anchors) for row in board.rows for metric in board.metrics],
        "methods": sorted({entry.method for entry in board.entries}),
        "variants": sorted({entry.variant for entry in board.entries}),
        "configurations": [_configuration(board, entry, anchors[entry.label]) for entry in board.entries],
        "columns_of_seeds": [(nfe, metric) for nfe in board.nfes for metric in board.metrics],
        "data": chart_data(board, page.values, MANY),
        "gallery": shown,
        "ablations": [_section(section, groups) for section in page.ablations],
        "diagnostics": [_section(section, groups) for section in page.diagnostics],
    }


def _section(section: Section, groups: Mapping[str, str]) -> dict[str, Any]:
    """A section with its whole page; rows of its tables know where their values come from."""
    anchors = [groups[group] for group in section.groups]
    return {"section": section, "page": section.page, "anchors": anchors}


def _row(board: Board, row: Row, metric: str, anchors: Mapping[str, str]) -> dict[str, Any]:
    """A line of the sortable table. `sort` holds a column's number, None where it has none: those come last."""
    entry, score, rank, spread = row.entry, row.scores[metric], row.ranks[metric], row.spreads[metric]
    found = _against(board.contests[row.nfe, metric], entry)
    seeds = spread.total if spread.seed is None else spread.seed
    return {
        "entry": entry,
        "nfe": row.nfe,
        "metric": metric,
        "anchor": anchors[entry.label],
        "best": metric in row.best,
        "rank": rank.place,
        "places": NOTHING if rank.low is None or rank.high is None else span(rank.low, rank.high),
        "low": rank.low,
        "score": score_text(score),
        "mean": score.mean if score.n else None,
        "direction": direction(metric),
        "seeds": seeds_text(entry, spread),
        "finished": entry.seeds.get("finished", 0),
        "sd": NOTHING if seeds is None else number(seeds),
        "sd_sort": seeds,
        **found,
    }


def _against(contest: Contest, entry: Entry) -> dict[str, Any]:
    """How far behind the leader, the verdict, and the chance that the leader is better."""
    nothing = {"behind": NOTHING, "behind_sort": None, "verdict": NOTHING, "reason": "", "chance": None}
    if entry.label == contest.leader:
        return nothing | {"verdict": "best" if contest.certain else NOTHING, "behind_sort": 0.0}
    found = contest.differences.get(entry.label)
    if found is None:
        return nothing
    gap: dict[str, Any] = {}
    if found.interval.n:
        mean, low, high = behind(found, contest.family.sign)
        ends = "" if low is None or high is None else f" ({number(low, mean)} to {number(high, mean)})"
        gap = {"behind": f"{number(mean)}{ends}", "behind_sort": mean}
    worse = found.verdict == "better"
    return (
        nothing
        | gap
        | {
            "verdict": "worse" if worse else "inconclusive",
            "reason": "" if worse else found.reason,
            "chance": found.improvement,
        }
    )


def _configuration(board: Board, entry: Entry, anchor: str) -> dict[str, Any]:
    """What each seed of a configuration gave, with the way to its files."""
    return {"entry": entry, "anchor": anchor, "cells": [_cell(board, entry, cell) for cell in entry.cells]}


def _cell(board: Board, entry: Entry, cell: Cell) -> dict[str, Any]:
    values = []
    for nfe in board.nfes:
        for metric in board.metrics:
            value = board.contests[nfe, metric].family.values.get(entry.label, {}).get(cell.seed)
            known = value is not None and cell.state in ("done", "diverged")
            text = NOTHING if value is None or not known else "diverged" if value != value else number(value)
            values.append({"text": text, "sort": value if known and value == value else None})
    folder = urllib.parse.quote("/".join(cell.files.path.parts[-3:]), safe="/+")
    return {
        "cell": cell,
        "values": values,
        "records": evidence(cell),
        "folder": folder,
        "images": count_text(cell.images),
    }


def _facts(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """What the numbers were made with, by the records: (what, one or several values)."""
    attempts = [attempt for cell in cells for attempt in cell.attempts]
    versions: dict[str, set[str]] = {}
    commits, machines, devices = set(), set(), set()
    for attempt in attempts:
        for name, version in (attempt.get("versions") or {}).items():
            versions.setdefault(plain(str(name)), set()).add(plain(str(version)))
        git, hardware = attempt.get("git") or {}, attempt.get("hardware") or {}
        if git.get("commit"):
            commits.add(plain(str(git["commit"]))[:12] + (" with changes" if git.get("dirty") else ""))
        cpu = f"{hardware.get('cpu') or 'unknown CPU'} ({hardware.get('cores') or '?'} cores)"
        machines.add(plain(" and ".join(str(part) for part in (hardware.get("gpu"), cpu) if part)))
        devices.add(plain(str(attempt.get("device") or "unknown")))
    seeds = {cell.seed for cell in cells}
    counts = f"{len(cells)} cells, {len({(c.benchmark, c.group) for c in cells})} configurations, {len(seeds)} seeds"
    return [
        ("Evidence", counts),
        ("Versions", ", ".join(f"{name} {' or '.join(sorted(found))}" for name, found in sorted(versions.items()))),
        ("Commits", ", ".join(sorted(commits)) or "not recorded"),
        ("Hardware", "; ".join(sorted(machines)) or "not recorded"),
        ("Devices", ", ".join(sorted(devices)) or "not recorded"),
    ]
