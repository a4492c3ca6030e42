"""Foreign and published values beside ours: CSV files in `<out>/imported/`, with the provenance of each row.

One row is one value: of one training seed if `seed` is given, else a mean over `seeds` of them ("unknown" if its source
does not say). Values of others share no random numbers with ours, so they are shown and never tested against ours.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UsageError, unknown
from ..common.files import DamagedError, atomic_path
from ..common.text import plain
from ..metrics.registry import parse
from .checks import LARGEST, MOST
from .damage import Damage, damage_of
from .folder import IMPORTED

NEEDED = ("benchmark", "method", "nfe", "metric", "value", "source", "measured_by")
OPTIONAL = ("variant", "seed", "seeds", "url", "note")
UNKNOWN = "unknown"
MOST_BYTES, LONGEST = 10 << 20, 500
FILE = re.compile(r"\w[\w .+-]*\.csv", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Imported:
    """One value of others. seed: the training seed; None for a mean over `seeds` of them (None: not known)."""

    benchmark: str
    method: str
    variant: str
    nfe: int
    metric: str
    value: float
    seed: int | None
    seeds: int | None
    source: str
    measured_by: str
    url: str
    note: str

    @property
    def label(self) -> str:
        """The configuration, marked."""
        return f"{self.method} {self.variant}".strip() + " (imported)"

    @property
    def provenance(self) -> str:
        """Where the value comes from, as one text."""
        n = "" if self.seed is not None else f"n={self.seeds}" if self.seeds else "n unknown"
        return "; ".join(filter(None, [self.source, self.url, f"measured by {self.measured_by}", n]))


def add_imported(file: Path, out: Path, benchmarks: Collection[str] | None = None) -> tuple[Path, int]:
    """Copy a file of rows into `out`, under its name. Returns the copy and the number of rows.

    benchmarks: the names that rows may have, None for any.

    Raises UsageError, naming the line, where a row is not complete, and where another file of this name was imported
    before.
    """
    if not FILE.fullmatch(file.name):
        raise UsageError(f"{file} must have a name of letters, digits and . _ + - that ends in .csv")
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    rows = read_rows(file)
    for number, row in rows.items():
        if benchmarks is not None and row.benchmark not in benchmarks:
            raise UsageError(f"{file}: line {number}: {unknown('benchmark', row.benchmark, benchmarks)}")
    target, content = out / IMPORTED / file.name, file.read_bytes()
    if target.exists() and target.read_bytes() != content:
        raise UsageError(f"{target} exists with other rows: remove it, or give {file} another name")
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target, len(rows)


def imported_rows(out: Path) -> tuple[list[Imported], list[Damage]]:
    """All rows imported into `out`; of damaged files none, and what is wrong with them."""
    rows: list[Imported] = []
    found: list[Damage] = []
    for file in sorted((out / IMPORTED).glob("*.csv")):
        found += damage_of(file.parent, file, lambda file=file: rows.extend(read_rows(file).values()))
    return rows, found


def read_rows(file: Path) -> dict[int, Imported]:
    """The rows of a file by their lines. Raises DamagedError, naming file and line."""
    if file.stat().st_size > MOST_BYTES:
        raise DamagedError(f"{file} has more than {MOST_BYTES >> 20} MiB")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{file} is not text in UTF-8 ({error.reason})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, Imported] = {}
    seen: dict[tuple[object, ...], int] = {}
    try:
        _check_header(reader.fieldnames or ())
        for values in reader:
            row = _row(values)
            place = (row.benchmark, row.method, row.variant, row.nfe, row.metric, row.seed, row.source)
            if place in seen:
                raise ValueError(f"repeats line {seen[place]}: write each value once, or give the seed of each")
            seen[place] = reader.line_num
            rows[reader.line_num] = row
    except csv.Error as error:  # of the row that begins on the next line
        raise DamagedError(plain(f"{file}: line {reader.line_num + 1}: {error}")) from None
    except (ValueError, UsageError) as error:
        raise DamagedError(plain(f"{file}: line {max(1, reader.line_num)}: {error}")) from None
    if not rows:
        raise DamagedError(f"{file} has no rows below its header")
    return rows


def _check_header(names: Collection[str]) -> None:
    columns = f"needed are {', '.join(NEEDED)}; optional are {', '.join(OPTIONAL)}"
    for name in names:
        if name not in NEEDED + OPTIONAL:
            raise ValueError(f"unknown column {name!r:.50}: {columns}")
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"the column {missing[0]!r} is missing: {columns}")
    if len(set(names)) < len(names):
        raise ValueError(f"a column is there twice: {columns}")


def _row(values: Mapping[str | None, object]) -> Imported:
    if None in values or None in values.values():
        raise ValueError("it has another number of fields than the header")
    texts = {str(name): plain(str(value)) for name, value in values.items()}
    for name, text in texts.items():
        if len(text) > LONGEST:
            raise ValueError(f"{name} has {len(text)} characters, must have at most {LONGEST}")
        if name in NEEDED and not text:
            raise ValueError(f"{name} is empty")
    url = texts.get("url", "")
    if url and not re.match(r"https?://[^\s<>\"']+$", url):
        raise ValueError(f"url is {url!r:.80}, must begin with https:// or http://")
    nfe, seed = _whole("nfe", texts["nfe"], 1), _whole("seed", texts.get("seed", ""), 0)
    seeds = texts.get("seeds", "")
    assert nfe is not None  # it is needed, and not empty
    return Imported(
        benchmark=texts["benchmark"],
        method=texts["method"],
        variant=texts.get("variant", ""),
        nfe=nfe,
        metric=parse(texts["metric"]).name,
        value=_value(texts["value"]),
        seed=seed,
        seeds=None if seeds.lower() == UNKNOWN else _whole("seeds", seeds, 1),
        source=texts["source"],
        measured_by=texts["measured_by"],
        url=url,
        note=texts.get("note", ""),
    )


def _whole(name: str, text: str, least: int) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not least <= int(text) <= MOST:
        more = f", or {UNKNOWN}" if name == "seeds" else ""
        raise ValueError(f"{name} is {text!r:.50}, must be a whole number of at least {least}{more}")
    return int(text)


def _value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise ValueError(f"value is {text!r:.50}, must be a finite number, with a dot before its decimals")
    return value
