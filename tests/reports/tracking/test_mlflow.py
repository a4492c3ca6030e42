"""The MLflow import, looked at in its own sqlite file."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime

import pytest
from mlflow.exceptions import MlflowException

from consistency_bench.benchmarks.cli import live
from consistency_bench.benchmarks.cli.report import Tracking, show_report
from consistency_bench.benchmarks.config.study import Study
from consistency_bench.benchmarks.runs.folder import cells_in
from consistency_bench.reports.analysis.cells import flattened, read_cells, survey
from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.tracking.importer import export
from consistency_bench.reports.tracking.runs import FINGERPRINT
from consistency_bench.reports.tracking.store import default_uri, open_store
from consistency_bench.reports.tracking.sweeps import StudyCells


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

    # The running cell finishes: snapshots 4 to 8 of three metrics at two NFEs, and five losses, are new; so are, on the
    # parent, the means of its configuration over all eight snapshots.
    sweep.cell("sct", 1)
    changed = export(sweep.out, read_cells(sweep.out))
    assert (changed.created, changed.updated, changed.unchanged) == (0, 1, 11)
    after = counts(sweep.out)
    assert after[1] == before[1]
    assert after[2] == before[2] + 5 * (3 * 2 + 1) + 8
    assert after[3] == before[3]
    states = rows(sweep.out, "select value, count(*) from tags where key = 'bench.state' group by value")
    assert dict(states) == {"done": 11, "diverged": 1}


def strange(sweep):
    """A cell with much that MLflow writes in another way than it is given."""
    settings = {"network.note": "x" * 7000, "sample.odd key!": "ä"}
    folder = sweep.cell("ict", 9, state="diverged", settings=settings, error="half a pair: \ud800")  # a value is NaN
    points = ((1, 1e100), (2, -1e100), (2, 0.5), (3, -0.0), (4, 5e-324), (5, None), (6, 1))
    log = [{"images": images, "step": 1, "loss": loss} for images, loss in points]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def test_values_that_a_database_changes_are_logged_once(sweep):
    strange(sweep)
    made = export(sweep.out, read_cells(sweep.out))
    before = counts(sweep.out)
    for run in made.runs.values():  # what a killed import leaves: everything but the fingerprint
        open_store(made.uri).delete_tag(run, FINGERPRINT)
    assert export(sweep.out, read_cells(sweep.out)).updated == 1
    assert counts(sweep.out) == before
    assert export(sweep.out, read_cells(sweep.out)).unchanged == 1


def test_runs_have_the_times_and_states_of_their_cells(sweep):
    sweep.cell("vct", 0)
    sweep.cell("vct", 7, state="failed", error="out of memory: 'é' \n and more")
    sweep.cell("ect", 8, state="interrupted")
    sweep.cell("ect", 9, state="running")
    (sweep.cell("ict", 9, state="queued") / "run.json").unlink()  # no start is known
    export(sweep.out, read_cells(sweep.out))
    query = "select status, start_time, end_time from runs join tags using (run_uuid) where key = 'bench.cell'"
    began = 1000 * datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
    times = sorted((state, start, end) for state, start, end in rows(sweep.out, query) if start == began)
    ended = began + 60_000
    assert times == sorted(
        [("FINISHED", began, ended), ("FAILED", began, ended), ("KILLED", began, ended), ("RUNNING", began, None)]
    )
    assert len(rows(sweep.out, query)) == 5


def test_a_cell_that_went_on_while_its_report_was_made_is_imported_by_the_next(sweep):
    sweep.cell("ect", 0, state="running")
    read_before = read_cells(sweep.out)
    assert len(read_before[0].run.records) < 30  # read now
    sweep.cell("ect", 0)
    assert export(sweep.out, read_before).created == 1
    assert export(sweep.out, read_cells(sweep.out)).updated == 1
    assert rows(sweep.out, "select value from tags where key = 'bench.state'") == [("done",)]


def test_what_a_run_holds(sweep):
    folder = sweep.cell("vct", 0, variant="method.coupling.kl_weight=3")
    export(sweep.out, read_cells(sweep.out))
    params = dict(rows(sweep.out, "select key, value from params"))
    assert params["train.batch"] == "256"
    assert params["method.coupling.kl_weight"] == "3.0"
    assert params["network.width"] == "[128, 128]"
    assert "eval.nfe" not in params  # may change without another cell: a tag
    tags = dict(rows(sweep.out, "select t.key, t.value from tags t join params p using (run_uuid)"))
    assert tags["eval.nfe"] == "[1, 2]"
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
@pytest.mark.parametrize(("file", "done"), [("records.jsonl", 4), ("train.jsonl", 5)])
def test_a_damaged_cell_keeps_no_other_out(sweep, known, file, done):
    sweep.cell("ect", 1, state="running")
    sweep.cell("ect", 3, state="running")
    if known:
        sweep.cell("ect", 2, state="running")
    export(sweep.out, read_cells(sweep.out))
    for seed in range(5):
        sweep.cell("ect", seed)
    (damaged,) = sweep.out.rglob(f"s2-*/{file}")
    damaged.write_text("[]\n")
    for _ in range(2):
        cells, damages = survey(cells_in(sweep.out))
        assert [item.file for item in damages] == [damaged]
        export(sweep.out, cells)
        states = rows(sweep.out, "select value from tags where key = 'bench.state' order by value")
        assert states == [("done",)] * done + [("running",)] * (known and done == 4)


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


def test_a_parent_spans_its_cells_and_counts_them_all(sweep):
    """Also after an import of one cell alone, as `bench register` makes it."""
    for seed in range(3):
        sweep.cell("ect", seed)
    sweep.cell("ect", 3, state="running")
    cells = read_cells(sweep.out)
    client = open_store(export(sweep.out, cells).uri)
    for imported in (cells, cells[:1]):
        made = export(sweep.out, imported)
        child = client.get_run(made.runs[cells[0].id])
        parent = client.get_run(child.data.tags["mlflow.parentRunId"])
        assert parent.data.tags["bench.cells"] == "4"
        assert parent.info.status == "RUNNING"
        assert parent.info.start_time <= child.info.start_time
    sweep.cell("ect", 3)
    export(sweep.out, read_cells(sweep.out))
    parent = client.get_run(parent.info.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time <= child.info.start_time <= child.info.end_time <= parent.info.end_time


def test_a_divergence_is_a_metric_of_its_own(sweep):
    """Pages of MLflow leave NaN out."""
    for seed, state in enumerate(("done", "diverged")):
        sweep.cell("ect", seed, state=state)
    made = export(sweep.out, read_cells(sweep.out))
    client = open_store(made.uri)
    shown = {cell.state.value: client.get_run(made.runs[cell.id]).data.metrics for cell in read_cells(sweep.out)}
    assert shown["diverged"]["diverged"] == 1
    assert "diverged" not in shown["done"]


def test_a_study_is_a_parent_and_a_cell_of_two_a_child_of_each(sweep):
    for method in ("ect", "vct"):
        sweep.cell(method, 0)
    cells = read_cells(sweep.out)
    studies = [
        StudyCells(Study(name=name, question="Which?", baseline="ect"), cells, "fd at NFE 1", {"digits": "Neither."})
        for name in ("a", "b")
    ]
    made = export(sweep.out, cells[:1], studies=studies)
    assert (made.created, made.unchanged) == (5, 0)
    again = export(sweep.out, cells[:1], studies=studies)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 5)
    assert again.runs == made.runs
    client = open_store(made.uri)
    found = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    tags = {run.info.run_name: run.data.tags for run in found if "mlflow.parentRunId" not in run.data.tags}
    assert sorted(tags) == ["study a", "study b", "sweep digits"]
    assert [tags[name]["bench.cells"] for name in sorted(tags)] == ["2", "2", "1"]
    assert tags["study a"]["bench.question"] == "Which?"
    assert (tags["study a"]["bench.baseline"], tags["study a"]["bench.headline"]) == ("ect", "fd at NFE 1")
    assert tags["study a"]["mlflow.note.content"] == "**Which?**\n\nNeither."


def test_runs_are_named_by_method_variant_and_seed(sweep):
    """Also those that an import of an earlier version has made."""
    cells = [sweep.cell("vct", 1, variant="method.coupling.kl_weight=3"), sweep.cell("ect", 0)]
    made = export(sweep.out, read_cells(sweep.out))
    client = open_store(made.uri)
    runs = {cell.name.split("-")[1]: made.runs[cell.name.split("-")[1]] for cell in cells}
    names = ["vct kl_weight=3 s1", "ect s0"]
    assert [client.get_run(run).info.run_name for run in runs.values()] == names
    for run in runs.values():
        client.update_run(run, name="another")
        client.set_tag(run, "bench.fingerprint", "of an earlier version")
    assert export(sweep.out, read_cells(sweep.out)).updated == 2
    assert [client.get_run(run).info.run_name for run in runs.values()] == names


def test_a_parent_has_the_means_of_configurations_that_have_ended(sweep):
    for seed in range(2):
        sweep.cell("ect", seed)
    sweep.cell("vct", 0, variant="method.coupling.kl_weight=3")
    sweep.cell("ict", 0)
    sweep.cell("ict", 1, state="running")
    cells = read_cells(sweep.out)
    key = "fd_digits_2k_nfe1/"
    for part in (False, True):  # `bench register` imports one cell alone: means over cells stay
        made = export(sweep.out, cells[:1] if part else cells, part=part)
        client = open_store(made.uri)
        parent = client.get_run(client.get_run(made.runs[cells[0].id]).data.tags["mlflow.parentRunId"])
        assert sorted(parent.data.metrics) == [f"{key}ect", f"{key}vct kl_weight_3"]
        history = client.get_metric_history(parent.info.run_id, f"{key}ect")
        assert len(history) == 8
        seeds = [[r["value"] for r in c.records if r["nfe"] == 1 and r["metric"] == "fd_digits_2k"] for c in cells[:2]]
        assert [point.value for point in history] == pytest.approx([(a + b) / 2 for a, b in zip(*seeds, strict=True)])
        assert [point.step for point in history][-1] == 1_024_000
    sweep.cell("ict", 1)
    export(sweep.out, read_cells(sweep.out))
    assert f"{key}ict" in client.get_run(parent.info.run_id).data.metrics


def test_a_parent_runs_while_more_cells_are_to_come(sweep):
    sweep.cell("ect", 0)
    made = export(sweep.out, read_cells(sweep.out), part=True)
    client = open_store(made.uri)
    (child,) = made.runs.values()
    parent = client.get_run(child).data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.status == "RUNNING"
    export(sweep.out, read_cells(sweep.out))
    assert client.get_run(parent).info.status == "FINISHED"


def test_cells_are_imported_while_they_train(sweep, monkeypatch, capsys):
    """The import of `bench run --mlflow-live`: of what has begun, again and again, and whatever happens to MLflow."""
    monkeypatch.setattr(live, "SECONDS", 0.01)
    folders = [sweep.cell("ect", 0, state="running"), sweep.cell("ect", 1, state="queued"), sweep.cell("ict", 0)]
    (folders[1] / "run.json").unlink()
    (folders[2] / "records.jsonl").write_text("[]\n")  # damaged: for the report to name
    with live.live_import(folders, sweep.out, None, None):
        until(lambda: imported(sweep.out) == {"running": 3})
        put_in_place(type(sweep)(sweep.out.with_name("done")).cell("ect", 0), folders[0])
        until(lambda: imported(sweep.out) == {"done": 8})
    assert capsys.readouterr() == ("", "")
    made = export(sweep.out, read_cells(folders[0]))
    assert (made.created, made.unchanged) == (0, 1)


def test_a_server_that_is_down_is_one_sentence_and_imported_into_when_it_is_back(capsys):
    is_down = iter((True, True, False, False, True))

    def call():
        if next(is_down):
            raise MlflowException("connection refused\nby http://ann:secret@host")

    repeated = live.Repeated(call, "http://ann:secret@host")
    for _ in range(5):
        repeated.once()
    down = "bench: MLflow at http://***@host: connection refused"
    lines = [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [down, "MLflow answers again", down]


def test_a_run_keeps_its_exit_status_and_outcome_without_mlflow(sweep, monkeypatch, capsys):
    def refuse(*_, **__):
        raise MlflowException("connection refused")

    sweep.cell("ect", 0)
    with monkeypatch.context() as patch:
        patch.setattr("consistency_bench.reports.tracking.importer.export", refuse)
        assert show_report(sweep.out, Tracking(uri="http://127.0.0.1:1")) == 0
    said = capsys.readouterr()
    assert said.err.startswith("bench: MLflow at http://127.0.0.1:1: connection refused; leaderboard and plots are")
    assert "digits, fd_digits_2k at NFE 1" in said.out
    assert report_is_current(sweep.out, mlflow=False)
    assert not report_is_current(sweep.out, mlflow_uri="http://127.0.0.1:1")


def put_in_place(done, folder):
    """Replace the files of a cell by those of another, each at once, as a worker does."""
    for file in sorted(path for path in done.rglob("*") if path.is_file()):
        file.rename(folder / file.relative_to(done))


def imported(out):
    """State of the imported cell -> number of points of its first metric."""
    if not (out / "mlflow.db").exists():
        return {}
    count = rows(out, "select count(*) from metrics where key = 'fd_digits_2k_nfe1'")[0][0]
    return {state: count for (state,) in rows(out, "select value from tags where key = 'bench.state'")}


def until(holds):
    """Wait for what must become true."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("it did not become true in a minute")
