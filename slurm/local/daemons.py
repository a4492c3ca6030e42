"""Processes that outlive the one that starts them, recorded so that nobody else's is ever ended.

A process number is given out again after a while. A record therefore holds when the process started, too, and a signal
goes through a handle (pidfd) that is compared with the record after it was opened. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...benchmarks.common.files import write_text

PATIENCE_SECONDS = 15.0

#: How a terminal and a scheduler ask a command to end.
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)

#: Positions in /proc/PID/stat, counted from the state, which follows the name.
PARENT, SESSION, BORN = 1, 3, 19


class Daemons:
    """Processes by name: their records are in `folder`/pids, what they print in `folder`/log/NAME.out."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # of this process; to be reaped when they end

    def start(self, name: str, *command: str) -> None:
        """Start a process in a session of its own: a Ctrl-C in this terminal does not reach it."""
        with self.log(name).open("ab") as log, interruptions_held():  # which come after the record is written
            child = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                write_text(self._record(name), f"{child.pid} {born(child.pid)}\n")
            except BaseException:  # such as a full disk: nobody would find the process again
                end_session(child.pid)
                child.wait()
                raise
            self._children[name] = child

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.out"

    def pid(self, name: str) -> int | None:
        """The number of the process while it lives."""
        recorded = self._recorded(name)
        return recorded[0] if recorded and born(recorded[0]) == recorded[1] else None

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """Signal the process and wait until it is gone; one that does not go is killed. None there: nothing to do."""
        recorded = self._recorded(name)
        if recorded:
            with handle(*recorded) as process:
                if process is not None:
                    finish(process, number)
        if name in self._children:
            self._children.pop(name).wait()  # reaps it
        self._record(name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self.folder / "pids" / name

    def _recorded(self, name: str) -> tuple[int, str] | None:
        try:
            pid, started = self._record(name).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        return int(pid), started


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """The exit status of a command and what it printed. When this is interrupted, its whole session ends.

    A script such as mariadb-install-db has processes of its own, which would go on writing into the folder.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with interruptions_held():
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        said, _ = process.communicate()
    except BaseException:
        if process is not None:
            with interruptions_held(), process:  # the first was understood
                end_session(process.pid)
        raise
    return process.returncode, said


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """What SIGINT and SIGTERM do is done after the block. Only the main thread is interrupted: no effect in others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: set[int] = set()
    # Handlers, not the mask of blocked signals, which a process started in the block would inherit.
    before = _set_handlers({number: lambda number, _: came.add(number) for number in INTERRUPTIONS})
    try:
        yield
    finally:
        _set_handlers(before)
        for number in came:
            signal.raise_signal(number)


def _set_handlers(handlers: dict[int, Any]) -> dict[int, Any]:
    """Those of several signals at once, so that none of them can come in between; returns the former ones."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    try:
        return {number: signal.signal(number, handler) for number, handler in handlers.items()}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_session(leader: int) -> None:
    """Kill the processes of a session, and wait until they are gone."""

    def members() -> list[tuple[int, str]]:
        stats = ((pid, _stat(pid)) for pid in everybody())
        return [(pid, fields[BORN]) for pid, fields in stats if fields and int(fields[SESSION]) == leader]

    while found := members():  # again, for what these started meanwhile
        with contextlib.ExitStack() as stack:
            handles = [stack.enter_context(handle(*member)) for member in found]
            living = [process for process in handles if process is not None]
            for process in living:
                send(process, signal.SIGKILL)
            for process in living:
                finish(process, signal.SIGKILL)


def born(pid: int) -> str | None:
    """When a process started, in the kernel's terms; None if it has ended, be it that nobody has reaped it."""
    fields = _stat(pid)
    return fields[BORN] if fields else None


def children(pid: int) -> list[int]:
    """Numbers of the processes that `pid` started and that live."""
    stats = ((number, _stat(number)) for number in everybody())
    return [number for number, fields in stats if fields and int(fields[PARENT]) == pid]


def _stat(pid: int) -> list[str] | None:
    """What the kernel says of a process after its name, such as fields[PARENT]; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return None if fields[0] in "ZX" else fields


def in_namespace_of(pid: int) -> list[int]:
    """Numbers of all processes in the same PID namespace as `pid`, itself included."""
    wanted = _namespace(pid)
    return [number for number in everybody() if wanted is not None and _namespace(number) == wanted]


def everybody() -> list[int]:
    """Numbers of all processes that this one can see."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it has ended, or is somebody else's
        return None


@contextlib.contextmanager
def handle(pid: int, started: str) -> Iterator[int | None]:
    """A handle on the process that started then: what is sent to it reaches that process or nobody. None if ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if born(pid) == started else None
    finally:
        os.close(descriptor)


def send(process: int, number: int) -> None:
    """Signal the process behind a handle, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


def finish(process: int, number: int) -> None:
    """Signal the process behind a handle and wait until it has ended; SIGKILL where it takes its time."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)  # readable from the moment the process has ended
    for attempt in (number, signal.SIGKILL):
        send(process, attempt)
        if waiting.poll(1000 * PATIENCE_SECONDS):
            return
    raise TimeoutError("a process survives SIGKILL: the kernel holds it, such as for a disk that does not answer")
