"""Imports cells into MLflow: one experiment a benchmark, a parent run for the sweep, a child run per cell.

Files are the truth and MLflow is a view: the import can be repeated at any time and adds only what is missing.
It runs in one process, after the fact; workers never talk to MLflow (several of them opening a fresh store race).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..benchmarks.records import CONFIG, RECORDS, RUN, STATUS, TRAIN_LOG
from .cells import Cell, naming
from .tables import seed_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Sections that may change without making another cell. MLflow's parameters cannot be changed, tags can.
CHANGEABLE = ("cell", "sample", "eval", "run")
RUN_STATES = {"done": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
LONGEST_VALUE = 5000  # below the limit of every MLflow store
BATCH = 100  # parameters or tags in one request; metrics may be ten times as many

Item = TypeVar("Item")


@dataclass(frozen=True)
class Exported:
    """Where the import went, and how many cells were new, changed or left alone."""

    uri: str
    created: int
    updated: int
    unchanged: int


def default_uri(out: Path) -> str:
    """An sqlite file in the output folder (MLflow no longer accepts a plain folder)."""
    return f"sqlite:///{(out.resolve() / 'mlflow.db').as_posix()}"


def export(out: Path, cells: Sequence[Cell], uri: str | None = None) -> Exported:
    """Bring the MLflow store at `uri` (default: `default_uri(out)`) up to date with `cells`.

    A cell whose files have not changed since its last import is skipped by a fingerprint. Raises ValueError, naming
    the file, for a damaged training log; errors of the store are MLflow's own.
    """
    client = _client(uri or default_uri(out))
    counts = {"created": 0, "updated": 0, "unchanged": 0}
    # In its own database a sweep is found again wherever the folder was moved; on a server its path tells it apart.
    key = "." if uri is None else str(out.resolve())
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        own = [cell for cell in cells if cell.benchmark == benchmark]
        experiment = _experiment(client, benchmark, out if uri is None else None)
        parent = _parent(client, experiment, key, benchmark)
        known = {
            run.data.tags["bench.cell"]: run
            for run in _search(client, experiment, f"tags.mlflow.parentRunId = '{parent}'")
        }
        for cell in own:
            counts[_export_cell(client, experiment, parent, cell, known.get(cell.id))] += 1
    return Exported(uri or default_uri(out), **counts)


def _client(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, name: str, out: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if out is None else (out.resolve() / "mlartifacts" / name).as_uri()
        return client.create_experiment(name, artifact_location=location)
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _parent(client: MlflowClient, experiment: str, key: str, benchmark: str) -> str:
    sweep = hashlib.sha256(key.encode()).hexdigest()[:16]
    for run in _search(client, experiment, f"tags.`bench.sweep` = '{sweep}'"):
        return run.info.run_id
    tags = {"bench.sweep": sweep, "bench.out": key}
    run = client.create_run(experiment, tags=tags, run_name=f"sweep {benchmark}")
    client.set_terminated(run.info.run_id)
    return run.info.run_id


def _search(client: MlflowClient, experiment: str, condition: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _export_cell(client: MlflowClient, experiment: str, parent: str, cell: Cell, run: Run | None) -> str:
    """Import one cell; returns which counter it belongs to."""
    from mlflow.entities import Metric, Param, RunTag

    fingerprint = _fingerprint(cell)
    if run is not None and run.data.tags.get("bench.fingerprint") == fingerprint:
        return "unchanged"
    tags = {"bench.cell": cell.id, "mlflow.parentRunId": parent}
    if run is None:
        name = f"{cell.method} s{cell.seed}"
        run = client.create_run(experiment, start_time=_start(cell), tags=tags, run_name=name)
        outcome, logged = "created", set()
    else:
        outcome = "updated"
        logged = {
            (key, metric.step, repr(metric.value))
            for key in run.data.metrics
            for metric in client.get_metric_history(run.info.run_id, key)
        }
    identity = run.info.run_id
    now = int(time.time() * 1000)
    metrics = (
        Metric(key, value, now, step)
        for key, step, value in itertools.chain(_losses(cell), _values(cell))
        if (key, step, repr(value)) not in logged
    )
    params = (
        Param(key, value[:LONGEST_VALUE])
        for key, value in flattened(cell.files.config)
        if not key.startswith(tuple(f"{section}." for section in CHANGEABLE)) and key not in run.data.params
    )
    for batch in _batches(params, BATCH):
        client.log_batch(identity, params=batch)
    for batch in _batches(metrics, 10 * BATCH):
        client.log_batch(identity, metrics=batch)
    status = RUN_STATES.get(cell.state, "RUNNING")
    if status == "RUNNING":
        client.update_run(identity, status=status)
    else:
        client.set_terminated(identity, status, end_time=_end(cell))
    # The fingerprint goes last: an import that is cut off is taken up again.
    for batch in _batches((RunTag(key, value) for key, value in _tags(cell).items()), BATCH):
        client.log_batch(identity, tags=batch)
    client.set_tag(identity, "bench.fingerprint", fingerprint)
    return outcome


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("train.batch", "256") for each leaf of a nested configuration; lists are leaves, written as JSON."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _tags(cell: Cell) -> dict[str, str]:
    git = (cell.attempts[-1].get("git") if cell.attempts else None) or {}
    identity = {
        "method": cell.method,
        "version": cell.version,
        "variant": cell.variant,
        "seed": cell.seed,
        "group": cell.group,
        "state": cell.state,
        "git.commit": git.get("commit"),
        "git.dirty": git.get("dirty"),
    }
    changeable = {key: cell.files.config.get(key) for key in CHANGEABLE if key != "cell"}
    leaves = flattened({key: value for key, value in changeable.items() if value})
    return {f"bench.{key}": str(value) for key, value in identity.items() if value is not None} | {
        key: value[:LONGEST_VALUE] for key, value in leaves
    }


def _values(cell: Cell) -> Iterator[tuple[str, int, float]]:
    for _, metric, nfe, images, value in seed_values([cell]):
        yield re.sub(r"[^\w\-. /:]", "_", f"{metric}_nfe{nfe}"), images, value


def _losses(cell: Cell) -> Iterator[tuple[str, int, float]]:
    with naming(cell.files.path / TRAIN_LOG):
        # A resumed run may log a stretch twice; the later line is the one that counts.
        losses = {int(row["images"]): row["loss"] for row in cell.files.train_log}
        yield from (("train_loss", images, float(loss)) for images, loss in losses.items() if loss is not None)


def _fingerprint(cell: Cell) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, STATUS, RUN, RECORDS, TRAIN_LOG):
        path = cell.files.path / name
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


def _start(cell: Cell) -> int | None:
    return _milliseconds(cell.attempts[0].get("started")) if cell.attempts else None


def _end(cell: Cell) -> int | None:
    return _milliseconds(cell.attempts[-1].get("ended")) if cell.attempts else None


def _milliseconds(moment: str | None) -> int | None:
    return None if moment is None else int(datetime.fromisoformat(moment).timestamp() * 1000)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
