"""The user's cache: where what was downloaded, converted or computed is kept for all runs and processes."""

from __future__ import annotations

import http.client
import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import UsageError
from .files import atomic_path
from .lock import acquire

T = TypeVar("T")
TIMEOUT_SECONDS = 60


def cache_folder(kind: str) -> Path:
    """`consistency-bench/KIND` in the user's cache (`$XDG_CACHE_HOME`, else `~/.cache`). It may not exist yet.

    kind: `data` (downloads), `decoded` (decoded images), `fingerprints` (of folders of images), `metrics` (weights of
        feature networks), `references` (features of real data and published statistics), `weights` (prepared weights to
        start training from).
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "consistency-bench" / kind


def read_or_build(path: Path, read: Callable[[Path], T | None], build: Callable[[Path], None]) -> T:
    """What `read(path)` returns. If that is None, the file is built first, by one process while others wait.

    read:  None if the file is missing or damaged.
    build: writes the file at the temporary path that it is given, which is then renamed.

    Raises OSError if the file cannot be written, and whatever `build` raises.
    """
    if (found := read(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := acquire(_lock_path(path))) is None:
        time.sleep(0.5)
    with lock:
        if (found := read(path)) is not None:  # another process has built it in the meantime
            return found
        with atomic_path(path) as temporary:
            build(temporary)
        found = read(path)
    if found is None:
        raise OSError(f"{path} cannot be read back")
    return found


def build_unless_taken(path: Path, build: Callable[[Path], None]) -> None:
    """Build a missing file as `read_or_build` does, unless another process is building it: do not wait for that.

    Processes that need the same files call this for each of them first, and so share the work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or (lock := acquire(_lock_path(path))) is None:
        return
    with lock:
        if not path.exists():
            with atomic_path(path) as temporary:
                build(temporary)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def fetch(url: str, path: Path, check: Callable[[Path], object], otherwise: str) -> None:
    """Download a file to `path`, where it appears complete and checked or not at all.

    check:     raises an error for a file that is not the right one.
    otherwise: what the user can do if the download fails, as the end of a sentence.

    Raises UsageError if the download fails, and whatever `check` raises.
    """
    with atomic_path(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, temporary.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise UsageError(f"{url} cannot be downloaded ({error}): {otherwise}") from None
        check(temporary)
