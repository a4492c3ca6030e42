"""Arrays of npz files that may be anybody's: nothing in them is unpickled, and what cannot be read is one sentence."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...benchmarks.runs import checks


def read_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of these names; of the optional ones those that are there.

    Raises KeyError for one that is missing, ValueError for a file that is damaged or unpacks to too much.
    """
    checks.archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = [*names, *(name for name in optional if name in archive)]
            return {name: archive[name] for name in found}
    # numpy parses a header as Python, makes an array of whatever size it names, and leaves the rest to zipfile.
    except (EOFError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
