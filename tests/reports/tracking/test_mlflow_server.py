"""The MLflow import into a real server, and into a file by several processes: what is there, and nothing twice."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from consistency_bench.benchmarks.cli import live
from consistency_bench.benchmarks.cli.register import register
from consistency_bench.benchmarks.cli.report import report
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.redact import without_password
from consistency_bench.benchmarks.config import plan
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.evaluation.sample import Sampler
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.training.checkpoint import load_snapshot
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.build import build_report, report_is_current
from consistency_bench.reports.tracking.importer import LOCK, export
from consistency_bench.reports.tracking.store import open_store

from ..conftest import Sweep, write_lines

pytestmark = pytest.mark.slow  # a server is started


@dataclass(frozen=True)
class Store:
    """An address to import to, None for the file in the output folder, and the database behind it."""

    uri: str | None
    database: Path
    experiment: str

    def rows(self, query: str) -> list[tuple]:
        """`query` over the runs of the test's own experiment, which it calls `own`."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            own = "with own as (select r.* from runs r join experiments e using (experiment_id) where e.name = ?) "
            return connection.execute(own + query, (self.experiment,)).fetchall()

    def counts(self) -> dict[str, int]:
        tables = ("runs", "metrics", "params", "tags")
        return {t: self.rows(f"select count(*) from {t} join own using (run_uuid)")[0][0] for t in tables}

    def tags(self, key: str) -> dict[str, int]:
        found = self.rows(f"select value, count(*) from tags join own using (run_uuid) where key = '{key}' group by 1")
        return dict(found)

    def points(self) -> int:
        """How many different points there are; as many as all, where none is there twice."""
        return self.rows(
            "select count(*) from (select distinct run_uuid, key, step from metrics join own using (run_uuid))"
        )[0][0]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and database of an `mlflow server` that serves files, too."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text())
        yield address, folder / "server.db"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, sweep: Sweep) -> Store:
    name = request.node.originalname[:60]
    if request.param == "file":
        return Store(None, sweep.out / "mlflow.db", name)
    return Store(*request.getfixturevalue("server"), name)


def fill(sweep: Sweep, store: Store, methods: tuple[str, ...] = ("ect", "vct"), seeds: int = 2) -> None:
    for method in methods:
        for seed in range(seeds):
            sweep.cell(method, seed, benchmark=store.experiment)


def submit(sweep: Sweep, name: str, created: str, folders: list[Path], **more: str) -> None:
    """A sweep.json as `bench sweep` writes it."""
    names = [folder.relative_to(sweep.out).as_posix() for folder in folders]
    array = {"name": f"bench-{name}-0", "job": "123", "folder": "array-0", "resources": {}, "elements": [names]}
    content = {"sweep": name, "created": created, "user": "ann", "command": "bench sweep", "cluster": {"name": "site"}}
    (sweep.out / "sweeps" / name).mkdir(parents=True)
    (sweep.out / "sweeps" / name / "sweep.json").write_text(json.dumps({**content, "arrays": [array], **more}))


def test_importing_again_changes_nothing_and_new_rows_are_added(sweep: Sweep, store: Store) -> None:
    sweep.cell("ect", 0, benchmark=store.experiment, state="running")
    sweep.cell("vct", 0, benchmark=store.experiment, state="diverged")
    first = export(sweep.out, read_cells(sweep.out), store.uri)
    assert (first.created, first.updated, first.unchanged) == (2, 0, 0)
    before = store.counts()
    assert before["runs"] == 3
    # And the divergence; the parent has the means over cells that have ended.
    assert before["metrics"] == (3 + 5) * (3 * 2 + 1) + 1 + 4 == store.points()
    again = export(sweep.out, read_cells(sweep.out), store.uri)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 2)
    assert again.runs == first.runs
    assert store.counts() == before

    sweep.cell("ect", 0, benchmark=store.experiment)
    changed = export(sweep.out, read_cells(sweep.out), store.uri)
    assert (changed.created, changed.updated, changed.unchanged) == (0, 1, 1)
    after = store.counts()
    assert after["metrics"] == (8 + 5) * (3 * 2 + 1) + 1 + 4 + 8 == store.points()
    assert (after["runs"], after["params"]) == (before["runs"], before["params"])


def test_a_lost_fingerprint_adds_nothing(sweep: Sweep, store: Store) -> None:
    """What a killed import leaves: all is there but the fingerprint."""
    fill(sweep, store)
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    before = store.counts()
    client = open_store(made.uri)
    for run in made.runs.values():
        client.delete_tag(run, "bench.fingerprint")
    assert export(sweep.out, read_cells(sweep.out), store.uri).updated == 4
    assert store.counts() == before


def test_a_value_that_changed_is_shown_and_the_one_before_is_kept(sweep: Sweep, store: Store) -> None:
    folder = sweep.cell("ect", 0, benchmark=store.experiment)
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    (last,) = (row for row in rows if (row["images"], row["nfe"], row["metric"]) == (1_024_000, 1, "fd_digits_2k"))
    for value in (1.5, 0.5):
        last["value"] = value
        write_lines(folder / "records.jsonl", rows)
        for _ in range(2):
            export(sweep.out, read_cells(sweep.out), store.uri)
        run = open_store(made.uri).get_run(made.runs[last["cell"]])
        assert run.data.metrics["fd_digits_2k_nfe1"] == value
    assert store.counts()["metrics"] == store.points() + 2 + 2  # also of the mean on the parent


def test_cells_are_children_of_the_sweep_they_were_first_submitted_in(sweep: Sweep, store: Store) -> None:
    folders = [sweep.cell("ect", seed, benchmark=store.experiment) for seed in range(3)]
    made = export(sweep.out, read_cells(sweep.out), store.uri)  # nothing was submitted yet
    suffix = sweep.out.parent.name
    first, second = f"20261121-140102-{suffix}", f"20261122-140102-{suffix}"
    url = "bench sweep --x http://ann:secret@host/"
    submit(sweep, first, "2026-11-21T14:01:02+00:00", folders[:2], command=url)
    submit(sweep, second, "2026-11-22T14:01:02+00:00", folders[1:2])
    status = json.loads((folders[1] / "status.json").read_text())
    (folders[1] / "status.json").write_text(json.dumps(status | {"job": "124_0", "node": "n7"}))
    for expected in ((0, 2, 1), (0, 0, 3)):
        again = export(sweep.out, read_cells(sweep.out), store.uri)
        assert (again.created, again.updated, again.unchanged) == expected
        assert again.runs == made.runs
    client = open_store(made.uri)
    runs = [client.get_run(run) for run in again.runs.values()]
    parents = [client.get_run(run.data.tags["mlflow.parentRunId"]) for run in runs]
    assert sorted(parent.info.run_name for parent in parents) == sorted(
        [f"sweep {first}", f"sweep {first}", f"sweep {store.experiment}"]
    )
    (tags,) = {tuple(sorted(p.data.tags.items())) for p in parents if p.info.run_name == f"sweep {first}"}
    kept = {"bench.jobs": "123", "bench.user": "ann", "bench.cluster": "site", "bench.cells": "2"}
    assert kept.items() <= dict(tags).items()
    assert dict(tags)["bench.command"] == "bench sweep --x http://***@host/"
    (retried,) = (run for run in runs if run.data.tags.get("bench.job"))
    wanted = {"bench.job": "124_0", "bench.node": "n7", "bench.sweeps": f"{first}, {second}", "bench.attempts": "1"}
    assert wanted.items() <= retried.data.tags.items()
    assert retried.data.tags["mlflow.source.git.commit"] == retried.data.tags["bench.git.commit"] == "abc123"


def test_a_tag_that_no_longer_holds_goes_and_foreign_ones_stay(sweep: Sweep, store: Store) -> None:
    sweep.cell("ect", 0, benchmark=store.experiment, state="failed", error="no space left")
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    (run,) = made.runs.values()
    client = open_store(made.uri)
    assert client.get_run(run).data.tags["bench.error"] == "no space left"
    client.set_tag(run, "note", "mine")
    sweep.cell("ect", 0, benchmark=store.experiment)
    export(sweep.out, read_cells(sweep.out), store.uri)
    after = client.get_run(run)
    assert "bench.error" not in after.data.tags
    assert after.data.tags["note"] == "mine"
    assert after.info.status == "FINISHED"


def test_diagnostics_are_metrics_by_noise_level(sweep: Sweep, store: Store) -> None:
    folder = sweep.cell("ect", 0, benchmark=store.experiment)
    row = {"images": 1_024_000, "weights": "averaged", "ratio": None, "bins": 2, "samples": 64, "repeats": 8}
    row |= {"t_low": 0.01, "t_high": 0.8944, "what": "gradient_variance", "value": 2.5, "error": 0.1}
    other = {"weights": "trained", "ratio": 0.5, "value": 3.5}
    write_lines(folder / "diagnostics.jsonl", [row, row | other, row | {"what": "target_variance", "value": None}])
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    run = open_store(made.uri).get_run(*made.runs.values())
    found = {key: value for key, value in run.data.metrics.items() if "variance" in key}
    key = "gradient_variance/t0.01-0.8944"
    assert found == {key: 2.5, f"{key} weights trained ratio 0.5": 3.5}


def test_files_of_a_cell_and_the_report_are_kept(sweep: Sweep, store: Store, tmp_path: Path) -> None:
    folder = sweep.cell("ect", 0, benchmark=store.experiment)
    points = sweep.cell("ect", 0, benchmark=f"{store.experiment} 2d", metrics=("w2_toy2d",), shape=(64, 2))
    build_report(sweep.out, mlflow_uri=store.uri)
    assert report_is_current(sweep.out, mlflow_uri=store.uri)
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    assert made.unchanged == 2
    client = open_store(made.uri)
    for cell in (folder, points):
        run = made.runs[cell.name.split("-")[1]]
        assert {file.path for file in client.list_artifacts(run)} == {"config.yaml", "samples.png"}
        kept = Path(client.download_artifacts(run, "config.yaml", str(tmp_path)))
        assert kept.read_bytes() == (cell / "config.yaml").read_bytes()
        from PIL import Image

        size = Image.open(client.download_artifacts(run, "samples.png", str(tmp_path))).size
        assert size == ((64 + 4 + 64, 64) if cell == folder else (128 + 4 + 128, 128))
    parent = client.get_run(made.runs[folder.name.split("-")[1]]).data.tags["mlflow.parentRunId"]
    for name in ("leaderboard.md", "report.html"):
        kept = Path(client.download_artifacts(parent, f"report/{name}", str(tmp_path)))
        assert kept.read_bytes() == (sweep.out / name).read_bytes()
    plots = {file.path.removeprefix("report/") for file in client.list_artifacts(parent, "report/plots")}
    assert plots == {path.relative_to(sweep.out).as_posix() for path in (sweep.out / "plots").glob("*.png")}


IMPORT = """
import sys
from pathlib import Path
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.tracking.importer import export
out = Path(sys.argv[1])
print(export(out, read_cells(out), sys.argv[2] or None))
"""


def importer(sweep: Sweep, store: Store) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT, str(sweep.out), store.uri or ""]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_importers_at_once_make_nothing_twice(sweep: Sweep, store: Store) -> None:
    fill(sweep, store)
    processes = [importer(sweep, store) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted("created=4" in out for out, _ in said) == [False, True]
    assert not (sweep.out / LOCK).exists()
    counts = store.counts()
    assert (counts["runs"], counts["metrics"]) == (5, 4 * 8 * 7 + 2 * 8)
    assert store.points() == counts["metrics"]


def test_an_import_that_was_killed_is_completed(sweep: Sweep, store: Store) -> None:
    fill(sweep, store, ("ict", "ect", "sct", "vct"), seeds=4)
    process = importer(sweep, store)
    try:
        while process.poll() is None:
            with contextlib.suppress(sqlite3.OperationalError):  # no tables yet, or locked
                if store.tags("bench.cell"):
                    break
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (sweep.out / LOCK).exists()
    assert len(store.tags("bench.fingerprint")) < 16
    export(sweep.out, read_cells(sweep.out), store.uri)
    assert store.tags("bench.cell") == {cell.id: 1 for cell in read_cells(sweep.out)}
    assert len(store.tags("bench.fingerprint")) == 16
    assert store.counts()["metrics"] == 16 * 8 * 7 + 4 * 8 == store.points()


def test_a_configuration_of_many_keys_and_many_points_is_imported_in_parts(sweep: Sweep, store: Store) -> None:
    folder = sweep.cell("ect", 0, benchmark=store.experiment)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["network"] |= {f"option{k}": k for k in range(250)}
    config["sample"] |= {f"option{k}": k for k in range(150)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    sampler = plan.sampler_text(Run(folder).config)
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    write_lines(folder / "records.jsonl", [{**row, "sampler": sampler} for row in rows])
    budget = Run(folder).config.budget_images
    log = [{"images": budget * (k + 1) // 2500, "step": k, "loss": k / 7} for k in range(2500)]
    write_lines(folder / "train.jsonl", log)
    made = export(sweep.out, read_cells(sweep.out), store.uri)
    run = open_store(made.uri).get_run(*made.runs.values())
    assert run.data.params["network.option249"] == "249"
    assert run.data.tags["sample.option149"] == "149"
    assert run.data.metrics["train_loss"] == 2499 / 7
    assert store.counts()["metrics"] == 2500 + 8 * 6 + 8


def states_of(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.glob("*/*/*/*")) if path.is_file()}


@contextlib.contextmanager
def refusing(status: int) -> Iterator[int]:
    """The port of a server that answers everything with `status`."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd.server_address[1]
        httpd.shutdown()


@pytest.mark.parametrize("status", [None, 401, 403, 500])
def test_a_server_that_is_not_there_or_refuses_is_one_sentence(
    status: int | None, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sweep.cell("ect", 0)
    before = states_of(sweep.out)
    with contextlib.ExitStack() as stack:
        port = free_port() if status is None else stack.enter_context(refusing(status))
        with pytest.raises(UsageError) as error:
            report(sweep.out, mlflow=True, mlflow_uri=f"http://ann:secret@127.0.0.1:{port}")
    said = str(error.value)
    assert said.startswith(f"MLflow at http://***@127.0.0.1:{port}: ")
    assert said.endswith("; leaderboard and plots are written; `bench report` tries the import again")
    assert "\n" not in said
    captured = capfd.readouterr()
    assert "secret" not in said + captured.out + captured.err
    assert states_of(sweep.out) == before
    assert not (sweep.out / LOCK).exists()
    assert not report_is_current(sweep.out, mlflow_uri=f"http://ann:secret@127.0.0.1:{port}")


def test_cells_are_on_the_server_while_they_train(
    sweep: Sweep, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "SECONDS", 0.1)
    store = Store(server[0], server[1], "live")
    folders = [sweep.cell("ect", 0, benchmark="live", state="running")]
    with live.live_import(folders, sweep.out, *server[:1], None):
        while store.tags("bench.state") != {"running": 1} or not store.points():
            time.sleep(0.1)
        before = store.points()
        done = Sweep(sweep.out.with_name("done")).cell("ect", 0, benchmark="live")
        for file in sorted(path for path in done.rglob("*") if path.is_file()):  # each at once, as a worker does
            file.rename(folders[0] / file.relative_to(done))
        while store.tags("bench.state") != {"done": 1} or store.points() <= before:
            time.sleep(0.1)
        assert {state for (state,) in store.rows("select status from own")} == {"FINISHED", "RUNNING"}  # the parent
    assert report(sweep.out, mlflow=True, mlflow_uri=server[0]) == 0
    assert {state for (state,) in store.rows("select status from own")} == {"FINISHED"}
    assert store.points() == store.counts()["metrics"]
    assert capfd.readouterr().err == ""


def test_credentials_are_shown_nowhere(
    sweep: Sweep, server: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    sweep.cell("ect", 0, benchmark="credentials")
    address = server[0].replace("http://", "http://ann:p@ss@")
    assert report(sweep.out, mlflow=True, mlflow_uri=address) == 0
    assert report_is_current(sweep.out, mlflow_uri=address)
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == f"MLflow: {server[0].replace('//', '//***@')}"
    texts = [path.read_text() for path in (*sweep.out.glob("*.json"), *sweep.out.glob(".*.json"))]
    assert "p@ss" not in "".join([captured.out, captured.err, *texts])


def test_what_is_left_of_an_address() -> None:
    shown = {
        "postgresql+psycopg2://ann:secret@host:5432/runs?password=secret": "postgresql+psycopg2://***@host:5432/runs?***",
        "no such host: http://a:b@c/d (http://a:b@c/e)": "no such host: http://***@c/d (http://***@c/e)",
        "sqlite:////tmp/mlflow.db": "sqlite:////tmp/mlflow.db",
        "http://host:5000/path": "http://host:5000/path",
    }
    assert {address: without_password(address) for address in shown} == shown


def test_a_moved_folder_gets_metrics_and_says_that_files_are_left_out(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.cell("ect", 0, state="running")
    export(sweep.out, read_cells(sweep.out))
    old = sweep.out
    moved = Sweep(old.rename(old.with_name("elsewhere")))
    moved.cell("ect", 0)
    assert export(moved.out, read_cells(moved.out)).updated == 1
    assert "mlflow.db was made in another folder" in caplog.text
    assert not old.exists()


SMALL = ("benchmark=toy2d", "network.width=16", "network.blocks=1", "train.images=2560")
SMALL += ("eval.metrics=[fd_points_500]", "eval.nfe=[1]", "run.snapshots=2")


def trained(sweep: Sweep, method: str, *settings: str) -> Path:
    """A tiny cell, trained to its end."""
    (cell,) = compose_cells([method], [0], [*SMALL, *settings])
    folder = cell.path(sweep.out)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(cell.config.to_dict(), sort_keys=False))
    assert run_cell(folder) == "done"
    return folder


def own_samples(folder: Path, seed: int, nfe: int, count: int) -> torch.Tensor:
    """What the benchmark samples, from the cell's folder and its data set."""
    config = Run(folder).config
    dataset = load_dataset(config.data)
    model = build_model(config, dataset, torch.device("cpu"))
    averaged, guide = model.averaged(), None
    load_snapshot(folder, 2560, averaged.weights)
    if (images := config.guide_images) is not None:
        guide = model.averaged()
        load_snapshot(folder, images, guide.weights)
    return Sampler(config, averaged, dataset, guide).draw(seed, nfe, range(count), config.eval.batch)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("sct", ("data.conditional=true",)), ("vct", ("sample.guidance=1.3", "sample.guide_at=0.5"))],
)
def test_a_registered_model_samples_as_the_benchmark_does(
    method: str,
    settings: tuple[str, ...],
    sweep: Sweep,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    folder = trained(sweep, method, *settings)
    name = f"{sweep.out.parent.name} {method}"
    for said in ("registered", "registered already"):
        assert register(folder.name, name, sweep.out, mlflow_uri=store.uri) == 0
        assert capsys.readouterr().out == f"{said}: models:/{name}/1, from {folder}\n"
    client = open_store(store.uri or f"sqlite:///{store.database}")
    (version,) = client.search_model_versions(f"name = '{name}'")
    identity = folder.name.split("-")[1]
    assert version.tags["bench.cell"] == identity
    assert client.get_run(version.run_id or "").data.tags["bench.cell"] == identity

    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    mlflow.set_tracking_uri(store.uri or f"sqlite:///{store.database}")
    mlflow.set_registry_uri(store.uri or f"sqlite:///{store.database}")
    expected = [own_samples(folder, draw, nfe, count) for count, nfe, draw in ((700, 1, 0), (5, 2, 3))]
    for path in folder.rglob("*.safetensors"):
        path.unlink()  # it has its own
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    assert torch.equal(torch.from_numpy(model.predict({"n": 700, "nfe": 1, "seed": 0})), expected[0])
    asked = {"n": [700, 5], "nfe": [1, 2], "seed": [0, 3]}
    import pandas

    assert torch.equal(torch.from_numpy(model.predict(pandas.DataFrame(asked))), torch.cat(expected))
    with pytest.raises(ValueError, match="n is 0, must be at least 1"):
        model.predict({"n": 0, "nfe": 1, "seed": 0})
    kept = Path(client.download_artifacts(version.run_id or "", "", str(sweep.out.parent)))
    suffixes = {path.suffix for path in kept.rglob("model-*/**/*") if path.is_file()}
    assert suffixes <= {".yaml", ".json", ".safetensors", ".txt", ""}  # nothing that is unpickled or executed


def test_what_cannot_be_registered(sweep: Sweep) -> None:
    folder = sweep.cell("ect", 0, state="running")
    for name, arguments, said in (
        ("nothing", ("nothing", "name"), "no cell 'nothing' in"),
        ("running", (folder.name, "name"), "is running; only a cell that is done has final weights"),
        ("bad name", (folder.name, "a/b"), "the model's name is 'a/b', must be made of"),
    ):
        with pytest.raises(UsageError, match=said):
            register(*arguments, sweep.out, mlflow_uri=None)
        assert not (sweep.out / "mlflow.db").exists(), name
    done = trained(sweep, "ect")
    for path in done.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(UsageError, match=r"the snapshot .*000000002560\.safetensors is missing"):
        register(done.name, "name", sweep.out, mlflow_uri=None)
    assert not (sweep.out / "mlflow.db").exists()
