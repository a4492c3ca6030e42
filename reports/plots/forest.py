"""The forest plot: the difference of every configuration to the best, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..analysis.formatting import metric_title, short
from ..analysis.rivals import Rival, rivals
from ..analysis.tables import Board, Contest, Entry
from .panels import cut_ends, cut_handle, in_brackets, legend_below, panels, row_names
from .style import Style, styles

MOST_ROWS = 16  # configurations of one picture
WIDE = 4.5  # line width of a 95 % interval
#: How words are set above a panel, and beside a place in it.
_CORNER: dict[str, Any] = {"ha": "right", "va": "bottom", "color": "0.3", "fontsize": 8}
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": "0.3", "fontsize": 8}


def forest(board: Board, width: float | None = None) -> Figure | None:
    """A panel for each NFE with differences, a line for each configuration, of many the first `MOST_ROWS`.

    width: of the picture in inches, None for one that suits the number of panels.
    """
    shown = board.entries[:MOST_ROWS]
    labels = {entry.label for entry in shown}
    contests, found = [], []
    for contest in (board.contests[nfe, board.metrics[0]] for nfe in board.nfes):
        own = {label: rival for label, rival in rivals(contest).items() if label in labels and rival.n}
        if own:
            contests.append(contest)
            found.append(own)
    if not found:
        return None
    names = row_names([entry.label for entry in shown], width, 0.3)
    grid = panels(len(contests), (3.0, names.height + 1.0), width, names=names.left, sharex=False, narrowest=1.9)
    names.write(grid.axes[0])  # the rows are shared by all panels
    look = styles([entry.label for entry in board.entries])
    cut = False
    for axes, contest, own in zip(grid.axes, contests, found, strict=True):
        if names.above and axes is not grid.axes[0]:
            names.write(axes)
        cut |= _panel(axes, contest, own, shown, look)
    legend_below(grid.figure, _handles([rival for own in found for rival in own.values()], cut))
    return grid.figure


def span(found: Sequence[Rival]) -> tuple[float, float]:
    """The ends of an axis: room for every mean, and for 95 % intervals of the usual width.

    Very wide ones, of three seeds say, may not flatten all others, and neither may corrected ones.
    """
    means = [0.0, *(rival.mean for rival in found)]
    halves = [(ends[3] - ends[2]) / 2 for rival in found if (ends := rival.ends)]
    room = max(1.5 * (max(means) - min(means)), 3 * median_low(halves or [0.0])) or 1.0
    ends = [*means, *(end for rival in found for end in rival.ends)]
    low, high = max(min(ends), min(means) - room), min(max(ends), max(means) + room)
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin


def _panel(
    axes: Axes, contest: Contest, found: Mapping[str, Rival], shown: Sequence[Entry], look: Mapping[str, Style]
) -> bool:
    """Draw one contest; whether an interval extends beyond the panel."""
    axes.set_title(f"NFE {contest.nfe}")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(_axis_name(contest, shown))
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))  # a name at the edge would meet that of the next panel
    axes.set_xlim(span(list(found.values())))
    axes.axvline(0, color="0.15", lw=1.2, zorder=2)
    rows = {place: found[entry.label] for place, entry in enumerate(shown) if entry.label in found}
    _intervals(axes, {place: (rival, look[rival.label]) for place, rival in rows.items()})
    _counts(axes, rows)
    for place, entry in enumerate(shown):
        if place not in rows:
            axes.annotate(_without(contest, entry.label), (0, place), (5, 0), **_BESIDE)
    return cut_ends(axes, {place: (min(r.ends), max(r.ends)) for place, r in rows.items() if r.ends})


def _axis_name(contest: Contest, shown: Sequence[Entry]) -> str:
    """The reference is named where its row does not say that it is."""
    title, basis = metric_title(contest.metric)
    reference = contest.reference
    what = "the baseline" if reference != contest.leader else "the best mean"
    told = {entry.label for entry in shown}
    name = what if reference is None or reference in told else short(reference).replace("\n", " ")
    unit = " in %" if contest.family.log else ""
    return f"{title}:\ndifference to {name}{unit}{in_brackets(basis)}"


def _without(contest: Contest, label: str) -> str:
    """What a line without an interval says."""
    if label == contest.reference:
        if label != contest.leader:
            return "baseline"
        return "significantly best" if contest.significant else "best mean"
    if label in contest.diverged:
        return "diverged"
    return "no common seed" if label in contest.differences else "no value"


def _intervals(axes: Axes, rows: Mapping[int, tuple[Rival, Style]]) -> None:
    """Both intervals of every row, and its mean."""
    wide = {place: (rival.ends, look.color) for place, (rival, look) in rows.items() if rival.ends}
    ends = np.array([ends for ends, _ in wide.values()]).reshape(-1, 4)
    colors = [color for _, color in wide.values()]
    axes.hlines(list(wide), ends[:, 2], ends[:, 3], colors=colors, lw=WIDE, zorder=3)
    axes.hlines(list(wide), ends[:, 0], ends[:, 1], colors="0.15", lw=1, zorder=4)
    for place, (rival, look) in rows.items():
        face = "0.15" if rival.worse or rival.better else "white"  # a colour would not be told from white in grey
        axes.plot(rival.mean, place, marker=look.marker, ms=5.5, color="0.15", mfc=face, mew=1, zorder=5)
    for end in (2, 3) if wide else ():  # ticks that are taller than a marker: a short interval would be hidden by one
        axes.plot(ends[:, end], list(wide), marker="|", ms=9, mew=1, ls="", color="0.15", zorder=6)


def _counts(axes: Axes, rows: Mapping[int, Rival]) -> None:
    """The number of common seeds, once where it is the same for all."""
    counts = {rival.n for rival in rows.values()}
    axes.text(1, 1.01, f"n = {min(counts)}" if len(counts) == 1 else "n", **_CORNER, transform=axes.transAxes)
    for place, rival in rows.items() if len(counts) > 1 else ():
        axes.annotate(str(rival.n), (1, place), (7, 0), **_BESIDE, xycoords=axes.get_yaxis_transform())


def _handles(found: Sequence[Rival], cut: bool) -> list[Line2D]:
    handles = []
    if any(rival.ends for rival in found):
        handles.append(Line2D([], [], color="0.6", lw=WIDE, solid_capstyle="butt", label="95 % interval"))
        handles.append(Line2D([], [], color="0.15", lw=1, label="of all pairs at once"))
    words = "worse" if not any(rival.better for rival in found) else "better or worse"
    for told, face, label in ((True, "0.15", f"significantly {words}"), (False, "white", "inconclusive")):
        if any((rival.worse or rival.better) == told for rival in found):
            handles.append(Line2D([], [], color="0.15", marker="o", mfc=face, mew=1, ms=5.5, ls="", label=label))
    if cut:
        handles.append(cut_handle())
    return handles
