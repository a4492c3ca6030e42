"""Image files in a folder or a zip file: which there are, their content, and its fingerprint. Nothing is decoded here.

Only image files and `dataset.json` count. Hidden files and what macOS and Windows leave behind are ignored.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from posixpath import basename, commonpath, dirname
from typing import Protocol

from ..common.cache import cache_folder, read_or_build
from ..common.errors import UsageError
from ..common.text import plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LABELS = "dataset.json"
ARRAYS = ".npz"
DIGITS = 16  # of a fingerprint


class Files(Protocol):
    """Files by name, with `/` between folders."""

    @property
    def path(self) -> Path: ...

    def names(self) -> list[str]: ...

    def read(self, name: str, limit: int) -> bytes:
        """The content, cut to one byte more than `limit`. Raises UsageError if it cannot be read."""
        ...

    def checksum(self, name: str) -> tuple[int, int]:
        """Size in bytes and CRC-32 of the content."""
        ...

    def state(self) -> str | None:
        """What changes when a file does, so that checksums need not be computed again; None if they are at hand."""
        ...


@dataclass(frozen=True)
class Folder:
    """The files below a folder, and below folders that are linked there."""

    path: Path

    @cached_property
    def _stamps(self) -> dict[str, str]:
        """By name: inode, size and times, as they were when the folder was listed."""
        found, seen = {}, set()
        try:
            for top, folders, names in os.walk(self.path, followlinks=True, onerror=_raise):
                if (real := os.path.realpath(top)) in seen:
                    raise UsageError(plain(f"{top} is a link to a folder that is in {self.path} already"))
                seen.add(real)
                folders[:] = [name for name in folders if not _is_ignored(name)]
                inside = "" if Path(top) == self.path else f"{Path(top).relative_to(self.path).as_posix()}/"
                for name in filter(_is_wanted, names):  # maybe a million: no objects for each of them
                    status = os.stat(f"{top}/{name}")
                    if not stat.S_ISREG(status.st_mode):
                        raise UsageError(plain(f"{top}/{name} is not a regular file"))
                    stamp = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                    found[f"{inside}{name}"] = stamp
        except OSError as error:
            raise UsageError(plain(f"{error.filename} cannot be read ({error.strerror})")) from None
        return found

    def names(self) -> list[str]:
        return list(self._stamps)

    def read(self, name: str, limit: int) -> bytes:
        with naming_damage(f"{self.path}: {name} cannot be read"), (self.path / name).open("rb") as file:
            return file.read(limit + 1)

    def checksum(self, name: str) -> tuple[int, int]:
        size, crc = 0, 0
        with naming_damage(f"{self.path}: {name} cannot be read"), (self.path / name).open("rb") as file:
            while block := file.read(1 << 20):
                size, crc = size + len(block), zlib.crc32(block, crc)
        return size, crc

    def state(self) -> str | None:
        digest = hashlib.sha256(os.fsencode(self.path.resolve()))
        for name, stamp in sorted(self._stamps.items()):
            digest.update(b"\0%s\0%s" % (os.fsencode(name), stamp.encode()))
        return digest.hexdigest()


@dataclass(frozen=True)
class Archive:
    """The files in a zip file. `\\` counts as `/`, for archives that were made on Windows."""

    path: Path
    archive: zipfile.ZipFile

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self.archive.infolist():
            parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")]
            name = "/".join(parts)
            if info.filename.endswith("/") or any(map(_is_ignored, parts)) or not _is_wanted(name):
                continue
            if name in found:
                raise UsageError(plain(f"{self.path} holds {name} twice"))
            found[name] = info
        return found

    def names(self) -> list[str]:
        return list(self._entries)

    def read(self, name: str, limit: int) -> bytes:
        sentence = f"{self.path}: {name} is damaged or encrypted"
        with naming_damage(sentence), self.archive.open(self._entries[name]) as file:
            return file.read(limit + 1)

    def checksum(self, name: str) -> tuple[int, int]:
        return self._entries[name].file_size, self._entries[name].CRC

    def state(self) -> str | None:
        return None


@dataclass(frozen=True)
class Listing:
    """The images of a folder or zip file, by name and in the order of their names.

    top:    the one folder around everything, with a `/` at its end; "" if there is none. Names are relative to it.
    labels: whether there is a `dataset.json`.
    """

    files: Files
    top: str
    images: Sequence[str]
    labels: bool

    def read(self, name: str, limit: int) -> bytes:
        """As `Files.read`."""
        return self.files.read(self.top + name, limit)

    def where(self, name: str) -> str:
        """A file, as messages name it."""
        return plain(f"{self.files.path}: {name}")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the names of the images, their content or `dataset.json`.

        They are the same for a folder and a zip file of it. A folder is read once; the result is kept in the user's
        cache until the time, size or name of a file changes.
        """
        state = self.files.state()
        if state is None:
            return self._digest()
        path = cache_folder("fingerprints") / f"{state}.txt"
        try:
            return read_or_build(path, _read_fingerprint, lambda temporary: _write(temporary, self._digest()))
        except OSError:  # no place to keep it
            return self._digest()

    def _digest(self) -> str:
        names = [*self.images, LABELS] if self.labels else self.images
        return digest((name, *self.files.checksum(self.top + name)) for name in names)


def digest(contents: Iterator[tuple[str, int, int]]) -> str:
    """The fingerprint of files by name, size and CRC-32."""
    found = hashlib.sha256()
    for name, size, crc in contents:
        found.update(b"%s\0%d %d\n" % (name.encode("utf-8", "surrogateescape"), size, crc))
    return found.hexdigest()[:DIGITS]


@contextmanager
def opened(path: Path) -> Iterator[Listing]:
    """The images at `path`, a folder or a zip file.

    Raises UsageError if there are none, for a damaged zip file, a name that occurs twice, and a `dataset.json` that is
    not beside all images.
    """
    if os.path.isdir(path):
        yield _listing(Folder(path))
    else:
        with opened_zip(path) as archive:
            yield _listing(Archive(path, archive))


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Raises UsageError if there is no zip file at `path`, or a damaged one."""
    if not os.path.isfile(path):
        raise UsageError(plain(f"there is no folder or file {path}"))
    with naming_damage(f"{path} is not an intact zip file"):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


@contextmanager
def naming_damage(sentence: str) -> Iterator[None]:
    """Turn every error but UsageError and a lack of memory into a UsageError: a damaged file may fail in any way."""
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(plain(f"{sentence} ({str(error)[:200]})")) from None


def fingerprint(path: Path) -> str:
    """The fingerprint of a folder, zip or npz file of images. Raises UsageError as `opened` does."""
    if path.suffix.lower() != ARRAYS:
        with opened(path) as listing:
            return listing.fingerprint()
    with opened_zip(path) as archive:
        return digest((info.filename, info.file_size, info.CRC) for info in archive.infolist())


def _listing(files: Files) -> Listing:
    names = sorted(files.names())
    top = _top(names)
    names = [name.removeprefix(top) for name in names]
    images = [name for name in names if basename(name) != LABELS]
    if not images:
        raise UsageError(plain(f"{files.path} holds no images ({', '.join(SUFFIXES)})"))
    misplaced = [name for name in names if basename(name) == LABELS]
    if misplaced and LABELS not in misplaced:
        raise UsageError(plain(f"{files.path} holds {misplaced[0]}, which must be in the folder that holds all images"))
    return Listing(files, top, images, LABELS in names)


def _top(names: Sequence[str]) -> str:
    top = commonpath({dirname(name) for name in names}) if names else ""
    return f"{top}/" if top else ""


def _is_ignored(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part != "..")


def _is_wanted(name: str) -> bool:
    file = basename(name)
    return not file.startswith(".") and (file == LABELS or file.lower().endswith(SUFFIXES))


def _read_fingerprint(path: Path) -> str | None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return text.decode() if len(text) == DIGITS and text.isalnum() else None


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _raise(error: OSError) -> None:
    raise error
