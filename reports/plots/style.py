"""How configurations look in all pictures, and how pictures are saved: object-oriented matplotlib, no global state.

A configuration keeps its colour, marker, line and hatching in every picture; the last three distinguish it in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.figure import Figure

from ...benchmarks.common.files import atomic_path

#: The four methods keep their places in every report; other labels take the following ones in sorted order.
FIXED = ("ict", "ect", "sct", "vct")
COLORS = (0, 1, 2, 4, 5, 9, 3, 7, 6, 8)  # of the palette: neighbours here are easy to distinguish
MARKERS = "osD^vPX<>*"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
DPI = 150
FAR = "0.6"  # grey of what is far from every mode
OWN_LAYOUT = {"figure.autolayout": False, "figure.constrained_layout.use": False}  # whatever a user's settings are

#: kind -> what draws it
Drawings = Mapping[str, Callable[[], Figure | None]]


@dataclass(frozen=True)
class Style:
    """How one configuration is drawn."""

    color: tuple[float, float, float]
    marker: str
    line: Any
    hatch: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """label -> style. Where colours come again, they come with another marker and line: a hundred pairs differ."""
    order = [*FIXED, *sorted(set(names) - set(FIXED))]
    palette = [seaborn.color_palette("colorblind", 10)[place] for place in COLORS]
    return {
        name: Style(
            palette[place % 10],
            MARKERS[(place + place // 10) % len(MARKERS)],
            LINES[(place + place // 10) % len(LINES)],
            HATCHES[place % len(HATCHES)],
        )
        for place, name in enumerate(order)
        if name in names
    }


def mode_colors(modes: np.ndarray | None, count: int, color: tuple[float, float, float]) -> list[Any]:
    """A colour for each of `count` points: that of its mode, grey far from all, `color` where there are no modes."""
    if modes is None:
        return [color] * count
    palette = seaborn.color_palette("colorblind", 10)
    return [FAR if mode < 0 else palette[COLORS[mode % 10]] for mode in modes]


def save_figures(drawn: Drawings, folder: Path, stem: str) -> dict[str, Path]:
    """Draw each kind in the look of the reports and write `<stem>-<kind>.png`; a figure that is None is left out."""
    paths = {}
    # Labels come from configurations: a dollar sign in one is no formula.
    look: dict[Any, Any] = {**seaborn.axes_style("whitegrid"), "text.parse_math": False, "font.size": 9, **OWN_LAYOUT}
    with matplotlib.rc_context(look):
        for kind, draw in drawn.items():
            if figure := draw():
                paths[kind] = folder / f"{stem}-{kind}.png"
                with atomic_path(paths[kind]) as temporary:
                    # No software version in the file: the same data give the same bytes.
                    figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight")
    return paths
