"""The checks of `bench doctor --device cuda`, where there is a GPU: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.precision import repeatable
from consistency_bench.benchmarks.doctor.check import Check, perform
from consistency_bench.benchmarks.doctor.table import CHECKS, COMPILED, row, this_machine

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("check", [*CHECKS, *COMPILED], ids=lambda check: check.name.replace(" ", "-"))
def test_a_device_passes(check: Check, tmp_path: Path) -> None:
    device = torch.device("cuda")
    with repeatable(device):
        record = perform(check, this_machine(device, tmp_path))
    assert record.ok is not False, row(record)
