"""Every registered method, and a small model of it."""

from __future__ import annotations

import pytest
import torch

from consistency_bench.benchmarks.config.compose import choices, compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.training.model import Model, build_model

METHODS = choices("method")


def config_of(method: str, *settings: str, seed: int = 0) -> RunConfig:
    (cell,) = compose_cells([method], [seed], ["network.width=32", "network.blocks=2", *settings])
    return cell.config


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(config_of("ect").data)


@pytest.fixture(params=METHODS)
def method_name(request: pytest.FixtureRequest) -> str:
    return request.param


def small_model(name: str, dataset: Dataset, *settings: str, seed: int = 0) -> Model:
    return build_model(config_of(name, *settings, seed=seed), dataset, torch.device("cpu"))
