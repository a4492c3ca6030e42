"""Cells that no training made: an output folder of any size, for measuring the reports. Nothing in it is a result."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..benchmarks.runs.folder import CONFIG, RECORDS, REFERENCE, RUN, STATUS, TRAIN_LOG, CellFiles

BENCHMARK = "synthetic"
METRICS = ("fid2k", "kid2k")
LEVELS = {"ict": 42.0, "ect": 31.0, "sct": 30.0, "vct": 24.0}
#: Two swept keys, so that there are ablations of one key and heat maps of two.
RATES, DROPOUTS = (0.001, 0.0005, 0.002, 0.004, 0.008), (0.0, 0.1)
BUDGET = 51_200_000
SAMPLES = (64, 3, 32, 32)  # of the lowest seed: [n, C, H, W]


@dataclass(frozen=True)
class Size:
    """4 methods × `variants` (at most 10) × `seeds` cells, each of 2 metrics × `nfes` × `snapshots` rows."""

    variants: int = 10
    seeds: int = 25
    nfes: tuple[int, ...] = (1, 2, 4, 8)
    snapshots: int = 5

    @property
    def cells(self) -> int:
        return len(LEVELS) * self.variants * self.seeds

    @property
    def rows(self) -> int:
        """Rows of one cell."""
        return len(METRICS) * len(self.nfes) * self.snapshots


def write_cells(out: Path, size: Size) -> None:
    """Write cells by the contract of `records.py` below `out`. The same size gives the same bytes."""
    settings = list(itertools.islice(itertools.product(DROPOUTS, RATES), size.variants))
    for method, (dropout, rate), seed in itertools.product(LEVELS, settings, range(size.seeds)):
        _write_cell(out, size, method, {"dropout": dropout, "lr": rate}, seed)
    _write_lines(
        out / BENCHMARK / REFERENCE,
        [
            {"benchmark": BENCHMARK, "what": what, "metric": metric, "value": value * scale}
            for what, value in (("halves", 4.0), ("noise", 400.0))
            for metric, scale in zip(METRICS, (1.0, 0.001), strict=True)
        ],
    )


def _write_cell(out: Path, size: Size, method: str, options: dict[str, float], seed: int) -> None:
    defaults = {"dropout": DROPOUTS[0], "lr": RATES[0]}
    variant = ", ".join(f"train.{key}={value:g}" for key, value in options.items() if value != defaults[key])
    group = _digest(method, variant)
    identity = _digest(group, seed)
    cell: dict[str, Any] = {"id": identity, "group": group, "benchmark": BENCHMARK}
    cell |= {"method": method, "variant": variant, "seed": seed}
    folder = out / BENCHMARK / method / f"s{seed}-{identity}"
    config = {
        "cell": cell,
        "benchmark": {"name": BENCHMARK, "version": 1},
        "method": {"name": method, "version": 1, "process": {"kind": "ve"}, "coupling": {"kind": "independent"}},
        "data": {"name": BENCHMARK},
        "network": {"kind": "mlp", "width": [128, 128]},
        "train": {"images": BUDGET, "batch": 256, **options},
        "sample": {"latents_seed": 0},
        "eval": {"samples": 2000, "nfe": list(size.nfes), "metrics": list(METRICS)},
        "seed": seed,
    }
    (folder / "samples").mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    random = np.random.default_rng(int(identity, 16))
    level = LEVELS[method] * (1 + options["dropout"]) * (options["lr"] / RATES[0]) ** 0.1
    _write_lines(folder / RECORDS, list(_rows(size, cell, level * (1 + 0.05 * random.standard_normal()))))
    snapshots = range(1, size.snapshots + 1)
    log = [{"images": BUDGET * n // size.snapshots, "loss": 1.0 / n, "penalty": 0.0} for n in snapshots]
    _write_lines(folder / TRAIN_LOG, log)
    _write_lines(
        folder / STATUS, [{"state": "done", "phase": "score", "images": BUDGET, "total": BUDGET, "error": None}]
    )
    _write_lines(folder / RUN, [{"attempts": [_ATTEMPT], "compute": _COST}])
    if seed == 0:
        files = CellFiles(folder)
        for path in (files.real, *map(files.samples, size.nfes)):
            np.savez(path, samples=random.integers(0, 256, SAMPLES, dtype=np.uint8))


_ATTEMPT: dict[str, Any] = {
    "versions": {"python": "3.11"},
    "git": {"commit": None, "dirty": None},
    "hardware": {"cpu": "none", "cores": 1, "gpu": None},
    "device": "cpu",
}
_COST = {"parameters": 55_000_000, "passes_per_step": 2.0, "flops_per_image": 3.7e10, "train_seconds": 36_000.0}


def _rows(size: Size, cell: dict[str, Any], level: float) -> Iterator[dict[str, Any]]:
    shared = {"benchmark": BENCHMARK, "method": cell["method"], "version": 1, "variant": cell["variant"]}
    shared |= {"group": cell["group"], "cell": cell["id"], "seed": cell["seed"]}
    for snapshot, nfe, metric in itertools.product(range(1, size.snapshots + 1), size.nfes, METRICS):
        fall = (400 / level) ** ((size.snapshots - snapshot) / size.snapshots) * 0.9 ** math.log2(nfe)
        value = level * fall * (0.001 if metric == METRICS[1] else 1.0)
        seen = {"images": BUDGET * snapshot // size.snapshots, "nfe": nfe, "draw": 0}
        yield shared | seen | {"metric": metric, "value": value, "error": None, "samples": 2000, "sampler": "{}"}


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    # Plainly: nothing of this is to survive a power cut, and waiting for the disk four times a cell takes minutes.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
