"""What of a method's paper is not in a configuration, by the configuration itself, so that no name says too much."""

from __future__ import annotations

from collections.abc import Iterable

from ...benchmarks.config.init import tuned_from
from .cells import Cell
from .published import NAMES


def departures(cell: Cell) -> tuple[str, ...]:
    """`target only` for SCT without the other parts of its paper, `from scratch` for schedules published as tuning.

    Where a configuration starts from a pre-training of one's own: `tuned from edm, 704,000 images`.
    """
    config = cell.run.config
    parts = config.method.parts
    times, teacher = parts.get("times", {}), parts.get("teacher", {})
    found = []
    if teacher.get("kind") == "posterior_mean":
        # The paper's smoother schedule, phases and guidance by an earlier snapshot
        others = times.get("mapping") == "smooth", times.get("phases", 1) != 1, config.sample.guidance != 1
        found += [] if any(others) else ["target only"]
    if times.get("kind") == "lognormal_gap" and config.train.init is None:
        found.append("from scratch")
    if (start := config.cell.start) is not None:
        found.append(tuned_from(start, config.train.init))
    return tuple(found)


def paper_names(cells: Iterable[Cell]) -> list[str]:
    """`ect is ECT (from scratch)` for each method whose configurations leave out a part of its paper."""
    said: dict[str, None] = {}
    for cell in cells:
        if (missing := departures(cell)) and cell.method in NAMES:
            said[f"{cell.method} is {NAMES[cell.method]} ({', '.join(missing)})"] = None
    return list(said)
