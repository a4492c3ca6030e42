"""The numbers that the page's own script draws: curves, values by NFE, paired differences. Plain lists for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.colors import to_hex

from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import metric_title, short
from ..analysis.learning_curves import LearningCurve, learning_curves
from ..analysis.rivals import rivals
from ..analysis.tables import Board, SeedValue
from ..plots.style import LINES, styles

#: The dashes of `plots.style.LINES` for SVG, in pixels.
DASHES = dict(zip(map(str, LINES), ("", "7 4", "8 3 2 3", "2 3", "8 2 2 2 2 2"), strict=True))
#: JSON objects; `templates/report.js` is their only reader.
ChartData = Mapping[str, object]


def chart_data(board: Board, values: Sequence[SeedValue], shown: int) -> ChartData:
    """All that the plots of one benchmark need; of its configurations the first `shown` are drawn at first."""
    places = {entry.label: place for place, entry in enumerate(board.entries)}
    return {
        "configurations": _configurations(board, shown),
        "metrics": [
            {
                "name": metric,
                "title": _title(metric),
                "direction": direction(metric),
                "halves": board.reference.get(("halves", metric)),
            }
            for metric in board.metrics
        ],
        "nfes": list(board.nfes),
        "curves": list(_curves(board, values)),
        "finals": [
            {"nfe": row.nfe, "metric": metric, "at": places[row.entry.label]}
            | {"mean": _rounded(score.mean), "low": _rounded(score.low), "high": _rounded(score.high), "n": score.n}
            for row in board.rows
            for metric in board.metrics
            if (score := row.scores[metric]).n
        ],
        "contests": [_contest(board, nfe, metric, places) for nfe in board.nfes for metric in board.metrics],
    }


def _title(metric: str) -> str:
    title, basis = metric_title(metric)
    return f"{title} ({basis})" if basis else title


def _configurations(board: Board, shown: int) -> list[ChartData]:
    look = styles([entry.label for entry in board.entries])
    return [
        {
            "label": entry.label,
            "short": short(entry.label).replace("\n", " "),
            "method": entry.method,
            "color": to_hex(look[entry.label].color),
            "dash": DASHES[str(look[entry.label].line)],
            "marker": look[entry.label].marker,
            "shown": place < shown,
            "images": entry.cells[0].budget,
            "hours": entry.compute.device_hours,
            "tflop": entry.compute.tflop,
        }
        for place, entry in enumerate(board.entries)
    ]


def _curves(board: Board, values: Iterable[SeedValue]) -> Iterable[ChartData]:
    """By configuration, metric and NFE: [images, mean, lowest, highest, seeds], and diverged seeds separately."""
    found = learning_curves(values)
    for place, entry in enumerate(board.entries):
        for metric in board.metrics:
            for nfe in board.nfes:
                if curve := found.get((entry.group, metric, nfe)):
                    yield {"at": place, "metric": metric, "nfe": nfe, **_curve(curve)}


def _curve(curve: LearningCurve) -> ChartData:
    points = [
        [moment.images, _rounded(moment.mean), _rounded(moment.low), _rounded(moment.high), moment.n]
        for moment in curve.moments
    ]
    return {"points": points, "lost": [[(images, _rounded(value)) for images, value in seed] for seed in curve.lost]}


def _contest(board: Board, nfe: int, metric: str, places: Mapping[str, int]) -> ChartData:
    """The reference and every rival's difference to it: mean, 95 % interval, corrected interval."""
    contest = board.contests[nfe, metric]
    found = [
        {
            "at": places[rival.label],
            "mean": _rounded(rival.mean),
            "low": _rounded(rival.low),
            "high": _rounded(rival.high),
            "plain": [_rounded(end) for end in rival.plain],
            "n": rival.n,
            "worse": rival.worse or rival.better,
            "reason": rival.reason,
        }
        for rival in sorted(rivals(contest).values(), key=lambda rival: (rival.mean, places[rival.label]))
        if rival.n
    ]
    leader = None if contest.reference is None else places[contest.reference]
    unit = " %" if contest.family.log else ""
    return {"nfe": nfe, "metric": metric, "leader": leader, "unit": unit, "rivals": found}


def _rounded(value: float | None) -> float | None:
    """Six digits are more than any screen shows, and half the bytes."""
    return None if value is None else float(f"{value:.6g}")
