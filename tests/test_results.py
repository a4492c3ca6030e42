"""The published results are made of the records beside them, and of nothing else."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli.report import report

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "reports" / "results").glob("*/cells.zip"))
NAMES = [folder.name for folder in FOLDERS]
STAMP = ".report.json"  # not published


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != STAMP]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_there_are_results() -> None:
    assert "small-scale" in NAMES


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_pages_and_pictures_are_those_of_the_cells_to_the_last_byte(folder: Path, tmp_path: Path) -> None:
    """Pictures, too: with the versions of constraints.txt they have the same bytes on Intel and AMD processors."""
    copy = tmp_path / folder.relative_to(ROOT)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(STAMP))
    readme = Path(shutil.copy(ROOT / "README.md", tmp_path))
    is_shown = f"({folder.relative_to(ROOT).as_posix()}/leaderboard.md)" in readme.read_text(encoding="utf-8")
    assert report(results=copy, readme=readme if is_shown else None) == 0
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes()
    old, new = contents(folder), contents(copy)
    assert new.keys() == old.keys()
    assert [name for name in old if new[name] != old[name]] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_the_records_say_how_they_were_made_and_name_no_place_of_a_machine(folder: Path) -> None:
    with zipfile.ZipFile(folder / "cells.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if not name.endswith(".npz")}
    histories = [json.loads(text) for name, text in texts.items() if name.endswith("/run.json")]
    attempts = [attempt for history in histories for attempt in history["attempts"]]
    assert len(attempts) >= len(histories) > 0
    for attempt in attempts:
        assert attempt["command"].startswith("bench ")
        assert attempt["git"]["commit"]
        assert not attempt["git"]["dirty"]
    assert {name for name, text in texts.items() if re.search(r"(?<![\w.~:/])/\w+/\S*", text)} == set()


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_every_picture_and_record_that_is_linked_is_there(folder: Path) -> None:
    with zipfile.ZipFile(folder / "cells.zip") as archive:
        cells = set(archive.namelist())
    for page in (ROOT / "README.md", *folder.rglob("*.md")):
        links = re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8"))
        files = [link.partition("#") for link in links if not link.startswith("#")]
        assert [file for file, _, _ in files if not (page.parent / file).exists()] == []
        records = {place for file, _, place in files if file.endswith("cells.zip")}
        assert records <= cells
        assert records or page.name != "leaderboard.md"
