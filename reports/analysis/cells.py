"""The cells of an output folder as the reports see them: every file checked once, damage named by its path."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...benchmarks.common.files import DamagedError
from ...benchmarks.common.text import plain
from ...benchmarks.config.schema import RunConfig
from ...benchmarks.runs.folder import (
    REFERENCE,
    Run,
    cells_in,
    find_cells,
    read_reference,
)
from ...benchmarks.runs.status import State

#: States that will not change by themselves, and what the tables call them. Every other state is "unfinished".
FINAL_STATES = {State.DONE: "finished", State.DIVERGED: "diverged", State.FAILED: "failed"}

#: Of counts, exact in a float; of values, whose squares must be finite (features are of single precision).
MOST, LARGEST = 2**53, 1e100

#: Overrides that `sampling` says in words.
SAMPLING_KEYS = ("sample.guidance", "sample.guide_at", "eval.ema")


@dataclass(frozen=True)
class Cell:
    """One training run. `budget` and `images` count training images: planned, and seen when it was read.

    overrides: what differs from the defaults of method and benchmark, sampling aside. sampling: in words what differs
    in it, "" for plain samples of the headline's weights. variant: both as one text.
    """

    run: Run
    id: str
    group: str
    benchmark: str
    method: str
    version: int
    overrides: Mapping[str, object]
    sampling: str
    seed: int
    budget: int
    batch: int
    nfe: tuple[int, ...]
    metrics: tuple[str, ...]
    state: State
    images: int
    error: str | None
    attempts: tuple[dict[str, Any], ...]
    compute: dict[str, Any]

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides as `key=value`."""
        return tuple(f"{plain(key)}={value_text(value)}" for key, value in self.overrides.items())

    @property
    def variant(self) -> str:
        return ", ".join(filter(None, [*self.settings, self.sampling]))


def value_text(value: object) -> str:
    """A value of a configuration on one line, as it is written on the command line; 2.0 is written as 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MOST:
        value = int(value)
    return plain(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))


def read_cells(out: Path) -> list[Cell]:
    """All cells below `out`, sorted by path.

    Raises LookupError where there is none, DamagedError with the file's path where one is damaged.
    """
    cells = [_read(run) for run in find_cells(out)]
    if not cells:
        raise LookupError(f"there are no cells in {out}: nothing to report yet (`bench run` makes some)")
    return cells


def read_folder(folder: Path) -> list[Cell]:
    """The cell in `folder`, or all cells anywhere below it; [] where there is none. Raises as `read_cells` does."""
    return [_read(run) for run in cells_in(folder)]


def reference_values(out: Path, benchmark: str) -> dict[tuple[str, str], float]:
    """(what, metric) -> value, where `what` is "halves" or "noise". Raises DamagedError where damaged."""
    with naming(out / benchmark / REFERENCE):
        values: dict[tuple[str, str], dict[str, float]] = {}
        for row in read_reference(out, benchmark):
            key = (str(row["what"]), str(row["metric"]))
            values.setdefault(key, {})[str(row.get("data"))] = float(row["value"])
        # Where cells of one benchmark were scored against different data no one value belongs to all of them.
        return {key: next(iter(found.values())) for key, found in values.items() if len(found) == 1}


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any complaint about the content of a file into a DamagedError of one line that names the file."""
    try:
        yield
    except KeyError as error:
        raise DamagedError(f"{path}: the entry {error} is missing") from None
    except (ValueError, TypeError, AttributeError, OverflowError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise DamagedError(message if str(path) in message else f"{path}: {message}") from None


def _read(run: Run) -> Cell:
    with naming(run.config_file):
        config, identity = run.config, run.config.cell
        facts = {
            "id": identity.id,
            "group": identity.group,
            "benchmark": plain(identity.benchmark),
            "method": plain(identity.method),
            "overrides": {str(key): value for key, value in identity.overrides.items() if key not in SAMPLING_KEYS},
            "sampling": _sampling(config),
            "seed": identity.seed,
            "version": config.method.version,
            "batch": config.train.batch,
            "budget": config.budget_images,
            "nfe": config.eval.nfe,
            "metrics": config.eval.metrics,
        }
    with naming(run.status_file):
        status = run.status
        error = plain(status.error) if status.error else None
        facts |= {"state": status.state, "images": int(status.images), "error": error}
    with naming(run.history_file):
        facts |= {"attempts": tuple(run.history["attempts"]), "compute": dict(run.history.get("compute") or {})}
    with naming(run.records_file):
        for number, row in enumerate(run.records, start=1):
            _check(row, number, facts["id"])
        # What `bench eval` has added is in no configuration.
        for key, column in (("nfe", "nfe"), ("metrics", "metric")):
            facts[key] = tuple(dict.fromkeys((*facts[key], *(row[column] for row in run.records))))
    return Cell(run=run, **facts)


def _sampling(config: RunConfig) -> str:
    """`guided w=1.3 by 50 %, EMA power-0.05`: a number made so is never to be taken for a plain one."""
    words = []
    if config.sample.guidance != 1:
        words.append(f"guided w={config.sample.guidance:g} by {100 * config.sample.guide_at:g} %")
    if config.eval.ema is not None:
        words.append(f"EMA {plain(config.eval.ema)}")
    return ", ".join(words)


def _check(row: Any, number: int, cell: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is not an object")
    if row["cell"] != cell:
        raise ValueError(f"row {number} belongs to cell {row['cell']!r}, not {cell!r}")
    for key in ("images", "nfe", "draw"):
        if type(row[key]) is not int:
            raise ValueError(f"row {number} has {key} {row[key]!r}, which is not a whole number")
        if not (key == "nfe") <= row[key] <= MOST:
            raise ValueError(f"row {number} has a {key} that is too small or too large")
    if not isinstance(row["metric"], str):
        raise ValueError(f"row {number} has metric {row['metric']!r}, which is not a name")
    for key in ("value", "error"):
        value = row.get(key) if key == "error" else row[key]
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"row {number} has {key} {value!r}, which is neither a number nor null")
        if value is not None and LARGEST < abs(value) < math.inf:
            raise ValueError(f"row {number} has a {key} beyond ±{LARGEST:g}, which no metric gives")
