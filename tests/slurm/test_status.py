"""What becomes of a cell, by its files and by what SLURM says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consistency_bench.benchmarks.common.files import DamagedError, write_json, write_text
from consistency_bench.benchmarks.common.lock import acquire
from consistency_bench.benchmarks.runs.folder import Run, find_cells
from consistency_bench.benchmarks.runs.view import CellStatus
from consistency_bench.slurm import queue, sweeps
from consistency_bench.slurm import status as view
from consistency_bench.slurm.queue import Job, Queue
from consistency_bench.slurm.status import Poller, combine, poll
from consistency_bench.slurm.sweeps import Array, Sweep

CELL, OTHER = "toy/ect/s0-aaaa", "toy/ect/s1-bbbb"
LONG_AGO = "2026-01-01T00:00:00+00:00"
ARRAY = Array("bench-x-0", "12", "array-0", {}, ((CELL,), (OTHER,)))
PACKED = replace(ARRAY, elements=((CELL, OTHER),))
KEY = ("bench-x-0", 0)


def sweep(*arrays: Array, created: str = LONG_AGO, name: str = "x") -> Sweep:
    return Sweep(name, created, "ann", "bench sweep", {}, arrays)


def job(state: str, *, number: str = "12_0", reason: str = "", node: str = "n1", code: str = "0:0") -> Job:
    return Job(number, state, reason, node, code)


def cell(out: Path, name: str = CELL, **status: Any) -> Run:
    write_text(out / name / "config.yaml", "cell: {}\n")
    write_json(out / name / "status.json", {"images": 10, "total": 100, "state": "queued", **status})
    return Run(out / name)


def seen(run: Run, out: Path, jobs: Queue, submitted: Sequence[Sweep] = (sweep(ARRAY),)) -> CellStatus:
    (shown,) = combine([run], out, submitted, jobs).cells
    return shown


# States

WAITS = [
    ("queued", job("PENDING", reason="Resources", node=""), "queued", "Resources"),
    ("queued", job("RUNNING"), "queued", "its job has not come to it yet"),
    ("running", job("PENDING", reason="BeginTime", node=""), "requeued", "BeginTime"),
    ("interrupted", job("REQUEUED", node=""), "requeued", ""),
    ("interrupted", job("SUSPENDED"), "requeued", "its job starts"),
    ("interrupted", job("COMPLETING"), "interrupted", "its job is ending"),
]
ENDED = [
    (job("COMPLETED"), "interrupted", "its job ended on n1 before the cell did"),
    (job("CANCELLED"), "cancelled", "its job was cancelled"),
    (job("FAILED", code="3:0"), "failed", "its job ended on n1 with exit status 3"),
    (job("FAILED", code="0:9", reason="JobLaunchFailure"), "failed", "its job was ended on n1 by signal 9 (SIGKILL)"),
    (job("FAILED", code="0:99"), "failed", "its job was ended on n1 by signal 99"),
    (job("FAILED", node="n2", code="0:53"), "failed", "its log folder could not be written on node n2"),
    (job("TIMEOUT"), "failed", "its job reached its time limit on n1"),
    (job("OUT_OF_MEMORY"), "failed", "its job exceeded its memory limit on n1"),
    (job("NODE_FAIL"), "failed", "its node n1 failed"),
    (job("PREEMPTED"), "interrupted", "its job was preempted on n1 and not requeued"),
    (job("BOOT_FAIL"), "failed", "its job ended on n1 as BOOT_FAIL"),
]


@pytest.mark.parametrize(("state", "found", "wanted", "reason"), WAITS)
def test_a_live_job_is_waited_for(state: str, found: Job, wanted: str, reason: str, tmp_path: Path) -> None:
    shown = seen(cell(tmp_path, state=state), tmp_path, Queue({KEY: found}))
    assert (shown.state, shown.reason, shown.job, shown.node) == (wanted, reason, "12_0", found.node)
    assert shown.is_active
    assert not shown.needs_rerun


@pytest.mark.parametrize("state", ["queued", "running", "interrupted"])
@pytest.mark.parametrize(("found", "wanted", "reason"), ENDED)
def test_a_job_that_ended_is_no_longer_waited_for(
    state: str, found: Job, wanted: str, reason: str, tmp_path: Path
) -> None:
    shown = seen(cell(tmp_path, state=state), tmp_path, Queue({KEY: found}))
    assert (shown.state, shown.reason) == (wanted, reason)
    assert not shown.is_active
    assert shown.needs_rerun
    assert shown.failed_in_job == (wanted == "failed")


@pytest.mark.parametrize("found", [job("RUNNING"), job("CANCELLED")])
def test_a_lock_says_that_it_runs_whatever_the_queue_says(found: Job, tmp_path: Path) -> None:
    files = cell(tmp_path, state="running", job="12_0", node="n1")
    lock = acquire(files.path / "lock")
    assert lock is not None
    with lock:
        shown = seen(files, tmp_path, Queue({KEY: found}))
        assert (shown.state, shown.job, shown.node, shown.is_active) == ("running", "12_0", "n1", True)
    assert seen(files, tmp_path, Queue({KEY: found})).state != "running"


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_a_result_is_a_result(state: str, tmp_path: Path) -> None:
    shown = seen(cell(tmp_path, state=state), tmp_path, Queue({KEY: job("FAILED", code="1:0")}))
    assert (shown.state, shown.needs_rerun) == (state, False)


def test_a_cell_that_failed_says_why_itself(tmp_path: Path) -> None:
    files = cell(tmp_path, state="failed", error="ValueError: no\nmore", job="12_0", node="n3")
    shown = seen(files, tmp_path, Queue({KEY: job("FAILED", code="1:0")}))
    assert (shown.state, shown.reason, shown.node) == ("failed", "ValueError: no", "n3")
    assert shown.needs_rerun
    assert not shown.failed_in_job


@pytest.mark.parametrize("last", ["CANCELLED", "RUNNING"])
def test_the_last_submission_counts_unless_another_lives(last: str, tmp_path: Path) -> None:
    files = cell(tmp_path, state="interrupted")
    later = sweep(replace(ARRAY, name="bench-y-0", job="13"), name="y")
    first = job("PENDING" if last == "CANCELLED" else "FAILED", reason="Priority", node="", code="1:0")
    jobs = Queue({KEY: first, ("bench-y-0", 0): job(last, number="13_0")})
    shown = seen(files, tmp_path, jobs, [sweep(ARRAY), later])
    assert (shown.state, shown.job) == ("requeued", "12_0" if last == "CANCELLED" else "13_0")
    ended = Queue({KEY: job("FAILED", code="1:0"), ("bench-y-0", 0): job("CANCELLED", number="13_0")})
    assert seen(files, tmp_path, ended, [sweep(ARRAY), later]).state == "cancelled"


# Jobs that SLURM does not know


def test_a_task_that_is_missing_from_an_array_was_cancelled(tmp_path: Path) -> None:
    files = cell(tmp_path)
    others = {("bench-x-0", 1): job("PENDING", number="12_1")}
    assert seen(files, tmp_path, Queue(others)).state == "cancelled"
    shown = seen(files, tmp_path, Queue(others, accounted=False))
    assert shown.state == "lost"
    assert "no accounts say how" in shown.reason


def test_what_was_never_submitted_is_lost_once_there_was_time_for_it(tmp_path: Path) -> None:
    files, unsent = cell(tmp_path), replace(ARRAY, job=None)
    just = seen(files, tmp_path, Queue(), [sweep(unsent, created=datetime.now(UTC).isoformat())])
    assert (just.state, just.reason, just.is_active) == ("queued", "being submitted", True)
    later = seen(files, tmp_path, Queue(), [sweep(unsent)])
    assert (later.state, later.reason, later.needs_rerun) == ("lost", "it was never submitted", True)
    assert seen(files, tmp_path, Queue()).reason == "SLURM has no record of its job"


def test_while_slurm_is_silent_files_are_shown_and_nothing_is_over(tmp_path: Path) -> None:
    for state, wanted in (("queued", "queued"), ("running", "interrupted"), ("interrupted", "interrupted")):
        files = cell(tmp_path, state=state)
        found = combine([files], tmp_path, [sweep(ARRAY)], Queue(unreachable="SLURM does not answer"))
        assert found.unreachable == "SLURM does not answer"
        assert found.cells[0].state == wanted
        assert not found.is_settled
    done = combine([cell(tmp_path, state="done")], tmp_path, [sweep(ARRAY)], Queue(unreachable="SLURM does not answer"))
    assert done.is_settled


def test_runs_without_sweeps_are_as_their_files_say(tmp_path: Path) -> None:
    assert seen(cell(tmp_path, state="running"), tmp_path, Queue(), []).state == "interrupted"
    found = combine([cell(tmp_path)], tmp_path, [], Queue(unreachable="this machine has no squeue"))
    assert (found.cells[0].state, found.unreachable, found.is_settled) == ("queued", None, True)


def test_cells_of_one_task_each_have_a_state(tmp_path: Path) -> None:
    cells = [cell(tmp_path, state="failed", error="x"), cell(tmp_path, OTHER)]
    found = combine(cells, tmp_path, [sweep(PACKED)], Queue({KEY: job("RUNNING")}))
    assert [shown.state for shown in found.cells] == ["failed", "queued"]
    assert [shown.is_active for shown in found.cells] == [False, True]
    assert found.counts() == {"failed": 1, "queued": 1}


# Asking


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, int]]]:
    """The questions to SLURM, which answers that the first task waits."""
    questions: list[set[tuple[str, int]]] = []

    def query(wanted: Any, since: datetime, numbers: Any) -> Queue:
        assert since == datetime.fromisoformat(LONG_AGO)
        questions.append(set(wanted))
        return Queue({KEY: job("PENDING", reason="Priority")})

    monkeypatch.setattr(queue, "query", query)
    return questions


def test_only_jobs_of_unfinished_cells_are_asked_for(asked: list, tmp_path: Path) -> None:
    sweeps.save(tmp_path, sweep(ARRAY))
    cells = [cell(tmp_path), cell(tmp_path, OTHER, state="done")]
    assert poll(cells, tmp_path).counts() == {"queued": 1, "done": 1}
    assert asked == [{KEY}]
    cell(tmp_path, state="diverged")
    poll(cells, tmp_path)
    assert asked == [{KEY}]


def test_whoever_watches_asks_seldom(asked: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps.save(tmp_path, sweep(ARRAY))
    cell(tmp_path)
    monkeypatch.setattr(view, "QUEUE_SECONDS", 1e6)
    poller = Poller(lambda: find_cells(tmp_path), tmp_path)
    for _ in range(5):
        assert poller().cells[0].reason == "Priority"
    assert len(asked) == 1
    cell(tmp_path, state="done")  # files are looked at each time
    assert poller.has_ended(poller())
    monkeypatch.setattr(view, "QUEUE_SECONDS", 0.0)
    cell(tmp_path)
    poller()
    assert poller._answer is not None
    poller._answer.result()
    assert len(asked) == 2


def test_what_seems_over_is_over_only_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell(tmp_path, state="interrupted")
    poller = Poller(lambda: find_cells(tmp_path), tmp_path)
    now = poller()
    assert now.is_settled
    monkeypatch.setattr(view, "SETTLE_SECONDS", 1e6)
    assert not poller.has_ended(now)
    monkeypatch.setattr(view, "SETTLE_SECONDS", 0.0)
    assert poller.has_ended(poller())


def test_a_sweep_without_a_time_is_named(tmp_path: Path) -> None:
    sweeps.save(tmp_path, sweep(ARRAY, created="yesterday"))
    with pytest.raises(DamagedError, match=r"sweeps/x/sweep.json .*created is 'yesterday', which is no time"):
        poll([cell(tmp_path)], tmp_path)
