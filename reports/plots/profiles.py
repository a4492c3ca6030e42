"""The picture of a performance profile."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from ..analysis.profiles import PerformanceProfile, steps
from .panels import handle, legend_below, panels
from .style import styles

FAREST = 1e6  # ratios beyond this are off the picture
WIDE = 3.0  # from this greatest ratio on the axis is logarithmic
MOST_MARKERS = 12


def profile_plot(profile: PerformanceProfile, width: float | None = None) -> Figure:
    """The share of problems within a factor of the best one, a panel for each NFE, a line for each configuration."""
    look = styles(profile.labels)
    grid = panels(len(profile.ratios), (4.3, 3.1), width)
    everything = [r for own in profile.ratios.values() for found in own.values() for r in found if math.isfinite(r)]
    greatest = min(max([1.0, *everything]), FAREST)
    right = max(1.02, greatest**1.04)
    for axes, (nfe, own) in zip(grid.axes, profile.ratios.items(), strict=True):
        for label, style in look.items():
            rises = [(tau, reached) for tau, reached in steps(own[label]) if tau <= greatest]
            places, shares = zip(*rises, (right, rises[-1][1]), strict=True)
            every = math.ceil(len(rises) / MOST_MARKERS)
            marked = list(range(0, len(rises), every))  # the end of the axis is no rise
            axes.step(
                *(places, shares),
                where="post",
                color=style.color,
                ls=style.line,
                marker=style.marker,
                markevery=marked,
                ms=4.5,
                lw=1.6,
                clip_on=False,
            )
        axes.set_title(f"NFE {nfe}")
    first = grid.axes[0]
    _factors(first, greatest, right)
    first.set_ylim(0, 1.03)
    first.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    grid.name("factor τ of the best value", f"share of the {len(profile.problems)} problems, %")
    legend_below(grid.figure, [handle(label, style) for label, style in look.items()])
    return grid.figure


def _factors(axes: Axes, greatest: float, right: float) -> None:
    """The axis of τ, shared by all panels: from 1 on."""
    if greatest >= WIDE:
        axes.set_xscale("log")
        places = (1, 1.5, 2, 3, 5, 7) if greatest < 10 else (1, 2, 5) if greatest < 300 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=places))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlim(1, right)
