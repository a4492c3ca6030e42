"""What the rows and values in the files of a run must be. Each check raises ValueError, KeyError or TypeError."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

#: Of counts, exact in a float; of values, whose squares must be finite (features are of single precision).
MOST, LARGEST = 2**53, 1e100
MOST_UNPACKED = 1 << 28  # bytes of an npz file: more than any figure needs

_COSTS = ("parameters", "passes_per_step", "flops_per_image", "train_seconds", "images")
_COSTS += ("pretraining_images", "pretraining_flops")


def records(rows: Sequence[dict[str, Any]], cell: str) -> None:
    """The rows of records.jsonl are those of this cell, and none is there twice."""
    seen = set()
    for number, row in enumerate(rows, start=1):
        if row["cell"] != cell:
            raise ValueError(f"row {number} belongs to cell {row['cell']!r}, not {cell!r}")
        for key in ("images", "nfe", "draw"):
            if type(row[key]) is not int:
                raise ValueError(f"row {number} has {key} {row[key]!r}, which is not a whole number")
            if not (key == "nfe") <= row[key] <= MOST:
                raise ValueError(f"row {number} has a {key} that is too small or too large")
        if not isinstance(row["metric"], str) or not isinstance(row.get("sampler", ""), str):
            raise ValueError(f"row {number} has metric {row['metric']!r}, which is not a name")
        devices = row.get("devices", [])
        if not isinstance(devices, list) or not all(isinstance(name, str) for name in devices):
            raise ValueError(f"row {number} has devices {devices!r:.80}, which are no names")
        for key, value in (("value", row["value"]), ("error", row.get("error"))):
            _number(f"row {number}", key, value)
        place = tuple(row.get(key) for key in ("images", "nfe", "draw", "metric", "sampler"))
        if place in seen:
            raise ValueError(f"row {number} is there twice: {row['metric']} of the same images, NFE and draw")
        seen.add(place)


def history(content: Any) -> None:
    """run.json: a list of attempts, and the cost of the training."""
    for number, attempt in enumerate(content["attempts"], start=1):
        for key in ("versions", "git", "hardware"):
            if not isinstance(attempt.get(key), Mapping | None):
                raise TypeError(f"attempt {number} has {key} {attempt[key]!r:.80}, which is not a mapping")
        for key in ("started", "ended"):
            if attempt.get(key) is not None:
                datetime.fromisoformat(attempt[key])
        for key in ("threads", "processes"):
            value = attempt.get(key)
            if value is not None and not (type(value) is int and 1 <= value <= MOST):
                raise ValueError(f"attempt {number} has {key} {value!r:.80}, which is no number of them")
    costs = content.get("compute") or {}
    for key in _COSTS:
        _number("compute", key, costs.get(key), least=0)
    if not isinstance(costs.get("device"), str | None):
        raise TypeError(f"compute has device {costs['device']!r:.80}, which is not a name")


def train_log(rows: Sequence[dict[str, Any]]) -> None:
    """The rows of train.jsonl: means of the loss."""
    for number, row in enumerate(rows, start=1):
        if row["images"] is None:
            raise ValueError(f"row {number} has no images")
        _number(f"row {number}", "images", row["images"], least=0)
        for key in ("loss", "penalty"):
            _number(f"row {number}", key, row.get(key))


def diagnostics(rows: Sequence[dict[str, Any]]) -> None:
    """The rows of diagnostics.jsonl: values by bins of the noise level."""
    for number, row in enumerate(rows, start=1):
        _number(f"row {number}", "value", row["value"])
        _number(f"row {number}", "ratio", row["ratio"], least=0)
        for key in ("images", "bins", "samples", "repeats"):
            if type(row[key]) is not int or not (key in ("samples", "repeats")) <= row[key] <= MOST:
                raise ValueError(f"row {number} has {key} {row[key]!r:.80}, which is no count")
        for key in ("t_low", "t_high"):
            _number(f"row {number}", key, row[key])
        if not 0 < row["t_low"] < row["t_high"]:
            raise ValueError(f"row {number} has no bin of the noise level")
        if not isinstance(row["what"], str) or not isinstance(row["weights"], str):
            raise ValueError(f"row {number} does not name what was measured")


def archive(path: Path) -> None:
    """The zip archive of an npz file is whole, by its own checksums, and unpacks to MOST_UNPACKED bytes at most."""
    try:
        with zipfile.ZipFile(path) as found:
            if sum(entry.file_size for entry in found.infolist()) > MOST_UNPACKED:
                raise ValueError(f"it unpacks to more than {MOST_UNPACKED >> 20} MiB")
            if (broken := found.testzip()) is not None:
                raise ValueError(f"the checksum of {broken} is not that of its content")
    # The last two: encrypted, or packed in a way that is not known.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _number(where: str, key: str, value: Any, least: float = -LARGEST) -> None:
    """A finite number from `least` to LARGEST, or null."""
    if value is None:
        return
    if type(value) not in (int, float):  # True is an int
        raise ValueError(f"{where} has {key} {value!r:.80}, which is neither a number nor null")
    if not least <= value <= LARGEST:
        raise ValueError(f"{where} has a {key} beyond {least:g} to {LARGEST:g}, which nothing measures")
