"""The table of cells: one row per cell, with as many columns as fit the terminal, and a count of the states."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..common.text import without_sections
from ..config.init import tuned_from
from ..runs.folder import Run
from ..runs.status import State, Status
from ..runs.view import CellStatus, View

if TYPE_CHECKING:
    from rich.table import Table

    from ..config.schema import CellConfig

COLOURS = {
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.DAMAGED: "red",
    State.LOST: "red",
    State.CANCELLED: "yellow",
    State.DIVERGED: "yellow",
    State.INTERRUPTED: "yellow",
    State.DONE: "green",
}
#: Widths of a terminal, in characters, below which longer columns are left out.
NARROW, MIDDLE, WIDE = 60, 100, 160
GAP, LEAST_VARIANT, LEAST_MESSAGE = 2, 10, 24
LOG_BYTES = 4096


class Column(NamedTuple):
    """A column of the table, and its text for a cell.

    width, below: the least width of a terminal that shows it, and the first width that does not. jobs: shown only where
    cells are in jobs (True), only where none is (False), or always (None). optional: left out where it would be empty.
    """

    title: str
    text: Callable[[CellStatus], str]
    width: int = 0
    below: int = 10**6
    right: bool = False
    jobs: bool | None = None
    optional: bool = False


def table(view: View, width: int, rows: int | None = None) -> Table:
    """The cells, in the order of `State`. Those beyond `rows` are counted. width: of the terminal, in characters."""
    from rich.table import Table
    from rich.text import Text

    order = list(State)
    ranked = sorted(view.cells, key=lambda cell: order.index(cell.state))
    shown = ranked[:rows]
    columns = _columns(view, shown, width)
    last = list(columns)[-1]
    is_elastic = not last.right
    drawn = Table(box=None, pad_edge=False, expand=is_elastic)
    for column, least in columns.items():
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if is_elastic and column is last else None,
            width=None if is_elastic and column is last else least,
        )
    state = [column.title for column in columns].index("state")
    for cell in shown:
        texts = [Text(column.text(cell)) for column in columns]
        texts[state].stylize(COLOURS.get(cell.state, ""))
        drawn.add_row(*texts)
    hidden = len(ranked) - len(shown)
    drawn.caption = Text(footer(view) + (f"; {hidden} not shown" if hidden else ""))
    drawn.caption_justify = "left"
    return drawn


def _columns(view: View, shown: Sequence[CellStatus], width: int) -> dict[Column, int]:
    """The columns for a terminal of this width with their widths: what variants and messages lack room for is cut.

    Variants make room for the beginning of a message: it says why a cell waits or has failed.
    """
    with_jobs = any(cell.job or cell.live for cell in view.cells)
    columns = [
        column
        for column in COLUMNS
        if column.width <= width < column.below
        and column.jobs in (None, with_jobs)
        and not (column.optional and not any(map(column.text, view.cells)))
    ]
    widths = {column: max(len(text) for text in (column.title, *map(column.text, shown))) for column in columns}
    last, rest = columns[-1], width - sum(widths[column] + GAP for column in columns[:-1])
    if last.title == "message" and not with_jobs and rest < LEAST_MESSAGE:
        del widths[last]
        rest += GAP  # none after the last column
    wanted = min(widths.get(last, 0), LEAST_MESSAGE) if last.title == "message" else 0
    for column in columns:
        if column.title == "variant" and rest < wanted:
            widths[column] += rest - wanted
            if widths[column] < LEAST_VARIANT:
                del widths[column]
    return widths


def footer(view: View) -> str:
    """`3 of 12 done, 2 running, 7 queued, about 12 min left`"""
    counts = view.counts()
    done = counts.pop(State.DONE, 0)
    rest = "".join(f", {count} {state}" for state, count in counts.items())
    return f"{done} of {len(view.cells)} done{rest}{_left_of_all(view)}"


def _left_of_all(view: View) -> str:
    if not view.left:
        return ""
    return ", time left: –" if math.isnan(view.left) else f", about {duration(view.left)} left"


def doing(cell: CellStatus) -> str:
    """The state in one word; the phase of a running cell."""
    if cell.state is not State.RUNNING:
        return cell.state
    return cell.status.phase if cell.status.state is State.RUNNING else "starting"


def share(cell: CellStatus) -> str:
    """How much of its training budget a cell has used."""
    status = cell.status
    return f"{status.images / status.total:.0%}" if status.total else "-"


def left(cell: CellStatus) -> str:
    """How long the training of a cell takes from here, at its present rate."""
    total, rate = cell.status.total, cell.status.images_per_s
    return duration((total - cell.status.images) / rate) if _trains(cell) and total and rate else "-"


def progress(cell: CellStatus) -> str:
    """`, loss 0.5, 120 images/s, 3 min left` for a cell that trains; "" for others."""
    if left(cell) == "-":
        return ""
    return f", loss {_loss(cell)}, {_rate(cell)} images/s, {left(cell)} left"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.5 h`, `2.1 d`."""
    for bound, unit, length in ((100, "s", 1), (100 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < bound:
            return f"{seconds / length:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def log_line(run: Run) -> str:
    """The last line of a cell's log, without its date; "" if there is none, or none that can be read."""
    try:
        with run.log_file.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:  # a status is shown without it
        return ""
    line = next((line for line in reversed(lines) if line.strip()), "").strip()
    return re.sub(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d{3} (?:INFO )?", r"\1 ", line)


def _trains(cell: CellStatus) -> bool:
    return doing(cell) == "train"


def _number(get: Callable[[Status], float | None], form: Callable[[float], str]) -> Callable[[CellStatus], str]:
    """The text of a number that only a training cell has."""

    def text(cell: CellStatus) -> str:
        value = get(cell.status) if _trains(cell) else None
        return "-" if value is None else form(value)

    return text


_stage = _number(lambda status: status.stage, str)
_loss = _number(lambda status: status.loss, "{:.4g}".format)
_rate = _number(lambda status: status.images_per_s, "{:,.0f}".format)


def _message(cell: CellStatus) -> str:
    """The reason for the state of a cell, or else the last line of its log."""
    return cell.reason or log_line(cell.run)


def variants(cells: Sequence[CellConfig]) -> list[str]:
    """Of each cell the settings that it does not share with all the others, `key=value, …`.

    A cell that starts from another one says so in words.
    """
    each = [[_setting(cell, key, value) for key, value in cell.overrides.items()] for cell in cells]
    common = set.intersection(*map(set, each)) if len({cell.group for cell in cells}) > 1 else set[str]()
    return [", ".join(setting for setting in own if setting not in common) for own in each]


def _setting(cell: CellConfig, key: str, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return tuned_from(cell.start, text) if key == "train.init" and cell.start is not None else f"{key}={text}"


def name(cell: CellStatus) -> str:
    """`digits/vct/s0-1a2b3c4d (7 of 36, kl_weight=3)`"""
    details = ", ".join(filter(None, (cell.place, without_sections(cell.variant))))
    return f"{cell.name} ({details})" if details else cell.name


COLUMNS: Sequence[Column] = (
    Column("", lambda cell: cell.place, NARROW, right=True, optional=True),
    Column("cell", lambda cell: cell.name, MIDDLE),
    Column("cell", lambda cell: cell.name.partition("/")[2], NARROW, MIDDLE),
    Column("cell", lambda cell: cell.run.path.name, below=NARROW),
    Column("variant", lambda cell: without_sections(cell.variant), NARROW, optional=True),
    Column("state", doing),
    Column("trained", share, right=True),
    Column("stage", _stage, MIDDLE, right=True, jobs=False),
    Column("loss", _loss, MIDDLE, right=True, jobs=False),
    Column("images/s", _rate, MIDDLE, right=True, jobs=False),
    Column("left", left, NARROW, right=True),
    Column("job", lambda cell: cell.job or "-", MIDDLE, jobs=True),
    Column("node", lambda cell: cell.node or "-", MIDDLE, jobs=True),
    Column("reason", lambda cell: cell.reason, WIDE, jobs=True),
    Column("last line of the log", lambda cell: log_line(cell.run), WIDE, jobs=True),
    Column("message", _message, NARROW, WIDE, jobs=True),
    Column("message", _message, NARROW, jobs=False),
)
