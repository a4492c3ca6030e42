"""Configurations as typed objects: from plain data and back, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import choices, compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig


def plain(method: str = "ect", *overrides: str) -> dict[str, Any]:
    (cell,) = compose_cells([method], [3], overrides)
    return cell.config.to_dict()


@pytest.mark.parametrize("method", choices("method"))
def test_a_configuration_survives_the_way_there_and_back(method: str) -> None:
    config = RunConfig.from_dict(plain(method, "benchmark=imagenet64"))
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.method.name == config.cell.method == method
    assert config.benchmark.name == config.data.name == "imagenet64"
    assert config.data.conditional
    assert config.seed == 3


def test_derived_quantities_count_whole_batches() -> None:
    values = plain("ect", "train.images=1000", "train.batch=300", "run.snapshots=2", "sample.guidance=1.5")
    config = RunConfig.from_dict(values)
    assert config.budget_images == 1200
    assert config.guide_images == 600
    assert config.snapshot_images == [600, 1200]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("train", {"bacth": 3}, "unknown key 'train.bacth'"),
        ("train", {"batch": True}, "train.batch is true, must be a whole number"),
        ("train", {"lr": None}, "train.lr is null, must be a number"),
        ("train", {"resources": {"memory": "x"}}, "train.resources.memory is x, must be null, or text such as"),
        ("eval", {"curve": [0]}, "eval.curve is [0], must be null, or a list of step counts, each at least 1"),
        ("method", {"times": 3}, "method.times is 3, must be a mapping such as {kind: …}"),
    ],
)
def test_a_bad_value_is_one_sentence(section: str, changes: dict[str, Any], message: str) -> None:
    values = plain()
    values[section] |= changes
    with pytest.raises(UsageError) as caught:
        RunConfig.from_dict(values)
    assert str(caught.value).startswith(message)


def test_a_missing_section_or_key_is_named() -> None:
    values = plain()
    del values["train"]["lr"]
    with pytest.raises(UsageError, match=r"^train\.lr is missing$"):
        RunConfig.from_dict(values)
    del values["train"]
    with pytest.raises(UsageError, match=r"^the section 'train' is missing$"):
        RunConfig.from_dict(values)
