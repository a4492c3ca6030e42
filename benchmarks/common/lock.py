"""One writer a cell: a lock file with an owner and a heartbeat, made of link and rename alone (no flock).

A lock is stale when its owner is known to be dead (same host), is an earlier start of the same SLURM job, or has not
beaten for two minutes (any host). A stale lock may be that of a process that only sleeps. So there is a fence: its
owner makes all files in a folder of its own and renames them into place (`files.fenced`), and whoever takes the lock
over removes that folder first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from .files import fenced

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0


class Lock:
    """A held lock. Use `acquire`; release it with `release` or as a context manager, which puts the fence up."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self._contexts = contextlib.ExitStack()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat of {path}")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # Released between the two lines, or a file system out of reach for a moment: the next beat may get through.
            with contextlib.suppress(OSError):
                if self.is_ours():
                    os.utime(self.path)

    def is_ours(self) -> bool:
        """False once another process has taken the lock over, which a server that does not answer does not say."""
        try:
            return _owner(self.path).get("token") == self.token
        except OSError:
            return True

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self.is_ours():
            return
        workshop = _workshop(self.path, self.token)
        with contextlib.suppress(FileNotFoundError):  # taken over in between, and then the workshop is gone
            self.path.rename(workshop / "lock")
            shutil.rmtree(workshop)

    def __enter__(self) -> Lock:
        self._contexts.enter_context(fenced(self.path.parent, _workshop(self.path, self.token)))
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.close()
        self.release()


def acquire(path: Path) -> Lock | None:
    """The lock at `path`, or None while a living process holds it."""
    token = uuid.uuid4().hex
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "token": token, **_job()}
    workshop = _workshop(path, token)
    workshop.mkdir()
    # Written aside and linked into place: whoever sees the lock sees its owner. A link fails where a lock is already.
    draft = workshop / "owner"
    draft.write_text(json.dumps(owner), encoding="utf-8")
    for _ in range(2):
        left = _left(path, draft)  # found before the lock is ours: not a workshop of one who takes it from us later
        try:
            os.link(draft, path)
        except FileExistsError:
            if not _remove_if_stale(path, draft.stat().st_mtime):
                break
        else:
            for folder in left:
                _tear_down(folder)
            return Lock(path, token)
    shutil.rmtree(workshop)
    return None


def _left(path: Path, draft: Path) -> list[Path]:
    """Workshops of processes that died with no lock, before they had it or while they gave it back."""
    now = draft.stat().st_mtime
    ages = {}
    for folder in path.parent.glob(_workshop(path, "*").name):
        with contextlib.suppress(FileNotFoundError):
            ages[folder] = now - folder.stat().st_mtime
    return [folder for folder, age in ages.items() if age > STALE_SECONDS]


def _workshop(path: Path, token: str) -> Path:
    """The folder in which the owner with this token makes its files."""
    return path.with_name(f".{path.name}-{token}")


def _tear_down(workshop: Path) -> None:
    """Remove a workshop: for its owner at once, by the renaming, and then file by file."""
    aside = workshop.with_name(f"{workshop.name}-torn")
    with contextlib.suppress(FileNotFoundError):  # its owner has let go, or somebody else is at it
        workshop.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _job() -> dict[str, Any]:
    """Which start of which SLURM job this is; job names are ours and differ where a new cluster counts from 1 again."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return {}
    job = f"{os.environ.get('SLURM_JOB_NAME', '')}:{number}"
    return {"job": job, "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0)}


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    return path.exists() and not _is_stale(path, _owner(path), time.time())


def _owner(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or damaged
        return {}


def _is_stale(path: Path, owner: dict[str, Any], now: float) -> bool:
    try:
        age = now - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if owner.get("host") == socket.gethostname() and owner.get("born") is not None:
        born = _born(owner["pid"])
        if born is not None:
            return born != owner["born"]
        if not _alive(owner["pid"]):
            return True
        # Another user's process on a machine that hides these (hidepid): its heartbeat has to tell.
    here = _job()
    if here and owner.get("job") == here["job"] and owner["restart"] < here["restart"]:
        return True  # SLURM starts a job again when it has given the earlier start up
    return age > STALE_SECONDS


def _remove_if_stale(path: Path, now: float) -> bool:
    """now: by the clock of the file system, which heartbeats are told by, too."""
    judged = _owner(path)  # read once: what is judged stale below must be what is removed
    if not path.exists():
        return True
    if not _is_stale(path, judged, now):
        return False
    if "token" in judged:
        _tear_down(_workshop(path, judged["token"]))  # from here on its owner can write nothing
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
    """When a process started, to tell it from a later one with the same number; ENDED of a zombie.

    None where there is no such process, or where nobody may know.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the second where it ends while it is read
        if Path("/proc/self/stat").exists():
            return None
        return "alive" if _alive(pid) else ENDED
    fields = stat.rpartition(")")[2].split()
    return ENDED if fields[0] in "ZX" else fields[19]


ENDED = "ended"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
