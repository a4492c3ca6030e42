"""What a person typed, as records have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from consistency_bench.benchmarks.command import typed
from consistency_bench.benchmarks.files import read_json
from consistency_bench.benchmarks.records import RUN, find_cells

from .conftest import Said


def test_it_can_be_typed_again_and_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/bench", "run", "--mlflow-uri", "https://me:secret@host/x?token=1", "eval.nfe=[1, 2]"]
    monkeypatch.setattr(sys, "argv", words)
    assert typed() == "bench run --mlflow-uri 'https://***@host/x?***' 'eval.nfe=[1, 2]'"


def test_a_worker_records_the_command_of_the_person_and_not_its_own(call, tmp_path: Path) -> None:
    words = ("run", "--methods", "ect", "--seeds", "0", "benchmark=toy2d", "train.images=1280", "eval.nfe=[1]")
    said: Said = call(*words, "eval.metrics=[fd_points_500]", "--no-mlflow", "--out", str(tmp_path / "runs"))
    assert said.status == 0, said.err
    (cell,) = find_cells(tmp_path / "runs")
    (attempt,) = read_json(cell.path / RUN)["attempts"]
    assert attempt["command"].startswith("bench run --methods ect --seeds 0 benchmark=toy2d train.images=1280")
