"""What is checked before anything runs: from metadata alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.execution.preflight import check_cells

OWN_METRIC = "eval.metrics=[fd_torch:flatten_2k]"


@pytest.mark.parametrize("method", ["ict+ot", "sct", "vct"])
def test_a_data_set_that_is_still_to_be_downloaded_is_not(method: str, tmp_path: Path) -> None:
    check_cells(compose_cells([method], [0], ["benchmark=cifar10", f"data.root='{tmp_path}'", OWN_METRIC]))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    settings = ["benchmark=cifar10", "data.download=false", f"data.root='{tmp_path}'", OWN_METRIC]
    with pytest.raises(UsageError, match="cifar"):
        check_cells(compose_cells(["ect"], [0], settings))


def test_an_average_that_is_not_kept_is_refused() -> None:
    with pytest.raises(UsageError, match=r"eval\.ema is 'power-0\.1', must be null .* which is empty"):
        check_cells(compose_cells(["ect"], [0], ["eval.ema=power-0.1"]))
