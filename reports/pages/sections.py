"""Tables of one benchmark beside its results: published values, copies, couplings, and cells without a result."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..analysis.equal_compute import EqualCompute
from ..analysis.formatting import NOTHING, count_text, number, score_text, signed
from ..analysis.imported import foreign
from ..analysis.memorisation import TAIL, Memorisation
from ..analysis.posteriors import Learned
from ..analysis.published import ORIENTATION_NFE, Comparison, orientation
from ..analysis.statistics import Interval
from ..analysis.tables import Board
from ..analysis.transport import Crossings
from .results import REFERENCES, foreign_text
from .text import Table, Text, texts

LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class Reading:
    """A table and the sentence that sums it up."""

    text: str
    table: Table


def published_table(board: Board) -> Table:
    """A line for every published value that is compared with one of ours."""
    header = ["configuration", "NFE", "metric", "ours", "published", "Δ", "what differs", "published variant"]
    rows = [
        texts(
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
        for row in board.rows
        for metric, values in row.published.items()
        for found in values
    ]
    return Table([*header, "source", "kind"], "lrlrrrllll", rows)


def imported_table(board: Board) -> Table:
    """A line for every imported value, with its provenance."""
    header = ["configuration", "NFE", "metric", "value", "seeds", "source", "measured by", "note"]
    rows = [
        [
            *texts(first.label, str(first.nfe), first.metric, foreign_text(item)),
            *texts("unknown" if item.seeds is None else str(item.seeds)),
            Text(first.source, link=urllib.parse.quote(first.url, safe=":/?#@&=+,;%~")),
            *texts(first.measured_by, first.note or NOTHING),
        ]
        for item in foreign(board.imported)
        for first in item.rows[:1]
    ]
    return Table(header, "lrlrrlll", rows)


def orientation_table(board: Board) -> Table:
    """Published values of the methods on other data."""
    header = ["method", "variant", *(f"NFE {nfe}" for nfe in ORIENTATION_NFE), "training, Mimg", "starts from"]
    rows = [
        texts(
            row.method,
            row.variant or NOTHING,
            *(f"{values[nfe]:.2f}" if nfe in values else NOTHING for nfe in ORIENTATION_NFE),
            NOTHING if row.training_mimg is None else f"{row.training_mimg:g}",
            row.init or NOTHING,
            row.source,
            row.source_kind,
            row.note,
        )
        for row, values in orientation(dict.fromkeys(entry.method for entry in board.entries))
    ]
    return Table([*header, "source", "kind", "note"], "ll" + "r" * len(ORIENTATION_NFE) + "rllll", rows)


def flags(found: Comparison) -> str:
    """What differs between a published value and ours: `budget, init differ; network not stated`."""
    differs = (
        f"{', '.join(found.differs)} {'differs' if len(found.differs) == 1 else 'differ'}" if found.differs else ""
    )
    unknown = f"{', '.join(found.unknown)} not stated" if found.unknown else ""
    return "; ".join(filter(None, [differs, unknown])) or "nothing known"


def trouble_table(board: Board) -> Table:
    """Cells that diverged, failed or are unfinished."""
    names = {entry.group: entry.label for entry in board.entries}
    cells = [cell for cell in board.cells if cell.state != "done"]
    rows = [
        texts(
            cell.id,
            names[cell.group],
            str(cell.seed),
            cell.state,
            f"{count_text(cell.images)} of {count_text(cell.budget)}",
            _shortened(cell.error) if cell.error else NOTHING,
        )
        for cell in sorted(cells, key=lambda cell: (names[cell.group], cell.seed))
    ]
    return Table(["cell", "configuration", "seed", "state", "images", "error"], "llrlrl", rows)


def crossing_table(crossings: Sequence[Crossings], independent: float | None) -> Table:
    """The share of crossing pairs of lines. independent: that of data and noise drawn independently."""
    alone = NOTHING if independent is None else f"{100 * independent:.1f} (independent)"
    rows = [
        texts(row.label, _percent(row.samples), alone if row.coupled is None else _percent(row.coupled))
        for row in crossings
    ]
    return Table(["configuration", "noise → sample", "data → its noise"], "lrr", rows)


def learned_table(learned: Sequence[Learned]) -> Table:
    """The noise posteriors that couplings have learned, over seeds."""
    rows = [texts(row.label, *(score_text(value) for value in (row.kl, row.mean, row.std))) for row in learned]
    return Table(["configuration", "KL, nats per sample", "mean |μ|", "mean s"], "lrrr", rows)


def parts_table(learned: Sequence[Learned]) -> Table:
    """The parts of the KL divergence of learned couplings, over seeds; without rows where none is known."""
    rows = [
        texts(row.label, *map(score_text, (part.kl, part.information, part.aggregate, part.variance, part.noise)))
        for row in learned
        if (part := row.parts) is not None
    ]
    header = ["configuration", "KL, nats per sample", "I(x; z)", "KL(aggregate ‖ prior)", "aggregate variance"]
    return Table([*header, "effective noise"], "lrrrrr", rows)


def equal_table(found: EqualCompute | None) -> Table:
    """The configurations at equal compute; without rows where that is equal images, or not known."""
    rows = [
        texts(
            row.entry.label,
            NOTHING if row.images is None else count_text(row.images),
            NOTHING if row.tflop is None else f"{row.tflop:.4g}",
            NOTHING if (total := row.entry.compute.total_tflop) is None else f"{total:.4g}",
            score_text(row.score) if row.score.n else NOTHING,
        )
        for row in (found.rows if found else ())
    ]
    metric = f"{found.metric} at NFE {found.nfe}" if found else ""
    return Table(["configuration", "images", "TFLOP", "TFLOP of all", metric], "lrrrr", rows)


def equal_text(found: EqualCompute | None) -> str:
    """The rule of that table."""
    if found is None:
        return ""
    among = "of one that no other starts from" if found.pretrained else "among them"
    return (
        f"At equal compute: of each configuration the last snapshot within {found.limit:.4g} TFLOP, the smallest total "
        f"{among}. A snapshot before the end has not had the whole schedule of learning rate and stages, so a "
        "training planned for this compute may do better. Exploratory, without a verdict."
    )


def parts_text(learned: Sequence[Learned]) -> str:
    """How the table of parts is read."""
    images = min((row.parts.images for row in learned if row.parts is not None), default=1)
    return (
        f"The two parts of the KL divergence, over {images:,} samples of the data: the mutual information I(x; z) of "
        f"data and noise, which is the coupling and at most ln({images:,}) = {math.log(images):.1f} nats, and "
        "KL(aggregate ‖ prior), the mismatch between all noise together and the prior that sampling starts from. With "
        "an aggregate variance below 1, which is the prior's, a noisy point at level t carries less noise than t: t "
        "times the effective noise, the root of the variance."
    )


def memorisation_reading(found: Memorisation, board: Board) -> Reading:
    """Distances to the nearest training image, with the real-vs-real baseline in the last row."""
    rows = [
        texts(
            row.label,
            score_text(row.median),
            number(row.baseline),
            *(score_text(row.authenticity[metric]) for metric in found.metrics),
        )
        for row in found.rows
    ]
    baseline = [board.reference.get(("halves", metric)) for metric in found.metrics]
    if any(value is not None for value in baseline):
        values = (NOTHING if value is None else number(value) for value in baseline)
        rows.append([Text(text, "*") for text in (REFERENCES["halves"], NOTHING, NOTHING, *values)])
    header = ["configuration", "median distance", "median of the baseline", *found.metrics]
    return Reading(_nearness(found), Table(header, "l" + "r" * (len(header) - 1), rows))


def _nearness(found: Memorisation) -> str:
    """The distance of samples to training images in units of the baseline, and how many are nearer than expected."""
    ratios = [(row.median.mean / row.baseline, row.label) for row in found.rows if row.baseline]
    times = f"{_from_to(ratios, number)} times" if ratios else "not to be expressed in"
    near = _from_to([(row.tail, row.label) for row in found.rows], lambda share: f"{100 * share:.1f} %")
    return (
        f"At NFE {found.nfe} the median distance of samples to their nearest training image is {times} the median of "
        f"the baseline, the distance of real images to the nearest other real image; {near} of the samples are "
        f"nearer than {100 * (1 - TAIL):g} % of the real images."
    )


def _from_to(values: Sequence[tuple[float, str]], written: Callable[[float], str]) -> str:
    """The smallest and the largest number with their names; once where both are written alike."""
    (low, first), (high, last) = min(values), max(values)
    if written(low) == written(high):
        return written(low)
    return f"{written(low)} ({first}) to {written(high)} ({last})"


def _percent(share: Interval) -> str:
    half = "" if share.half_width is None else f" ± {100 * share.half_width:.1f}"
    return f"{100 * share.mean:.1f}{half} (n={share.n})"


def _shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"
