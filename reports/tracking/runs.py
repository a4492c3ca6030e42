"""Writing one run: only what is missing or has changed, the fingerprint last."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .cells import CHANGEABLE, Content, Point
from .store import BATCH, METRICS, batches

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run, RunTag

FINGERPRINT, MEANS = "bench.fingerprint", "bench.means"
#: Tags with these prefixes are ours; all others belong to somebody else and are left alone.
OURS = ("bench.", *(f"{section}." for section in CHANGEABLE))

#: (key, step) -> (time, value)
Logged = Mapping[tuple[str, int], tuple[int, float]]


def create_run(client: MlflowClient, experiment: str, content: Content) -> Run:
    """A run with nothing but what it is found by."""
    first = {key: content.tags[key] for key in ("bench.cell", "mlflow.parentRunId")}
    return client.create_run(experiment, start_time=content.begun, tags=first, run_name=content.name)


def logged_points(client: MlflowClient, run: Run) -> Logged:
    """What a run shows at each step."""
    found: dict[tuple[str, int], tuple[int, float]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            place = key, metric.step
            if place not in found or found[place][0] <= metric.timestamp:
                found[place] = metric.timestamp, metric.value
    return found


def update_run(client: MlflowClient, run: Run, content: Content, logged: Logged, fingerprint: str) -> None:
    """Bring `run`, which has the points `logged`, up to date with `content`."""
    from mlflow.entities import Param

    set_state(client, run, content.status, content.ended)
    identity = run.info.run_id
    if run.info.run_name != content.name:
        client.update_run(identity, name=content.name)
    for key in run.data.tags:
        if key.startswith(OURS) and key not in content.tags and key != FINGERPRINT:
            client.delete_tag(identity, key)
    params = [Param(key, value) for key, value in content.params.items() if key not in run.data.params]
    metrics = list(_missing(content.points, content.begun or 0, logged))
    tags = _changed(run, {**content.tags, FINGERPRINT: fingerprint})
    # One request where it fits; a store writes tags last, and the fingerprint is the last tag.
    if len(params) <= BATCH and len(tags) <= BATCH and len(params) + len(tags) + len(metrics) <= METRICS:
        client.log_batch(identity, metrics=metrics, params=params, tags=tags)
        return
    for batch in batches(params, BATCH):
        client.log_batch(identity, params=batch)
    for batch in batches(metrics, METRICS):
        client.log_batch(identity, metrics=batch)
    for batch in batches(tags, BATCH):
        client.log_batch(identity, tags=batch)


def set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Set those of `tags` that the run does not have yet."""
    if fresh := _changed(run, tags):
        client.log_batch(run.info.run_id, tags=fresh)


def set_state(client: MlflowClient, run: Run, state: str, ended: int | None) -> None:
    """`state` is one of MLflow's run states. ended: in ms since 1970, None for now."""
    if state != "RUNNING":
        client.set_terminated(run.info.run_id, state, end_time=ended)
    elif run.info.status != state:
        client.update_run(run.info.run_id, status=state)


def _changed(run: Run, tags: Mapping[str, str]) -> list[RunTag]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]


def log_points(client: MlflowClient, run: Run, points: Sequence[Point]) -> None:
    """Log those of `points` that the run does not show yet; a tag, written last, says which ones it shows."""
    digest = hashlib.sha256(repr(points).encode()).hexdigest()
    if not points or run.data.tags.get(MEANS) == digest:
        return
    for batch in batches(_missing(points, run.info.start_time or 0, logged_points(client, run)), METRICS):
        client.log_batch(run.info.run_id, metrics=batch)
    client.set_tag(run.info.run_id, MEANS, digest)


def _missing(points: Sequence[Point], begun: int, logged: Logged) -> Iterator[Metric]:
    """What is to be logged. MLflow deletes no point: a changed value is logged after the previous one.

    A point's time follows from the files, so that a point that is logged twice is one point.
    """
    from mlflow.entities import Metric

    for key, step, value in points:
        time_before, value_before = logged.get((key, step), (None, math.nan))
        if time_before is None:
            yield Metric(key, value, begun, step)
        elif repr(_stored(value_before)) != repr(_stored(value)):  # as text: NaN equals itself there
            yield Metric(key, value, time_before + 1, step)


def _stored(value: float) -> float:
    """What a database returns for a value: SQL has no infinity and no negative zero."""
    return value if math.isnan(value) else min(max(value, -sys.float_info.max), sys.float_info.max) + 0.0
