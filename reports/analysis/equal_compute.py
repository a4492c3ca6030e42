"""The first metric of all configurations after equal training compute, from the snapshots of their learning curves.

Equal images are not equal compute: SCT's references, VCT's encoder and a pre-training cost FLOPs of their own. The
limit is the smallest total among the configurations that no other one starts from: a pre-training is a part of others.
Of each configuration the last snapshot within it counts; nothing is interpolated.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .statistics import Interval, t_interval
from .tables import Board, Entry, SeedValue

ALIKE = 0.01  # relative: totals that differ by less are equal compute already


@dataclass(frozen=True)
class Reached:
    """Where a configuration is within the limit: its last snapshot there, None without one; `score` is over seeds."""

    entry: Entry
    images: int | None
    tflop: float | None
    score: Interval


@dataclass(frozen=True)
class EqualCompute:
    """limit: TFLOP of one training, the smallest total, pre-training included. rows: in the order of the board.

    pretrained: whether there are rows that others start from, which set no limit.
    """

    metric: str
    nfe: int
    limit: float
    rows: tuple[Reached, ...]
    pretrained: bool = False


def equal_compute(board: Board, values: Iterable[SeedValue]) -> EqualCompute | None:
    """The values of the first metric at the lowest NFE at equal compute.

    None where compute is equal at equal images, or where it is not known of every configuration.
    """
    starts = {start.id for cell in board.cells if (start := cell.run.config.cell.start) is not None}
    whole = [entry for entry in board.entries if not starts.issuperset(cell.id for cell in entry.cells)]
    totals = [entry.compute.total_tflop for entry in whole]
    if len(totals) < 2 or None in totals:
        return None
    limit = min(total for total in totals if total is not None)
    if max(total for total in totals if total is not None) <= (1 + ALIKE) * limit:
        return None
    metric, nfe = board.metrics[0], board.nfes[0]
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for value in values:
        if (value.metric, value.nfe) == (metric, nfe):
            curves[value.cell.group][value.images].append(value.value)
    rows = tuple(_reached(entry, curves[entry.group], limit) for entry in board.entries)
    return EqualCompute(metric, nfe, limit, rows, pretrained=len(whole) < len(rows))


def _reached(entry: Entry, curve: dict[int, list[float]], limit: float) -> Reached:
    per_image = (entry.compute.tflop or math.nan) / (1e6 * entry.compute.mimg)
    before = (entry.compute.total_tflop or math.nan) - (entry.compute.tflop or math.nan)
    within = [images for images in curve if before + images * per_image <= limit * (1 + 1e-9)]
    if not within:
        return Reached(entry, None, None, t_interval(()))
    images = max(within)
    return Reached(entry, images, before + images * per_image, t_interval(curve[images]))
