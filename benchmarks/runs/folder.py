"""Reading finished and running cells back from their files: the one door for reports and status views.

A run folder is `<out>/<benchmark>/<method>/s<seed>-<id>/`. Files are the truth; whatever is shown elsewhere
(Markdown, plots, MLflow) is rebuilt from what this module returns.
"""

from __future__ import annotations

import errno
import fnmatch
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

from ..common.errors import UsageError
from ..common.files import GONE, DamagedError, read_json, read_jsonl, read_yaml
from ..common.text import visible
from ..config import plan
from ..config.schema import RunConfig

CONFIG, STATUS, RUN, RECORDS, TRAIN_LOG = (
    "config.yaml",
    "status.json",
    "run.json",
    "records.jsonl",
    "train.jsonl",
)
DIAGNOSTICS = "diagnostics.jsonl"  # of cells that were diagnosed
REFERENCE = "reference.jsonl"  # one file per benchmark: what the metrics say of real halves and of noise

#: What a row of records.jsonl holds, beside `sampler` (the sampling settings). `value` is null after a divergence,
#: `error` (the standard error of the sampling) for metrics that do not know theirs.
COLUMNS = (
    "benchmark",
    "method",
    "version",
    "variant",
    "group",
    "cell",
    "seed",
    "images",
    "nfe",
    "draw",
    "metric",
    "value",
    "error",
    "samples",
)


@dataclass(frozen=True)
class CellFiles:
    """One cell's folder, read lazily. All properties are plain data; missing files read as empty."""

    path: Path

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration. Raises DamagedError where the file holds anything else."""
        import yaml

        path = self.path / CONFIG
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
    def status(self) -> dict[str, Any]:
        return _checked(read_json(self.path / STATUS, {"state": "queued"}), self.path / STATUS)

    @cached_property
    def run(self) -> dict[str, Any]:
        """`attempts` (one entry per start: versions, git, hardware, command) and `compute`."""
        return read_json(self.path / RUN, {"attempts": [], "compute": {}})

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / RECORDS)

    @cached_property
    def train_log(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / TRAIN_LOG)

    @cached_property
    def diagnostics(self) -> list[dict[str, Any]]:
        """Variances and losses by noise level, see docs/diagnostics.md."""
        return read_jsonl(self.path / DIAGNOSTICS)

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


#: What status.json may say of a cell.
STORED_STATES = ("queued", "running", "interrupted", "failed", "diverged", "done")
_NUMBERS = ("images", "total", "stage", "loss", "images_per_s", "scored", "to_score", "updated")
_TEXTS = ("error", "phase", "job", "node")


def _checked(status: Any, path: Path) -> dict[str, Any]:
    """A status whose values are of their types, with text that can be shown. Raises DamagedError for any other."""
    if not isinstance(status, dict) or status.get("state") not in STORED_STATES:
        raise DamagedError(f"{path} must have a state that is one of: {', '.join(STORED_STATES)}")
    for key in _NUMBERS:
        if type(status.get(key)) not in (int, float, NoneType):
            raise DamagedError(f"{path}: {key} is {status[key]!r:.80}, must be a number or null")
    texts = {key: status[key] for key in _TEXTS if status.get(key) is not None}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DamagedError(f"{path}: {key} is {text!r:.80}, must be text or null")
    return status | {key: visible(text) for key, text in texts.items()}


def find_cells(out: Path) -> list[CellFiles]:
    """All cells of the output folder `out`, sorted by path."""
    # Hidden folders are not looked into: those of locks come and go.
    return [CellFiles(config.parent) for config in sorted(out.glob(f"[!.]*/[!.]*/s*-*/{CONFIG}"))]


def cells_in(folder: Path) -> list[CellFiles]:
    """The cell in `folder`, or all cells at any depth below it, sorted by path; hidden folders have none.

    A folder that is gone by then, or that this user may not read, has none either. Raises other OSErrors.
    """
    if os.path.isfile(folder / CONFIG):  # of a path: it would raise where this user may not look
        return [CellFiles(folder)]

    def refuse(error: OSError) -> None:
        if error.errno not in (*GONE, errno.ENOTDIR, errno.EACCES, errno.EPERM):
            raise error

    found = []
    for at, names, _ in os.walk(folder, onerror=refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        paths = (Path(at, name) for name in names if fnmatch.fnmatchcase(name, "s*-*"))
        found += [path for path in paths if os.path.isfile(path / CONFIG)]
    return [CellFiles(path) for path in sorted(found)]


def read_reference(out: Path, benchmark: str) -> list[dict[str, Any]]:
    """What each metric gives for two halves of the real data (`what="halves"`) and for noise (`what="noise"`)."""
    return read_jsonl(out / benchmark / REFERENCE)


def is_finished(path: Path, config: RunConfig) -> bool:
    """Whether a cell's folder holds all that `config` asks for (a diverged cell is finished: that is its result)."""
    state = CellFiles(path).status["state"]
    if state != "done" or not (path / STATUS).exists():
        return state == "diverged"
    rows = read_jsonl(path / RECORDS)
    return not any(plan.missing(config, rows, evaluation) for evaluation in plan.evaluations(config))
