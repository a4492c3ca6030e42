"""Sweeps on a real cluster, disturbed for real: what comes out is what an undisturbed run gives, to the last byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.slurm.local_cluster import LocalCluster

from .sweeping import Place, jobs, training, until
from .sweeping import slurm as call

pytestmark = pytest.mark.slow

#: Cells that train for some ten seconds each and save all the time.
TRAINING = ("benchmark=toy2d", "train.images=256000", "run.snapshots=4", "run.checkpoint_seconds=0.5", "eval.nfe=[1,2]")
CELL = ("--methods", "ect", "--seeds", "0", *TRAINING)
#: Of training: more than three jobs of a minute can do, which SLURM tells to save after half of it.
LONG_SECONDS = 80


@pytest.fixture(scope="module")
def unhindered(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder on this machine, for what is compared with."""
    return Place(tmp_path_factory.mktemp("unhindered") / "runs")


@pytest.fixture(scope="module")
def undisturbed(unhindered: Place) -> Callable[[Place], dict[str, bytes]]:
    """What the cells of a folder would have given if nothing had happened: the same, run on this machine.

    With as many workers as cores, each has one thread, as jobs have.
    """
    workers = str(len(os.sched_getaffinity(0)))
    unhindered.bench("run", "--no-mlflow", "--jobs", workers, "--methods", "ect", "--seeds", "0-3", *TRAINING)
    everything = unhindered.results()

    def of(place: Place) -> dict[str, bytes]:
        names = place.statuses()
        return {path: held for path, held in everything.items() if path.count("/") == 1 or path.split("/")[2] in names}

    return of


@pytest.fixture
def place(slurm: LocalCluster) -> Iterator[Place]:
    """A folder that all nodes see, on the cluster that all these tests share; its jobs end with the test."""
    folder = slurm.folder.parent / f"out-{time.monotonic_ns()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield Place(folder / "runs")
    for line in jobs():
        subprocess.run(["scancel", line.split()[0]], check=False)
    until(lambda: not jobs(), "the end of the jobs")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_sweep_gives_the_leaderboard_of_this_machine(place: Place, tmp_path: Path) -> None:
    grid = ("--methods", "ict,ect,sct,vct", "--seeds", "0-1", "preset=smoke")
    said = place.sweep(*grid)
    assert said.count("\njob ") == 1  # one array for all
    assert "8 cells, 4 at once" in said
    waited = place.finish()
    assert "8 of 8 done" in waited
    nodes = {status["node"] for status in place.statuses().values()}
    assert nodes == {"n1", "n2"}
    here = Place(tmp_path / "runs")
    here.bench("run", "--no-mlflow", *grid)
    assert place.results() == here.results()
    assert numbers(place.out) == numbers(here.out)
    assert "done already" in place.bench("sweep", "--cluster", "local", *grid)


def numbers(out: Path) -> list[str]:
    """The leaderboard's tables and verdicts by NFE; what training cost is a matter of the machine and its load."""
    sections = (out / "leaderboard.md").read_text(encoding="utf-8").split("\n### ")
    found = [section.partition("\n## ")[0] for section in sections if section.startswith("NFE ")]
    assert len(found) == 4
    return found


@pytest.mark.usefixtures("undisturbed")
def test_work_that_exceeds_the_time_limit_goes_on_in_the_next_job(
    place: Place, unhindered: Place, tmp_path: Path
) -> None:
    compute = [json.loads(path.read_text())["compute"] for path in unhindered.out.glob("*/*/*/run.json")]
    rate = max(cell["images"] / cell["train_seconds"] for cell in compute)  # of this machine: work is set by it
    long = (*CELL[:4], *(f"train.images={int(rate * LONG_SECONDS)}" if "images" in key else key for key in TRAINING))
    place.sweep(*long, cluster=place.cluster(time_limit="1m", notice=55))
    here = Place(tmp_path / "runs", wrap=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))
    here.bench("run", "--no-mlflow", *long)
    place.finish()
    assert place.said().count("goes back into the queue") >= 3
    assert place.attempts()[0] >= 4
    assert place.results() == here.results()


def test_a_job_that_an_operator_requeues(place: Place, undisturbed: Callable[[Place], dict[str, bytes]]) -> None:
    place.sweep(*CELL)
    until(training(place, 50_000))
    call("scontrol", "requeue", place.the("job"))
    place.finish()
    assert place.attempts() == [2]
    assert place.results() == undisturbed(place)


def test_a_job_that_gives_way_to_a_more_urgent_one(
    place: Place, undisturbed: Callable[[Place], dict[str, bytes]]
) -> None:
    place.sweep(*CELL)
    until(training(place, 50_000))
    call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    place.finish()
    assert place.said().count("goes back into the queue") == 1
    assert place.attempts() == [2]
    assert place.results() == undisturbed(place)


def test_a_cancelled_element_is_retried_alone(place: Place, undisturbed: Callable[[Place], dict[str, bytes]]) -> None:
    grid = ("--methods", "ect", "--seeds", "0-3", *TRAINING)
    place.sweep(*grid)
    until(lambda: all(status.get("images") for status in place.statuses().values()))
    name, cancelled = next((name, status["job"]) for name, status in sorted(place.statuses().items()))
    call("scancel", cancelled)
    assert "cancelled" in place.bench("wait", status=1)
    assert "cancelled" in place.bench("status", status=1)
    said = place.bench("retry", "--failed")
    assert said.startswith("cells: 1, jobs: 1 on here-1h, ")
    place.finish()
    assert place.attempts() == [1, 1, 1, 2]
    assert place.results() == undisturbed(place)
    assert name in place.bench("status")
    assert "nothing" in place.bench("retry", "--failed")


def test_a_node_that_dies(place: Place, slurm: LocalCluster, undisturbed: Callable[[Place], dict[str, bytes]]) -> None:
    place.sweep(*CELL)
    until(training(place, 50_000))
    node = place.the("node")
    slurm.kill_node(node)
    try:
        place.finish()
    finally:
        slurm.start_node(node)
    assert place.the("node") != node
    assert place.attempts() == [2]
    assert place.results() == undisturbed(place)


def test_a_node_that_sleeps_wakes_up_to_find_its_cell_taken(
    place: Place, slurm: LocalCluster, undisturbed: Callable[[Place], dict[str, bytes]]
) -> None:
    place.sweep(*CELL)
    until(training(place, 50_000))
    node = place.the("node")
    old = worker_of(slurm, node)
    slurm.freeze_node(node)
    until(lambda: place.the("node") != node, "the start on another node")
    until(training(place, 120_000))
    os.kill(old, signal.SIGCONT)  # the old copy alone: its node's slurmd, which would end it, still sleeps
    try:
        until(lambda: "nothing more was written there" in place.said(), "the word of the old copy")
        place.finish()
    finally:
        slurm.thaw_node(node)
    assert place.attempts() == [2]
    assert place.results() == undisturbed(place)
    assert not list(place.out.glob("**/.lock*"))


def worker_of(slurm: LocalCluster, node: str) -> int:
    """The process of a node that trains."""
    found = []
    for pid in slurm.processes(node):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"submitit.core._submit" in command and b"srun" not in command and b"slurmstepd" not in command:
            found.append(pid)
    (worker,) = found
    return worker


def test_the_submitter_dies_right_after_it(place: Place, undisturbed: Callable[[Place], dict[str, bytes]]) -> None:
    process = place.start("sweep", "--cluster", place.cluster(), *CELL)
    while not any("bench-" in line for line in jobs()):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    place.finish()
    assert place.results() == undisturbed(place)


def test_the_controller_restarts(
    place: Place, slurm: LocalCluster, undisturbed: Callable[[Place], dict[str, bytes]]
) -> None:
    grid = ("--methods", "ect", "--seeds", "0-3", *TRAINING)
    place.sweep(*grid)
    waiting = place.start("wait")
    until(training(place))
    slurm.restart_controller()
    said, complained = waiting.communicate()
    assert waiting.returncode == 0, said + complained
    assert place.attempts() == [1] * 4
    assert place.results() == undisturbed(place)


def test_a_log_folder_that_a_node_cannot_write(
    place: Place, slurm: LocalCluster, undisturbed: Callable[[Place], dict[str, bytes]]
) -> None:
    place.out.mkdir()
    inside = slurm.processes("n1")[0]
    read_only(inside, place.out)
    call("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    try:
        place.sweep(*CELL)
        waited = place.bench("wait", status=1)
    finally:
        call("scontrol", "update", "nodename=n2", "state=resume")
    assert "n1" in waited
    assert "could not be written" in waited
    subprocess.run(["nsenter", f"--target={inside}", "--mount", "umount", str(place.out)], check=True)
    place.bench("retry", "--failed")
    place.finish()
    assert place.results() == undisturbed(place)


def read_only(process: int, folder: Path) -> None:
    """Make a folder read-only for a node alone."""
    enter = ["nsenter", f"--target={process}", "--mount", "mount"]
    subprocess.run([*enter, "--bind", str(folder), str(folder)], check=True)
    subprocess.run([*enter, "-o", "remount,bind,ro", str(folder)], check=True)


def test_two_people_sweep_into_one_folder(place: Place, undisturbed: Callable[[Place], dict[str, bytes]]) -> None:
    grids = (("--methods", "ect", "--seeds", "0-2", *TRAINING), ("--methods", "ect", "--seeds", "1-3", *TRAINING))
    both = [place.start("sweep", "--cluster", place.cluster(), *grid) for grid in grids]
    for process in both:
        said, complained = process.communicate()
        assert process.returncode == 0, said + complained
    place.finish()
    assert place.attempts() == [1] * 4
    assert place.results() == undisturbed(place)


def test_two_nodes_train_sample_and_score_one_cell(place: Place, tmp_path: Path) -> None:
    settings = ("--methods", "vct", "--seeds", "0", "benchmark=toy2d", "train.images=25600", "eval.nfe=[1,2]")
    said = place.sweep(*settings, "train.resources={devices: 2, nodes: 2}")
    assert "2 GPUs on 2 nodes" in said
    place.finish()
    (run,) = [json.loads(path.read_text()) for path in place.out.glob("*/*/*/run.json")]
    assert run["attempts"][0]["processes"] == 2
    assert sorted(path.name for path in place.out.glob("sweeps/*/*/*_log.out"))[0].count("_") == 3
    one = Place(tmp_path / "runs", wrap=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))
    one.bench("run", "--no-mlflow", *settings)
    assert list(place.statuses()) == list(one.statuses())  # the same cell
    assert losses(place) == pytest.approx(losses(one), rel=1e-5)
    assert len(values(place)) == len(values(one))
    assert values(place) == pytest.approx(values(one), rel=0.02)


def losses(place: Place) -> list[float]:
    (log,) = place.out.glob("*/*/*/train.jsonl")
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


def values(place: Place) -> list[float]:
    (records,) = place.out.glob("*/*/*/records.jsonl")
    return [json.loads(line)["value"] for line in records.read_text().splitlines()]
