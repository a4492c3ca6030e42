"""The SHA-256 of a zip archive as its comment: any other byte is noticed, and other programs read the file as ever."""

from __future__ import annotations

import hashlib
import os
import struct
from io import FileIO
from pathlib import Path

_ZIP_END = b"PK\x05\x06"  # of a zip archive: 22 bytes, the last two of which are the length of the comment after it
_ZIP_END_LENGTH = 22
_NAME = "sha256"


def seal(path: Path) -> None:
    """Add the SHA-256 of an archive to it, as its comment. Raises ValueError where the file is no zip archive."""
    with path.open("r+b") as file:
        file.seek(-_ZIP_END_LENGTH, os.SEEK_END)
        if file.read(4) != _ZIP_END:
            raise ValueError(f"{path} does not end as a zip archive does")
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", len(_comment(""))))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_comment(digest))


class SealingWriter:
    """Writes an archive from front to back, and then its seal: the SHA-256 is computed on the way."""

    def __init__(self, file: FileIO) -> None:
        self.file, self._digest = file, hashlib.sha256()
        self._end = b""  # what has been written last, which the seal changes

    def write(self, data: memoryview) -> None:
        """data: bytes."""
        self._put(data)
        if len(data) < _ZIP_END_LENGTH:
            data = memoryview(self._end + data)
        else:
            self._digest.update(self._end)
        self._digest.update(data[:-_ZIP_END_LENGTH])
        self._end = bytes(data[-_ZIP_END_LENGTH:])

    def seal(self) -> None:
        """End the file as `seal` does. Raises ValueError where it does not end as a zip archive does."""
        if not self._end.startswith(_ZIP_END):
            raise ValueError(f"{self.file.name} does not end as a zip archive does")
        length = struct.pack("<H", len(_comment("")))
        self._digest.update(self._end[:-2] + length)
        self.file.seek(-2, os.SEEK_END)
        self._put(memoryview(length + _comment(self._digest.hexdigest())))

    def _put(self, left: memoryview) -> None:
        while left:  # the system may take a part of what it is given
            left = left[self.file.write(left) :]


def check_seal(path: Path) -> None:
    """Raise ValueError unless a file ends with the SHA-256 of what comes before."""
    digest, left = hashlib.sha256(), max(0, path.stat().st_size - len(_comment("")))
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != _comment(digest.hexdigest()):
            raise ValueError("its checksum is missing or not that of its content")


def is_sealed(path: Path) -> bool:
    """Whether a file ends as `seal` leaves it; the checksum may be wrong."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_comment("")), os.SEEK_END)
            return file.read().startswith(f"{_NAME}:".encode())
    except OSError:  # too short, a folder, or not there
        return False


def _comment(digest: str) -> bytes:
    return f"{_NAME}:{digest:64}".encode()
