"""The end of `bench run`, `wait`, `eval` and `report`: the ranking and the verdict, then where the pages are."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.text import count, plain, without_sections

if TYPE_CHECKING:
    from rich.console import Console

    from ...reports.standings import Standing

#: Rows of a table, and characters of a line where the output is no terminal.
ROWS, PLAIN_WIDTH = 10, 80
GAP = 2  # characters between two columns
#: Columns whose texts may take several lines, and where these may end: never inside of a setting.
WRAPPED = {"variant": ", ", "verdict": " "}


def print_outcome(folder: Path, cells: Collection[str] | None = None) -> None:
    """Print the standings of the report in a folder, and the paths of its pages; nothing where there is no report.

    cells: ids; rankings without any of them are left out. None: all rankings.
    """
    from ...reports.build import read_standings

    leaderboard = folder / "leaderboard.md"
    if not leaderboard.exists():
        return
    shown = [one for one in read_standings(folder) if cells is None or not set(cells).isdisjoint(one.cells)]
    for standing in shown:
        print_standing(standing, leaderboard)
    if shown:
        print()
    print(f"page: {leaderboard.with_name('report.html')}")
    print(f"leaderboard: {leaderboard}")


def print_standing(standing: Standing, leaderboard: Path) -> None:
    """Print a table with as many columns as fit the terminal, and below it the verdict. leaderboard: has all rows."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False, emoji=False)
    console.print()
    console.print(plain(standing.title))
    _print_table(standing, console)
    hidden = len(standing.rows) - ROWS
    if hidden > 0:
        print(f"… {count(hidden, 'more row')} in {leaderboard}")
    console.print(without_sections(plain(standing.verdict)))


def _print_table(standing: Standing, console: Console) -> None:
    from rich import box
    from rich.table import Table

    header, rows = _shortened(standing.header, standing.rows)
    rows = rows[:ROWS]
    style = box.SIMPLE_HEAD if (sys.stdout.encoding or "").lower().startswith("utf") else box.ASCII
    table = Table(box=style, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    widths = _fitting(header, standing.needed, rows, console.width)
    for place, width in widths.items():
        is_number = all(re.match(r"[\d−–]", row[place]) for row in rows)
        table.add_column(header[place], justify="right" if is_number else "left", width=width)
    for row in rows:
        table.add_row(*(row[place] for place in widths))
    console.print(table)


def _shortened(header: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The texts as they may be printed; of the keys in a variant only the last part."""
    shown = [[plain(text) for text in row] for row in rows]
    if "variant" in header:
        place = list(header).index("variant")
        for row in shown:
            row[place] = without_sections(row[place])
    return [plain(text) for text in header], shown


def _fitting(
    header: Sequence[str], needed: Collection[str], rows: Sequence[Sequence[str]], width: int
) -> dict[int, int]:
    """The columns that fit a line of `width` characters, in order, with their widths.

    Those are all that are needed, and the first of the others. The bootstrap says what the rank interval says, and
    comes last.
    """
    columns = [[title, *(row[place] for row in rows)] for place, title in enumerate(header)]
    least = [_least(title, texts) for title, texts in zip(header, columns, strict=True)]
    chosen = [place for place, title in enumerate(header) if title in needed]
    for place in sorted(range(len(header)), key=lambda place: header[place] == "bootstrap"):
        together = [*chosen, place]
        if place not in chosen and sum(least[one] + GAP for one in together) <= width:
            chosen = together
    rest = max(0, width - sum(least[place] + GAP for place in chosen))
    widths = {place: least[place] for place in sorted(chosen)}
    for place in reversed(widths):  # the verdict before the variant
        more = min(rest, max(map(len, columns[place])) - least[place])
        widths[place], rest = widths[place] + more, rest - more
    return widths


def _least(title: str, texts: Iterable[str]) -> int:
    """Characters that a column needs: those of its longest text, or where it is wrapped of its longest part."""
    separator = WRAPPED.get(title)
    parts = [part for text in texts for part in (text.split(separator) if separator else [text])]
    return max(len(part) + len((separator or "").strip()) for part in parts)
