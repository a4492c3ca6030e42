"""One writer a cell, whatever happens to the processes that want it."""

from __future__ import annotations

import json
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

from consistency_bench.benchmarks.common import files, lock
from consistency_bench.benchmarks.common.files import TakenError
from consistency_bench.benchmarks.common.lock import Lock, acquire, is_held
from consistency_bench.benchmarks.common.system import machine

HOLD = """
import sys, time
from pathlib import Path
from consistency_bench.benchmarks.common.lock import acquire
held = acquire(Path(sys.argv[1]))
print("none" if held is None else held.token, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts processes that try for a lock, print its token or "none", and wait for the end of their input."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write_owner(path: Path, **owner: Any) -> None:
    path.write_text(json.dumps({"machine": machine(), "pid": os.getpid(), "token": "theirs", **owner}))


def until(condition: Callable[[], bool]) -> bool:
    """Whether the condition came true; gives up after a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_it_is_exclusive_and_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    one = acquire(path)
    assert one is not None
    assert one.is_ours()
    assert is_held(path)
    assert acquire(path) is None
    one.release()
    assert not is_held(path)
    with acquire(path) or pytest.fail("a released lock is free"):
        assert acquire(path) is None
    assert list(tmp_path.iterdir()) == []


def test_it_is_exclusive_between_processes(tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]) -> None:
    path = tmp_path / "lock"
    answers = [said(process) for process in [holder(path) for _ in range(6)]]
    assert answers.count("none") == 5
    assert acquire(path) is None


def test_a_killed_process_loses_it_to_exactly_one(
    tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    path = tmp_path / "lock"
    first = holder(path)
    assert said(first) != "none"
    first.send_signal(signal.SIGKILL)
    assert until(lambda: not is_held(path))  # without being waited for: a zombie holds nothing
    answers = [said(process) for process in [holder(path) for _ in range(6)]]
    assert sorted(answer == "none" for answer in answers) == [False] + [True] * 5
    staging = next(f".lock-{answer}" for answer in answers if answer != "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == [staging, "lock"]


def test_many_threads_take_over_a_stale_one_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(20):
        write_owner(path, pid=2**22 + 1, born="1")
        barrier = threading.Barrier(8)
        held: list[lock.Lock] = []

        def compete(barrier: threading.Barrier = barrier, held: list[lock.Lock] = held) -> None:
            barrier.wait()
            if (mine := acquire(path)) is not None:
                held.append(mine)

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([one for one in held if one.is_ours()]) == 1
        for one in held:
            one.release()
        assert not path.exists()


def test_a_later_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    write_owner(tmp_path / "lock", pid=os.getpid(), born="long ago")
    assert not is_held(tmp_path / "lock")
    with acquire(tmp_path / "lock") or pytest.fail("its owner is dead"):
        pass


@pytest.mark.parametrize(
    "content", ["", '{"machine": "els', json.dumps({"machine": "elsewhere", "pid": 1, "born": "1"})]
)
def test_an_owner_that_cannot_be_asked_is_believed_for_two_minutes(tmp_path: Path, content: str) -> None:
    """Another host's process, or one that is just writing its name."""
    path = tmp_path / "lock"
    path.write_text(content)
    assert is_held(path)
    assert acquire(path) is None
    last = time.time() - lock.STALE_SECONDS - 1
    os.utime(path, (last, last))
    assert not is_held(path)
    with acquire(path) or pytest.fail("it has not beaten for two minutes"):
        assert is_held(path)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_wrong_clock_makes_no_living_owner_stale_and_no_dead_one_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Heartbeats are dated by the file server, whose clock may differ from this machine's."""
    path = tmp_path / "lock"
    write_owner(path, machine="elsewhere")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600 * hours)
    monkeypatch.setattr(lock, "_clocks", {})
    assert is_held(path)
    last = clock() - lock.STALE_SECONDS - 1
    os.utime(path, (last, last))
    assert not is_held(path)


def test_a_process_of_another_namespace_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    """Containers of one host name have process numbers of their own."""
    path = tmp_path / "lock"
    write_owner(path, machine=f"{machine()} pid:[1]", pid=2**22 + 1, born="1")
    assert is_held(path)
    assert acquire(path) is None


def test_a_held_lock_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    with acquire(path) or pytest.fail("it is free"):
        for _ in range(2):
            os.utime(path, (0, 0))
            assert until(lambda: path.stat().st_mtime > 0)


def test_a_lock_taken_over_is_not_ours_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    mine = acquire(path)
    assert mine is not None
    path.unlink()
    assert not mine.is_ours()
    write_owner(path, token="theirs")
    os.utime(path, (0, 0))
    assert not mine.is_ours()
    time.sleep(0.1)  # several beats
    mine.release()
    assert json.loads(path.read_text())["token"] == "theirs"
    assert path.stat().st_mtime == 0


# The fence


def late_write(folder: Path, take: Callable[[], None]) -> None:
    take()
    files.write_json(folder / "file", "late")


def write_overtaken(folder: Path, take: Callable[[], None]) -> None:
    with files.atomic_path(folder / "file") as temporary:
        temporary.write_text("late")
        take()


def late_file(folder: Path, take: Callable[[], None]) -> None:
    take()
    files.write_json(folder / "sub" / "new", "late")


def late_line(folder: Path, take: Callable[[], None]) -> None:
    take()
    files.append_jsonl(folder / "file", {"late": 1})


def late_removal(folder: Path, take: Callable[[], None]) -> None:
    take()
    files.remove(folder / "file")


def overtake(path: Path) -> Lock:
    """As another host does when the owner has not beaten for two minutes."""
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "machine": "elsewhere"}))
    os.utime(path, (0, 0))
    taker = acquire(path)
    assert taker is not None
    return taker


@pytest.mark.parametrize("act", [late_write, write_overtaken, late_file, late_line, late_removal])
def test_who_lost_the_lock_writes_nothing(tmp_path: Path, act: Callable[[Path, Callable[[], None]], None]) -> None:
    (tmp_path / "file").write_text('{"early": 1}\n')
    (tmp_path / "sub").mkdir()
    mine = acquire(tmp_path / "lock")
    assert mine is not None
    taken: list[Lock] = []
    with mine, pytest.raises(TakenError, match=str(tmp_path)):
        act(tmp_path, lambda: taken.append(overtake(tmp_path / "lock")))
    assert (tmp_path / "file").read_text() == '{"early": 1}\n'
    assert list((tmp_path / "sub").iterdir()) == []
    assert taken[0].is_ours()
    with taken[0]:
        files.write_json(tmp_path / "file", "theirs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "sub"]


def test_the_fence_stands_around_its_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    mine = acquire(tmp_path / "cell" / "lock")
    assert mine is not None
    with mine:
        taker = overtake(tmp_path / "cell" / "lock")
        files.write_json(tmp_path / "outside", 1)
        with pytest.raises(TakenError):
            files.write_json(tmp_path / "cell" / "inside", 1)
    files.write_json(tmp_path / "cell" / "inside", 2)  # without a lock: from a launcher
    taker.release()


def test_a_later_start_of_the_same_job_takes_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NAME", "bench-a")
    first = acquire(path)
    assert first is not None
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "machine": "a node that sleeps"}))
    assert acquire(path) is None
    monkeypatch.setenv("SLURM_JOB_NAME", "bench-b")  # a new cluster counts from 1 again
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert acquire(path) is None
    monkeypatch.setenv("SLURM_JOB_NAME", "bench-a")
    second = acquire(path)
    assert second is not None
    assert not first.is_ours()
    second.release()


def test_what_a_process_left_that_never_had_the_lock_is_cleared_away(tmp_path: Path) -> None:
    old, young = tmp_path / ".lock-old", tmp_path / ".lock-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "owner").write_text("{}")
    os.utime(old, (0, 0))
    mine = acquire(tmp_path / "lock")
    assert mine is not None
    assert not old.exists()
    assert young.exists()  # its process may be about to ask
    mine.release()
