"""Worker processes: they share a list of cells, survive what a cell does, and leave when they are told or alone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consistency_bench.benchmarks.common.files import read_json, write_json
from consistency_bench.benchmarks.common.lock import Lock, acquire
from consistency_bench.benchmarks.common.system import process_start
from consistency_bench.benchmarks.execution import launch, spawn, worker
from consistency_bench.benchmarks.execution.launch import Slots, default_slots, prepare, run_local
from consistency_bench.benchmarks.execution.worker import StopFlag, Work
from consistency_bench.benchmarks.runs.folder import RUN, STATUS
from consistency_bench.benchmarks.runs.status import State, Status

from ..conftest import environment, put, tiny_cell

LONG = ("train.images=5000000", "run.checkpoint_seconds=0.2")
ONE = Slots(jobs=1, threads=1)


def state(folder: Path) -> str:
    return read_json(folder / STATUS, {"state": "queued"})["state"]


def attempts(folder: Path) -> int:
    return len(read_json(folder / RUN, {"attempts": []})["attempts"])


def images(folder: Path) -> int:
    return read_json(folder / STATUS, {}).get("images", 0)


def until(condition: Callable[[], bool]) -> bool:
    """Whether the condition came true; gives up after two minutes."""
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def listed(listing: Path, *folders: Path) -> None:
    Work(cells=tuple(map(str, folders))).write(listing)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """A worker in this process, whose signal handlers are restored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    handlers = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*folders: Path) -> int:
        listing = tmp_path / "list.json"
        listed(listing, *folders)
        logging.captureWarnings(False)  # pytest has its own hand on them
        return worker.main([str(listing)])

    yield run
    logging.captureWarnings(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_it_runs_every_cell_of_its_list(here: Callable[..., int], tmp_path: Path) -> None:
    folders = [put(tiny_cell("ect", seed=seed), tmp_path / "a b\n\u2028é") for seed in range(3)]
    assert here(*folders) == 0
    assert [state(folder) for folder in folders] == ["done"] * 3
    assert [attempts(folder) for folder in folders] == [1] * 3
    assert all("attempt ended: done" in (folder / "log.txt").read_text() for folder in folders)
    assert not any((folder / "lock").exists() for folder in folders)
    assert here(*folders) == 0
    assert [attempts(folder) for folder in folders] == [1] * 3  # nothing left to do


def test_a_failure_is_logged_and_the_next_cell_runs(here: Callable[..., int], tmp_path: Path) -> None:
    broken = put(tiny_cell("ect", "benchmark=cifar10", "data.download=false", f"data.root='{tmp_path}'"), tmp_path)
    good = put(tiny_cell("ect"), tmp_path)
    assert here(broken, good) == 0
    assert (state(broken), state(good)) == ("failed", "done")
    log = (broken / "log.txt").read_text()
    assert "Traceback" in log
    assert "attempt failed" in log
    assert "cifar10" in read_json(broken / STATUS)["error"]
    assert here(broken) == 0
    assert (broken / "log.txt").read_text() == log  # closed, until it is put back in the queue


def test_a_configuration_that_is_damaged_while_another_cell_trains_stops_no_other(
    here: Callable[..., int], tmp_path: Path
) -> None:
    first, damaged, last = (put(tiny_cell("ect", seed=seed), tmp_path) for seed in range(3))

    def damage() -> None:
        until(lambda: state(first) == "running")
        (damaged / "config.yaml").write_text("{")

    thread = threading.Thread(target=damage)
    thread.start()
    assert here(first, damaged, last) == 0
    thread.join()
    assert [state(folder) for folder in (first, damaged, last)] == ["done", "failed", "done"]
    assert "config.yaml" in read_json(damaged / STATUS)["error"]


def test_a_damaged_history_stops_no_start_and_is_kept(here: Callable[..., int], tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    (folder / RUN).write_text("{")
    assert here(folder) == 0
    assert state(folder) == "done"
    assert len(read_json(folder / RUN)["attempts"]) == 1
    assert (folder / f"{RUN}.damaged").read_text() == "{"


def test_what_a_killed_attempt_was_writing_is_swept_away(here: Callable[..., int], tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    (folder / "checkpoints").mkdir()
    leftover = folder / "checkpoints" / ".last.pt.x.tmp"
    leftover.write_text("half")
    assert here(folder) == 0
    assert not leftover.exists()
    assert not list(folder.rglob("*.tmp"))


def test_warnings_go_to_the_log_of_the_cell(
    here: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import warnings

    from consistency_bench.benchmarks.execution import cell

    def warn(*_: object, **__: object) -> str:
        warnings.warn("mind the gap", stacklevel=1)
        return "interrupted"

    monkeypatch.setattr(cell, "run_cell", warn)
    folder = put(tiny_cell("ect"), tmp_path)
    assert here(folder) == 0
    assert "mind the gap" in (folder / "log.txt").read_text()
    assert "mind the gap" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_signal_ends_it_between_two_steps(tmp_path: Path) -> None:
    folder, waiting = put(tiny_cell("ect", *LONG), tmp_path), put(tiny_cell("ict"), tmp_path)
    listed(tmp_path / "list.json", folder, waiting)
    command = [sys.executable, "-m", "consistency_bench.benchmarks.execution.worker", str(tmp_path / "list.json")]
    with subprocess.Popen(command, env=environment(OMP_NUM_THREADS="1")) as process:
        seen = until(lambda: images(folder) > 0)
        process.terminate()
    assert seen
    assert process.returncode == worker.INTERRUPTED
    assert state(folder) == "interrupted"
    assert (folder / "checkpoints" / "last.pt").exists()
    assert state(waiting) == "queued"
    assert not (folder / "lock").exists()


@pytest.mark.slow
def test_it_leaves_when_its_list_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", worker.__name__, str(tmp_path / "cells"), str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_it_leaves_when_its_parent_is_gone(tmp_path: Path) -> None:
    """Also if the parent was gone before the worker could ask who it was."""
    folder = put(tiny_cell("ect", *LONG), tmp_path)
    listed(tmp_path / "list.json", folder)
    code = """
import os, subprocess, sys
worker = "consistency_bench.benchmarks.execution.worker"
print(subprocess.Popen([sys.executable, "-m", worker, sys.argv[1], str(os.getpid())]).pid)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "list.json")]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment(OMP_NUM_THREADS="1")).stdout)
    assert until(lambda: not process_start(pid))
    assert (state(folder), attempts(folder)) == ("queued", 0)
    assert not (folder / "lock").exists()


def test_it_starts_no_cell_that_another_worker_has_left_for_the_same_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tiny_cell("ect", *LONG), tmp_path)
    with contextlib.closing(StopFlag()) as stop:

        def acquire_late(path: Path) -> Lock | None:
            stop.set(signal.SIGTERM)
            return acquire(path)

        monkeypatch.setattr(worker, "acquire", acquire_late)
        worker.run_cells(Work(cells=(str(folder),)), stop, threads=1)
    assert (state(folder), attempts(folder)) == ("queued", 0)
    assert not (folder / "lock").exists()


def test_it_stops_when_its_cell_was_taken_over(here: Callable[..., int], tmp_path: Path) -> None:
    folder = put(tiny_cell("ect", *LONG), tmp_path)
    thieves: list[Lock | None] = []

    def steal() -> None:
        if until(lambda: images(folder) > 0):
            (folder / "lock").unlink()
            thieves.append(acquire(folder / "lock"))

    thread = threading.Thread(target=steal)
    thread.start()
    assert here(folder) == 0
    thread.join()
    (thief,) = thieves
    assert thief is not None
    assert thief.is_ours()
    assert "attempt ended" not in (folder / "log.txt").read_text()  # which is the thief's now
    thief.release()


def test_the_rest_in_other_hands_is_waited_for(here: Callable[..., int], tmp_path: Path) -> None:
    """In case the other one dies: here it lets go, and the cell is run."""
    folder = put(tiny_cell("ect"), tmp_path)
    other = acquire(folder / "lock")
    assert other is not None
    threading.Timer(0.3, other.release).start()
    assert here(folder) == 0
    assert state(folder) == "done"


# Launching


@pytest.mark.parametrize(
    ("cores", "gpus", "omp", "asked", "slots"),
    [
        (2, (), "", {"cells": 12}, Slots(2, 1)),
        (8, (), "", {"cells": 3}, Slots(3, 1)),
        (8, (), "", {"cells": 12, "jobs": 1}, Slots(1, 1)),
        (2, (), "", {"cells": 12, "jobs": 4}, Slots(4, 1)),
        (8, (), "", {"cells": 12, "threads": 4}, Slots(2, 4)),
        (8, (), "4", {"cells": 12}, Slots(2, 4)),
        (8, (), "4,2", {"cells": 12, "threads": 1}, Slots(8, 1)),
        (2, (), "16", {"cells": 12}, Slots(1, 16)),
        (8, (), "many", {"cells": 12, "processes": 2}, Slots(4, 1, processes=2)),
        (16, ("0", "1"), "", {"cells": 12}, Slots(2, 8, ("0", "1"))),
        (16, ("0", "1"), "", {"cells": 12, "jobs": 4}, Slots(4, 4, ("0", "1"))),
        (16, ("0", "1"), "1", {"cells": 12}, Slots(2, 1, ("0", "1"))),
        (16, ("0", "1"), "64", {"cells": 12}, Slots(2, 8, ("0", "1"))),
        (16, ("0", "1"), "1", {"cells": 12, "threads": 3}, Slots(2, 3, ("0", "1"))),
        (16, ("0", "1"), "", {"cells": 12, "device": "cpu"}, Slots(12, 1)),
        (1, (), "", {"cells": 5}, Slots(1, 1)),
    ],
)
def test_workers_share_the_cores_out(
    cores: int, gpus: tuple[str, ...], omp: str, asked: dict[str, Any], slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "available_cores", lambda: cores)
    monkeypatch.setattr(launch, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert default_slots(**asked) == slots


def test_preparing_queues_cells_and_keeps_what_they_have(tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    (run,) = prepare([cell], tmp_path)
    assert run.path == cell.path(tmp_path)
    assert run.status == Status(State.QUEUED, total=2560)
    Status(State.FAILED, images=512, total=2560, error="x").write(run.status_file)
    before = run.config_file.stat().st_mtime_ns
    prepare([cell], tmp_path)
    assert run.status == Status(State.QUEUED, images=512, total=2560)
    assert run.config_file.stat().st_mtime_ns == before


def test_preparing_leaves_a_cell_at_work_alone(tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path)
    write_json(folder / STATUS, {"state": "running", "images": 512, "total": 2560, "error": None})
    with acquire(folder / "lock") or pytest.fail("it is free"):
        prepare([cell], tmp_path)
        assert state(folder) == "running"


#: Does what a worker does to its first cell, as far as its launcher can see, without importing torch.
ACTOR = """
import json, os, signal, sys, time
from pathlib import Path
from consistency_bench.benchmarks.common.files import write_json
from consistency_bench.benchmarks.common.lock import acquire
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
folder = Path(json.loads(Path(sys.argv[1]).read_text())["cells"][0])
with acquire(folder / "lock"):
    write_json(folder / "status.json", {"state": "running", "pid": os.getpid()})
    time.sleep(120)
"""


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(listing: Path, *_: object) -> list[subprocess.Popen[bytes]]:
        return [subprocess.Popen([sys.executable, "-c", ACTOR, str(listing)])]

    monkeypatch.setattr(spawn, "_start", start)


@pytest.mark.usefixtures("actors")
def test_an_interrupt_stops_the_workers_and_handlers_are_restored(tmp_path: Path) -> None:
    runs = prepare([tiny_cell("ect", seed=seed) for seed in range(3)], tmp_path)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sent: list[int] = []

    def tick() -> None:
        if not sent and runs[0].status.state == "running":
            sent.append(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    assert run_local(runs, ONE, tick) is True
    assert [run.status.state for run in runs] == ["interrupted"] * 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.usefixtures("actors")
def test_when_no_worker_is_left_the_cells_have_failed(tmp_path: Path) -> None:
    runs = prepare([tiny_cell("ect", seed=seed) for seed in range(2)], tmp_path)
    killed: list[int] = []

    def tick() -> None:
        status = runs[0].status
        if not killed and status.state == "running" and status.pid:
            killed.append(status.pid)
            os.kill(status.pid, signal.SIGKILL)

    assert run_local(runs, ONE, tick) is False
    for run in runs:
        assert (run.status.state, run.status.error) == ("failed", "the worker process died (signal 9)")


def test_a_cell_that_another_launch_has_queued_is_not_called_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our workers found it finished and left; then another `bench run` with a further wish put it in its queue."""

    def start(*_: object) -> list[subprocess.Popen[bytes]]:
        return [subprocess.Popen([sys.executable, "-c", ""])]

    monkeypatch.setattr(spawn, "_start", start)
    runs = prepare([tiny_cell("ect")], tmp_path)
    assert run_local(runs, ONE, lambda: None) is False
    assert runs[0].status.state == "queued"
