"""Published numbers (`published.csv`), which of them a row of ours is compared with, and what differs between the two.

Values that only OCR, an index or a summary attributes to a paper (`source_kind` "unverified") are never shown. What
others report of a method ("secondary") is shown as such and never mixed with its authors' own ("primary").
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("published.csv")

#: Our method names -> the names in the file.
NAMES = {"edm": "EDM", "ict": "iCT", "ect": "ECT", "sct": "SCT", "vct": "VCT", "ect+vc": "VCT", "ict+ot": "iCT-OT"}

#: The variant that stands for a method where a file lists several: its plain, longest or smallest form.
MAIN_VARIANTS = {
    ("iCT", "cifar10"): "",
    ("ECT", "cifar10"): "400k iterations",
    ("iCT", "imagenet64"): "",
    ("ECT", "imagenet64"): "EDM2-S",
}

#: Names of networks in the file -> what our configuration of the same network says.
NETWORKS: dict[str, dict[str, Any]] = {
    "DDPM++": {"kind": "ddpmpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 4},
    "DDPM++ 128ch [1,2,2], 3 blocks": {"kind": "ddpmpp", "channels": 128, "channel_mult": [1, 2, 2], "blocks": 3},
    "NCSN++": {"kind": "ncsnpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 4},
    "NCSN++ double depth": {"kind": "ncsnpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 8},
    "ADM": {"kind": "adm", "channels": 192, "channel_mult": [1, 2, 3, 4], "blocks": 3},
    "EDM2-S": {"kind": "edm2", "channels": 192, "channel_mult": [1, 2, 3, 4], "blocks": 3},
    "EDM2-M": {"kind": "edm2", "channels": 256, "channel_mult": [1, 2, 3, 4], "blocks": 3},
    "EDM2-L": {"kind": "edm2", "channels": 320, "channel_mult": [1, 2, 3, 4], "blocks": 3},
    "EDM2-XL": {"kind": "edm2", "channels": 384, "channel_mult": [1, 2, 3, 4], "blocks": 3},
}

#: Data sets whose published numbers are class-conditional unless their variant says otherwise.
CONDITIONAL = ("imagenet64",)
SAME_BUDGET = 0.01  # relative: 51.2 million images are 400k batches of 128, or a few more

#: What benchmarks without published numbers are shown with, for orientation.
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


@dataclass(frozen=True)
class Setup:
    """What of a configuration of ours is compared with a published one.

    network: the section of the configuration. init: the weights it started from, None for random ones. sampling: what
    was special about the sampling, "" for plain.
    """

    method: str
    dataset: str
    mimg: float
    network: Mapping[str, Any]
    init: str | None
    conditional: bool
    sampling: str


@dataclass(frozen=True)
class Comparison:
    """A published value and ours. `delta` is ours − published, None where we have none.

    differs: of budget, network, init, evaluator, labels, sampling, what is not the same; unknown: what the source does
    not state.
    """

    published: Published
    delta: float | None
    differs: tuple[str, ...]
    unknown: tuple[str, ...]


@cache
def read_published(path: Path = PATH) -> tuple[Published, ...]:
    """Every row of the file, in its order."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def main_values(method: str, dataset: str, nfe: int, metric: str) -> tuple[Published, ...]:
    """What our `method` is compared with at `nfe`: its main variant, or all variants where none is the main one.

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


def compare_published(setup: Setup, nfe: int, metric: str, mean: float) -> tuple[Comparison, ...]:
    """The published values of a configuration at `nfe`, each with what keeps it from being the same experiment.

    `fid50k_clean` of ours is compared with `fid50k`, as another evaluator. Another count of samples is another metric,
    and is compared with nothing.
    """
    plain = metric.partition("_")[0]
    return tuple(
        _compare(row, setup, mean, other_evaluator=metric != plain)
        for row in main_values(setup.method, setup.dataset, nfe, plain)
    )


def _compare(row: Published, setup: Setup, mean: float, *, other_evaluator: bool) -> Comparison:
    network, mimg = NETWORKS.get(row.network), row.training_mimg
    same: dict[str, bool | None] = {
        "budget": None if mimg is None else math.isclose(setup.mimg, mimg, rel_tol=SAME_BUDGET),
        "network": None if network is None else all(setup.network.get(key) == network[key] for key in network),
        "init": None if not row.init else row.init == _family_of(setup.init),
        "evaluator": not other_evaluator,
        "labels": setup.conditional == (row.dataset in CONDITIONAL or "class-conditional" in row.variant),
        "sampling": not setup.sampling,
    }
    return Comparison(
        published=row,
        delta=mean - row.value if math.isfinite(mean) else None,
        differs=tuple(name for name, equal in same.items() if equal is False),
        unknown=tuple(name for name, equal in same.items() if equal is None),
    )


def _family_of(init: str | None) -> str:
    """The file's word for the weights a training starts from: `edm2-img64-s-…` is `edm2`."""
    return "random" if init is None else init.partition("-")[0]


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
