"""Daemons in a PID namespace of their own, which end together.

The first process of the namespace is a shell that reads lines from a FIFO and runs each in the background. When it
exits, the kernel ends all other processes of the namespace, so no process needs to be recorded. A lock, held by the
process that waits for that shell, tells whether any of them is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.05
CONTROL, LOCK, ENDED, LOG = "control", "alive", "ended", "log"
FIRST = 'exec 3<>control; while read -r line <&3; do eval "$line"; done'
OPTIONS = ("--mount", "--pid", "--mount-proc", "--fork", "--kill-child")


def unshare() -> tuple[str, ...]:
    """The command that runs another one in a new namespace."""
    # An ordinary user needs a user namespace around the others, and keeps number and name in it, which munge checks.
    user = ("--user", "--map-current-user", "--keep-caps") if os.geteuid() else ()
    return ("unshare", *user, *OPTIONS)


class Namespace:
    """The namespace of a folder, whichever process started it.

    The output of a daemon is in `folder`/log/NAME.out, and its exit status in `folder`/ended/NAME.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._outer: subprocess.Popen[bytes] | None = None  # where it is a child of this process, to be reaped

    def start(self) -> None:
        """Start its first process, in a session that Ctrl-C does not reach."""
        os.mkfifo(self.folder / CONTROL, 0o600)
        with (self.folder / LOCK).open("w") as lock, self.log("namespace").open("ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._outer = subprocess.Popen(
                [*unshare(), "sh", "-c", FIRST],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        """Whether any process of it is left."""
        try:
            with (self.folder / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def run(self, name: str, *command: str) -> None:
        """Start a command in the background."""
        (self.folder / ENDED / name).unlink(missing_ok=True)
        line = f"{{ {shlex.join(command)}; echo $? >{ENDED}/{name}; }} </dev/null >>{LOG}/{name}.out 2>&1 &"
        while not self._send(line) and self.is_alive:  # its first process has not opened the FIFO yet
            time.sleep(POLL_SECONDS)

    def exit_status(self, name: str) -> int | None:
        """The exit status of a command, None while it runs."""
        try:
            text = (self.folder / ENDED / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None if self.is_alive else -1
        return int(text) if text else None

    def log(self, name: str) -> Path:
        return self.folder / LOG / f"{name}.out"

    def end(self) -> None:
        """Kill every process, and wait until all are gone."""
        while self.is_alive:
            self._send("exit")
            time.sleep(POLL_SECONDS)
        if self._outer is not None:
            self._outer.wait()

    def _send(self, line: str) -> bool:
        """Write a line to the first process; False where it does not read."""
        try:
            control = os.open(self.folder / CONTROL, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO or ENOENT: no reader
            return False
        with open(control, "w", encoding="utf-8") as file:
            file.write(f"{line}\n")
        return True


def processes(first: Sequence[str]) -> list[int]:
    """The processes of the PID namespaces whose first one runs the command `first`, as this machine numbers them."""
    everything = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    wanted = {_namespace(pid) for pid in everything if _command(pid) == list(first)} - {None}
    return sorted(pid for pid in everything if _namespace(pid) in wanted)


def _command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    return []


def _namespace(pid: int) -> str | None:
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        return os.readlink(f"/proc/{pid}/ns/pid")
    return None
