"""`--json`: one document on standard output with the keys that docs/exchange.md lists, and the same exit status."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli.json_output import print_json
from consistency_bench.benchmarks.runs.folder import find_cells

from ..conftest import Said

PAGE = Path(__file__).parents[3] / "docs" / "exchange.md"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def documented(command: str) -> list[str]:
    """The keys of a document by the page."""
    (line,) = re.findall(rf"^\| `bench {command}` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"`(\w+)`", line)


@pytest.mark.parametrize(
    ("command", "arguments", "inner"),
    [
        ("list", (), "metrics"),
        ("show", ("ect",), "configs"),
        ("show", ("toy2d",), "configs"),
        ("show", ("CELL",), "records"),
        ("show", ("train.ema",), "keys"),
        ("status", (), "cells"),
        ("compare", ("ect", "vct"), "comparisons"),
        ("report", ("--no-mlflow",), "results"),
    ],
)
def test_one_document_with_documented_keys(
    runs: Path, call: Callable[..., Said], command: str, arguments: tuple[str, ...], inner: str
) -> None:
    cell = find_cells(runs)[0].path.name
    arguments = tuple(cell if argument == "CELL" else argument for argument in arguments)
    said, plain = call(command, *arguments, "--json"), call(command, *arguments)
    document = json.loads(said.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (said.status, said.err) == (plain.status, plain.err)
    keys = {*document, *(document[inner][0] if command != "show" or inner == "keys" else ())}
    known = set(documented(command))
    assert keys <= known
    if command != "show":  # methods, benchmarks and cells have different ones
        assert known - keys <= {"summary"}  # of the other lists


def test_damage_changes_the_status_as_without(runs: Path, call: Callable[..., Said]) -> None:
    find_cells(runs)[0].records_file.write_text("nonsense\n")
    said = call("report", "--no-mlflow", "--json")
    assert said.status == 1
    (reason,) = json.loads(said.out)["damaged"]
    assert "records.jsonl" in reason
    assert "the cell is left out" in said.err
    assert call("status", "--json", "--watch").status == 2


def test_what_json_does_not_have_is_null_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("-inf"), 1.5], 3: Path("x"), "d": {True: None}, "e": iter((1, "é"))})
    expected = {"a": None, "b": [None, 1.5], "3": "x", "d": {"True": None}, "e": [1, "é"]}
    assert json.loads(capsys.readouterr().out) == expected
