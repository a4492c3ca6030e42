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
from ..common.files import GONE, DamagedError, read_json, read_jsonl, read_yaml
from ..config import plan
from ..config.schema import RunConfig
from .status import State, Status

CONFIG, STATUS, RUN, RECORDS, TRAIN_LOG = (
    "config.yaml",
    "status.json",
    "run.json",
    "records.jsonl",
    "train.jsonl",
)
DIAGNOSTICS = "diagnostics.jsonl"
REFERENCE = "reference.jsonl"


class Record(TypedDict):
    """A row of records.jsonl: one metric of one pass of sampling.

    `value` is null after a divergence, `error` (the standard error of the sampling) where a metric has none.
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
        import yaml

        path = self.config_file
        try:
            config = read_yaml(path)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DamagedError(f"{path} is not YAML ({error})") from None
        except RecursionError:
            raise DamagedError(f"{path} is nested too deeply") from None
        if not isinstance(config, dict) or "cell" not in config:
            raise DamagedError(f"{path} is not the configuration of a cell")
        try:
            return RunConfig.from_dict(config)
        except UsageError as error:
            raise DamagedError(f"{path}: {error}") from None

    @property
    def status(self) -> Status:
        """The status as it is now, see `Status.read`."""
        return Status.read(self.status_file)

    def set_state(self, state: State, error: str | None = None, total: int | None = None) -> None:
        """Write another state, and leave the progress as it is. total: the budget, None for the known one."""
        status = self.status
        total = status.total if total is None else total
        replace(status, state=state, error=error, total=total).write(self.status_file)

    @cached_property
    def history(self) -> dict[str, Any]:
        """`attempts` (one entry per start: versions, git, hardware, command) and `compute`."""
        return read_json(self.history_file, {"attempts": [], "compute": {}})

    @cached_property
    def records(self) -> list[Record]:
        return cast("list[Record]", read_jsonl(self.records_file))

    @cached_property
    def train_log(self) -> list[dict[str, Any]]:
        return read_jsonl(self.train_log_file)

    @cached_property
    def diagnostics(self) -> list[dict[str, Any]]:
        """Variances and losses by noise level, see docs/diagnostics.md."""
        return read_jsonl(self.diagnostics_file)

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


def find_cells(out: Path) -> list[Run]:
    """All cells of the output folder `out`, sorted by path."""
    # Hidden folders are not looked into: those of locks come and go.
    return [Run(config.parent) for config in sorted(out.glob(f"[!.]*/[!.]*/s*-*/{CONFIG}"))]


def cells_in(folder: Path) -> list[Run]:
    """The cell in `folder`, or all cells at any depth below it, sorted by path; hidden folders have none.

    A folder that is gone by then, or that this user may not read, has none either. Raises other OSErrors.
    """
    if os.path.isfile(folder / CONFIG):  # of a path: it would raise where this user may not look
        return [Run(folder)]

    def refuse(error: OSError) -> None:
        if error.errno not in (*GONE, errno.ENOTDIR, errno.EACCES, errno.EPERM):
            raise error

    found = []
    for at, names, _ in os.walk(folder, onerror=refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        paths = (Path(at, name) for name in names if fnmatch.fnmatchcase(name, "s*-*"))
        found += [path for path in paths if os.path.isfile(path / CONFIG)]
    return [Run(path) for path in sorted(found)]


def read_reference(out: Path, benchmark: str) -> list[dict[str, Any]]:
    """What each metric gives for two halves of the real data (`what="halves"`) and for noise (`what="noise"`)."""
    return read_jsonl(out / benchmark / REFERENCE)


def is_finished(run: Run, config: RunConfig) -> bool:
    """Whether a run holds all that `config` asks for (a diverged cell is finished: that is its result)."""
    state = run.status.state
    if state is not State.DONE:
        return state is State.DIVERGED
    rows = read_jsonl(run.records_file)
    return not any(plan.missing(config, rows, evaluation) for evaluation in plan.evaluations(config))
