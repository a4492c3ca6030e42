"""The numbers that the page's own script draws: curves, values by NFE, paired differences. Plain lists for JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.colors import to_hex

from ..benchmarks.metrics.registry import direction
from .markdown import behind
from .plots import LINES, short, styles
from .tables import Board, Entry, SeedValue

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
    found: dict[tuple[str, str, int], list[SeedValue]] = defaultdict(list)
    for value in values:
        if math.isfinite(value.value):
            found[value.cell.group, value.metric, value.nfe].append(value)
    for place, entry in enumerate(board.entries):
        for metric in board.metrics:
            for nfe in board.nfes:
                if own := found.get((entry.group, metric, nfe)):
                    yield {"at": place, "metric": metric, "nfe": nfe, **_curve(entry, own)}


def _curve(entry: Entry, own: Sequence[SeedValue]) -> dict[str, Any]:
    steady: dict[int, list[float]] = defaultdict(list)
    lost: dict[str, list[tuple[int, float | None]]] = defaultdict(list)
    for value in sorted(own, key=lambda value: (value.images, value.cell.seed)):
        if value.cell.state == "diverged":
            lost[value.cell.id].append((value.images, _short(value.value)))
        else:
            steady[value.images].append(value.value)
    points = [
        [images, _short(math.fsum(seeds) / len(seeds)), _short(min(seeds)), _short(max(seeds)), len(seeds)]
        for images, seeds in steady.items()
    ]
    return {"points": points, "lost": list(lost.values())}


def _contest(board: Board, nfe: int, metric: str, places: dict[str, int]) -> dict[str, Any]:
    """The leader and how far every rival is behind it: mean, 95 % interval, interval after Holm's correction."""
    contest = board.contests[nfe, metric]
    sign = contest.family.sign
    rivals = []
    for found in contest.differences.values():
        if not found.interval.n:
            continue
        mean, low, high = behind(found, sign)
        ends = [_signed(sign, end) for end in (found.interval.low, found.interval.high)]
        plain_low, plain_high = ends if sign > 0 else ends[::-1]
        rivals.append(
            {
                "at": places[found.second],
                "mean": _short(mean),
                "low": _short(low),
                "high": _short(high),
                "plain": [plain_low, plain_high],
                "n": found.interval.n,
                "verdict": "worse" if found.verdict == "better" else "inconclusive",
                "reason": found.reason,
            }
        )
    rivals.sort(key=lambda rival: (rival["mean"], rival["at"]))
    leader = None if contest.leader is None else places[contest.leader]
    return {"nfe": nfe, "metric": metric, "leader": leader, "rivals": rivals}


def _signed(sign: int, value: float | None) -> float | None:
    return None if value is None else _short(sign * value)


def _short(value: float | None) -> float | None:
    """Six digits are more than any screen shows, and half the bytes."""
    return None if value is None else float(f"{value:.6g}")
