"""One JSON document on standard output, for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping


def print_json(document: Mapping[str, object]) -> None:
    """Print a document. Values that are not finite become null; paths, states and other objects become text."""
    print(json.dumps(_plain(document), indent=1, allow_nan=False, ensure_ascii=True))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)
