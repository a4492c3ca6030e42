"""Jobs of cells that start from another cell, on a real cluster: they wait for its job, however often that starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .sweeping import Place, jobs, slurm, training, until

pytestmark = pytest.mark.slow

SMALL = ("benchmark=toy2d", "train.images=2560", "run.snapshots=1", "eval.nfe=[1]", "network.width=8")
GRID = ("--methods", "ect,sct", "--seeds", "0", *SMALL, "run.checkpoint_seconds=0")
LONG = (*GRID, "train.init={method: edm, images: 352000}")


def waiting() -> list[str]:
    return slurm("squeue", "--noheader", "--array", "--format=%i %r", "--states=PENDING").splitlines()


def requeue(job: str) -> None:
    slurm("scontrol", "requeue", job)


def preempt(job: str) -> None:
    slurm("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


@pytest.mark.parametrize("disturb", [requeue, preempt])
def test_cells_wait_for_a_pretraining_that_starts_again(disturb: Callable[[str], None], shared: Place) -> None:
    said = shared.sweep(*LONG)
    assert "3 to submit" in said
    until(training(shared), "the pre-training")
    assert [line.split()[1] for line in waiting()] == ["Dependency"] * 2
    assert shared.bench("status", status=1).count("waits for toy2d/edm/s0-") == 2
    (job,) = [line.split()[0] for line in jobs() if "RUNNING" in line]
    disturb(job)
    until(lambda: not any("RUNNING" in line and line.startswith(f"{job} ") for line in jobs()), "the end of its start")
    assert [line.split()[1] for line in waiting() if not line.startswith(f"{job} ")].count("Dependency") == 2
    shared.finish()
    assert [status["state"] for status in shared.statuses().values()] == ["done"] * 3
    assert shared.attempts() == [1, 1, 2]


def test_cells_say_that_their_pretraining_was_cancelled_and_are_tried_again_with_it(shared: Place) -> None:
    shared.sweep(*LONG)
    until(training(shared), "the pre-training")
    shared.bench("cancel", next(shared.out.glob("*/edm/*")).name)
    said = shared.bench("wait", "--no-mlflow", status=1)
    assert "its pre-training toy2d/edm/s0-" in said
    assert "is unfinished, and no process works on it" in said
    (ect,) = shared.out.glob("*/ect/*")
    assert "cells: 2, jobs: 2" in shared.bench("retry", ect.name)  # with its pre-training
    shared.bench("wait", "--no-mlflow", status=1)
    assert sorted(status["state"] for status in shared.statuses().values()) == ["done", "done", "failed"]


def test_cells_say_that_their_pretraining_failed_and_a_retry_brings_all_to_an_end(shared: Place) -> None:
    shared.sweep(*GRID, "train.init={method: edm, images: 25600}")
    edm = next(shared.out.glob("*/edm/*"))
    (edm / "snapshots").write_text("in the place of a folder")
    said = shared.bench("wait", "--no-mlflow", status=1)
    assert "3 failed" in said
    assert said.count(f"its pre-training {edm.relative_to(shared.out)} has failed (") >= 2
    assert shared.bench("status", status=1).count("its pre-training") >= 2
    (edm / "snapshots").unlink()
    assert "cells: 3, jobs: 3" in shared.bench("retry", "--failed")
    shared.finish()
    assert [status["state"] for status in shared.statuses().values()] == ["done"] * 3
