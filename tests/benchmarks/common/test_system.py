"""Processes of this project end without a last look for garbage, and no earlier than they should."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = "sys.argv = ['bench', '--version']; from consistency_bench.benchmarks.cli.main import main; main()"
WORKER = (
    "import runpy; sys.argv = ['worker']; "
    "runpy.run_module('consistency_bench.benchmarks.execution.worker', run_name='__main__')"
)
JOB = "from consistency_bench.slurm.job import CellsJob; CellsJob((), 1, False, 3)()"

# What is registered before the command runs is called after what the command registers.
WATCHED = """\
import atexit, gc, sys

class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

atexit.register(lambda: print("frozen" if gc.get_freeze_count() else "not frozen"))
Cycle()
gc.disable()
{}
"""


@pytest.mark.parametrize("code", [COMMAND, WORKER, JOB], ids=["command", "worker", "job"])
def test_nothing_is_collected_at_the_end(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED.format(code)], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert "frozen" in said, done.stderr
    assert "collected" not in said[said.index("frozen") :]


def test_a_process_that_goes_on_is_not_touched() -> None:
    code = f"import gc, sys\ntry:\n    {COMMAND}\nfinally:\n    print(gc.get_freeze_count(), gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 True", done.stderr
