"""Arrays of npz files that may be anybody's: nothing in them is unpickled, and what cannot be read is one sentence."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LARGEST = 1 << 28  # bytes that a file may unpack to: more than any picture needs


def read_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of these names; of the optional ones those that are there.

    Raises KeyError for one that is missing, ValueError for a file that is damaged or unpacks to more than `LARGEST`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            found = [*names, *(name for name in optional if name in archive)]
            return {name: archive[name] for name in found}
    # numpy parses a header as Python, makes an array of whatever size it names, and leaves the rest to zipfile.
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a way that is not known
        raise ValueError(str(error)) from None
