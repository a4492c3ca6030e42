"""Published numbers (`published.csv`), and which of them belong beside a row of ours.

Values that are only attributed to a paper (`source_kind` "unverified") are never shown. What somebody else
reports of a method ("secondary") is shown as such and never mixed with its authors' own ("primary").
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("published.csv")

#: Our method names -> the names in the file.
NAMES = {"ict": "iCT", "ect": "ECT", "sct": "SCT", "vct": "VCT", "ect+vc": "VCT", "ict+ot": "iCT-OT"}

#: The variant that stands for a method where a file lists several: its plain, longest or smallest form.
MAIN_VARIANTS = {
    ("iCT", "cifar10"): "",
    ("ECT", "cifar10"): "400k iterations",
    ("SCT", "cifar10"): "unconditional",
    ("iCT", "imagenet64"): "",
    ("ECT", "imagenet64"): "EDM2-S",
    ("SCT", "imagenet64"): "EDM2-S",
}

#: What benchmarks without published numbers are set beside, for orientation.
ORIENTATION_DATASET, ORIENTATION_METRIC, ORIENTATION_NFE = "cifar10", "fid50k", (1, 2)


@dataclass(frozen=True)
class Published:
    """One published value. `training_mimg` is in millions of images without pre-training; None = not stated."""

    method: str
    variant: str
    dataset: str
    nfe: int
    metric: str
    value: float
    network: str
    training_mimg: float | None
    init: str
    source: str
    source_kind: str
    note: str


@cache
def read_published(path: Path = PATH) -> tuple[Published, ...]:
    """Every row of the file, in its order."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def main_values(method: str, dataset: str, nfe: int, metric: str) -> tuple[Published, ...]:
    """What to show beside our `method` at `nfe`: its main variant, or all there is where none is the main one.

    Empty where nothing was published under the same metric name: two names are two metrics.
    """
    name = NAMES.get(method)
    rows = [
        row
        for row in read_published()
        if (row.method, row.dataset, row.nfe, row.metric) == (name, dataset, nfe, metric)
        and row.source_kind in ("primary", "secondary")
    ]
    variant = MAIN_VARIANTS.get((name or "", dataset))
    return tuple(row for row in rows if row.variant == variant) or tuple(rows)


def orientation(methods: Iterable[str]) -> tuple[tuple[Published, dict[int, float]], ...]:
    """CIFAR-10 values of `methods`: (a row that carries the source, {nfe: value}) per published variant."""
    table: dict[tuple[str, str], tuple[Published, dict[int, float]]] = {}
    for method in methods:
        for nfe in ORIENTATION_NFE:
            for row in main_values(method, ORIENTATION_DATASET, nfe, ORIENTATION_METRIC):
                table.setdefault((row.method, row.variant), (row, {}))[1][nfe] = row.value
    return tuple(table.values())


def _parse(row: dict[str, str]) -> Published:
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(Published)}
    mimg = float(row["training_mimg"]) if row["training_mimg"] else None
    return Published(**values | {"nfe": int(row["nfe"]), "value": float(row["value"]), "training_mimg": mimg})
