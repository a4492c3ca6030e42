"""The first metric against the cost of training, and against the network calls per image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, StrMethodFormatter

from ...benchmarks.common.text import plain
from ..analysis.learning_curves import LearningCurve, learning_curves
from ..analysis.statistics import Interval
from ..analysis.tables import Board, Compute, Entry, SeedValue
from .curves import draw_curve, limit_curves
from .panels import (
    axis_name,
    cut_crosses,
    cut_ends,
    cut_handle,
    diverged_handle,
    fit_values,
    handle,
    legend_below,
    panels,
    reference_handles,
    reference_line,
)
from .style import MOST_LINES, Style, styles

APART = 0.022  # of the width of a panel: between two configurations at one NFE
MOST_TICKS = 10


@dataclass(frozen=True)
class Unit:
    """What an axis counts in; `size` is in the unit of the records. It is used where costs come to `least` or more."""

    name: str
    size: float
    least: float


@dataclass(frozen=True)
class Cost:
    """A cost of training. `of` gives that of one whole training, in the unit of the records."""

    name: str
    of: Callable[[Compute], float | None]
    units: tuple[Unit, ...]


TIME = Cost(
    "training time of one seed",
    lambda compute: compute.device_hours,
    (Unit("device-hours", 1, 2), Unit("device-minutes", 1 / 60, 1 / 30), Unit("device-seconds", 1 / 3600, 0)),
)
WORK = Cost(
    "network passes of one training",
    lambda compute: compute.total_tflop,
    (Unit("EFLOP", 1e6, 1e7), Unit("PFLOP", 1e3, 1e4), Unit("TFLOP", 1, 0.1), Unit("GFLOP", 1e-3, 0)),
)


def training_cost(board: Board, values: Sequence[SeedValue], width: float | None = None) -> Figure | None:
    """The first metric at the lowest NFE against device-hours and TFLOP: mean over seeds, band from lowest to highest.

    Every image is taken to cost the same, so a part of a training costs its share of images. What has no known cost
    is left out; of many configurations the first `MOST_LINES` of the board are drawn.
    """
    metric, nfe = board.metrics[0], board.nfes[0]
    own = learning_curves(value for value in values if value.metric == metric and value.nfe == nfe)
    met = [(entry, own[key]) for entry in board.entries[:MOST_LINES] if (key := (entry.group, metric, nfe)) in own]
    kinds = [kind for kind in (TIME, WORK) if any(_known(kind, entry) for entry, _ in met)]
    if not kinds:
        return None
    met = [(entry, curve) for entry, curve in met if any(_known(kind, entry) for kind in kinds)]
    look = styles([entry.label for entry in board.entries])
    grid = panels(len(kinds), (4.3, 3.1), width, sharex=False)
    for axes, kind in zip(grid.axes, kinds, strict=True):
        _against(axes, kind, met, look)
        axes.set_title(f"NFE {nfe}")
    for axes in grid.left:
        axes.set_ylabel(axis_name(metric))
    limits = limit_curves(grid.axes[0], [curve for _, curve in met], board, metric)
    for axes in grid.axes:
        reference_line(board, metric, axes.axhline)
    handles = [handle(entry.label, look[entry.label]) for entry, _ in met]
    if any(curve.lost for _, curve in met):
        handles.append(diverged_handle())
    if sum(map(cut_crosses, grid.axes)):
        handles.append(cut_handle("diverged beyond the axis", vertical=True))
    legend_below(grid.figure, [*handles, *reference_handles(board, metric, limits)])
    return grid.figure


def _against(axes: Axes, kind: Cost, met: Sequence[tuple[Entry, LearningCurve]], look: dict[str, Style]) -> None:
    """Draw what has this cost."""
    costs = {entry.label: cost for entry, _ in met if (cost := _known(kind, entry))}
    unit = unit_of(max(costs.values()), kind.units)
    for entry, curve in met:
        if cost := costs.get(entry.label):
            draw_curve(axes, curve, look[entry.label], cost / unit.size / (1e6 * entry.compute.mimg))
    devices = {plain(str(entry.compute.device)) for entry, _ in met if entry.compute.device and entry.label in costs}
    device = f", {next(iter(devices))}" if kind is TIME and len(devices) == 1 else ""
    axes.set_xlabel(f"{kind.name}\n({unit.name}{device})")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.set_xlim(left=0)


def _known(kind: Cost, entry: Entry) -> float | None:
    cost = kind.of(entry.compute)
    return cost if cost is not None and math.isfinite(cost) and cost > 0 else None


def unit_of(largest: float, units: Sequence[Unit]) -> Unit:
    """The first unit that `largest` is enough for."""
    return next(unit for unit in units if largest >= unit.least)


def network_calls(board: Board, width: float | None = None) -> Figure | None:
    """The first metric at the end of training against NFE: mean and 95 % t interval over seeds, None of a single NFE.

    Configurations stand side by side, so that no interval hides another; of many the first `MOST_LINES` are drawn.
    A hollow marker is a mean that knows nothing of seeds that diverged.
    """
    metric = board.metrics[0]
    rows = {
        entry.label: sorted(
            (row for row in board.rows if row.entry is entry and row.nfe > 0 and row.scores[metric].n),
            key=lambda row: row.nfe,
        )
        for entry in board.entries[:MOST_LINES]
    }
    rows = {label: own for label, own in rows.items() if own}
    nfes = sorted({row.nfe for own in rows.values() for row in own})
    if len(nfes) < 2:
        return None
    look = styles([entry.label for entry in board.entries])
    grid = panels(1, (6.4, 3.3), width)
    figure, axes = grid.figure, grid.axes[0]
    intervals: dict[float, tuple[float, float]] = {}
    apart = shifts(nfes, len(rows))
    for shift, (label, own) in zip(apart, rows.items(), strict=True):
        places, scores = [row.nfe * shift for row in own], [row.scores[metric] for row in own]
        intervals |= _draw_calls(axes, places, scores, look[label])
    _calls_axis(axes, nfes, apart)
    grid.name("NFE: network calls per image", axis_name(metric))
    seeds = [value for own in rows.values() for row in own for value in row.seeds[metric] if math.isfinite(value)]
    low, high = fit_values(axes, seeds, [row.scores[metric] for own in rows.values() for row in own], metric)
    handles = [handle(label, look[label]) for label in rows]
    if any(row.scores[metric].lost for own in rows.values() for row in own):
        handles.append(Line2D([], [], color="0.15", marker="o", mfc="white", ms=4.5, ls="", label="seeds diverged"))
    if cut_ends(axes, intervals, vertical=True):
        handles.append(cut_handle(vertical=True))
    if low <= board.reference.get(("halves", metric), math.nan) <= high:
        reference_line(board, metric, axes.axhline)
        handles += reference_handles(board, metric)
    legend_below(figure, handles)
    return figure


def _draw_calls(
    axes: Axes, places: Sequence[float], scores: Sequence[Interval], look: Style
) -> dict[float, tuple[float, float]]:
    """One configuration, its intervals over its markers, which are narrower than their ends: place -> interval."""
    axes.plot(places, [score.mean for score in scores], color=look.color, ls=look.line, lw=1)
    found = {}
    for place, score in zip(places, scores, strict=True):
        face = "white" if score.lost else look.color
        axes.plot(place, score.mean, color=look.color, marker=look.marker, ms=4.5, mfc=face, ls="")
        if score.low is not None and score.high is not None:
            whisker: dict[str, Any] = {"color": look.color, "fmt": "none", "capsize": 4, "lw": 1.4, "zorder": 3}
            axes.errorbar(place, score.mean, score.half_width, **whisker)
            found[place] = score.low, score.high
    return found


def shifts(nfes: Sequence[int], count: int) -> list[float]:
    """The factors that move `count` configurations apart at every NFE on a log axis, none halfway to the next NFE."""
    gap = min(math.log(after / before) for before, after in itertools.pairwise(nfes))
    step = min(APART * math.log(nfes[-1] / nfes[0]), 0.8 * gap / count)
    return [math.exp(step * (place - (count - 1) / 2)) for place in range(count)]


def _calls_axis(axes: Axes, nfes: Sequence[int], apart: Sequence[float]) -> None:
    """A log axis with the NFEs themselves, of many those that can be read."""
    width = math.log(nfes[-1] / nfes[0])
    named: list[int] = []
    for nfe in nfes:
        if not named or math.log(nfe / named[-1]) >= width / MOST_TICKS:
            named.append(nfe)
    axes.set_xscale("log")
    axes.set_xlim(nfes[0] * apart[0] * math.exp(-0.06 * width), nfes[-1] * apart[-1] * math.exp(0.06 * width))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(named, [str(nfe) for nfe in named])
    axes.grid(visible=False, axis="x")
