"""Jobs of a sweep on a real cluster that end early: what comes out is what an undisturbed run gives, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .sweeping import CELL, TRAINING, Place, Undisturbed, training, until
from .sweeping import slurm as call

pytestmark = pytest.mark.slow

#: Of a core: two or three jobs of a minute, which SLURM tells to save after half of it.
LONG_SECONDS = 70


def test_work_that_exceeds_the_time_limit_goes_on_in_the_next_job(shared: Place, pace: float, tmp_path: Path) -> None:
    long = (*CELL[:4], *(f"train.images={int(pace * LONG_SECONDS)}" if "images" in key else key for key in TRAINING))
    shared.sweep(*long, cluster=shared.cluster(time_limit="1m", notice=29))
    here = Place(tmp_path / "runs", wrap=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))
    here.bench("run", "--no-mlflow", *long)
    shared.finish()
    assert shared.said().count("job is requeued") >= 1
    assert shared.attempts()[0] >= 2
    assert shared.results() == here.results()


def test_a_job_that_an_operator_requeues(shared: Place, undisturbed: Undisturbed) -> None:
    shared.sweep(*CELL)
    until(training(shared, 50_000))
    call("scontrol", "requeue", shared.the("job"))
    shared.finish()
    assert shared.attempts() == [2]
    assert shared.results() == undisturbed(shared)


def test_a_job_that_is_preempted(shared: Place, undisturbed: Undisturbed) -> None:
    shared.sweep(*CELL)
    until(training(shared, 50_000))
    call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    shared.finish()
    assert shared.said().count("job is requeued") == 1
    assert shared.attempts() == [2]
    assert shared.results() == undisturbed(shared)


def test_a_cancelled_element_is_retried_alone(shared: Place, undisturbed: Undisturbed) -> None:
    grid = ("--methods", "ect", "--seeds", "0-3", *TRAINING)
    shared.sweep(*grid)
    until(lambda: all(status.get("images") for status in shared.statuses().values()))
    name, cancelled = next((name, status["job"]) for name, status in sorted(shared.statuses().items()))
    call("scancel", cancelled)
    assert "cancelled" in shared.bench("wait", status=1)
    assert "cancelled" in shared.bench("status", status=1)
    said = shared.bench("retry", "--failed")
    assert said.startswith("cells: 1, jobs: 1 on here-1h, ")
    shared.finish()
    assert shared.attempts() == [1, 1, 1, 2]
    assert shared.results() == undisturbed(shared)
    assert name in shared.bench("status")
    assert "nothing" in shared.bench("retry", "--failed")


def test_cancelled_without_a_record_and_retried_at_once(shared: Place, undisturbed: Undisturbed) -> None:
    shared.sweep("--methods", "ect", "--seeds", "0-1", *TRAINING)
    until(lambda: [status.get("images", 0) > 0 for status in shared.statuses().values()] == [True] * 2)
    (record,) = shared.out.glob("sweeps/*/sweep.json")
    record.unlink()
    assert "2 running" in shared.bench("status", status=1)
    said = shared.bench("cancel", "--all")
    assert sorted(said.split()[1::3]) == sorted(f"{status['job']}:" for status in shared.statuses().values())
    assert "cells: 2, jobs: 2" in shared.bench("retry", "--failed", "--cluster", shared.cluster())
    said = shared.bench("wait", "--no-mlflow", status=1)  # the record is still missing, the numbers are not
    assert "2 of 2 done" in said
    assert f"{record} is missing" in said
    record.parent.rename(shared.out.parent / "elsewhere")  # as the sentence asks for
    shared.finish()
    assert shared.attempts() == [2, 2]
    assert shared.results() == undisturbed(shared)
