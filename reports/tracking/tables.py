"""Many new runs at once, written into the tables of an MLflow sqlite file.

MLflow's client takes some 40 ms a run, nearly all of it in Python and in a dozen transactions, so a first report of a
thousand cells would spend most of a minute in it. These lines do the same in a twentieth of that, in one transaction
for many runs. They know the tables of the revisions in `REVISIONS` alone; for a file of any other one the client is
there. A test imports the same cells both ways and compares every row.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Of MLflow's tables, as `alembic_version` tells them: those of MLflow 3.17.
REVISIONS = frozenset({"dc11669786a5"})
PATIENCE = 20.0  # seconds to wait for others that write to the file, as long as MLflow does


@dataclass(frozen=True)
class NewRun:
    """A run that MLflow does not have yet.

    status: one of MLflow's. begun, ended: ms since 1970, None where unknown (MLflow then takes the present moment;
    a run with status RUNNING has no end). points: (metric, step, value), all logged at `begun`, or at 0.
    """

    name: str
    status: str
    begun: int | None
    ended: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[tuple[str, int, float]]


def is_known(database: Path) -> bool:
    """Whether `database` is an MLflow store whose tables are those that `add_runs` fills."""
    try:
        with _opened(database) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:  # whatever it is, MLflow will say it
        return False
    return len(found) == 1 and found[0][0] in REVISIONS


def add_runs(database: Path, experiment: str, new: Sequence[NewRun]) -> list[str]:
    """Add runs to an experiment, all of them or none; returns their ids.

    Raises sqlite3.Error, for an experiment that is gone, too.
    """
    ids = [uuid.uuid4().hex for _ in new]
    now = time.time_ns() // 1_000_000
    with _opened(database) as connection, connection:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
        found = connection.execute(query, (int(experiment),)).fetchone()
        if found is None:
            raise sqlite3.IntegrityError(f"experiment {experiment} is gone")
        for identity, run in zip(ids, new, strict=True):
            connection.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
                " start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
                " VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', ?, ?, ?, '', 'active', ?, ?)",
                (
                    identity,
                    run.name,
                    run.status,
                    run.begun or now,
                    None if run.status == "RUNNING" else run.ended or now,
                    f"{found[0].rstrip('/')}/{identity}/artifacts",
                    int(experiment),
                ),
            )
            tags = {"mlflow.runName": run.name, **run.tags}
            _insert(connection, "params (run_uuid, key, value)", ((identity, *item) for item in run.params.items()))
            _insert(connection, "tags (run_uuid, key, value)", ((identity, *item) for item in tags.items()))
            columns = "(run_uuid, key, step, timestamp, value, is_nan)"
            logged = [(identity, *point) for point in _logged(run)]
            _insert(connection, f"metrics {columns}", logged)
            # The one that MLflow shows: of the largest step, there of the largest value, of equal ones the first.
            latest: dict[str, tuple[str, str, int, int, float, bool]] = {}
            for row in sorted(logged, key=lambda row: row[2:5], reverse=True):
                latest.setdefault(row[1], row)
            _insert(connection, f"latest_metrics {columns}", latest.values())
    return ids


def set_tags(database: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Set tags of runs: (run, key, value), where no run has that key yet. All or none. Raises sqlite3.Error."""
    with _opened(database) as connection, connection:
        _insert(connection, "tags (run_uuid, key, value)", rows)


@contextlib.contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Opens `database`, which is there."""
    with contextlib.closing(
        sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)
    ) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def _insert(connection: sqlite3.Connection, into: str, rows: Iterable[Sequence[object]]) -> None:
    """`into` is a table with its columns: no text of a file."""
    marks = ", ".join("?" * (into.count(",") + 1))
    connection.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)


def stored(value: float) -> float:
    """What comes back from MLflow's file for `value`, which SQL may have no number for; NaN is kept apart."""
    return value if math.isnan(value) else min(max(value, -sys.float_info.max), sys.float_info.max) + 0.0


def _logged(run: NewRun) -> list[tuple[str, int, int, float, bool]]:
    """(key, step, timestamp, value, is_nan) of each point, once."""
    rows = {}
    for key, step, value in run.points:
        missing = math.isnan(value)
        rows[key, step, run.begun or 0, 0.0 if missing else stored(value), missing] = None
    return list(rows)
