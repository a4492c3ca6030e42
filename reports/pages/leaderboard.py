"""`leaderboard.md`, and the excerpt of it that another document shows.

The text holds no time stamp and no machine path: the same records give the same bytes.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..analysis.equal_compute import equal_compute
from ..analysis.memorisation import Memorisation
from ..analysis.posteriors import Learned
from ..analysis.tables import Board, SeedValue
from ..analysis.transport import Crossings
from .ablations import AblationPage
from .diagnostics import DiagnosticsPage
from .profiles import ProfileSection
from .results import Results, cost_table, hardware_text, results, runs_text, small_scale_text
from .sections import (
    Reading,
    crossing_table,
    equal_table,
    equal_text,
    imported_table,
    learned_table,
    memorisation_reading,
    orientation_table,
    parts_table,
    parts_text,
    published_table,
    trouble_table,
)
from .studies import StudyText
from .text import Plot, Table, render

DETAILS = ("rank", "bootstrap", "seeds × draws", "probability of improvement")
"""Columns of a ranking that only the leaderboard itself has."""


@dataclass(frozen=True)
class Section:
    """A page of its own as the leaderboard mentions it: its link, and the plots shown here as well.

    groups: which configuration each row of its tables belongs to.
    """

    link: str
    page: AblationPage | DiagnosticsPage
    plots: Sequence[Plot]
    groups: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report shows of one benchmark. `values` are all evaluations of its cells.

    `memorisation` belongs to the plots in `nearest`, `crossings` to those in `transport`, `learned` to `posteriors`.
    """

    board: Board
    values: Sequence[SeedValue]
    plots: Sequence[Plot] = ()
    ablations: Sequence[Section] = ()
    memorisation: Memorisation | None = None
    nearest: Sequence[Plot] = ()
    crossings: Sequence[Crossings] = ()
    independent_crossings: float | None = None
    transport: Sequence[Plot] = ()
    diagnostics: Sequence[Section] = ()
    learned: Sequence[Learned] = ()
    posteriors: Sequence[Plot] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Verdicts and tables of one benchmark. redrawn: whether any training was sampled by several sampling seeds."""

    board: Board
    runs: str
    hardware: str
    small_scale: str
    results: Sequence[Results]
    costs: Table
    device: str
    pretrained: bool
    redrawn: bool
    columns: int


@dataclass(frozen=True, kw_only=True)
class Content:
    """Sentences and tables of one benchmark, for a template."""

    page: Page
    summary: Summary
    published: Table
    imported: Table
    orientation: Table | None
    memorisation: Reading | None
    crossings: Table
    learned: Table
    parts: Table
    parts_text: str
    equal: Table
    equal_text: str
    troubles: Table


def leaderboard_text(
    pages: Iterable[Page],
    profile: ProfileSection | None = None,
    damaged: Sequence[str] = (),
    study: StudyText | None = None,
) -> str:
    """The whole document, ending in one newline.

    profile: the section on all benchmarks together. damaged: sentences on what is left out because files are damaged.
    study: what the document begins with.
    """
    contents = [page_content(page) for page in pages]
    return render("leaderboard.md.j2", contents=contents, profile=profile, damaged=damaged, study=study) + "\n"


def excerpt_text(boards: Iterable[Board], folder: str, damaged: Sequence[str] = ()) -> str:
    """Verdicts and tables alone, for another document; `folder` is the path from there to the leaderboard's folder."""
    prefix = "" if folder in ("", ".") else f"{folder}/"
    link = Markup(urllib.parse.quote(f"{prefix}leaderboard.md", safe="/+"))
    summaries = [_summary(board, prefix) for board in boards]
    rankings = [summary.results[0].ranking.without(DETAILS) for summary in summaries]
    return render("excerpt.md.j2", contents=list(zip(summaries, rankings, strict=True)), link=link, damaged=damaged)


def page_content(page: Page) -> Content:
    """Everything that a report says of one benchmark."""
    board = page.board
    published = published_table(board)
    equal = equal_compute(board, page.values)
    return Content(
        page=page,
        summary=_summary(board),
        published=published,
        imported=imported_table(board),
        orientation=None if published.rows else orientation_table(board),
        memorisation=memorisation_reading(page.memorisation, board) if page.memorisation else None,
        crossings=crossing_table(page.crossings, page.independent_crossings),
        learned=learned_table(page.learned),
        parts=parts_table(page.learned),
        parts_text=parts_text(page.learned),
        equal=equal_table(equal),
        equal_text=equal_text(equal),
        troubles=trouble_table(board),
    )


def _summary(board: Board, prefix: str = "") -> Summary:
    computes = [entry.compute for entry in board.entries]
    return Summary(
        board=board,
        runs=runs_text(board),
        hardware=hardware_text(board.cells),
        small_scale=small_scale_text(board),
        results=[results(board, nfe) for nfe in board.nfes],
        costs=cost_table(board, prefix),
        device=", ".join(sorted({compute.device for compute in computes if compute.device})),
        pretrained=any(compute.pretraining_mimg is not None for compute in computes),
        redrawn=any(spread.draws[1] > 1 for row in board.rows for spread in row.spreads.values()),
        columns=len(board.nfes) * len(board.metrics),
    )
