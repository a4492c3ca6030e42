"""Every registered method, and a small model of it."""

from __future__ import annotations

import pytest

from consistency_bench.benchmarks.config.compose import choices
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.execution.conformance import small_config as config_of
from consistency_bench.benchmarks.execution.conformance import small_model

__all__ = ["METHODS", "config_of", "small_model"]

METHODS = choices("method")


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(config_of("ect").data)


@pytest.fixture(params=METHODS)
def method_name(request: pytest.FixtureRequest) -> str:
    return request.param
