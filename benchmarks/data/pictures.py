"""Images of a user, one after the other, from a folder, a zip file or an `.npz` file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from PIL import Image

from ..common.errors import UsageError
from .decoding import Outline, decode, outline
from .labels import read_labels
from .listing import ARRAYS, Listing, opened


@dataclass(frozen=True)
class Picture:
    """One image: `where` it is, as messages name it, its outline, and a function that decodes it to mode L or RGB."""

    where: str
    outline: Outline
    decode: Callable[[], Image.Image]


class Pictures(Protocol):
    """Images in a fixed order. All methods raise UsageError, naming the image, for what cannot be read."""

    @property
    def count(self) -> int: ...

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the images, their order or their labels."""
        ...

    def labels(self, classes: int | None) -> list[int] | None:
        """The class of each image below `classes`, or of any number if that is None; None without classes."""
        ...

    def pictures(self) -> Iterator[Picture]: ...


@dataclass(frozen=True)
class PictureFiles:
    """The image files of a folder or zip file, each of at most `limit` bytes."""

    listing: Listing
    limit: int

    @property
    def count(self) -> int:
        return len(self.listing.images)

    def fingerprint(self) -> str:
        return self.listing.fingerprint()

    def labels(self, classes: int | None) -> list[int] | None:
        return read_labels(self.listing, classes)

    def pictures(self) -> Iterator[Picture]:
        for name in self.listing.images:
            where, content = self.listing.where(name), self.listing.read(name, self.limit)
            if len(content) > self.limit:
                raise UsageError(f"{where} is larger than {self.limit} bytes, which no image of this data set is")
            yield Picture(where, outline(content, where), partial(decode, content, where))


@contextmanager
def opened_pictures(path: Path, limit: int) -> Iterator[Pictures]:
    """The images at `path`. Raises UsageError if there are none. limit: of one file, in bytes."""
    if path.suffix.lower() == ARRAYS:
        from .arrays import opened_arrays

        with opened_arrays(path) as arrays:
            yield arrays
    else:
        with opened(path) as listing:
            yield PictureFiles(listing, limit)
