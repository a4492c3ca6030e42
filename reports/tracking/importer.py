"""Imports cells into MLflow: one experiment a benchmark, a parent run for each sweep, a child run per cell.

Files are the truth and MLflow is a view: the import can be repeated at any time and adds only what is missing.
It runs in one process, after the fact; workers never talk to MLflow (several of them opening a fresh store race).
docs/mlflow.md says what is where.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...benchmarks.common.files import DamagedError, TakenError
from ...benchmarks.common.lock import Lock, acquire
from ...benchmarks.common.redact import without_password
from ...slurm.sweeps import Sweep, Task, tasks
from ...slurm.sweeps import read as read_sweeps
from ..analysis.cells import Cell
from . import cells as mlflow_cells
from . import tables as mlflow_tables
from .store import BATCH, LONGEST_VALUE, METRICS, batches, default_uri, files_beside, make_store, open_store, search
from .tables import NewRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run

LOCK = "mlflow.lock"
AT_ONCE = 4  # cells on their way to a server
CELLS = 50  # new ones that go into the file at once
FINGERPRINT = "bench.fingerprint"
#: Tags that are ours begin so; others may be anybody's and are left alone.
OURS = ("bench.", *(f"{section}." for section in mlflow_cells.CHANGEABLE))

Item = TypeVar("Item")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """Where the import went, how many cells were new, changed or left alone, and the run of each cell by its id."""

    uri: str
    created: int
    updated: int
    unchanged: int
    runs: Mapping[str, str]


@dataclass(frozen=True)
class _Parent:
    """A sweep as MLflow is to show it. key: what its run is found by."""

    key: str
    name: str
    begun: int | None
    tags: Mapping[str, str]


def export(out: Path, cells: Sequence[Cell], uri: str | None = None, report: Sequence[Path] = ()) -> Exported:
    """Bring the MLflow store at `uri` (default: `default_uri(out)`) up to date with `cells`.

    A cell of which nothing that is imported has changed is skipped by a fingerprint, which is written last: an import
    that was cut off is completed by the next. One process at a time imports from `out`; others wait.

    report: files below `out` to keep with the newest sweep of each benchmark.

    Raises DamagedError, naming the file, for a damaged training log, after all other cells, or sweep; errors of the
    store are MLflow's own or sqlite3's.
    """
    with _alone(out) as check:
        address = uri or default_uri(out)
        if uri is None and not (out / "mlflow.db").exists():
            make_store(out / "mlflow.db")
        database = out / "mlflow.db" if uri is None and mlflow_tables.is_known(out / "mlflow.db") else None
        files = files_beside(address, out)
        store = _Store(open_store(address), out, own=uri is None, database=database, files=files, check=check)
        counts = {"created": 0, "updated": 0, "unchanged": 0}
        runs: dict[str, str] = {}
        damaged: list[DamagedError] = []
        submitted = tasks(read_sweeps(out))
        for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
            own = [cell for cell in cells if cell.benchmark == benchmark]
            store.benchmark(benchmark, own, submitted, report, counts, runs, damaged)
    if damaged:
        raise damaged[0]
    return Exported(uri or default_uri(out), **counts, runs=runs)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of imports from `out`; yields what raises TakenError once it is somebody else's."""
    path = out / LOCK
    waited = False
    while (lock := acquire(path)) is None:
        if not waited:
            log.warning("another process imports %s into MLflow: waiting for it", out)
        waited = True
        time.sleep(0.2)
    with lock:
        yield lambda: _check(lock, out)


def _check(lock: Lock, out: Path) -> None:
    if not lock.is_ours():
        raise TakenError(f"another process has begun to import {out} into MLflow; this one stopped")


@dataclass(frozen=True)
class _Store:
    """One import.

    own: whether the store is the file in the output folder. database: that file, where its tables may be filled
    directly. files: the folder for files of new experiments, None where a server has its own. check: raises where the
    import must stop.
    """

    client: MlflowClient
    out: Path
    own: bool
    database: Path | None
    files: Path | None
    check: Callable[[], None]

    def benchmark(
        self,
        name: str,
        cells: Sequence[Cell],
        submitted: Mapping[str, Sequence[Task]],
        report: Sequence[Path],
        counts: dict[str, int],
        runs: dict[str, str],
        damaged: list[DamagedError],
    ) -> None:
        """Import the cells of one benchmark but damaged ones. Adds to `counts`, `runs` and `damaged`."""
        experiment = self._experiment(name)
        held = {cell.id: submitted.get(cell.files.path.relative_to(self.out).as_posix(), ()) for cell in cells}
        wanted = {self._local(name).key: self._local(name)}
        parent_of = {}
        for cell in cells:
            # The sweep that a cell was first submitted in: what is tried again stays where it was.
            parent = _submitted(held[cell.id][0].sweep) if held[cell.id] else self._local(name)
            wanted[parent.key] = parent
            parent_of[cell.id] = parent.key
        parents = {
            run.data.tags["bench.sweep"]: run
            for run in search(self.client, experiment, "tags.`bench.sweep` LIKE '%'")
            if run.data.tags["bench.sweep"] in wanted
        }
        known = {
            run.data.tags["bench.cell"]: run
            for parent in parents.values()
            for run in search(self.client, experiment, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
            if "bench.cell" in run.data.tags
        }
        used = set(parent_of.values())
        parents |= {key: self._new_parent(experiment, wanted[key]) for key in used - parents.keys()}

        def described(cell: Cell) -> NewRun | None:
            names = [task.sweep.sweep for task in held[cell.id]]
            try:
                return mlflow_cells.new_run(cell, names, parents[parent_of[cell.id]].info.run_id)
            except DamagedError as error:
                damaged.append(error)
                return None

        def one(cell: Cell) -> tuple[str, str] | None:
            self.check()
            new = described(cell)
            return self._cell(experiment, cell, new, known.get(cell.id)) if new else None

        singly = [cell for cell in cells if self.database is None or cell.id in known]
        for cell, imported in zip(singly, self._each(one, singly), strict=True):
            if imported:
                outcome, runs[cell.id] = imported
                counts[outcome] += 1
        if self.database is not None:
            fresh = ((cell, new) for cell in cells if cell.id not in known and (new := described(cell)))
            for batch in batches(fresh, CELLS):
                runs |= self._add(self.database, experiment, batch)
                counts["created"] += len(batch)
        for key in used:
            own = [cell for cell in cells if parent_of[cell.id] == key]
            self._finish_parent(parents[key], wanted[key], own)
        self._keep_report(parents[max(used, key=lambda key: wanted[key].begun or 0)], report)

    def _each(self, one: Callable[[Cell], Item], cells: Sequence[Cell]) -> Iterator[Item]:
        """`one` of every cell, in order. A server is asked for several at once: most of the time it is waited for."""
        if self.files is not None:
            yield from map(one, cells)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                yield from pool.map(one, cells)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # cells that were begun are brought to their end
                raise

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self._new_experiment(name)
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _new_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        location = None if self.files is None else (self.files / name).as_uri()
        try:
            return self.client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            # An import from another folder was faster.
            found = self.client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return found.experiment_id

    def _local(self, benchmark: str) -> _Parent:
        """What holds the cells that were never submitted: they ran on this machine, by whichever commands."""
        # In its own database a folder is found again wherever it was moved; on a server its path tells it apart.
        key = "." if self.own else str(self.out.resolve())
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        return _Parent(name, f"sweep {benchmark}", None, {"bench.sweep": name, "bench.out": key})

    def _new_parent(self, experiment: str, parent: _Parent) -> Run:
        tags = {"bench.sweep": parent.key}
        return self.client.create_run(experiment, start_time=parent.begun, tags=tags, run_name=parent.name)

    def _add(self, database: Path, experiment: str, new: Sequence[tuple[Cell, NewRun]]) -> dict[str, str]:
        """Import cells that have no run yet, at once; the run of each by the cell's id. The fingerprints come last."""
        prints = [mlflow_cells.fingerprint(cell, run) for cell, run in new]
        self.check()  # as late as can be: a run that is added twice stays
        runs = mlflow_tables.add_runs(database, experiment, [run for _, run in new])
        if self._in_place(self.client.get_run(runs[0])):
            for run, (cell, _) in zip(runs, new, strict=True):
                self._write_files(run, cell)
        self.check()
        mlflow_tables.set_tags(database, [(run, FINGERPRINT, found) for run, found in zip(runs, prints, strict=True)])
        return {cell.id: run for run, (cell, _) in zip(runs, new, strict=True)}

    def _cell(self, experiment: str, cell: Cell, new: NewRun, run: Run | None) -> tuple[str, str]:
        """Import one cell; returns which counter it belongs to, and its run."""
        from mlflow.entities import Param

        fingerprint = mlflow_cells.fingerprint(cell, new)
        if run is not None and run.data.tags.get(FINGERPRINT) == fingerprint:
            return "unchanged", run.info.run_id
        outcome, logged = "updated", {}
        if run is None:
            first = {key: new.tags[key] for key in ("bench.cell", "mlflow.parentRunId")}
            run = self.client.create_run(experiment, start_time=new.begun, tags=first, run_name=new.name)
            outcome = "created"
        else:
            logged = self._logged(run)
        params = [Param(key, value) for key, value in new.params.items() if key not in run.data.params]
        metrics = list(_missing(new.points, logged, new.begun or 0))
        self._keep_files(run, cell)
        self._set_state(run, new.status, new.ended)
        self._log(run, metrics, params, new.tags, fingerprint)
        return outcome, run.info.run_id

    def _logged(self, run: Run) -> dict[tuple[str, int], tuple[int, float]]:
        """(key, step) -> (time, value) of what a run shows there."""
        found: dict[tuple[str, int], tuple[int, float]] = {}
        for key in run.data.metrics:
            for metric in self.client.get_metric_history(run.info.run_id, key):
                place = key, metric.step
                if place not in found or found[place][0] <= metric.timestamp:
                    found[place] = metric.timestamp, metric.value
        return found

    def _keep_files(self, run: Run, cell: Cell) -> None:
        if not self._in_place(run):
            return
        if self.own:
            self._write_files(run.info.run_id, cell)
            return
        with tempfile.TemporaryDirectory() as folder:
            mlflow_cells.write_files(cell, Path(folder))
            self.client.log_artifacts(run.info.run_id, folder)

    def _write_files(self, run: str, cell: Cell) -> None:
        """For the database in the output folder, whose files are in a plain folder."""
        folder = self.out.resolve() / "mlartifacts" / cell.benchmark / run / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        mlflow_cells.write_files(cell, folder)

    def _keep_report(self, run: Run, report: Sequence[Path]) -> None:
        """The report as it was when this sweep was the newest."""
        digest = hashlib.sha256()
        for path in report:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(self.out).as_posix()} {content}\n".encode())
        if not report or run.data.tags.get("bench.report") == digest.hexdigest() or not self._in_place(run):
            return
        for folder in sorted({path.parent for path in report}):
            below = folder.relative_to(self.out).as_posix()
            place = "report" if below == "." else f"report/{below}"
            for path in report:
                if path.parent == folder:
                    self.client.log_artifact(run.info.run_id, str(path), place)
        self.client.set_tag(run.info.run_id, "bench.report", digest.hexdigest())

    def _in_place(self, run: Run) -> bool:
        """False where the folder was moved with its database, which knows the old place alone."""
        if not self.own or (run.info.artifact_uri or "").startswith(self.out.resolve().as_uri() + "/"):
            return True
        log.warning("mlflow.db was made in another folder: no files are added to it; without it, it is made anew")
        return False

    def _set_state(self, run: Run, state: str, ended: int | None) -> None:
        if state != "RUNNING":
            self.client.set_terminated(run.info.run_id, state, end_time=ended)
        elif run.info.status != state:
            self.client.update_run(run.info.run_id, status=state)

    def _log(
        self, run: Run, metrics: Sequence[Metric], params: Sequence[Param], tags: Mapping[str, str], fingerprint: str
    ) -> None:
        """All in one request where it fits; a store takes tags last, and the fingerprint is the last of them."""
        from mlflow.entities import RunTag

        identity, there = run.info.run_id, run.data.tags
        for key in there:
            if key.startswith(OURS) and key not in tags and key != FINGERPRINT:
                self.client.delete_tag(identity, key)
        fresh = [RunTag(key, value) for key, value in tags.items() if there.get(key) != value]
        fresh.append(RunTag(FINGERPRINT, fingerprint))
        if len(params) <= BATCH and len(fresh) <= BATCH and len(params) + len(fresh) + len(metrics) <= METRICS:
            self.client.log_batch(identity, metrics=metrics, params=params, tags=fresh)
            return
        for batch in batches(params, BATCH):
            self.client.log_batch(identity, params=batch)
        for batch in batches(metrics, METRICS):
            self.client.log_batch(identity, metrics=batch)
        for batch in batches(fresh, BATCH):
            self.client.log_batch(identity, tags=batch)

    def _finish_parent(self, run: Run, parent: _Parent, cells: Sequence[Cell]) -> None:
        """Over when all its cells are."""
        from mlflow.entities import RunTag

        tags = {**parent.tags, "bench.cells": str(len(cells))}
        fresh = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        if fresh:
            self.client.log_batch(run.info.run_id, tags=fresh)
        over = all(cell.state in mlflow_cells.RUN_STATES for cell in cells)
        state = "FINISHED" if over else "RUNNING"
        if run.info.status != state:
            ends = [moment for cell in cells if (moment := mlflow_cells.ended(cell)) is not None]
            self._set_state(run, state, max(ends, default=None))


def _submitted(sweep: Sweep) -> _Parent:
    """A sweep on a cluster."""
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
    return _Parent(sweep.sweep, f"sweep {sweep.sweep}", begun, found)


def _missing(
    points: Sequence[mlflow_cells.Point], logged: Mapping[tuple[str, int], tuple[int, float]], begun: int
) -> Iterator[Metric]:
    """What is to be logged. MLflow forgets no point: a value that changed goes after the one before.

    A point's time follows from the files, so that one that is logged twice is one point.
    """
    from mlflow.entities import Metric

    for key, step, value in points:
        time_before, value_before = logged.get((key, step), (None, math.nan))
        if time_before is None:
            yield Metric(key, value, begun, step)
        elif repr(mlflow_tables.stored(value_before)) != repr(mlflow_tables.stored(value)):
            yield Metric(key, value, time_before + 1, step)
