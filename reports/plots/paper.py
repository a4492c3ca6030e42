"""Figures for papers: which files are written beside the PNGs, and how wide they are. Importing this is cheap."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...benchmarks.common.errors import UsageError, unknown

VECTORS = ("pdf", "svg")
UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # pt: of TeX, as \the\columnwidth says
NARROWEST, WIDEST = 2.5, 20.0  # inches


@dataclass(frozen=True)
class Paper:
    """kinds: of the files beside every PNG. width: of these in inches, None for the size of the PNG.

    Raises UsageError for impossible values.
    """

    kinds: tuple[str, ...] = ()
    width: float | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in VECTORS:
                raise unknown("figure format", kind, [*VECTORS, "png"])
        if self.width is not None and not NARROWEST <= self.width <= WIDEST:
            raise UsageError(f"the width is {self.width:.3g} in, must be from {NARROWEST:g} to {WIDEST:g} in")

    @classmethod
    def of(cls, figures: str | None, width: str | None) -> Paper | None:
        """From `pdf,svg` and `3.25in`; None where neither is given. A width alone asks for all formats."""
        if figures is None and width is None:
            return None
        names = VECTORS if figures is None else [name.strip() for name in figures.split(",")]
        kinds = tuple(dict.fromkeys(name for name in names if name != "png"))
        return cls(kinds, None if width is None else inches(width, "--width"))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Paper:
        """From JSON. Raises ValueError, TypeError, KeyError or UsageError for what is none."""
        return cls(tuple(content["kinds"]), None if content["width"] is None else float(content["width"]))


#: Nothing beside the PNGs.
SCREEN = Paper()


def inches(text: str, what: str = "width") -> float:
    """`3.25in` or `8.5 cm` in inches. what: its name in the UsageError that anything else raises."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(in|cm|mm|pt)\s*", text)
    if match is None:
        raise UsageError(f"{what} is {text!r}, must be a number with one of the units {', '.join(UNITS)}, as 3.25in")
    return float(match[1]) * UNITS[match[2]]
