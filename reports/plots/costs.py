"""The first metric against the cost of training, and against the network calls per image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, StrMethodFormatter

from ...benchmarks.common.text import plain
from ...benchmarks.metrics.registry import direction
from ..analysis.learning_curves import LearningCurve, learning_curves
from ..analysis.tables import Board, Compute, Entry, SeedValue
from .curves import draw_curve
from .panels import (
    axis_name,
    diverged_handle,
    fit_values,
    handle,
    legend_below,
    legend_height,
    log_scale,
    reference_handles,
    reference_line,
)
from .style import Style, styles

MOST_LINES = 12  # configurations of one picture
APART = 0.022  # of the width of a panel: between two configurations at one NFE
MOST_TICKS = 10
COLUMNS = 3  # of the legend below a single panel


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
    lambda compute: compute.tflop,
    (Unit("EFLOP", 1e6, 1e7), Unit("PFLOP", 1e3, 1e4), Unit("TFLOP", 1, 0.1), Unit("GFLOP", 1e-3, 0)),
)


def training_cost(board: Board, values: Sequence[SeedValue]) -> Figure | None:
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
    height = 3.6 + legend_height(entry.label for entry, _ in met)
    figure = Figure(figsize=(max(5.5, 4.3 * len(kinds)), height), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        _against(axes, kind, met, look)
        axes.set_title(f"NFE {nfe}")
        reference_line(board, metric, axes.axhline)
    panels[0].set_ylabel(axis_name(metric))
    if direction(metric) < 0 and min(_lowest(curve) for _, curve in met) > 0:
        log_scale(panels[0])
    handles = [handle(entry.label, look[entry.label]) for entry, _ in met]
    if any(curve.lost for _, curve in met):
        handles.append(diverged_handle())
    legend_below(figure, [*handles, *reference_handles(board, metric)])
    return figure


def _against(axes: Axes, kind: Cost, met: Sequence[tuple[Entry, LearningCurve]], look: dict[str, Style]) -> None:
    """Draw what has this cost."""
    costs = {entry.label: cost for entry, _ in met if (cost := _known(kind, entry))}
    unit = unit_of(max(costs.values()), kind.units)
    for entry, curve in met:
        if cost := costs.get(entry.label):
            draw_curve(axes, curve, look[entry.label], cost / unit.size / entry.cells[0].budget)
    devices = {plain(str(entry.compute.device)) for entry, _ in met if entry.compute.device and entry.label in costs}
    device = f" ({next(iter(devices))})" if kind is TIME and len(devices) == 1 else ""
    axes.set_xlabel(f"{kind.name}, {unit.name}{device}")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.set_xlim(left=0)


def _known(kind: Cost, entry: Entry) -> float | None:
    cost = kind.of(entry.compute)
    return cost if cost is not None and math.isfinite(cost) and cost > 0 else None


def _lowest(curve: LearningCurve) -> float:
    return min([*(moment.low for moment in curve.moments), *(value for seed in curve.lost for _, value in seed)])


def unit_of(largest: float, units: Sequence[Unit]) -> Unit:
    """The first unit that `largest` is enough for."""
    return next(unit for unit in units if largest >= unit.least)


def network_calls(board: Board) -> Figure | None:
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
    figure = Figure(figsize=(6.4, 3.6 + legend_height(rows, COLUMNS)), layout="constrained")
    axes = figure.add_subplot()
    lost = False
    for shift, (label, own) in zip(shifts(nfes, len(rows)), rows.items(), strict=True):
        style = look[label]
        places = [row.nfe * shift for row in own]
        axes.plot(places, [row.scores[metric].mean for row in own], color=style.color, ls=style.line, lw=1.2)
        for place, row in zip(places, own, strict=True):
            score = row.scores[metric]
            face = "white" if score.lost else style.color
            axes.errorbar(
                *(place, score.mean, score.half_width),
                color=style.color,
                marker=style.marker,
                ms=5.5,
                mfc=face,
                capsize=3,
                lw=1.5,
            )
            lost |= bool(score.lost)
    _calls_axis(axes, nfes)
    axes.set_ylabel(axis_name(metric))
    seeds = [value for own in rows.values() for row in own for value in row.seeds[metric] if math.isfinite(value)]
    low, high = fit_values(axes, seeds, [row.scores[metric] for own in rows.values() for row in own], metric)
    handles = [handle(label, look[label]) for label in rows]
    if lost:
        handles.append(Line2D([], [], color="0.15", marker="o", mfc="white", ms=5.5, ls="", label="seeds diverged"))
    if low <= board.reference.get(("halves", metric), math.nan) <= high:
        reference_line(board, metric, axes.axhline)
        handles += reference_handles(board, metric)
    legend_below(figure, handles, columns=COLUMNS)
    return figure


def shifts(nfes: Sequence[int], count: int) -> list[float]:
    """The factors that move `count` configurations apart at every NFE on a log axis, none halfway to the next NFE."""
    gap = min(math.log(after / before) for before, after in itertools.pairwise(nfes))
    step = min(APART * math.log(nfes[-1] / nfes[0]), 0.8 * gap / count)
    return [math.exp(step * (place - (count - 1) / 2)) for place in range(count)]


def _calls_axis(axes: Axes, nfes: Sequence[int]) -> None:
    """A log axis with the NFEs themselves, of many those that can be read."""
    width = math.log(nfes[-1] / nfes[0])
    named: list[int] = []
    for nfe in nfes:
        if not named or math.log(nfe / named[-1]) >= width / MOST_TICKS:
            named.append(nfe)
    axes.set_xscale("log")
    axes.set_xlim(nfes[0] * math.exp(-0.12 * width), nfes[-1] * math.exp(0.12 * width))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(named, [str(nfe) for nfe in named])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("NFE: network calls per image")
