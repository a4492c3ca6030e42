"""Processes are recorded or ended, whenever the one that starts them is interrupted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consistency_bench.slurm.local import daemons
from consistency_bench.slurm.local.daemons import Daemons, born, interruptions_held, run


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Also where the tests run in the background of a script, which has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ours(tmp_path: Path) -> Daemons:
    for name in ("log", "pids"):
        (tmp_path / name).mkdir()
    return Daemons(tmp_path, os.environ)


def test_a_command_gives_its_status_and_words(tmp_path: Path) -> None:
    script = 'pwd; echo "$KEY" >&2; cat; exit 3'  # nothing can be typed into it
    assert run(["sh", "-c", script], {"KEY": "value"}, tmp_path) == (3, f"{tmp_path}\nvalue\n")


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_command_ends_with_its_session(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Itself, a child and an orphan, all of which ignore a polite request.
    script = (
        "trap '' TERM INT; (sleep 1234 & echo $! >orphan); sleep 1234 & echo $! >child; echo $$ >now; mv now me; wait"
    )
    send = daemons.send

    def interrupted(*_: object, **__: object) -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "me").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt

    def impatient(process: int, number: int) -> None:
        if again:
            signal.raise_signal(signal.SIGINT)
        send(process, number)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    monkeypatch.setattr(daemons, "send", impatient)
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script], os.environ, tmp_path)
    numbers = [int((tmp_path / name).read_text()) for name in ("me", "child", "orphan")]
    assert [born(number) for number in numbers] == [None, None, None]


def test_a_command_that_does_not_exist_is_no_hidden_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(["no-such-program"], os.environ, tmp_path)


def test_an_interruption_between_start_and_record_comes_after_the_record(
    ours: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = daemons.write_text

    def interrupted(path: Path, text: str) -> None:
        signal.raise_signal(signal.SIGINT)
        write_text(path, text)

    monkeypatch.setattr(daemons, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours.start("ours", "sleep", "1234")
    pid = ours.pid("ours")
    assert pid is not None
    ours.end("ours")
    assert not born(pid)


def test_a_process_whose_record_cannot_be_written_is_ended(ours: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[str] = []

    def full(path: Path, text: str) -> None:
        records.append(text)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(daemons, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        ours.start("ours", "sleep", "1234")
    [record] = records
    pid, started = record.split()
    assert started != "None"
    assert not born(int(pid))
    ours.end("ours")  # nothing there: nothing to wait for


def test_a_process_that_got_an_old_number_is_left_alone(ours: Daemons) -> None:
    ours.start("ours", "sleep", "60")
    pid = ours.pid("ours")
    assert pid is not None
    pids = ours.folder / "pids"
    (pids / "theirs").write_text(f"{pid} {int((pids / 'ours').read_text().split()[1]) - 1}\n")
    assert ours.pid("theirs") is None
    ours.end("theirs")
    assert born(pid)
    ours.end("ours")
    assert not born(pid)
    assert list(pids.iterdir()) == []


def test_held_interruptions_come_afterwards_and_once() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with interruptions_held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM, signal.SIGTERM]  # the handler is back
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_started_while_they_are_held_can_be_interrupted() -> None:
    with interruptions_held():
        child = subprocess.Popen(["sleep", "1234"])
    child.terminate()
    assert child.wait(timeout=60) == -signal.SIGTERM


def test_other_threads_have_nothing_to_hold() -> None:
    entered: list[bool] = []

    def enter() -> None:
        with interruptions_held():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(timeout=60)
    assert entered == [True]
