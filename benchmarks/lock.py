"""One writer a cell: a lock file with an owner and a heartbeat, made of link and rename alone (no flock).

A lock is stale when its owner is known to be dead (same host), or has not beaten for two minutes (any host).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0


class Lock:
    """A held lock. Use `acquire`; release it with `release` or as a context manager."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat of {path}")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self.is_ours():
                with contextlib.suppress(FileNotFoundError):  # released between the two lines
                    os.utime(self.path)

    def is_ours(self) -> bool:
        """False once another process has taken the lock over; whoever held it must then write nothing more."""
        return _owner(self.path).get("token") == self.token

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.is_ours():
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(path: Path) -> Lock | None:
    """The lock at `path`, or None while a living process holds it."""
    token = uuid.uuid4().hex
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "token": token}
    # Written aside and linked into place: whoever sees the lock sees its owner. A link fails where a lock is already.
    draft = path.with_name(f"{path.name}.{token}")
    draft.write_text(json.dumps(owner), encoding="utf-8")
    try:
        for _ in range(2):
            try:
                os.link(draft, path)
            except FileExistsError:
                if not _remove_if_stale(path):
                    return None
            else:
                return Lock(path, token)
        return None
    finally:
        draft.unlink()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    return path.exists() and not _is_stale(path, _owner(path))


def _owner(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or damaged
        return {}


def _is_stale(path: Path, owner: dict[str, Any]) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if owner.get("host") == socket.gethostname() and owner.get("born") is not None:
        return _born(owner["pid"]) != owner["born"]
    return age > STALE_SECONDS


def _remove_if_stale(path: Path) -> bool:
    judged = _owner(path)  # read once: what is judged stale below must be what is removed
    if not path.exists():
        return True
    if not _is_stale(path, judged):
        return False
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:  # somebody else was faster
        return True
    if _owner(aside).get("token") != judged.get("token"):
        with contextlib.suppress(FileExistsError):  # a fresh lock slipped in between: put it back
            os.link(aside, path)
    aside.unlink()
    return True


def _born(pid: int) -> str | None:
    """When a process started, to tell it from a later one with the same number; None where nobody can say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends while it is read
        if Path("/proc/self/stat").exists():
            return None
        return "alive" if _alive(pid) else None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
