"""Sweeps submitted to a real cluster: refusals, packed cells, failures, and a cluster without accounting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli.new import method
from consistency_bench.benchmarks.runs.folder import find_cells
from consistency_bench.slurm.local.cluster import LocalCluster, start
from consistency_bench.slurm.local.config import Options
from consistency_bench.slurm.sweeps import read

from .conftest import needs_slurm
from .sweeping import Place
from .sweeping import slurm as call

pytestmark = pytest.mark.slow

SMALL = ("benchmark=toy2d", "train.images=2560", "run.snapshots=1", "eval.nfe=[1]", "network.width=8")


@pytest.fixture
def bare(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster without accounting, that commands find."""
    needs_slurm(accounting=False)
    cluster = start(place / "c", Options(accounting=False))
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    yield cluster
    cluster.stop()


def test_a_site_with_other_options(shared: Place) -> None:
    site = Path(shared.cluster())
    kept = site.read_text().replace("memory_per_gpu", "memory_per_cpu")
    site.write_text(f"{kept}gpu_request: gres\njob_name_prefix: 'site-42:'\ncomment: two words\nsrun_args: [--label]\n")
    held = site.with_name("held.yaml")
    held.write_text(f"{site.read_text()}sbatch: {{hold: true}}\n")
    shared.sweep("--methods", "ect", "--seeds", "0", *SMALL, cluster=str(held))
    form = "--Format=Name:60,MinMemory:20,tres-per-node:20,Comment:20"
    name, *asked = call("squeue", "--noheader", form).split(maxsplit=3)
    assert name.startswith("site-42:bench-")
    assert asked == ["1500M", "gres:gpu:1", "two words"]
    assert "JobHeldUser" in shared.bench("status", status=1)
    assert "cancelled " in shared.bench("cancel", "--all")
    assert "its job was cancelled" in shared.bench("status", status=1)
    shared.bench("retry", "--failed", "--cluster", str(site))
    shared.finish()
    assert "\n0: " in shared.said()  # srun labels lines by the number of their task


def test_jobs_include_the_plugins_of_the_command(shared: Place) -> None:
    method("mine", shared.out.parent / "plugin")
    options = ("--methods", "mine", "--seeds", "0-2", "--pack", "2", "--share", "2")  # two in workers, one in its job
    shared.sweep("--include", "plugin", *options, *SMALL)
    shared.finish()
    assert [status["state"] for status in shared.statuses().values()] == ["done"] * 3
    assert "is not included: add --include" in shared.bench("sweep", "--cluster", shared.cluster(), *options, status=2)


def test_what_sbatch_refuses_leaves_nothing_behind(shared: Place) -> None:
    site = Path(shared.cluster())
    site.write_text(site.read_text().replace("partition: main", "partition: moon"))
    said = shared.bench("sweep", "--cluster", str(site), *SMALL, status=2)
    assert "sbatch refused the array: " in said
    assert "invalid partition specified: moon" in said
    assert list(shared.out.glob("sweeps/*")) == []
    assert find_cells(shared.out) == []  # as before the request


def test_a_refused_retry_forgets_no_failure(shared: Place) -> None:
    shared.bench("run", "--no-mlflow", "--methods", "ect", "--seeds", "0", *SMALL)
    (status,) = shared.out.glob("*/*/*/status.json")
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "failed", "error": "out of memory"}))
    site = Path(shared.cluster())
    site.write_text(site.read_text().replace("partition: main", "partition: moon"))
    assert "sbatch refused" in shared.bench("retry", "--failed", "--cluster", str(site), status=2)
    assert (shared.the("state"), shared.the("error")) == ("failed", "out of memory")


def test_a_sweep_from_within_a_job_takes_nothing_of_it_along(shared: Place) -> None:
    around = ("SLURM_MEM_PER_CPU=100", "SLURM_MEM_PER_NODE=1", "SLURM_RESTART_COUNT=3", "SLURM_NTASKS=2", "RANK=1")
    inside = Place(shared.out, wrap=("env", *around))
    inside.sweep("--methods", "ect", "--seeds", "0", *SMALL)
    shared.finish()
    assert shared.attempts() == [1]


def test_packed_cells_share_jobs_and_devices(shared: Place) -> None:
    said = shared.sweep("--methods", "ect", "--seeds", "0-4", "--pack", "3", "--share", "2", *SMALL)
    assert "2 jobs of up to 3 cells" in said
    shared.finish()
    assert [status["state"] for status in shared.statuses().values()] == ["done"] * 5
    assert sorted({status["job"].split("_")[1] for status in shared.statuses().values()}) == ["0", "1"]
    assert shared.attempts() == [1] * 5
    threads = [json.loads(path.read_text())["attempts"][0]["threads"] for path in shared.out.glob("*/*/*/run.json")]
    assert threads == [1] * 5


def test_a_cell_that_fails_fails_its_job_and_no_other(shared: Place) -> None:
    shared.sweep("--methods", "ect", "--seeds", "0-1", *SMALL)
    first = min(shared.out.glob("[!.]*/[!.]*/*/config.yaml"))
    first.write_text(first.read_text().replace("name: toy2d", "name: nothing"))  # the data set, behind everybody's back
    said = shared.bench("wait", status=1)
    assert "1 of 2 done, 1 failed" in said
    assert "Traceback" not in said
    (job,) = [s["job"] for s in shared.statuses().values() if s["state"] == "failed"]
    assert "FAILED" in call("sacct", "--noheader", "-X", f"--jobs={job}", "--format=State")


def test_a_sweep_says_which_cells_are_in_jobs_already(shared: Place) -> None:
    held = Path(shared.cluster())
    held.write_text(held.read_text() + "sbatch: {hold: true}\n")
    assert "2 to submit" in shared.sweep("--methods", "ect", "--seeds", "0-1", *SMALL, cluster=str(held))
    said = shared.sweep("--methods", "ect", "--seeds", "0-2", *SMALL, cluster=str(held))
    assert "2 active already, 1 to submit" in said
    assert [len(sweep.arrays[0].elements) for sweep in read(shared.out)] == [2, 1]


def test_without_accounting_everything_but_history_works(bare: LocalCluster) -> None:
    place = Place(bare.folder.parent / "runs")
    place.sweep("--methods", "ect", "--seeds", "0-1", *SMALL)
    place.finish()
    held = Path(place.cluster())
    held.write_text(held.read_text() + "sbatch: {hold: true}\n")
    place.sweep("--methods", "ect", "--seeds", "2", *SMALL, cluster=str(held))
    assert "JobHeldUser" in place.bench("status", status=1)
    place.bench("cancel", "--all")
    assert "cancelled" in place.bench("wait", status=1)
    place.bench("retry", "--failed", "--cluster", place.cluster())
    place.finish()
    assert [status["state"] for status in place.statuses().values()] == ["done"] * 3
