"""The outcome of a report in a few lines: of each ranking one table and the verdict, as the leaderboard has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.tables import Board


@dataclass(frozen=True)
class Standing:
    """The ranking of one benchmark by its headline: the first metric at the lowest NFE, or what a study asks first.

    cells: ids of all its cells. header, rows: the table of the leaderboard as text. needed: the headings without which
    a row says nothing.
    """

    title: str
    verdict: str
    cells: tuple[str, ...]
    header: tuple[str, ...]
    needed: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, board: Board) -> Standing:
        """The standing that a board shows at its first NFE."""
        from .pages.results import names_of, results

        nfe = board.nfes[0]
        found = results(board, nfe)
        table = found.ranking
        value = next(heading for heading in table.header if heading.startswith(board.metrics[0]))
        return cls(
            title=f"{board.benchmark}, {board.metrics[0]} at NFE {nfe}",
            verdict=found.verdict,
            cells=tuple(cell.id for cell in board.cells),
            header=tuple(table.header),
            needed=("rank", *names_of(board), value, "verdict"),
            rows=tuple(tuple(str(getattr(cell, "text", "")) for cell in row) for row in table.rows),
        )

    @classmethod
    def read(cls, content: Mapping[str, object]) -> Standing:
        """From JSON. Raises ValueError for what is no standing."""
        texts = {key: content.get(key) for key in ("title", "verdict")}
        lists = {key: content.get(key) for key in ("cells", "header", "needed")}
        rows = content.get("rows")
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(rows, list):
            raise ValueError("no standing")
        found = {key: _texts(value) for key, value in lists.items()}
        read = tuple(map(_texts, rows))
        if any(len(row) != len(found["header"]) for row in read):
            raise ValueError("no standing: rows and header differ in length")
        return cls(str(texts["title"]), str(texts["verdict"]), **found, rows=read)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("no standing")
    return tuple(value)
