"""Parent runs: the sweep that each cell was first submitted in, or one parent for all cells never submitted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ...benchmarks.common.redact import without_password
from ...slurm.sweeps import Sweep
from .store import LONGEST_VALUE


@dataclass(frozen=True)
class Parent:
    """A sweep as MLflow is to show it. key: the tag `bench.sweep`, by which its run is found."""

    key: str
    name: str
    begun: int | None
    tags: Mapping[str, str] = field(compare=False)


def submitted(sweep: Sweep) -> Parent:
    """The parent of the cells of a sweep on a cluster."""
    tags = {
        "sweep": sweep.sweep,
        "created": sweep.created,
        "user": sweep.user,
        "command": without_password(sweep.command),
        "cluster": str(sweep.cluster.get("name", "")),
        "jobs": ", ".join(array.job for array in sweep.arrays if array.job),
    }
    begun = int(datetime.fromisoformat(sweep.created).timestamp() * 1000)
    found = {f"bench.{key}": value[:LONGEST_VALUE] for key, value in tags.items()}
    return Parent(sweep.sweep, f"sweep {sweep.sweep}", begun, found)


def local(benchmark: str, out: Path, *, own: bool) -> Parent:
    """The parent of the cells that were never submitted. own: the store is the file in the output folder."""
    # In its own database a folder is found again wherever it was moved; on a server its path tells it apart.
    place = "." if own else str(out.resolve())
    key = hashlib.sha256(place.encode()).hexdigest()[:16]
    return Parent(key, f"sweep {benchmark}", None, {"bench.sweep": key, "bench.out": place})
