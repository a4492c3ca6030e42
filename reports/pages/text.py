"""Cells, tables and pictures as templates get them, and how Markdown writes them."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...benchmarks.common.text import plain

TEMPLATES = Path(__file__).with_name("templates")
ALIGNMENTS = {"l": ":--", "r": "--:"}


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


@dataclass(frozen=True)
class Table:
    """columns: "l" for each column of text, "r" for each of numbers. name: of what the table shows, may be empty."""

    header: Sequence[str]
    columns: str
    rows: Sequence[Sequence[Text | Texts]]
    name: str = ""

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers, which are aligned on the right."""
        return self.columns[column] == "r"

    def without(self, names: Collection[str]) -> Table:
        """The table without the columns of these names."""
        kept = [column for column, name in enumerate(self.header) if name not in names]
        rows = [[row[column] for column in kept] for row in self.rows]
        return Table([self.header[column] for column in kept], "".join(self.columns[c] for c in kept), rows, self.name)


@dataclass(frozen=True)
class Plot:
    """A picture: its path relative to the leaderboard, its alternative text, the sentence below it."""

    link: str
    title: str
    caption: str


def texts(*cells: str) -> list[Text]:
    """A row of plain cells."""
    return [Text(cell) for cell in cells]


def render(template: str, **values: object) -> str:
    """A Markdown document or a part of one, without blank lines around it."""
    return _environment().get_template(template).render(**values).strip()


def escape(value: object) -> str:
    """`value` as text that Markdown and HTML show literally, on one line, also inside a table."""
    if isinstance(value, Markup):
        return value
    text = html.escape(plain(str(value)), quote=False)
    # An underscore between letters is literal in Markdown; metric names stay readable in the source.
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def _environment() -> jinja2.Environment:
    """Every expression in the templates is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["table"] = _table
    return environment


def _table(table: Table) -> Markup:
    alignment = "| " + " | ".join(ALIGNMENTS[column] for column in table.columns) + " |"
    return Markup("\n".join([_line(texts(*table.header)), alignment, *map(_line, table.rows)]))


def _line(cells: Iterable[Text | Texts]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(cell: Text | Texts) -> str:
    if isinstance(cell, Texts):
        return " ".join(map(_cell, cell.parts))
    text = f"{cell.mark}{escape(cell.text)}{cell.mark}"
    return f"[{text}]({cell.link})" if cell.link else text
