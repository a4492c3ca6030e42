"""The numbers that the page's own script draws: curves, values by NFE, paired differences. Plain lists for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.colors import to_hex

from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import short
from ..analysis.learning_curves import Course, courses
from ..analysis.rivals import rivals
from ..analysis.tables import Board, SeedValue
from ..plots.style import LINES, styles

#: The dashes of `plots.LINES` for SVG, in pixels.
DASHES = dict(zip(map(str, LINES), ("", "7 4", "8 3 2 3", "2 3", "8 2 2 2 2 2"), strict=True))


def chart_data(board: Board, values: Sequence[SeedValue], shown: int) -> dict[str, Any]:
    """All that the plots of one benchmark need; of its configurations the first `shown` are drawn at first."""
    places = {entry.label: place for place, entry in enumerate(board.entries)}
    look = styles([entry.label for entry in board.entries])
    return {
        "configurations": [
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
        ],
        "metrics": [
            {"name": metric, "direction": direction(metric), "halves": board.reference.get(("halves", metric))}
            for metric in board.metrics
        ],
        "nfes": list(board.nfes),
        "curves": list(_curves(board, values)),
        "finals": [
            {"nfe": row.nfe, "metric": metric, "at": places[row.entry.label]}
            | {"mean": _short(score.mean), "low": _short(score.low), "high": _short(score.high), "n": score.n}
            for row in board.rows
            for metric in board.metrics
            if (score := row.scores[metric]).n
        ],
        "contests": [_contest(board, nfe, metric, places) for nfe in board.nfes for metric in board.metrics],
    }


def _curves(board: Board, values: Iterable[SeedValue]) -> Iterable[dict[str, Any]]:
    """By configuration, metric and NFE: [images, mean, lowest, highest, seeds], and diverged seeds by themselves."""
    found = courses(values)
    for place, entry in enumerate(board.entries):
        for metric in board.metrics:
            for nfe in board.nfes:
                if course := found.get((entry.group, metric, nfe)):
                    yield {"at": place, "metric": metric, "nfe": nfe, **_curve(course)}


def _curve(course: Course) -> dict[str, Any]:
    points = [
        [moment.images, _short(moment.mean), _short(moment.low), _short(moment.high), moment.n]
        for moment in course.moments
    ]
    return {"points": points, "lost": [[(images, _short(value)) for images, value in seed] for seed in course.lost]}


def _contest(board: Board, nfe: int, metric: str, places: dict[str, int]) -> dict[str, Any]:
    """The leader and how far every rival is behind it: mean, 95 % interval, interval after Holm's correction."""
    contest = board.contests[nfe, metric]
    found = [
        {
            "at": places[rival.label],
            "mean": _short(rival.mean),
            "low": _short(rival.low),
            "high": _short(rival.high),
            "plain": [_short(end) for end in rival.plain],
            "n": rival.n,
            "verdict": "worse" if rival.worse else "inconclusive",
            "reason": rival.reason,
        }
        for rival in rivals(contest)
    ]
    found.sort(key=lambda rival: (rival["mean"], rival["at"]))
    leader = None if contest.leader is None else places[contest.leader]
    return {"nfe": nfe, "metric": metric, "leader": leader, "rivals": found}


def _short(value: float | None) -> float | None:
    """Six digits are more than any screen shows, and half the bytes."""
    return None if value is None else float(f"{value:.6g}")
