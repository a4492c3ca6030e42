"""The MLflow import, looked at in its own sqlite file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sqlite3
import time
from datetime import UTC, datetime

import pytest

from consistency_bench.benchmarks.cli.report import naming_mlflow
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.tracking import tables as mlflow_tables
from consistency_bench.reports.tracking.cells import flattened
from consistency_bench.reports.tracking.importer import FINGERPRINT, export
from consistency_bench.reports.tracking.store import default_uri
from consistency_bench.reports.tracking.tables import NewRun, is_known


def rows(out, query):
    with sqlite3.connect(out / "mlflow.db") as connection:
        return connection.execute(query).fetchall()


def counts(out):
    return tuple(
        rows(out, f"select count(*) from {table}")[0][0] for table in ("experiments", "runs", "metrics", "params")
    )


def test_import_is_idempotent_and_takes_up_changes(sweep):
    sweep.default()
    first = export(sweep.out, read_cells(sweep.out))
    assert (first.created, first.updated, first.unchanged) == (12, 0, 0)
    before = counts(sweep.out)
    assert before[1] == 13  # the sweep and its cells
    again = export(sweep.out, read_cells(sweep.out))
    assert (again.created, again.updated, again.unchanged) == (0, 0, 12)
    assert counts(sweep.out) == before

    # The running cell finishes: snapshots 4 to 8 of three metrics at two NFEs, and five losses, are new.
    sweep.cell("sct", 1)
    changed = export(sweep.out, read_cells(sweep.out))
    assert (changed.created, changed.updated, changed.unchanged) == (0, 1, 11)
    after = counts(sweep.out)
    assert after[1] == before[1]
    assert after[2] == before[2] + 5 * (3 * 2 + 1)
    assert after[3] == before[3]
    states = rows(sweep.out, "select value, count(*) from tags where key = 'bench.state' group by value")
    assert dict(states) == {"done": 11, "diverged": 1}


def content(out):
    """Every row of the tables of runs, with the cell's id in place of the run's and without times of the import."""
    names = dict(rows(out, "select run_uuid, value from tags where key in ('bench.cell', 'bench.sweep')"))
    now = time.time() * 1000
    found = {"latest_metrics": [], "metrics": [], "params": [], "runs": [], "tags": []}
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        connection.row_factory = sqlite3.Row
        for table in found:
            for row in map(dict, connection.execute(f"select * from {table}")):
                for key, value in row.items():
                    if isinstance(value, str):
                        for identity, name in names.items():
                            value = value.replace(identity, name)
                        row[key] = value.replace(out.as_uri(), "")
                    elif key in ("start_time", "end_time") and value and abs(now - value) < 1e6:
                        row[key] = "of the import"
                if row.get("key") != FINGERPRINT:  # of an id that is made up, too: that of the run above
                    found[table].append(row)
            found[table].sort(key=lambda row: str(sorted(row.items())))
    return found


def note_calls(monkeypatch, name):
    """The number of runs of each call of a function of `mlflow_tables`, which is called all the same."""
    calls, function = [], getattr(mlflow_tables, name)
    monkeypatch.setattr(mlflow_tables, name, lambda *given: (calls.append(len(given[-1])), function(*given))[1])
    return calls


def strange(sweep):
    """A cell with much that MLflow writes in another way than it is given."""
    settings = {"method.note": "x" * 7000, "eval.odd key!": "ä"}
    folder = sweep.cell("ict", 9, settings=settings, error="half a pair: \ud800")
    points = ((1, 1e308), (2, math.inf), (2, 0.5), (3, -0.0), (4, -math.inf), (5, math.nan), (6, 1))
    log = [{"images": images, "step": 1, "loss": loss} for images, loss in points]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def test_runs_put_into_the_tables_are_those_that_the_client_would_make(sweep, monkeypatch):
    sweep.default()
    sweep.cell("vct", 7, state="failed", error="out of memory: 'é' \n and more")
    sweep.cell("ect", 8, state="interrupted")
    (sweep.cell("ect", 9) / "run.json").unlink()  # nobody knows when it ran
    strange(sweep)
    at_once, singly = sweep.out, sweep.out.with_name("singly")
    shutil.copytree(at_once, singly)
    assert not is_known(at_once / "mlflow.db")
    calls = note_calls(monkeypatch, "add_runs")
    assert export(at_once, read_cells(at_once)).created == 16
    assert is_known(at_once / "mlflow.db"), "a new revision of MLflow's tables: see reports/mlflow_tables.py"
    assert calls == [16]
    monkeypatch.setattr(mlflow_tables, "REVISIONS", frozenset())
    assert export(singly, read_cells(singly)).created == 16
    assert calls == [16]
    found = content(at_once)
    assert found == content(singly)
    times = {(row["start_time"], row["end_time"]) for row in found["runs"]}
    began = 1000 * datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
    unknown = "of the import"
    assert times == {(began, began + 60_000), (began, None), (unknown, unknown), (unknown, None)}
    sampled = {path.parent for path in at_once.rglob("*.npz")}
    assert [len(list(out.rglob("samples.png"))) for out in (at_once, singly)] == [len(sampled)] * 2
    monkeypatch.undo()
    assert export(at_once, read_cells(at_once)).unchanged == 16  # and the client reads them


def test_an_import_killed_between_runs_and_fingerprints_is_completed(sweep, monkeypatch):
    sweep.default()
    strange(sweep)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_tables, "set_tags", killed)
    with pytest.raises(KeyboardInterrupt):
        export(sweep.out, read_cells(sweep.out))
    before = counts(sweep.out)
    monkeypatch.undo()
    again = export(sweep.out, read_cells(sweep.out))
    assert (again.created, again.updated) == (0, 13)
    assert counts(sweep.out) == before  # none of the strange numbers is another one
    assert export(sweep.out, read_cells(sweep.out)).unchanged == 13


def test_a_cell_that_went_on_while_its_report_was_made_is_imported_by_the_next(sweep):
    sweep.cell("ect", 0, state="running")
    read_before = read_cells(sweep.out)
    assert len(read_before[0].files.records) < 30  # read now
    sweep.cell("ect", 0)
    assert export(sweep.out, read_before).created == 1
    assert export(sweep.out, read_cells(sweep.out)).updated == 1
    assert rows(sweep.out, "select value from tags where key = 'bench.state'") == [("done",)]


def test_runs_are_added_all_or_none(sweep):
    sweep.default()
    export(sweep.out, read_cells(sweep.out))
    before = content(sweep.out)
    good = NewRun("a", "FINISHED", 1, 2, {"a": "b"}, {"c": "d"}, [("loss", 1, 0.5)])
    bad = dataclasses.replace(good, status="no such state")
    database = sweep.out / "mlflow.db"
    with pytest.raises(sqlite3.IntegrityError):
        mlflow_tables.add_runs(database, "1", [good, bad])
    with pytest.raises(sqlite3.IntegrityError, match="experiment 99 is gone"):
        mlflow_tables.add_runs(database, "99", [good])
    with pytest.raises(sqlite3.IntegrityError):
        mlflow_tables.set_tags(database, [("no such run", "a", "b")])
    assert content(sweep.out) == before


def test_a_store_that_is_locked_is_named_in_one_sentence(sweep, monkeypatch):
    sweep.cell("ect", 0)
    export(sweep.out, read_cells(sweep.out))
    sweep.cell("ect", 1)
    monkeypatch.setattr(mlflow_tables, "PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(sweep.out / "mlflow.db")) as other:
        other.execute("begin immediate")
        with pytest.raises(UsageError, match="MLflow at its file: database is locked"), naming_mlflow(None):
            export(sweep.out, read_cells(sweep.out))
        other.rollback()
        other.execute("begin exclusive")
        assert not is_known(sweep.out / "mlflow.db")
    assert export(sweep.out, read_cells(sweep.out)).created == 1


def test_what_is_no_store_is_left_to_mlflow(tmp_path):
    (tmp_path / "other.db").write_text("no database")
    assert not is_known(tmp_path / "other.db")
    assert not is_known(tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_what_a_run_holds(sweep):
    folder = sweep.cell("vct", 0, variant="method.coupling.kl_weight=3")
    export(sweep.out, read_cells(sweep.out))
    params = dict(rows(sweep.out, "select key, value from params"))
    assert params["train.batch"] == "256"
    assert params["method.coupling.kl_weight"] == "3.0"
    assert params["network.width"] == "[128, 128]"
    assert "eval.samples" not in params  # may change without another cell: a tag
    tags = dict(rows(sweep.out, "select t.key, t.value from tags t join params p using (run_uuid)"))
    assert tags["eval.samples"] == "2048"
    assert tags["bench.cell"] == folder.name.split("-")[1]
    assert tags["bench.method"] == "vct"
    assert tags["bench.variant"] == "method.coupling.kl_weight=3"
    assert tags["bench.git.commit"] == "abc123"
    assert tags["bench.git.dirty"] == "False"
    points = rows(sweep.out, "select step, value from metrics where key = 'fd_digits_2k_nfe1' order by step")
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert points == [
        (row["images"], row["value"]) for row in records if (row["metric"], row["nfe"]) == ("fd_digits_2k", 1)
    ]
    assert rows(sweep.out, "select count(*) from metrics where key = 'train_loss'") == [(8,)]
    location = rows(sweep.out, "select artifact_location from experiments where name = 'digits'")[0][0]
    assert location == (sweep.out / "mlartifacts" / "digits").as_uri()


def test_divergence_is_imported_as_such(sweep):
    sweep.cell("ict", 0, state="diverged", error="not finite")
    for _ in range(2):
        export(sweep.out, read_cells(sweep.out))
        # NaN does not equal itself, yet it is logged once.
        assert rows(sweep.out, "select count(*) from metrics where is_nan") == [(6,)]
    assert rows(sweep.out, "select count(*) from runs where status = 'FAILED'") == [(1,)]


def test_changed_files_without_new_points_add_none(sweep):
    folder = sweep.cell("ict", 0, state="diverged")
    export(sweep.out, read_cells(sweep.out))
    before = counts(sweep.out)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"error": "another"}))
    assert export(sweep.out, read_cells(sweep.out)).updated == 1
    assert counts(sweep.out) == before
    (folder / "status.json").write_text(json.dumps(status | {"error": "another", "updated": 1}))
    assert export(sweep.out, read_cells(sweep.out)).unchanged == 1  # nothing of it is in MLflow


def test_a_moved_folder_keeps_its_runs(sweep):
    sweep.cell("ect", 0)
    export(sweep.out, read_cells(sweep.out))
    moved = sweep.out.rename(sweep.out.with_name("elsewhere"))
    assert export(moved, read_cells(moved)).unchanged == 1
    type(sweep)(moved).cell("ect", 1)
    found = export(moved, read_cells(moved))
    assert (found.created, found.unchanged) == (1, 1)
    assert len(list(moved.rglob("samples.png"))) == 1  # MLflow would look for it in the old place
    assert not sweep.out.exists()


def test_two_sweeps_share_a_store(sweep, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sweep.cell("ect", 0)
    export(sweep.out, read_cells(sweep.out), uri)
    other = type(sweep)(tmp_path / "other")
    other.cell("ect", 0)
    assert export(other.out, read_cells(other.out), uri).created == 1
    assert counts(tmp_path)[1] == 4
    kept = {path.parent for path in tmp_path.rglob("samples.png")}
    assert len(kept) == 2
    assert all(path.is_relative_to(tmp_path / "mlartifacts" / "digits") for path in kept)


def test_benchmarks_are_experiments(sweep):
    sweep.cell("ect", 0)
    sweep.cell("ect", 0, benchmark="toy2d", metrics=("w2_toy2d",), shape=(64, 2))
    export(sweep.out, read_cells(sweep.out))
    assert {name for (name,) in rows(sweep.out, "select name from experiments")} >= {"digits", "toy2d"}


def test_a_deleted_experiment_is_brought_back(sweep):
    from mlflow import MlflowClient

    sweep.cell("ect", 0)
    export(sweep.out, read_cells(sweep.out))
    client = MlflowClient(tracking_uri=default_uri(sweep.out))
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    export(sweep.out, read_cells(sweep.out))
    assert client.get_experiment_by_name("digits").lifecycle_stage == "active"


def test_a_damaged_training_log_is_named(sweep):
    folder = sweep.cell("ect", 0)
    (folder / "train.jsonl").write_text('{"images": "x"}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl"):
        export(sweep.out, read_cells(sweep.out))
    (folder / "train.jsonl").write_text('{"images": 1e30, "loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl: images is 10+\d+, must be from 0 to 9007199254740992"):
        export(sweep.out, read_cells(sweep.out))


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_a_damaged_cell_keeps_no_other_out(sweep, known):
    sweep.cell("ect", 1, state="running")
    sweep.cell("ect", 3, state="running")
    if known:
        sweep.cell("ect", 2, state="running")
    export(sweep.out, read_cells(sweep.out))
    for seed in range(5):
        sweep.cell("ect", seed)
    (damaged,) = sweep.out.rglob("s2-*/train.jsonl")
    damaged.write_text("[]\n")
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"s2-.*train\.jsonl"):
            export(sweep.out, read_cells(sweep.out))
        states = rows(sweep.out, "select value from tags where key = 'bench.state' order by value")
        assert states == [("done",)] * 4 + [("running",)] * known


def test_flattened_leaves():
    config = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}, "g": "text"}
    assert dict(flattened(config)) == {"a.b": "1", "a.c.d": "[1, 2]", "e": "null", "f": "{}", "g": "text"}


def test_the_report_imports_quietly(sweep, capfd):
    sweep.cell("ect", 0)
    paths = build_report(sweep.out)
    assert paths.mlflow == default_uri(sweep.out)
    assert report_is_current(sweep.out)
    assert not report_is_current(sweep.out, mlflow_uri="sqlite:///elsewhere.db")
    assert report_is_current(sweep.out, mlflow=False)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    (sweep.out / "mlflow.db").unlink()
    assert not report_is_current(sweep.out)
