"""What a cell will need, held against what it then takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli.costs import cost_lines, measured_costs
from consistency_bench.benchmarks.data.registry import describe_dataset
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.training.cost import Footprint, footprint

from ..conftest import put, tiny_cell


def of(*settings: str, method: str = "ect") -> Footprint:
    cell = tiny_cell(method, *settings)
    return footprint(cell.config, describe_dataset(cell.config.data))


@pytest.mark.parametrize("method", ["ect", "vct", "sct"])
def test_parameters_flops_and_disk_are_those_of_the_run(method: str, tmp_path: Path) -> None:
    cell = tiny_cell(method, "network.width=128")
    expected = footprint(cell.config, describe_dataset(cell.config.data))
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    compute = json.loads((folder / "run.json").read_text())["compute"]
    assert expected.parameters == compute["parameters"]
    assert expected.flops == pytest.approx(compute["flops_per_image"] * compute["images"], rel=0.02)
    last = folder / "checkpoints" / "last.pt"  # a longer run has the one before it, too
    weights = [last, last, *folder.glob("snapshots/*")]
    assert sum(path.stat().st_size for path in weights) == pytest.approx(expected.disk, rel=0.1)


def test_memory_follows_from_the_settings() -> None:
    usual = of()
    assert of("train.images=512000") == dataclasses.replace(usual, flops=pytest.approx(200 * usual.flops))
    halves = of("train.resources.devices=2")
    assert (halves.activations, halves.state) == (pytest.approx(usual.activations / 2), usual.state)
    assert of("run.micro_batch=32").activations == pytest.approx(usual.activations * 32 / 256, rel=0.1)
    assert of("train.ema_extra=[{kind: power, sigma_rel: 0.1}]").state == pytest.approx(usual.state * 6 / 5)
    # Weights, averages and two moments, these once more for the copy on a GPU, and gradients.
    assert of("run.device=auto").state == pytest.approx(usual.state * 9 / 5)
    assert usual.memory == usual.state + usual.data + usual.activations


def test_device_hours_are_measured_counted_or_not_known(tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    unknown, known = list(cost_lines([cell], tmp_path, None)), list(cost_lines([cell], tmp_path, 1e-6))
    assert "device-hours: unknown" in unknown[1]
    assert "ect on toy2d" in unknown[1]
    hours = footprint(cell.config, describe_dataset(cell.config.data)).flops / 1e6 / 3600
    assert known[1] == f"device-hours: {hours:.3g} of training at the 1e-06 TFLOP/s of the cluster's file"
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    (cost,) = measured_costs(tmp_path).values()
    compute = json.loads((folder / "run.json").read_text())["compute"]
    assert cost == compute["train_seconds"] / compute["images"]
    assert "at the speed of the finished cells" in list(cost_lines([tiny_cell("ect", seed=1)], tmp_path, 1e-6))[1]
