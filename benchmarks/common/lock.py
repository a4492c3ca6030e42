"""One writer per folder: a lock file with an owner and a heartbeat, by link and rename alone (no flock).

A lock is stale when its owner has ended (same machine), belongs to an earlier start of the same SLURM job, or has not
renewed it for two minutes (any host). The owner of a stale lock may only be suspended. Hence the fence: the owner
writes all files in a staging folder and renames them into place (`files.fenced`), and the process that takes the lock
over removes that folder first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from .files import fenced
from .system import machine, process_start

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
CLOCK_SECONDS = 60.0


class Lock:
    """A held lock, from `acquire`. Release it with `release`, or use it as a context manager, which adds the fence."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self._contexts = contextlib.ExitStack()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat of {path}")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # Released between the two lines, or a file system out of reach for a moment: the next beat may succeed.
            with contextlib.suppress(OSError):
                if self.is_ours():
                    os.utime(self.path)

    def is_ours(self) -> bool:
        """False once another process has taken the lock over; True where the file server does not answer."""
        try:
            return _owner(self.path).get("token") == self.token
        except OSError:
            return True

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self.is_ours():
            return
        staging = _staging(self.path, self.token)
        with contextlib.suppress(FileNotFoundError):  # taken over in between, and then the staging folder is gone
            self.path.rename(staging / "lock")
            shutil.rmtree(staging)

    def __enter__(self) -> Lock:
        self._contexts.enter_context(fenced(self.path.parent, _staging(self.path, self.token)))
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.close()
        self.release()


def acquire(path: Path) -> Lock | None:
    """The lock at `path`, or None while a living process holds it."""
    token = uuid.uuid4().hex
    owner = {"machine": machine(), "pid": os.getpid(), "born": process_start(os.getpid()), "token": token}
    staging = _staging(path, token)
    staging.mkdir()
    # Written aside and linked into place: a lock that is seen has its owner. A link fails where a lock exists.
    draft = staging / "owner"
    draft.write_text(json.dumps(owner | _job()), encoding="utf-8")
    for _ in range(2):
        abandoned = _abandoned(
            path, draft
        )  # listed before the lock is ours: none of a process that takes it from us later
        try:
            os.link(draft, path)
        except FileExistsError:
            if not _remove_if_stale(path, draft.stat().st_mtime):
                break
        else:
            for folder in abandoned:
                _tear_down(folder)
            return Lock(path, token)
    shutil.rmtree(staging)
    return None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    return path.exists() and not _is_stale(path, _owner(path))


def _abandoned(path: Path, draft: Path) -> list[Path]:
    """Staging folders of processes that died without the lock, before they acquired it or while they released it."""
    now = draft.stat().st_mtime
    ages = {}
    for folder in path.parent.glob(_staging(path, "*").name):
        with contextlib.suppress(FileNotFoundError):
            ages[folder] = now - folder.stat().st_mtime
    return [folder for folder, age in ages.items() if age > STALE_SECONDS]


def _staging(path: Path, token: str) -> Path:
    """The folder in which the owner with this token writes its files."""
    return path.with_name(f".{path.name}-{token}")


def _tear_down(staging: Path) -> None:
    """Remove a staging folder: at once for its owner, by the renaming, and then file by file."""
    aside = staging.with_name(f"{staging.name}-torn")
    with contextlib.suppress(FileNotFoundError):  # released, or another process removes it
        staging.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _job() -> dict[str, Any]:
    """Which start of which SLURM job this is; job names are ours and differ where a new cluster counts from 1 again."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return {}
    job = f"{os.environ.get('SLURM_JOB_NAME', '')}:{number}"
    return {"job": job, "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0)}


def _owner(path: Path) -> dict[str, Any]:
    """What `acquire` wrote into a lock; {} where it is missing or holds anything else, of which paths are made."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict) or not re.fullmatch(r"\w+", str(owner.get("token")), re.ASCII):
        return {}
    numbers = [owner.get("pid"), *(owner[key] for key in ("restart",) if key in owner)]
    return owner if all(type(number) is int and 0 <= number < 2**31 for number in numbers) else {}


def _is_stale(path: Path, owner: dict[str, Any], now: float | None = None) -> bool:
    """now: by the clock of the file system, which also dates the heartbeats; None to ask for it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    if owner.get("machine") == machine():
        born = process_start(owner["pid"])
        if born is not None:  # else its heartbeat has to tell
            return born != owner.get("born")
    here = _job()
    if here and owner.get("job") == here["job"] and owner.get("restart", 0) < here["restart"]:
        return True  # SLURM requeues a job once it has given up the earlier start
    now = _file_time(path.parent, status.st_dev) if now is None else now
    return now - status.st_mtime > STALE_SECONDS


#: Device -> when the clock of its file server was read, by this machine's monotonic clock and by its own.
_clocks: dict[int, tuple[float, float]] = {}


def _file_time(folder: Path, device: int) -> float:
    """The time by the clock of a folder's file system, which is read once a minute: a new file is dated by it."""
    if device not in _clocks or time.monotonic() - _clocks[device][0] > CLOCK_SECONDS:
        read = time.time()  # of a folder that is not ours to write in
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            read = os.fstat(file.fileno()).st_mtime
        _clocks[device] = time.monotonic(), read
    then, read = _clocks[device]
    return read + time.monotonic() - then


def _remove_if_stale(path: Path, now: float) -> bool:
    found = _owner(path)  # read once: the lock that is found stale below must be the one that is removed
    if not path.exists():
        return True
    if not _is_stale(path, found, now):
        return False
    if "token" in found:
        _tear_down(_staging(path, found["token"]))  # from here on its owner cannot write
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another process was faster
        return True
    if _owner(aside).get("token") != found.get("token"):
        with contextlib.suppress(FileExistsError):  # a fresh lock slipped in between: put it back
            os.link(aside, path)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()
    return True
