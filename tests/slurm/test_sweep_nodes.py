"""Nodes of a real cluster that die, sleep or cannot write, its controller away, and two nodes at one cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from consistency_bench.slurm.local.cluster import LocalCluster

from .nodes import freeze, thaw
from .sweeping import CELL, TRAINING, Place, Undisturbed, training, until
from .sweeping import slurm as call

pytestmark = pytest.mark.slow


def test_a_node_that_dies(shared: Place, slurm: LocalCluster, undisturbed: Undisturbed) -> None:
    shared.sweep(*CELL)
    until(training(shared, 50_000))
    node = shared.the("node")
    slurm.kill_node(node)
    try:
        shared.finish()
    finally:
        slurm.start_node(node)
    assert shared.the("node") != node
    assert shared.attempts() == [2]
    assert shared.results() == undisturbed(shared)


def test_a_node_that_sleeps_wakes_up_to_find_its_cell_taken(
    shared: Place, slurm: LocalCluster, undisturbed: Undisturbed
) -> None:
    shared.sweep(*CELL)
    until(training(shared, 50_000))
    node = shared.the("node")
    old = worker_of(slurm, node)
    freeze(slurm, node)
    until(lambda: shared.the("node") != node, "the start on another node")
    until(training(shared, 120_000))
    os.kill(old, signal.SIGCONT)  # the old copy alone: its node's slurmd, which would end it, still sleeps
    try:
        until(lambda: "nothing more was written there" in shared.said(), "the word of the old copy")
        shared.finish()
    finally:
        thaw(slurm, node)
    assert shared.attempts() == [2]
    assert shared.results() == undisturbed(shared)
    assert not list(shared.out.glob("**/.lock*"))


def worker_of(slurm: LocalCluster, node: str) -> int:
    """The process of a node that trains."""
    found = []
    for pid in slurm.processes(node):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"submitit.core._submit" in command and b"srun" not in command and b"slurmstepd" not in command:
            found.append(pid)
    (worker,) = found
    return worker


def test_the_controller_restarts(shared: Place, slurm: LocalCluster, undisturbed: Undisturbed) -> None:
    grid = ("--methods", "ect", "--seeds", "0-3", *TRAINING)
    shared.sweep(*grid)
    waiting = shared.start("wait")
    until(training(shared))
    slurm.restart_controller()
    said, complained = waiting.communicate()
    assert waiting.returncode == 0, said + complained
    assert shared.attempts() == [1] * 4
    assert shared.results() == undisturbed(shared)


def test_a_log_folder_that_a_node_cannot_write(shared: Place, slurm: LocalCluster, undisturbed: Undisturbed) -> None:
    shared.out.mkdir()
    inside = slurm.processes("n1")[0]
    read_only(inside, shared.out)
    call("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    try:
        shared.sweep(*CELL)
        waited = shared.bench("wait", status=1)
    finally:
        call("scontrol", "update", "nodename=n2", "state=resume")
    assert "n1" in waited
    assert "could not be written" in waited
    subprocess.run(["nsenter", f"--target={inside}", "--mount", "umount", str(shared.out)], check=True)
    shared.bench("retry", "--failed")
    shared.finish()
    assert shared.results() == undisturbed(shared)


def read_only(process: int, folder: Path) -> None:
    """Make a folder read-only for a node alone."""
    enter = ["nsenter", f"--target={process}", "--mount", "mount"]
    subprocess.run([*enter, "--bind", str(folder), str(folder)], check=True)
    subprocess.run([*enter, "-o", "remount,bind,ro", str(folder)], check=True)


def test_two_nodes_train_sample_and_score_one_cell(shared: Place, tmp_path: Path) -> None:
    settings = ("--methods", "vct", "--seeds", "0", "benchmark=toy2d", "train.images=25600", "eval.nfe=[1,2]")
    said = shared.sweep(*settings, "train.resources={devices: 2, nodes: 2}")
    assert "2 GPUs on 2 nodes" in said
    shared.finish()
    (run,) = [json.loads(path.read_text()) for path in shared.out.glob("*/*/*/run.json")]
    assert run["attempts"][0]["processes"] == 2
    assert run["attempts"][0]["command"].startswith("bench sweep --cluster ")
    assert sorted(path.name for path in shared.out.glob("sweeps/*/*/*_log.out"))[0].count("_") == 3
    one = Place(tmp_path / "runs", wrap=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))
    one.bench("run", "--no-mlflow", *settings)
    assert list(shared.statuses()) == list(one.statuses())  # the same cell
    assert losses(shared) == pytest.approx(losses(one), rel=1e-5)
    assert len(values(shared)) == len(values(one))
    assert values(shared) == pytest.approx(values(one), rel=0.02)


def losses(shared: Place) -> list[float]:
    (log,) = shared.out.glob("*/*/*/train.jsonl")
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


def values(shared: Place) -> list[float]:
    (records,) = shared.out.glob("*/*/*/records.jsonl")
    return [json.loads(line)["value"] for line in records.read_text().splitlines()]
