"""What a job does with signals and with cells that are not as they should be, without a cluster around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.distributed import VARIABLES
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.execution import worker
from consistency_bench.benchmarks.execution.launch import prepare
from consistency_bench.benchmarks.execution.spawn import free_port
from consistency_bench.benchmarks.execution.worker import Work
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.slurm.sbatch import claim

pytestmark = pytest.mark.slow

SETTINGS = ["benchmark=toy2d", "run.snapshots=1", "eval.nfe=[1]", "network.width=8", "run.checkpoint_seconds=0.2"]
ENDLESS = [*SETTINGS, "train.images=500000000"]
SHORT = [*SETTINGS, "train.images=2560"]

JOB = """
import json, sys
from consistency_bench.slurm import job
job.KILL_SECONDS = float(sys.argv[3])
job.CellsJob(cells=tuple(json.loads(sys.argv[1])), share=int(sys.argv[2]), requeue=True, without_progress=3)()
"""


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cells(out: Path, settings: list[str], seeds: int = 1) -> list[Path]:
    return [run.path for run in prepare(compose_cells(["ect"], range(seeds), settings), out)]


def status(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text())


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a job of cells in a process, with a scontrol that writes down what it is asked and fails twice."""
    programs = tmp_path / "programs"
    programs.mkdir()
    scontrol = programs / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ntest $(wc -l < {tmp_path}/asked) -gt 2\n')
    scontrol.chmod(0o755)
    begun: list[subprocess.Popen[str]] = []

    def begin(folders: list[Path], share: int = 1, kill: float = 600, **more: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        own = {"SLURM_JOB_ID": "7", "SUBMITIT_FOLDER": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, json.dumps([str(folder) for folder in folders]), str(share), str(kill)],
            env={**kept, **own, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def trains(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "checkpoints" / "last.pt").exists()


def test_time_is_up_it_saves_and_asks_until_it_is_in_the_queue(tmp_path: Path, start: Start) -> None:
    (folder,) = cells(tmp_path, ENDLESS)
    job = start([folder])
    until(trains(folder))
    job.send_signal(signal.SIGUSR2)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    assert status(folder)["state"] == "interrupted"
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 7"] * 3
    assert not list(folder.glob(".lock*"))


def test_told_to_end_it_saves_and_leaves_the_rest_to_slurm(tmp_path: Path, start: Start) -> None:
    """A job that ended by itself would count as completed, and not be started again after a preemption."""
    (folder,) = cells(tmp_path, ENDLESS)
    job = start([folder])
    until(trains(folder))
    job.send_signal(signal.SIGTERM)
    until(lambda: status(folder)["state"] == "interrupted")
    until(lambda: not (folder / "lock").exists())
    time.sleep(1)
    assert job.poll() is None
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("share", [1, 2])
def test_told_to_end_and_not_ended_it_goes_on(share: int, tmp_path: Path, start: Start) -> None:
    """As on a node that has just come back, where the signal was meant for an earlier start."""
    folders = cells(tmp_path, ENDLESS, seeds=share)
    job = start(folders, share=share, kill=1)
    until(lambda: all(trains(folder)() for folder in folders))
    job.send_signal(signal.SIGTERM)
    until(lambda: all(len(json.loads((f / "run.json").read_text())["attempts"]) > 1 for f in folders))
    until(lambda: all(status(folder)["state"] == "running" for folder in folders))
    job.send_signal(signal.SIGUSR2)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    assert "the job goes on if it is not ended within 1 s" in said
    assert "the job is requeued" in said


def test_a_job_of_an_array_that_was_submitted_twice_leaves_the_cells_alone(tmp_path: Path, start: Start) -> None:
    folders = cells(tmp_path, ENDLESS)
    claim(tmp_path, "6")
    said, _ = start(folders, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="0").communicate()
    assert "array 6 runs these cells: this one was submitted twice, and its job ends" in said
    assert status(folders[0])["state"] == "queued"


def test_workers_that_are_killed_fail_the_job(tmp_path: Path, start: Start) -> None:
    folders = cells(tmp_path, ENDLESS, seeds=2)
    job = start(folders, share=2)
    until(lambda: all(trains(folder)() for folder in folders))
    for folder in folders:
        os.kill(int(str(status(folder)["pid"])), signal.SIGKILL)
    said, _ = job.communicate()
    assert job.returncode == 1
    assert "UnfinishedError: not finished: " in said
    assert "workers died: signal 9, signal 9" in said


def test_starts_that_save_nothing_are_counted(tmp_path: Path) -> None:
    (folder,) = cells(tmp_path, SHORT)
    run, limit = Run(folder), 3
    assert [worker._may_start(run, limit) for _ in range(3)] == [True] * 3
    checkpoint = folder / "checkpoints" / "last.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()  # something was saved at last
    assert [worker._may_start(run, limit) for _ in range(4)] == [True] * 3 + [False]
    assert status(folder)["state"] == "failed"
    assert str(status(folder)["error"]).startswith("3 jobs in a row ended before anything new was saved")
    prepare(compose_cells(["ect"], [0], SHORT), tmp_path)
    assert not run.starts_file.exists()
    assert worker._may_start(run, limit)


def test_a_signal_to_one_process_of_a_cell_is_heard_by_all(tmp_path: Path) -> None:
    (folder,) = cells(tmp_path, ENDLESS)
    Work(cells=(str(folder),)).write(tmp_path / "list")
    command = [sys.executable, "-m", "consistency_bench.benchmarks.execution.worker", str(tmp_path / "list")]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env={**os.environ, **meeting, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    try:
        until(trains(folder))
        both[1].send_signal(signal.SIGUSR2)
        assert [process.wait() for process in both] == [worker.INTERRUPTED] * 2
        assert status(folder)["state"] == "interrupted"
    finally:
        for process in both:
            process.kill()
            process.wait()
