"""Imports cells into MLflow: one experiment per benchmark, a parent run per sweep or study, a child run per cell.

Files are the truth and MLflow is a view: the import can be repeated at any time and adds only what is missing.
It runs in one process, after the fact; workers never talk to MLflow (several of them opening a fresh store race).
docs/mlflow.md says what is where.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...benchmarks.common.files import DamagedError, TakenError
from ...benchmarks.common.lock import Lock, acquire
from ...slurm.sweeps import Task, tasks
from ...slurm.sweeps import read as read_sweeps
from ..analysis.cells import Cell
from .artifacts import write_files
from .cells import RUN_STATES, RUNNING, Content, begun, content, ended, fingerprint, headline_points
from .runs import FINGERPRINT, create_run, log_points, logged_points, set_state, set_tags, update_run
from .store import default_uri, files_beside, make_store, open_store, search
from .sweeps import Parent, StudyCells, local, submitted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCK = "mlflow.lock"
AT_ONCE = 4  # cells sent to a server concurrently

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
class _Outcome:
    """What was done with a cell: "created", "updated" or "unchanged", and its run."""

    cell: str
    kind: str
    run: str


def export(
    out: Path,
    cells: Sequence[Cell],
    uri: str | None = None,
    report: Sequence[Path] = (),
    studies: Sequence[StudyCells] = (),
    *,
    part: bool = False,
) -> Exported:
    """Bring the MLflow store at `uri` (default: `default_uri(out)`) up to date with `cells`.

    A cell of which nothing that is imported has changed is skipped by a fingerprint, which is written last: an import
    that was cut off is completed by the next. One process at a time imports from `out`; others wait.

    report: files below `out` to keep with the newest sweep of each benchmark. studies: each has a parent of its own; a
    cell of several is a child of each. part: these are not all cells of their parents: means over cells are left as
    they are, and a parent that runs goes on.

    Raises DamagedError, naming the file, for a damaged training log, after all other cells, or sweep; errors of the
    store are MLflow's own.
    """
    address = uri or default_uri(out)
    with _locked(out) as check:
        if uri is None and not (out / "mlflow.db").exists():
            make_store(out / "mlflow.db")
        store = _Store(
            open_store(address), out, own=uri is None, files=files_beside(address, out), check=check, part=part
        )
        held = tasks(read_sweeps(out, []))
        found: list[_Outcome | DamagedError] = []
        for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
            found += store.benchmark(benchmark, [c for c in cells if c.benchmark == benchmark], held, report)
        for study in studies:
            for benchmark in dict.fromkeys(cell.benchmark for cell in study.cells):
                own = [cell for cell in study.cells if cell.benchmark == benchmark]
                parent = study.parent(benchmark, out, own=store.own)
                found += store.benchmark(benchmark, own, held, study.report, parent)
    for outcome in found:
        if isinstance(outcome, DamagedError):
            raise outcome
    outcomes = [outcome for outcome in found if isinstance(outcome, _Outcome)]
    kinds = Counter(outcome.kind for outcome in outcomes)
    runs = {outcome.cell: outcome.run for outcome in reversed(outcomes)}
    return Exported(address, kinds["created"], kinds["updated"], kinds["unchanged"], runs)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of imports from `out`; yields a check that raises TakenError once another process holds it."""
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

    own: whether the store is the file in the output folder. files: the folder for files of new experiments, None where
    a server has its own. check: raises where the import must stop. part: see `export`.
    """

    client: MlflowClient
    out: Path
    own: bool
    files: Path | None
    check: Callable[[], None]
    part: bool

    def benchmark(
        self,
        name: str,
        cells: Sequence[Cell],
        held: Mapping[str, Sequence[Task]],
        report: Sequence[Path],
        study: Parent | None = None,
    ) -> list[_Outcome | DamagedError]:
        """Import the cells of one benchmark; damaged ones are errors in the result.

        held: folder of a cell -> tasks. study: the parent of them all, None for those of the sweeps.
        """
        experiment = self._experiment(name)
        sweeps = {
            cell.id: [task.sweep for task in held.get(cell.run.path.relative_to(self.out).as_posix(), ())]
            for cell in cells
        }
        here = study or local(name, self.out, own=self.own)
        # The sweep that a cell was first submitted in: a cell that is retried stays where it was.
        parent_of = {cell: submitted(own[0]) if own and not study else here for cell, own in sweeps.items()}
        used = {parent.key: parent for parent in parent_of.values()}
        groups = {key: [cell for cell in cells if parent_of[cell.id].key == key] for key in used}
        starts = {key: min(filter(None, map(begun, own)), default=None) for key, own in groups.items()}
        parents = self._parents(experiment, parent_of.values(), here, starts)
        known = {
            run.data.tags["bench.cell"]: run
            for parent in parents.values()
            for run in search(self.client, experiment, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
            if "bench.cell" in run.data.tags
        }

        def one(cell: Cell) -> _Outcome | DamagedError:
            self.check()
            parent = parents[parent_of[cell.id].key].info.run_id
            try:
                described = content(cell, [sweep.sweep for sweep in sweeps[cell.id]], parent)
            except DamagedError as error:
                return error
            return self._cell(experiment, cell, described, known.get(cell.id))

        outcomes = list(self._each(one, cells))
        for key, parent in used.items():
            self._finish_parent(parents[key], parent, _children(parents[key], known, groups[key]))
            if not self.part and not any(isinstance(outcome, DamagedError) for outcome in outcomes):
                means = headline_points(groups[key], *parent.headline(groups[key]))
                log_points(self.client, parents[key], means)
        self._keep_report(parents[max(used, key=lambda key: used[key].begun or 0)], report)
        return outcomes

    def _parents(
        self, experiment: str, wanted: Iterable[Parent], here: Parent, starts: Mapping[str, int | None]
    ) -> dict[str, Run]:
        """key -> run of the parents `wanted`, made where there is none, and of `here`, where there is one.

        starts: key -> when the first cell of a parent began, in ms since 1970. A new parent begins no later.
        """
        used = {parent.key: parent for parent in wanted}
        found = {
            run.data.tags["bench.sweep"]: run
            for run in search(self.client, experiment, "tags.`bench.sweep` LIKE '%'")
            if run.data.tags["bench.sweep"] in {*used, here.key}
        }
        return found | {
            key: self.client.create_run(
                experiment,
                start_time=min(filter(None, (parent.begun, starts.get(key))), default=None),
                tags={"bench.sweep": key},
                run_name=parent.name,
            )
            for key, parent in used.items()
            if key not in found
        }

    def _each(
        self, one: Callable[[Cell], _Outcome | DamagedError], cells: Sequence[Cell]
    ) -> Iterator[_Outcome | DamagedError]:
        """`one` of every cell, in order; of several at once for a server, most of whose time is waiting."""
        if self.files is not None:
            yield from map(one, cells)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                yield from pool.map(one, cells)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # cells that were begun are completed
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

    def _cell(self, experiment: str, cell: Cell, described: Content, run: Run | None) -> _Outcome:
        digest = fingerprint(cell, described)
        if run is not None and run.data.tags.get(FINGERPRINT) == digest:
            return _Outcome(cell.id, "unchanged", run.info.run_id)
        kind = "created" if run is None else "updated"
        logged = {} if run is None else logged_points(self.client, run)
        run = run or create_run(self.client, experiment, described)
        if self._in_place(run):
            with tempfile.TemporaryDirectory() as folder:
                write_files(cell, Path(folder))
                self.client.log_artifacts(run.info.run_id, folder)
        update_run(self.client, run, described, logged, digest)
        return _Outcome(cell.id, kind, run.info.run_id)

    def _keep_report(self, run: Run, report: Sequence[Path]) -> None:
        """The report as it was when this sweep was the newest."""
        digest = hashlib.sha256()
        for path in report:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(self.out).as_posix()} {found}\n".encode())
        if not report or run.data.tags.get("bench.report") == digest.hexdigest() or not self._in_place(run):
            return
        for path in report:
            below = path.parent.relative_to(self.out).as_posix()
            self.client.log_artifact(run.info.run_id, str(path), "report" if below == "." else f"report/{below}")
        self.client.set_tag(run.info.run_id, "bench.report", digest.hexdigest())

    def _in_place(self, run: Run) -> bool:
        """False where the folder was moved with its database, which knows only the old path."""
        if not self.own or (run.info.artifact_uri or "").startswith(self.out.resolve().as_uri() + "/"):
            return True
        log.warning("mlflow.db was made in another folder: no files are added to it; remove it to import again")
        return False

    def _finish_parent(self, run: Run, parent: Parent, children: Sequence[tuple[str, int | None]]) -> None:
        """A parent has ended when all its children have. children: state and end (ms since 1970) of each."""
        set_tags(self.client, run, {**parent.tags, "bench.cells": str(len(children))})
        over = all(state != RUNNING for state, _ in children)
        over = over and not (self.part and run.info.status == RUNNING)
        state = "FINISHED" if over else RUNNING
        ends = [end for _, end in children if end is not None]
        end = max([run.info.start_time, *ends]) if over and ends else None
        if run.info.status != state or (end is not None and end != run.info.end_time):
            set_state(self.client, run, state, end)


def _children(parent: Run, known: Mapping[str, Run], cells: Sequence[Cell]) -> list[tuple[str, int | None]]:
    """State and end of each run below a parent: of `cells`, and of those that an earlier import has left there."""
    before = {
        cell: (run.info.status, run.info.end_time)
        for cell, run in known.items()
        if run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    }
    return list({**before, **{cell.id: (RUN_STATES.get(cell.state, RUNNING), ended(cell)) for cell in cells}}.values())
