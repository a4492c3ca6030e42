"""How configurations look in all pictures, and how pictures are saved: object-oriented matplotlib, no global state.

A configuration keeps its colour, marker, line and hatching in every picture; the last three distinguish it in grey.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ...benchmarks.common.files import atomic_path
from .paper import SCREEN, VECTORS, Paper

#: The four methods keep their places in every report; other labels take the free ones in sorted order.
FIXED = ("ict", "ect", "sct", "vct")
#: seaborn's "colorblind" with two dark ones more: neighbours are easy to distinguish, the palest come last.
COLORS = (
    *("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#56b4e9"),
    *("#d55e00", "#332288", "#949494", "#882255", "#fbafe4", "#ece133"),
)
MARKERS = "osD^vPX<>*hp"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
MOST_LINES = 12  # of one picture: as many as there are colours
DPI = 150
FAR = "0.6"  # grey of what is far from every mode
OWN_LAYOUT = {"figure.autolayout": False, "figure.constrained_layout.use": False}  # whatever a user's settings are
#: No dates, versions or random ids in a file: the same data give the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}

#: kind -> what draws it in a width in inches, None for the one that suits its content
Drawings = Mapping[str, Callable[[float | None], Figure | None]]


@dataclass(frozen=True)
class Style:
    """How one configuration is drawn."""

    color: tuple[float, float, float]
    marker: str
    line: Any
    hatch: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """label -> style. Twelve differ in colour; where colours come again, they come with another marker and line."""
    known = set(names)
    fixed = {name: place for place, name in enumerate(FIXED) if name in known}
    others = sorted(known - set(FIXED))
    # Places of absent methods come after the other colours, so that few configurations look alike in all reports.
    count, taken = len(COLORS), set(fixed.values())
    free = [*range(len(FIXED), count), *(place for place in range(len(FIXED)) if place not in taken)]
    places = fixed | dict(zip(others, itertools.chain(free, itertools.count(count)), strict=False))
    return {name: _style(places[name]) for name in sorted(known, key=places.__getitem__)}


def _style(place: int) -> Style:
    turn = place + place // len(COLORS)
    return Style(
        to_rgb(COLORS[place % len(COLORS)]),
        MARKERS[turn % len(MARKERS)],
        LINES[turn % len(LINES)],
        HATCHES[place % len(HATCHES)],
    )


def mode_colors(modes: np.ndarray | None, count: int, color: tuple[float, float, float]) -> list[Any]:
    """A colour for each of `count` points: that of its mode, grey far from all, `color` where there are no modes."""
    if modes is None:
        return [color] * count
    return [FAR if mode < 0 else to_rgb(COLORS[mode % len(COLORS)]) for mode in modes]


def look(width: float | None = None) -> dict[Any, Any]:
    """matplotlib's settings for all pictures. width: of the picture in inches; given, it is set in the size of papers.

    Labels come from configurations: a dollar sign in one is no formula. PDF has TrueType fonts (type 42), as publishers
    ask.
    """
    fonts = {"font.size": 9 if width is None else 8, "axes.titlesize": "medium", "text.parse_math": False}
    files = {"svg.hashsalt": "consistency_bench", "pdf.fonttype": 42, "savefig.dpi": DPI, "savefig.transparent": False}
    return {**seaborn.axes_style("whitegrid"), **fonts, **files, **OWN_LAYOUT}


def save_figures(drawn: Drawings, folder: Path, stem: str, paper: Paper = SCREEN) -> dict[str, Path]:
    """Draw each kind in the look of the reports and write `<stem>-<kind>.png`; a figure that is None is left out.

    The files of `paper` are written beside it; others of these kinds, which an earlier report wrote, are removed.
    """
    paths = {}
    for kind, draw in drawn.items():
        with matplotlib.rc_context(look()):
            figure = draw(None)
            if figure is None:
                continue
            paths[kind] = folder / f"{stem}-{kind}.png"
            _save(figure, paths[kind], trim=True)
        _save_vectors(figure, draw, paths[kind], paper)
    return paths


def _save_vectors(figure: Figure, draw: Callable[[float | None], Figure | None], path: Path, paper: Paper) -> None:
    for kind in set(VECTORS) - set(paper.kinds):
        path.with_suffix(f".{kind}").unlink(missing_ok=True)
    if not paper.kinds:
        return
    with matplotlib.rc_context(look(paper.width)):
        found = figure if paper.width is None else draw(paper.width)
        for kind in paper.kinds:
            if found is not None:
                _save(found, path.with_suffix(f".{kind}"), trim=paper.width is None)


def _save(figure: Figure, path: Path, trim: bool) -> None:
    """trim: cut off what is empty around the content, which changes the size."""
    kind = path.suffix[1:]
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=METADATA[kind], bbox_inches="tight" if trim else None)
