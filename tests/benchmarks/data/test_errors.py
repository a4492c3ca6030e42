"""How an unknown name is reported."""

import subprocess
import sys

import pytest

from consistency_bench.benchmarks.common.errors import UsageError, unknown
from consistency_bench.benchmarks.data import registry


def test_a_near_name_is_suggested_and_all_are_listed():
    error = unknown("method", "ekt", ["ict", "ect", "sct", "vct"])
    assert isinstance(error, UsageError)
    assert str(error) == "unknown method 'ekt'. Did you mean: ect? Available: ict, ect, sct, vct"


def test_unknown_data_set_and_misplaced_variant():
    with pytest.raises(
        UsageError, match=r"unknown data set 'digit'\. Did you mean: digits\? Available: cifar10, digits"
    ):
        registry.load("digit")
    with pytest.raises(UsageError, match=r"'digits' has no variants, so 'spiral' has no meaning"):
        registry.load("digits", variant="spiral")
    with pytest.raises(UsageError, match=r"unknown variant of toy2d 'two_mode'\. Did you mean: two_modes"):
        registry.load("toy2d", variant="two_mode")


def test_registries_and_errors_import_without_torch():
    code = (
        "import sys, consistency_bench.benchmarks.common.errors, consistency_bench.benchmarks.data.registry, "
        "consistency_bench.benchmarks.metrics.registry; print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
