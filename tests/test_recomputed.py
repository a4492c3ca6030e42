"""Numbers of the published tables, recomputed from the raw rows. Nothing here uses the package."""

from __future__ import annotations

import csv
import json
import random
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "reports" / "results").glob("**/leaderboard.md"))
CELLS = 10
VALUE = re.compile(r"\**([−\d.,]+)(?: ± ([\d.,]+))? \(n=(\d+)(?:, \d+ diverged)?\)\**")


@dataclass(frozen=True)
class Shown:
    """A value of a table. records: names of files in the zip file; draws: sampling seeds of each training."""

    page: Path
    nfe: int
    metric: str
    text: str
    draws: int
    records: tuple[str, ...]


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a document as rows of fields, without the line below the header."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        rows = [[field.strip() for field in line] for line in lines]
        yield [rows[0], *rows[2:]]


def values(page: Path) -> Iterator[Shown]:
    """The values of the tables of all metrics; rows of different tables belong together by method and variant."""
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        parts = [part for part in re.split(r"^### ", section, flags=re.MULTILINE) if "records of seed |" in part]
        if not parts:
            continue
        header, *rows = next(tables(parts[0]))
        names = header.index("parameters")
        links = {tuple(row[:names]): tuple(re.findall(r"cells\.zip#([^)]+)\)", row[-1])) for row in rows}
        for nfe, part in re.findall(r"^### NFE (\d+):(.*?)(?=^### )", section, re.MULTILINE | re.DOTALL):
            (ranked, *ranks), (measured, *found) = tables(part)
            seeds = ranked.index("seeds × draws")
            draws = {
                tuple(row[seeds - names : seeds]): int(re.findall(r"\d+", row[seeds])[-1])
                for row in ranks
                if re.fullmatch(r"\d+ × \d+", row[seeds])
            }
            for row in found:
                for column in range(names, measured.index("sd of seeds")):
                    key = tuple(row[:names])
                    if key in draws and VALUE.fullmatch(row[column]):
                        metric = measured[column].split()[0]
                        yield Shown(page, int(nfe), metric, row[column], draws[key], links[key])


def recomputed(shown: Shown) -> tuple[float, float, int]:
    """Mean over trainings, half of its 95 % t interval, and the number of trainings that did not diverge."""
    folder = next(folder for folder in shown.page.parents if (folder / "cells.zip").exists())
    means = []
    with zipfile.ZipFile(folder / "cells.zip") as archive:
        for name in shown.records:
            rows = [json.loads(line) for line in archive.read(name).decode().splitlines()]
            end = max(row["images"] for row in rows)
            last = {
                row["draw"]: row["value"]
                for row in rows
                if (row["images"], row["nfe"], row["metric"]) == (end, shown.nfe, shown.metric)
            }
            if json.loads(archive.read(name.replace("records.jsonl", "status.json")))["state"] == "done":
                means.append(np.mean([last[draw] for draw in sorted(last)[: shown.draws]]))
    n = len(means)
    half = scipy.stats.t.ppf(0.975, n - 1) * np.std(means, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(np.mean(means)), float(half), n


def is_rounded(text: str, value: float) -> bool:
    """Whether a printed number is a value to the digits printed."""
    printed = float(text.replace(",", "").replace("−", "-"))
    return abs(printed - value) <= 0.5000001 * 10.0 ** -len(text.partition(".")[2])


SHOWN = [shown for page in PAGES for shown in values(page)]


@pytest.mark.parametrize("shown", random.Random(0).sample(SHOWN, CELLS), ids=lambda one: f"{one.metric}-nfe{one.nfe}")
def test_a_value_follows_from_the_raw_rows(shown: Shown) -> None:
    mean, half, n = recomputed(shown)
    match = VALUE.fullmatch(shown.text)
    assert match is not None
    assert is_rounded(match[1], mean)
    assert match[2] is None if n == 1 else is_rounded(match[2], half)
    assert int(match[3]) == n
    with (shown.page.parent / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = [
            line for line in csv.DictReader(file) if (int(line["nfe"]), line["metric"]) == (shown.nfe, shown.metric)
        ]
    (line,) = [line for line in lines if re.findall(r"cells\.zip#(\S+)", line["records"]) == [*shown.records]]
    assert float(line["mean"]) == pytest.approx(mean, rel=1e-9)
    assert n == 1 or [float(line["low"]), float(line["high"])] == pytest.approx([mean - half, mean + half], rel=1e-9)
