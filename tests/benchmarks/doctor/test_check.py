from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.files import read_json
from consistency_bench.benchmarks.doctor.check import SMALL, Check, Finding, Machine, NotCheckedError, Record, perform
from consistency_bench.benchmarks.doctor.table import CHECKS, COMPILED, checks_for, markdown


def outcome(run: object, limit: float = 60) -> Record:
    machine = Machine(torch.device("cpu"), SMALL, Path("unused"), (sys.executable,))
    return perform(Check("something", limit, run), machine)  # type: ignore[arg-type]


def raising(error: Exception) -> object:
    def run(machine: Machine) -> Finding:
        raise error

    return run


@pytest.mark.parametrize(("value", "ok"), [(0.1, True), (0.2, True), (0.3, False), (math.nan, False)])
def test_a_value_above_its_bound_fails(value: float, ok: bool) -> None:
    assert outcome(lambda machine: Finding(value, "relative", 0.2)).ok is ok


def test_a_measurement_is_no_test() -> None:
    record = outcome(lambda machine: Finding(3.0, "images/s"))
    assert (record.value, record.ok) == (3.0, None)


def test_what_a_check_raises_is_its_result() -> None:
    record = outcome(raising(RuntimeError("an illegal memory access\nmore lines")))
    assert (record.ok, record.note) == (False, "RuntimeError: an illegal memory access")
    record = outcome(raising(NotCheckedError("no weights")))
    assert (record.ok, record.note) == (None, "not checked: no weights")


def test_a_check_ends_when_its_time_is_over() -> None:
    def endless(machine: Machine) -> Finding:
        for number in range(10**9):
            machine.require_time(f"{number} steps")
        raise AssertionError

    record = outcome(endless, limit=0.01)
    assert record.ok is False
    assert record.note.startswith("out of time after ")


def test_limits_add_up_to_less_than_5_and_20_minutes() -> None:
    assert sum(check.limit for check in CHECKS) < 5 * 60
    assert sum(check.limit for check in COMPILED) < 20 * 60


def test_the_table_of_the_docs_is_that_of_the_records() -> None:
    folder = Path(__file__).parents[3] / "reports" / "devices"
    text = (folder / "README.md").read_text(encoding="utf-8")
    files = list(folder.glob("*.json"))
    assert files
    for file in files:
        assert markdown(read_json(file)) in text


def test_a_precision_that_the_cpu_does_not_have_is_left_out() -> None:
    assert not any("tf32" in check.name for check in checks_for(torch.device("cpu")))
    assert checks_for(torch.device("cuda")) == CHECKS
    assert checks_for(torch.device("cuda"), compiled=True) == (*CHECKS, *COMPILED)


@pytest.mark.slow
def test_compiled_losses_are_examined(tmp_path: Path) -> None:
    machine = Machine(torch.device("cpu"), SMALL, tmp_path, (sys.executable,))
    record = perform(replace(COMPILED[0], limit=math.inf), machine)
    assert record.ok, record.note
