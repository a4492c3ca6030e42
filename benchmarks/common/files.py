"""Small-file discipline: atomic writes, and JSON lines that survive a torn end.

Everything a run leaves behind is written to a temporary file beside its target and renamed over it, so a
reader (or a process killed at any moment) sees the old content or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .system import machine, process_start

RESERVE_BYTES = 64 * 1024
#: Of a whole number in a file (more are no float), and of the values of a YAML file with its aliases written out.
MOST_DIGITS, MOST_VALUES = 300, 100_000
#: Levels of lists and mappings within each other; a shorter text cannot have so many that they fill a stack.
MOST_LEVELS, SHALLOW_CHARACTERS = 1000, 10_000
DIGEST, DIGEST_LENGTH, _YAML_SEAL = "digest", 12, "# digest: "
CHANGED = "was changed after it was written: its digest is not that of its content"


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

    A process that takes over `root` removes the staging. From then on no rename of this process can succeed, however
    late it comes (a process may sleep between a check and a write): each write raises TakenError and changes nothing.
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
            if path.is_dir() and not path.is_symlink():
                set_aside(path)
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
        owner = re.search(rf"[.-]{digest}-(\d{{1,7}})-(\d+)\.", path.name)
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


def set_aside(path: Path) -> None:
    """Rename what is damaged to NAME.damaged, if it is there. Raises TakenError as `remove` does."""
    if not os.path.lexists(path):
        return
    names = (f"{path.name}.damaged{number or ''}" for number in itertools.count())
    target = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    fence = _fence.get()
    if fence is None or not fence.around(path):
        path.rename(target)
        return
    with _or_taken(fence):
        path.rename(fence.staging / target.name)
        (fence.staging / target.name).rename(target)


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


def write_json(path: Path, value: Any, *, sealed: bool = False) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError on NaN or infinity (not JSON).

    sealed: add the digest of a mapping, which `read_json` checks.
    """
    value = value | {DIGEST: digest_of(value)} if sealed else value
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def yaml_text(value: Any) -> str:
    """`value` as YAML, below a line with the digest of what follows, which `read_yaml` checks."""
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return f"{_YAML_SEAL}{_digest(text.encode())}\n{text}"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain data. Raises DamagedError where there is no file or it is not YAML."""
    import yaml

    content = _bytes(path)
    if content is None:
        raise DamagedError(f"{path} is missing")
    first, _, rest = content.partition(b"\n")
    if first.startswith(_YAML_SEAL.encode()) and first.decode(errors="replace") != f"{_YAML_SEAL}{_digest(rest)}":
        raise DamagedError(f"{path} {CHANGED}")
    try:
        # libyaml, where PyYAML was built with it, is ten times as fast: a report reads a thousand configurations.
        text = content.decode()
        if len(text) > SHALLOW_CHARACTERS:
            _check_depth(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        _check_size(content)
    except RecursionError:
        raise DamagedError(f"{path} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # the last of `!!timestamp x`
        raise DamagedError(f"{path} is not YAML ({_one_line(error)})") from None
    return content


def _check_depth(events: Iterable[Any]) -> None:
    """Raise RecursionError for a text that nests deeper than MOST_LEVELS: libyaml would overflow the stack."""
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name in ("SequenceStartEvent", "MappingStartEvent")
        depth -= name in ("SequenceEndEvent", "MappingEndEvent")
        if depth > MOST_LEVELS:
            raise RecursionError


def _check_size(content: Any) -> None:
    """Raise ValueError for data that contain themselves, for more than MOST_VALUES, for numbers of too many digits."""
    left, seen = [content], 0
    while left:
        item = left.pop()
        seen += 1
        if isinstance(item, int) and abs(item) >= 10**MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits")
        if isinstance(item, dict | list):
            left += item.values() if isinstance(item, dict) else item
        if seen + len(left) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, or one that contains itself")


def read_json(path: Path, default: Any = None) -> Any:
    """The value in a JSON file, or `default` where there is none. Raises DamagedError where it is not JSON."""
    content = _bytes(path)
    if content is None:
        return default
    value = _parsed(content, str(path))
    if isinstance(value, dict) and DIGEST in value and value.pop(DIGEST) != digest_of(value):
        raise DamagedError(f"{path} {CHANGED}")
    return value


def _bytes(path: Path) -> bytes | None:
    """The content of a file; None where there is none.

    Raises DamagedError where something else is in its place or this user may not read it, else OSError: of the disk.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedError(f"{path} is not a file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM):
            raise
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from None


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is not a finite number")
    return value


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_finite)


def _parsed(content: bytes, where: str) -> Any:
    """Strict JSON: without NaN and infinity, which Python's own reader takes. Raises DamagedError."""
    try:
        return _DECODER.decode(content.decode())
    except RecursionError:
        raise DamagedError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"{where} is not JSON ({error})") from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any complaint about the content of a file into a DamagedError of one line that names the file."""
    try:
        yield
    except KeyError as error:
        raise DamagedError(f"{path}: the entry {error} is missing") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        message = _one_line(error)
        raise DamagedError(message if str(path) in message else f"{path}: {message}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def digest_of(row: dict[str, Any]) -> str:
    """The beginning of the SHA-256 of a mapping, its own digest apart: what makes an edited value noticed."""
    text = json.dumps({key: row[key] for key in row if key != DIGEST}, sort_keys=True, ensure_ascii=False)
    return _digest(_encoded(text))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def _line(row: dict[str, Any]) -> bytes:
    return _encoded(json.dumps(row | {DIGEST: digest_of(row)}, allow_nan=False, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON-lines file atomically. Each line carries a digest of its row, which `read_jsonl` checks."""
    content = b"".join(map(_line, rows))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a small file, as a new version of the whole: what is added to a file in place knows no fence."""
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # torn, by a version that appended in place
        before = before[: before.rfind(b"\n") + 1]
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(before + _line(row))


def read_jsonl(path: Path, damage: list[str] | None = None) -> list[dict[str, Any]]:
    """All complete rows of a JSON-lines file, without their digests; [] where there is none.

    A last line that was torn by a crash is left out. Files of versions without digests have none; where one row has
    one, all need it. Raises DamagedError, naming the line, for damage anywhere else.

    damage: where complaints go instead; the rows without damage are then returned.
    """
    try:
        lines = (_bytes(path) or b"").split(b"\n")
    except DamagedError as error:
        if damage is None:
            raise
        damage.append(str(error))
        return []
    sealed = any(f'"{DIGEST}": "'.encode() in line for line in lines)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(_row(line, f"{path}: line {number}", sealed))
        except DamagedError as error:
            if number == len(lines):
                break
            if damage is None:
                raise
            damage.append(str(error))
    return rows


def _row(line: bytes, where: str, sealed: bool) -> dict[str, Any]:
    """Raises DamagedError for a line that is no row, or one that was changed after it was written."""
    row = _parsed(line, where)
    if not isinstance(row, dict):
        raise DamagedError(f"{where} is not an object")
    if sealed and row.pop(DIGEST, None) != digest_of(row):
        raise DamagedError(f"{where} {CHANGED}")
    return row


def check_writable(folder: Path, kind: str = "output", option: str = "--out") -> None:
    """Raise UsageError unless files can be made in `folder`, or where it would be made. Leaves nothing behind.

    kind, option: what the folder is for and which option names it, for the message.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"{kind} folder {folder}: {existing} is not a folder; choose another with {option}")
    try:
        with tempfile.TemporaryFile(dir=existing):  # only trying tells: permissions say nothing of /proc, or to root
            pass
    except OSError as error:
        raise UsageError(
            f"{kind} folder {folder}: {existing} is not writable ({error.strerror}); choose another with {option}"
        ) from None
