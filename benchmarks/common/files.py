"""Small-file discipline: atomic writes, and JSON lines that survive a torn end.

Everything a run leaves behind is written to a temporary file beside its target and renamed over it, so a
reader (or a process killed at any moment) sees the old content or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .system import machine, process_start

RESERVE_BYTES = 64 * 1024


class DamagedError(UsageError, ValueError):
    """A file that does not hold what it should; the message names it."""


GONE = (errno.ENOENT, errno.ESTALE)  # the second from a network file system, of what another machine has removed


class TakenError(Exception):
    """Another process has taken over the folder that this one was writing in. What was being written is not there."""


@dataclass(frozen=True)
class _Fence:
    root: Path
    staging: Path

    def around(self, path: Path) -> bool:
        return path.absolute().is_relative_to(self.root)

    def taken(self) -> TakenError:
        return TakenError(f"another process has taken {self.root} over")


_fence: ContextVar[_Fence | None] = ContextVar("fence", default=None)


@contextlib.contextmanager
def fenced(root: Path, staging: Path) -> Iterator[None]:
    """Within, every file below `root` is written in the folder `staging` (below root, too) and renamed into its place.

    Whoever takes `root` over removes the staging. From then on no rename of this process can succeed, however late it
    comes (a process may sleep between a check and a write): each write raises TakenError and changes nothing.
    """
    token = _fence.set(_Fence(root.absolute(), staging.absolute()))
    try:
        yield
    finally:
        _fence.reset(token)


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed over `path`.

    durable: wait for the disk; without, a power cut may take the last of many versions.

    Raises TakenError within `fenced`, where the folder was taken over, and OSError, which names the file, where it
    cannot be written.
    """
    fence = _fence.get()
    fence = fence if fence and fence.around(path) else None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(
            dir=fence.staging if fence else path.parent, prefix=f".{path.name[:100]}.{owner_mark()}", suffix=".tmp"
        )
    except OSError as error:
        if fence and error.errno in GONE:
            raise fence.taken() from None
        raise
    os.close(descriptor)
    temporary = Path(name)
    try:
        with _or_taken(fence):
            yield temporary
            if durable:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            temporary.chmod(0o644)  # mkstemp's 0600 would hide a shared run folder from colleagues
            temporary.replace(path)
    except OSError as error:  # of a write: it knows no name
        if error.errno is not None:  # else its message would be lost
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def owner_mark() -> str:
    """A part of the name of a temporary file or folder, by which it is found once this process has been killed."""
    digest = hashlib.sha256(machine().encode()).hexdigest()[:8]
    return f"{digest}-{os.getpid()}-{process_start(os.getpid()) or 0}."


def remove_leftovers(folder: Path, pattern: str = ".*.tmp*") -> None:
    """Remove the temporary files and folders of processes of this machine that were killed."""
    digest = owner_mark().partition("-")[0]
    for path in folder.glob(pattern):
        owner = re.search(rf"[.-]{digest}-(\d+)-(\d+)\.", path.name)
        if owner and process_start(int(owner[1])) not in (owner[2], None):
            with contextlib.suppress(OSError):  # another process is faster
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def reserve(path: Path) -> None:
    """Take room on the disk, to be given back by `remove` when the state of what failed has to be written."""
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(os.urandom(RESERVE_BYTES))  # which no file system can compress


def keep_copy(path: Path, target: Path) -> None:
    """Give `target` the content of `path`, atomically: by a second name where the file system has them.

    Raises TakenError within `fenced`, where the folder was taken over.
    """
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # FAT, and some network file systems, know one name a file
            shutil.copyfile(path, temporary)


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises TakenError within `fenced`, where the folder was taken over."""
    fence = _fence.get()
    if fence is None or not fence.around(path):
        path.unlink(missing_ok=True)
    elif path.exists():
        gone = fence.staging / path.name
        with _or_taken(fence):
            path.rename(gone)
            gone.unlink()


@contextlib.contextmanager
def _or_taken(fence: _Fence | None) -> Iterator[None]:
    try:
        yield
    except Exception:  # a file that is made by a library may fail to be in any way, once its folder is gone
        if fence is None or fence.staging.exists():
            raise
        raise fence.taken() from None


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8 with "\\n" line ends on every system."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_encoded(text))


def _encoded(text: str) -> bytes:
    """UTF-8. Paths and arguments that Python could not decode, as in the locale C, become the bytes that they were."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    except UnicodeEncodeError:  # half a character of UTF-16
        return text.encode("utf-8", "replace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError on NaN or infinity (not JSON)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain data. Raises yaml.YAMLError or UnicodeDecodeError where it is damaged."""
    import yaml

    # libyaml, where PyYAML was built with it, is ten times as fast: a report reads a thousand configurations.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path, default: Any = None) -> Any:
    """The value in a JSON file, or `default` where there is none. Raises DamagedError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise DamagedError(f"{path} is not JSON ({error})") from None
    except RecursionError:
        raise DamagedError(f"{path} is nested too deeply") from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON-lines file atomically."""
    lines = (json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a small file, as a new version of the whole: what is added to a file in place knows no fence."""
    line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # torn, by a version that appended in place
        before = before[: before.rfind(b"\n") + 1]
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(before + line.encode())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a JSON-lines file; [] where there is none.

    A last line that was torn by a crash is left out. Raises DamagedError, naming the line, for damage anywhere else.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:  # not JSON, or cut within a character
            if number == len(lines):
                break
            raise DamagedError(f"{path}: line {number} is not JSON ({error})") from None
        except RecursionError:
            raise DamagedError(f"{path}: line {number} is nested too deeply") from None
    return rows


def check_writable(folder: Path) -> None:
    """Raise UsageError unless files can be made in `folder`, or where it would be made. Leaves nothing behind."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"output folder {folder}: {existing} is not a folder; choose another with --out")
    try:
        with tempfile.TemporaryFile(dir=existing):  # only trying tells: permissions say nothing of /proc, or to root
            pass
    except OSError as error:
        raise UsageError(
            f"output folder {folder}: {existing} is not writable ({error.strerror}); choose another with --out"
        ) from None
