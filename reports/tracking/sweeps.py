"""Parent runs: a study, the sweep that a cell was first submitted in, or one parent for all cells never submitted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ...benchmarks.common.redact import without_password
from ...benchmarks.config.study import Study
from ...slurm.sweeps import Sweep
from ..analysis.cells import Cell
from ..analysis.tables import metric_names
from .store import LONGEST_VALUE


@dataclass(frozen=True)
class Parent:
    """A sweep as MLflow is to show it.

    key: the tag `bench.sweep`, by which its run is found. metric, nfe: of the means that its charts show; None: the
    first metric, the lowest NFE.
    """

    key: str
    name: str
    begun: int | None
    tags: Mapping[str, str] = field(compare=False)
    metric: str | None = None
    nfe: int | None = None

    def headline(self, cells: Sequence[Cell]) -> tuple[str, int]:
        """The metric and the NFE of the means over these cells."""
        nfes = {nfe for cell in cells for nfe in cell.nfe}
        return self.metric or metric_names(cells)[0], self.nfe or min(nfes)


@dataclass(frozen=True)
class StudyCells:
    """A study with its cells. headline: metric and NFE. verdicts: by benchmark. report: files that are kept with it."""

    study: Study
    cells: Sequence[Cell]
    headline: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    report: Sequence[Path] = ()

    def parent(self, benchmark: str, out: Path, *, own: bool) -> Parent:
        """The parent of its cells on one benchmark; question and verdict are the note that MLflow's page shows."""
        study, verdict = self.study, self.verdicts.get(benchmark)
        key = hashlib.sha256(f"{_place(out, own=own)} {study.name}".encode()).hexdigest()[:16]
        tags = {"bench.sweep": key, "bench.study": study.name, "bench.question": study.question}
        tags |= {"bench.baseline": study.baseline or "", "bench.headline": self.headline}
        tags["mlflow.note.content"] = f"**{study.question}**\n\n{verdict}" if verdict else ""
        given = {tag: text[:LONGEST_VALUE] for tag, text in tags.items() if text}
        return Parent(key, f"study {study.name}", None, given, study.headline.metric, study.headline.nfe)


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
    place = _place(out, own=own)
    key = hashlib.sha256(place.encode()).hexdigest()[:16]
    return Parent(key, f"sweep {benchmark}", None, {"bench.sweep": key, "bench.out": place})


def _place(out: Path, *, own: bool) -> str:
    """In its own database a folder is found again wherever it was moved; on a server its path tells it apart."""
    return "." if own else str(out.resolve())
