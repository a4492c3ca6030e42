"""The cores that a process may use, and how processes of this project end: without a last look for garbage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.system import available_cores

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


# Cores

ALL = len(os.sched_getaffinity(0))
ONE, HALF, FREE = "100000 100000\n", "50000 100000\n", "max 100000\n"
V1 = {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("groups", "limits", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": ONE}, 1),
        ("0::/a/b", {"a/cpu.max": HALF, "a/b/cpu.max": FREE}, 1),
        ("0::/a/b", {"a/b/cpu.max": FREE}, ALL),
        ("0::/a/b", {"a/b/cpu.max": "900000000 100000\n"}, ALL),
        ("0::/", {"cpu.max": ONE}, 1),
        ("0::/system.slice/of-the-host", {"cpu.max": ONE}, 1),
        ("0::/../elsewhere", {}, ALL),
        (
            "9:pids:/\n4:cpuacct,cpu:/a\n0::/",
            V1,
            1,
        ),
        ("4:cpu:/a", V1 | {"cpu/a/cpu.cfs_quota_us": "-1"}, ALL),
        ("4:cpuset:/a", V1, ALL),
        ("4:cpu:/a", V1 | {"cpu/a/cpu.cfs_quota_us": "junk"}, ALL),
    ],
)
def test_a_quota_of_any_group_around_a_process_counts(
    groups: str, limits: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    for path, content in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{at}": it for at, it in limits.items()},
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert available_cores(tmp_path) == cores


def test_a_job_has_the_cores_that_slurm_gave_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert available_cores(tmp_path) == 1
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1(x2)")
    assert available_cores(tmp_path) == ALL
