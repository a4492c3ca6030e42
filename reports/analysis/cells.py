"""The cells of an output folder as the reports see them, and what is damaged among their files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...benchmarks.common.files import DamagedError, naming
from ...benchmarks.common.text import plain
from ...benchmarks.config.init import tuned_from
from ...benchmarks.config.schema import RunConfig
from ...benchmarks.runs.checks import LARGEST, MOST
from ...benchmarks.runs.damage import Damage, damage_of, damages
from ...benchmarks.runs.folder import REFERENCE, Record, Run, cells_in, read_reference
from ...benchmarks.runs.status import State
from ...benchmarks.runs.studies import EVERYTHING, Wanted

#: States that will not change by themselves, and what the tables call them. Every other state is "unfinished".
FINAL_STATES = {State.DONE: "finished", State.DIVERGED: "diverged", State.FAILED: "failed"}

#: Overrides that `sampling` says in words.
SAMPLING_KEYS = ("sample.guidance", "sample.guide_at", "eval.ema")


@dataclass(frozen=True)
class Cell:
    """One training run. `budget` and `images` count training images: planned, and seen when it was read.

    overrides: what differs from the defaults of method and benchmark, sampling aside. sampling: in words what differs
    in it, "" for plain samples of the headline's weights. variant: both as one text. unusable: files that are damaged,
    which count as if they were not there. wanted: which rows count, see `restricted`.
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
    unusable: frozenset[Path] = frozenset()
    wanted: Wanted = EVERYTHING

    def has(self, file: Path) -> bool:
        """Whether a file of the cell is there and can be used."""
        return file not in self.unusable and file.exists()

    @property
    def records(self) -> list[Record]:
        """The rows that count."""
        rows, wanted = self.run.records, self.wanted
        return rows if wanted.is_everything else [row for row in rows if wanted.covers(row, self.budget)]

    @property
    def train_log(self) -> list[dict[str, Any]]:
        return self.run.train_log if self.has(self.run.train_log_file) else []

    @property
    def diagnostics(self) -> list[dict[str, Any]]:
        return self.run.diagnostics if self.has(self.run.diagnostics_file) else []

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides as `key=value`, after the cell that this one starts from, if any, in words."""
        config = self.run.config
        tuned = config.cell.start and plain(tuned_from(config.cell.start, config.train.init))
        others = {key: value for key, value in self.overrides.items() if not (tuned and key == "train.init")}
        return (*filter(None, [tuned]), *(f"{plain(key)}={value_text(value)}" for key, value in others.items()))

    @property
    def variant(self) -> str:
        return ", ".join(filter(None, [*self.settings, self.sampling]))


def value_text(value: object) -> str:
    """A value of a configuration on one line, as it is written on the command line; 2.0 is written as 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MOST:
        value = int(value)
    return plain(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("train.batch", "256") for each leaf of a nested configuration; lists are leaves, written as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def survey(runs: Iterable[Run]) -> tuple[list[Cell], list[Damage]]:
    """The cells whose numbers can be used, in order, and all that is damaged in the folders."""
    cells, found = [], []
    for run in runs:
        own = damages(run)
        found += own
        if not any(item.blocks for item in own):
            cells.append(_cell(run, frozenset(item.file for item in own)))
    return cells, found


def restricted(cell: Cell, wanted: Wanted) -> Cell:
    """The cell with the wanted rows alone: what other studies measure of it changes no table of this one."""
    if wanted.is_everything or wanted.asked is None:
        return cell
    shown = replace(cell, wanted=wanted)
    nfe = dict.fromkeys((*wanted.asked.nfe, *(row["nfe"] for row in shown.records)))
    metrics = dict.fromkeys((*wanted.asked.metrics, *(row["metric"] for row in shown.records)))
    return replace(shown, nfe=tuple(nfe), metrics=tuple(metrics))


def read_cells(folder: Path) -> list[Cell]:
    """The cell in `folder`, or all cells below it, sorted by path. Raises DamagedError for the first damaged file."""
    cells, found = survey(cells_in(folder))
    for item in found:
        raise DamagedError(item.reason)
    return cells


def baselines(out: Path, cells: Sequence[Cell]) -> tuple[dict[str, dict[tuple[str, str], float]], list[Damage]]:
    """What `reference_values` says of each benchmark, {} where its file is damaged, and these damages."""
    values: dict[str, dict[tuple[str, str], float]] = {}
    found: list[Damage] = []

    def read(name: str, is_needed: bool) -> None:
        values[name] = reference_values(out, name)
        if is_needed and not read_reference(out, name):
            raise ValueError("it is missing or has no rows")

    for name in sorted({cell.benchmark for cell in cells}):
        is_needed = any(cell.benchmark == name and cell.state is State.DONE for cell in cells)
        file = out / name / REFERENCE
        found += damage_of(out / name, file, lambda name=name, needed=is_needed: read(name, needed), blocks=False)
    return values, found


def reference_values(out: Path, benchmark: str) -> dict[tuple[str, str], float]:
    """(what, metric) -> value, where `what` is "halves" or "noise". Raises DamagedError where damaged."""
    with naming(out / benchmark / REFERENCE):
        values: dict[tuple[str, str], dict[str, float]] = {}
        for row in read_reference(out, benchmark):
            key = (str(row["what"]), str(row["metric"]))
            if type(row["value"]) not in (int, float) or abs(row["value"]) > LARGEST:
                raise ValueError(f"{key[1]} has value {row['value']!r:.80}, which no metric gives")
            values.setdefault(key, {})[str(row.get("data"))] = float(row["value"])
        # Where cells of one benchmark were scored against different data no one value belongs to all of them.
        return {key: next(iter(found.values())) for key, found in values.items() if len(found) == 1}


def _cell(run: Run, unusable: frozenset[Path]) -> Cell:
    """A cell without damage in the files that numbers come from."""
    config, status, identity = run.config, run.status, run.config.cell
    # What `bench eval` has added is in no configuration.
    nfe = dict.fromkeys((*config.eval.nfe, *(row["nfe"] for row in run.records)))
    metrics = dict.fromkeys((*config.eval.metrics, *(row["metric"] for row in run.records)))
    return Cell(
        run=run,
        id=identity.id,
        group=identity.group,
        benchmark=plain(identity.benchmark),
        method=plain(identity.method),
        version=config.method.version,
        overrides={str(key): value for key, value in identity.overrides.items() if key not in SAMPLING_KEYS},
        sampling=_sampling(config),
        seed=identity.seed,
        budget=config.budget_images,
        batch=config.train.batch,
        nfe=tuple(nfe),
        metrics=tuple(metrics),
        state=status.state,
        images=int(status.images),
        error=plain(status.error) if status.error else None,
        attempts=tuple(run.history["attempts"]),
        compute=dict(run.history.get("compute") or {}),
        unusable=unusable,
    )


def _sampling(config: RunConfig) -> str:
    """`guided w=1.3 by 50 %, EMA power-0.05`: a number made so is never to be taken for a plain one."""
    words = []
    if config.sample.guidance != 1:
        words.append(f"guided w={config.sample.guidance:g} by {100 * config.sample.guide_at:g} %")
    if config.eval.ema is not None:
        words.append(f"EMA {plain(config.eval.ema)}")
    return ", ".join(words)
