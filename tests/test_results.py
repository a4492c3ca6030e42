"""The results that the repository shows are made of the records that it holds, and of nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from consistency_bench.reports.build import build_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("docs/results")


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the records and of the README, with the report rebuilt."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / RESULTS / "digits", root / RESULTS / "digits")
    shutil.copy(ROOT / "README.md", root)
    build_report(root / RESULTS, mlflow=False, readme=root / "README.md")
    return root


@pytest.mark.parametrize("name", [Path("README.md"), RESULTS / "leaderboard.md", RESULTS / "results.csv"], ids=str)
def test_the_tables_are_those_of_the_records_to_the_last_byte(again: Path, name: Path) -> None:
    assert (again / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_page_is_that_of_the_records_but_for_the_pixels_of_its_pictures(again: Path) -> None:
    old, new = (
        re.sub(r"data:image/png;base64,[\w+/=]+", "", (root / RESULTS / "report.html").read_text(encoding="utf-8"))
        for root in (ROOT, again)
    )
    assert new == old


def test_the_records_say_how_they_were_made_and_name_no_place_of_a_machine() -> None:
    runs = sorted((ROOT / RESULTS).glob("*/*/*/run.json"))
    assert len(runs) == 24
    for path in runs:
        for attempt in json.loads(path.read_text(encoding="utf-8"))["attempts"]:
            assert attempt["command"].startswith("bench run --methods ict,ect,sct,vct")
            assert attempt["git"]["commit"]
            assert not attempt["git"]["dirty"]
        for other in path.parent.glob("*.*"):
            assert re.findall(r"(?<![\w.~:/])/\w+/\S*", other.read_text(encoding="utf-8")) == []


def test_every_picture_and_record_that_is_linked_is_there() -> None:
    for document in (ROOT / "README.md", ROOT / RESULTS / "leaderboard.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
        assert len(links) > 12
        assert [link for link in links if not (document.parent / link).exists()] == []
