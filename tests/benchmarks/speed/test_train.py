"""`bench speed train`: every program trains, and ratios are those of the same round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.speed import train
from consistency_bench.benchmarks.speed.contest import contest, ratio
from consistency_bench.benchmarks.speed.plain import with_update
from consistency_bench.benchmarks.speed.steps import load_datasets
from consistency_bench.benchmarks.speed.train import compare

from ..conftest import TINY, tiny_cell

CPU = torch.device("cpu")
KINDS = ("float32", "bfloat16")


def test_every_program_of_every_method_is_timed(tmp_path: Path) -> None:
    cells = compose_cells(["ect", "sct"], [0], [*TINY, "train.precision=fp32,bf16"])
    result = compare(cells, ["bare", "plain"], None, 2, CPU, tmp_path)
    suite = ["suite", "suite, bare", "suite train.precision=bf16", "suite train.precision=bf16, bare"]
    assert [(row.method, row.program) for row in result.rows] == [
        (method, program) for method in ("ect", "sct") for program in ("plain", *suite)
    ]
    assert all(row.rate > 0 and row.share > 0 for row in result.rows)
    assert list(result.costs) == [f"sct / ect, {program}" for program in suite]


def test_shares_are_of_the_rate_of_the_own_precision_and_mirror_images_are_trained_on(tmp_path: Path) -> None:
    small = ["benchmark=digits", "network.width=16", "data.flip=true", "train.batch=8", "train.precision=bf16"]
    result = compare(compose_cells(["ect"], [0], small), ["plain"], None, 2, CPU, tmp_path)
    plain, suite = result.rows
    full, half = (max(rate for name, rate in result.peaks.items() if name.endswith(f" {k}")) for k in KINDS)
    assert suite.share * half / suite.rate == pytest.approx(plain.share * full / plain.rate)


def test_rates_are_those_of_the_own_batch(tmp_path: Path) -> None:
    result = compare(compose_cells(["ect"], [0], [*TINY, "train.batch=8,16"]), ["plain"], None, 2, CPU, tmp_path)
    batches = [round(row.rate * row.milliseconds.median / 1000) for row in result.rows]
    assert batches == [8, 8, 16]


def test_swept_data_are_those_of_each_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    settings = ["benchmark=images", f"data.root={tmp_path}/images.npz", "data.resolution=8,16"]
    cells = compose_cells(["ect", "sct"], [0], settings)
    datasets = load_datasets(cells)
    assert [datasets[cell.id].info.shape[1] for cell in cells] == [8, 16] * 2
    assert len({id(dataset) for dataset in datasets.values()}) == 2

    seen: list[int] = []

    def step_of(config: RunConfig, dataset: Dataset, *_: object) -> Callable[[], None]:
        seen.append(dataset.info.shape[1])
        return lambda: None

    for name in ("trainer_step", "bare_step"):
        monkeypatch.setattr(train, name, step_of)
    compare(cells[:2], ["bare"], None, 2, CPU, tmp_path / "out")
    assert seen == [8, 8, 16, 16]


def test_programs_alternate_and_ratios_are_taken_round_by_round() -> None:
    calls: list[str] = []
    seconds = contest({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert ratio([2, 40, 6], [1, 10, 3]).median == 2


def test_the_plain_update_moves_the_weights_and_drops_what_is_not_finite() -> None:
    weights = torch.nn.Linear(2, 1)
    before = weights.weight.detach().clone()

    def gradient() -> torch.Tensor:
        weights.weight.grad = torch.tensor([[float("nan"), 1.0]])
        return torch.zeros(())

    with_update(gradient, weights, tiny_cell("ect", "train.optimizer=adam").config)()
    moved = weights.weight != before
    assert moved.tolist() == [[False, True]]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    with pytest.raises(UsageError, match=r"is no checkout of sony/vct: models/ecm.py is not there"):
        compare([cell], [], tmp_path, 2, CPU, tmp_path / "runs")
