"""`results.csv`: the tables of a report as one long table for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from ...benchmarks.common.text import plain
from ..analysis.comparisons import INCONCLUSIVE
from ..analysis.rivals import Rival, rivals
from ..analysis.tables import Board, Row, pretraining
from .results import evidence, seed_deviation

COLUMNS = (
    *("benchmark", "method", "version", "variant", "nfe", "metric"),
    *("seeds", "draws", "mean", "low", "high", "sd_of_seeds", "diverged", "failed", "unfinished"),
    *("place", "place_low", "place_high", "behind", "behind_low", "behind_high", "behind_unit", "verdict"),
    *("parameters", "mimg", "passes_per_step", "tflop", "device_hours", "device", "records"),
    *("mimg_total", "tflop_total"),
)

#: Where a spreadsheet would begin to evaluate a cell (OWASP, "CSV injection"; with full-width forms): at the start of a
#: field, or after what another separator of fields may be.
FORMULA = re.compile(r"(^|[,;|\t])(\s*)(?=[=+\-@＝＋－＠])")


def results_csv(boards: Sequence[Board]) -> str:
    """One line for each configuration, NFE and metric, headed by `COLUMNS`; what is not known is left empty.

    low, high: the 95 % t interval of the mean over seeds. behind: by how much the row is worse than the best, or
    than the baseline, on common seeds, with the ends of the corrected interval; in per cent where behind_unit is "%",
    else in the metric's unit. records: the files that the cells' numbers come from, a blank between two. mimg_total,
    tflop_total: with the training behind the initial weights. Text that a spreadsheet would take for a formula gets an
    apostrophe before it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for board in boards:
        for row in board.rows:
            for metric in board.metrics:
                writer.writerow([_field(value) for value in _line(board, row, metric)])
    return file.getvalue()


def _line(board: Board, row: Row, metric: str) -> Iterator[object]:
    entry, score, spread, rank = row.entry, row.scores[metric], row.spreads[metric], row.ranks[metric]
    yield from (board.benchmark, entry.method, entry.version, entry.variant, row.nfe, metric)
    yield from (score.n, spread.draws[1], score.mean if score.n else None, score.low, score.high)
    yield seed_deviation(spread)
    yield from (entry.seeds.get(kind, 0) for kind in ("diverged", "failed", "unfinished"))
    yield from (rank.place, rank.low, rank.high)
    yield from _against(board, row, metric)
    cost = entry.compute
    yield from (cost.parameters, cost.mimg, cost.passes_per_step, cost.tflop, cost.device_hours, cost.device)
    yield " ".join(board.root + evidence(cell) for cell in entry.cells)
    before = pretraining(entry.cells)
    yield None if before.images is None else cost.mimg + before.images / 1e6
    yield None if before.tflop is None or cost.tflop is None else cost.tflop + before.tflop


def _against(board: Board, row: Row, metric: str) -> tuple[object, ...]:
    """behind, behind_low, behind_high, behind_unit, verdict."""
    contest, label = board.contests[row.nfe, metric], row.entry.label
    unit = "%" if contest.family.log else None
    if label == contest.reference:
        best = "best" if contest.significant and label == contest.leader else None
        return 0.0, None, None, unit, best or ("baseline" if board.baseline else None)
    found = rivals(contest).get(label)
    if found is None:
        return None, None, None, unit, None
    return found.mean if found.n else None, found.low, found.high, unit, _verdict(found)


def _verdict(found: Rival) -> str:
    return "worse" if found.worse else "better" if found.better else INCONCLUSIVE


def _field(value: object) -> object:
    """Numbers as they are, written in full; text on one line, and without its power to be a formula."""
    if isinstance(value, str):
        return harmless(value)
    return "" if value is None or value != value else value


def harmless(text: str) -> str:
    """Text on one line, and without its power to be a formula."""
    return FORMULA.sub(r"\1\2'", plain(text))
