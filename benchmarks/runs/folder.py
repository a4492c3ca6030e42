"""The folder of a run: where each file of a cell lies, and its content as data.

A run folder is `<out>/<benchmark>/<method>/s<seed>-<id>/`. Files are the source of truth: whatever is shown elsewhere
(Markdown, plots, MLflow) can be rebuilt from them.
"""

from __future__ import annotations

import errno
import fnmatch
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

from ..common.errors import UsageError
from ..common.files import GONE, DamagedError, naming, read_json, read_jsonl, read_yaml
from ..config import plan
from ..config.averages import HEADLINE
from ..config.schema import RunConfig
from . import checks
from .status import State, Status

CONFIG, STATUS, RUN, RECORDS, TRAIN_LOG = (
    "config.yaml",
    "status.json",
    "run.json",
    "records.jsonl",
    "train.jsonl",
)
CELLS = "s*-*"  # names of the folders of cells
DIAGNOSTICS = "diagnostics.jsonl"
STUDIES, STUDY, MEMBERS = "studies", "study.yaml", "cells.json"  # folder of studies, and files of each
REFERENCE = "reference.jsonl"
IMPORTED = "imported"  # folder of values of others


class _Mark(TypedDict, total=False):
    devices: list[str]


class Record(_Mark):
    """A row of records.jsonl: one metric of one pass of sampling.

    `devices`, only where there are several: the kinds of device that have computed the cell so far. `value` is null
    after a divergence, `error` (the standard error of the sampling) where a metric has none.
    """

    benchmark: str
    method: str
    version: int
    variant: str
    group: str
    cell: str
    seed: int
    images: int
    nfe: int
    draw: int
    metric: str
    value: float | None
    error: float | None
    samples: int
    sampler: str


@dataclass(frozen=True)
class Run:
    """The folder of one cell. Content is read on access; missing files read as empty."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def status_file(self) -> Path:
        """The state, replaced as the cell goes on."""
        return self.path / STATUS

    @property
    def history_file(self) -> Path:
        """One entry per attempt, and what the training cost."""
        return self.path / RUN

    @property
    def records_file(self) -> Path:
        """The values of the metrics."""
        return self.path / RECORDS

    @property
    def train_log_file(self) -> Path:
        """Means of the loss over stretches of the training."""
        return self.path / TRAIN_LOG

    @property
    def diagnostics_file(self) -> Path:
        """Variances and losses by noise level, of cells that were diagnosed."""
        return self.path / DIAGNOSTICS

    @property
    def data_files(self) -> tuple[Path, ...]:
        """All that a report is made of, but for the samples. Not each of them has to exist."""
        rows = self.records_file, self.train_log_file, self.diagnostics_file
        return self.config_file, self.status_file, self.history_file, *rows

    @property
    def reference_file(self) -> Path:
        """The metrics of real halves and of noise, shared by all cells of a benchmark."""
        return self.path.parents[1] / REFERENCE

    @property
    def log_file(self) -> Path:
        """The log, in plain text."""
        return self.path / "log.txt"

    @property
    def lock_file(self) -> Path:
        """The lock of the process that writes in the folder."""
        return self.path / "lock"

    @property
    def starts_file(self) -> Path:
        """Of a cell that jobs run: what was saved when the last one started, and how many in a row saved nothing."""
        return self.path / "starts.json"

    @property
    def reserve_file(self) -> Path:
        """Space on the disk for the final state of an attempt."""
        return self.path / ".reserve"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration. Raises DamagedError where the file holds anything else."""
        path = self.config_file
        values = read_yaml(path)
        if not isinstance(values, dict) or "cell" not in values:
            raise DamagedError(f"{path} is not the configuration of a cell")
        try:
            with naming(path):
                config = RunConfig.from_dict(values)
        except UsageError as error:
            raise error if isinstance(error, DamagedError) else DamagedError(f"{path}: {error}") from None
        if fnmatch.fnmatchcase(self.path.name, CELLS) and not self.path.name.endswith(f"-{config.cell.id}"):
            raise DamagedError(f"{path} is the configuration of cell {config.cell.id}, which belongs in another folder")
        return config

    @property
    def status(self) -> Status:
        """The status as it is now: one that cannot be read is the state DAMAGED, with the reason as its error."""
        try:
            return Status.read(self.status_file)
        except DamagedError as error:
            return Status(State.DAMAGED, error=str(error))

    def set_state(self, state: State, error: str | None = None, total: int | None = None) -> None:
        """Write another state, and leave the progress as it is. total: the budget, None for the known one."""
        status = self.status
        total = status.total if total is None else total
        replace(status, state=state, error=error, total=total).write(self.status_file)

    @cached_property
    def history(self) -> dict[str, Any]:
        """`attempts` (one entry per start: versions, git, hardware, command) and `compute`."""
        with naming(self.history_file):
            content = read_json(self.history_file, {"attempts": [], "compute": {}})
            checks.history(content)
            return content

    @cached_property
    def records(self) -> list[Record]:
        """Raises DamagedError, as all that follow do."""
        with naming(self.records_file):
            rows = read_jsonl(self.records_file)
            checks.records(rows, self.config.cell.id)
            return cast("list[Record]", rows)

    @cached_property
    def train_log(self) -> list[dict[str, Any]]:
        with naming(self.train_log_file):
            rows = read_jsonl(self.train_log_file)
            checks.train_log(rows)
            return rows

    @cached_property
    def diagnostics(self) -> list[dict[str, Any]]:
        """Variances and losses by noise level, see docs/diagnostics.md."""
        with naming(self.diagnostics_file):
            rows = read_jsonl(self.diagnostics_file)
            checks.diagnostics(rows)
            return rows

    def weights(self, images: int, ema: str = HEADLINE) -> Path:
        """The snapshot after `images` images: the weights averaged by the profile of this name."""
        return self.path / "snapshots" / f"{images:012d}{ema and f'-{ema}'}.safetensors"

    def samples(self, nfe: int) -> Path:
        """Where the first samples of the final snapshot lie (npz, key `samples`; of points also `latents`, `modes`)."""
        return self.path / "samples" / f"nfe{nfe}.npz"

    def nearest(self, nfe: int) -> Path:
        """Samples of the final snapshot beside the training images nearest to them, see `Evaluator.nearest` (npz)."""
        return self.path / "samples" / f"nearest-nfe{nfe}.npz"

    @property
    def real(self) -> Path:
        """Where a few real images of the same benchmark lie (npz, key `samples`)."""
        return self.path / "samples" / "real.npz"

    @property
    def coupling(self) -> Path:
        """Points with the noise that their coupling chose (npz, keys `x`, `noise`, `coupled`, `modes`)."""
        return self.path / "samples" / "coupling.npz"

    @property
    def posterior(self) -> Path:
        """Data and the noise distribution that the coupling learned (npz, keys `x`, `mean`, `std`, `kl`, `modes`)."""
        return self.path / "samples" / "posterior.npz"


def is_cell(folder: Path) -> bool:
    """Whether a folder is that of a cell, by its name, or by its configuration where it has another name."""
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return False
    # Until its configuration is written, a new folder holds hidden files alone.
    is_named = fnmatch.fnmatchcase(folder.name, CELLS) and any(file.name[0] != "." for file in folder.iterdir())
    return is_named or os.path.isfile(folder / CONFIG)


def find_cells(out: Path) -> list[Run]:
    """All cells of the output folder `out`, sorted by path; of some, files may be damaged or missing."""
    # Hidden folders are not looked into: those of locks come and go.
    return [Run(path) for path in sorted(out.glob(f"[!.]*/[!.]*/{CELLS}/")) if is_cell(path)]


def cells_in(folder: Path) -> list[Run]:
    """The cell in `folder`, or all cells at any depth below it, sorted by path; hidden folders have none.

    A folder that is gone by then, or that this user may not read, has none either. Raises other OSErrors.
    """

    def refuse(error: OSError) -> None:
        if error.errno not in (*GONE, errno.ENOTDIR, errno.EACCES, errno.EPERM):
            raise error

    found = []
    for at, names, files in os.walk(folder, onerror=refuse):
        path = Path(at)
        if path.parent.name == STUDIES and {STUDY, MEMBERS} & {*files}:  # a study's name may be like that of a cell
            names.clear()
            continue
        is_named = fnmatch.fnmatchcase(path.name, CELLS) and any(name[0] != "." for name in (*names, *files))
        if is_named or (path == folder and CONFIG in files):
            found.append(path)
        names[:] = [name for name in names if not name.startswith(".")]
    return [Run(path) for path in sorted(found)]


def read_reference(out: Path, benchmark: str) -> list[dict[str, Any]]:
    """What each metric gives for two halves of the real data (`what="halves"`) and for noise (`what="noise"`)."""
    return read_jsonl(out / benchmark / REFERENCE)


def is_finished(run: Run, config: RunConfig) -> bool:
    """Whether a run holds all that `config` asks for (a diverged cell is finished: that is its result)."""
    state = run.status.state
    if state is not State.DONE:
        return state is State.DIVERGED
    try:
        rows = read_jsonl(run.records_file)
    except DamagedError:
        return False
    return not plan.missing_rows(config, rows)
