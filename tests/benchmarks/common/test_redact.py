"""What a person typed, as records have it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import read_json
from consistency_bench.benchmarks.common.redact import command_line, typed, without_password
from consistency_bench.benchmarks.runs.folder import RUN, find_cells

from ..conftest import Said


def test_it_can_be_typed_again_and_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/bench", "run", "--mlflow-uri", "https://me:secret@host/x?token=1", "eval.nfe=[1, 2]"]
    monkeypatch.setattr(sys, "argv", words)
    assert typed() == "bench run --mlflow-uri 'https://***@host/x?***' 'eval.nfe=[1, 2]'"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("postgresql://me:it's@host/db", "postgresql://***@host/db"),
        ("postgresql://me:a b@host/db", "postgresql://***@host/db"),
        ("uri=https://me:p@ss@host/x", "uri=https://***@host/x"),
        ("http://me:se?cret@host/x?token=1", "http://***@host/x?***"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("sqlite:////tmp/runs/mlflow.db", "sqlite:////tmp/runs/mlflow.db"),
        ("eval.nfe=[1,2]", "'eval.nfe=[1,2]'"),
    ],
)
def test_no_character_of_a_password_gets_through(word: str, shown: str) -> None:
    assert shlex.split(command_line(["bench", word])) == ["bench", shlex.split(shown)[0]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open postgres:/me:secret@host", "open postgres:/***@host"),
        ("error:me:secret@host, x://***@host", "***@host, x://***@host"),
        ("a" * 100_000, "a" * 100_000),
        ("a:" * 50_000, "a:" * 50_000),
        ("a" * 100_000 + "://me:secret@host", "a" * 100_000 + "://***@host"),
    ],
    ids=["one slash", "after a colon", "a long word", "many colons", "a long scheme"],
)
def test_passwords_are_removed_from_sentences_of_any_length(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.slow
def test_a_worker_records_the_command_of_the_person_and_not_its_own(call, tmp_path: Path) -> None:
    words = ("run", "--methods", "ect", "--seeds", "0", "benchmark=toy2d", "train.images=1280", "eval.nfe=[1]")
    said: Said = call(*words, "eval.metrics=[fd_points_500]", "--no-mlflow", "--out", str(tmp_path / "runs"))
    assert said.status == 0, said.err
    (cell,) = find_cells(tmp_path / "runs")
    (attempt,) = read_json(cell.path / RUN)["attempts"]
    assert attempt["command"].startswith("bench run --methods ect --seeds 0 benchmark=toy2d train.images=1280")
