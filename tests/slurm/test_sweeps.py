"""Files of sweeps: what is written is read back, and what is damaged is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.slurm import clusters, sweeps
from consistency_bench.slurm.sweeps import Array, Sweep

RESOURCES = {"devices": 1, "nodes": 1, "cpus": 8, "memory": None, "time_limit": 1440}
FIRST = Sweep(
    sweep="20261121-140102-3fa9c1",
    created="2026-11-21T14:01:02+00:00",
    user="ann",
    command="bench sweep",
    cluster=asdict(clusters.load("a100_preempt")),
    arrays=(
        Array("bench-20261121-140102-3fa9c1-0", "12", "array-0", RESOURCES, (("a/ect/s0-1",), ("a/ect/s1-2",))),
        Array("bench-20261121-140102-3fa9c1-1", None, "array-1", RESOURCES, (("a/ict/s0-3", "a/ect/s0-1"),)),
    ),
)
SECOND = replace(FIRST, sweep="20261121-150000-000000", created="2026-11-21T15:00:00+00:00", user="bob")


def test_what_is_saved_is_read_oldest_first(tmp_path: Path) -> None:
    assert sweeps.read(tmp_path) == []
    path = sweeps.save(tmp_path, SECOND)
    assert path == tmp_path / "sweeps" / SECOND.sweep / "sweep.json"
    sweeps.save(tmp_path, FIRST)
    first, second = sweeps.read(tmp_path)
    assert (first.sweep, second.sweep) == (FIRST.sweep, SECOND.sweep)
    assert first.arrays == FIRST.arrays
    assert first.folder(tmp_path, first.arrays[1]) == tmp_path / "sweeps" / FIRST.sweep / "array-1"
    assert clusters.from_record(first.cluster) == clusters.load("a100_preempt")
    assert [path.name for path in path.parent.iterdir()] == ["sweep.json"]


def test_the_tasks_of_a_cell_are_found_newest_last() -> None:
    held = sweeps.tasks([FIRST, SECOND])["a/ect/s0-1"]
    assert [task.key for task in held] == 2 * [(FIRST.arrays[0].name, 0), (FIRST.arrays[1].name, 0)]
    (task,) = sweeps.tasks([FIRST])["a/ict/s0-3"]
    assert (task.key, task.cells, task.job) == ((FIRST.arrays[1].name, 0), ("a/ict/s0-3", "a/ect/s0-1"), None)


@pytest.mark.parametrize(
    "damage",
    [
        {"arrays": None},
        {"cluster": "local"},
        {"foreign": 1},
        {"arrays": [{"name": "x"}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "elements": [[1]]}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "job": 12}]},
        {"sweep": "../../elsewhere"},
        {"created": "0001-01-01T00:00:00+00:00"},
        {"pack": 0},
        {"pack": 2, "share": 3},
        {"arrays": [{**asdict(FIRST.arrays[0]), "job": "-u root"}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "name": "--clusters=all"}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "folder": "../../../etc"}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "elements": [["a/ect/../../../s0-1"]]}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "elements": [["../ect/s0-1"]]}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "elements": [["/etc/passwd"]]}]},
        {"arrays": [{**asdict(FIRST.arrays[0]), "elements": [["a/ect/s0-1\x1b[2J"]]}]},
    ],
)
def test_a_damaged_file_is_named(damage: dict, tmp_path: Path) -> None:
    path = sweeps.save(tmp_path, FIRST)
    path.write_text(json.dumps({**asdict(FIRST), **damage}))
    with pytest.raises(DamagedError, match=r"sweep\.json does not describe a sweep"):
        sweeps.read(tmp_path)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = sweeps.save(tmp_path, FIRST)
    path.write_text("[1, 2")
    with pytest.raises(DamagedError, match=str(path)):
        sweeps.read(tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(DamagedError, match=str(path)):
        sweeps.read(tmp_path)


def test_a_cluster_of_another_version_is_refused() -> None:
    record = {**asdict(clusters.load("local")), "colour": "blue"}
    with pytest.raises(UsageError, match=r"the cluster 'local' in the record of the sweep .*unknown key 'colour'"):
        clusters.from_record(record)


@pytest.mark.parametrize("name", clusters.choices())
def test_a_shipped_cluster_comes_back_from_a_record(name: str) -> None:
    record = json.loads(json.dumps(asdict(clusters.load(name))))
    assert clusters.from_record(record) == clusters.load(name)


@pytest.mark.parametrize("name", ["a100_preempt", "mine", "../mine"])
@pytest.mark.parametrize(
    "harm",
    [
        {"setup": ["touch canary"]},
        {"environment": {"LD_PRELOAD": "/tmp/harm.so"}},
        {"sbatch": {"bb": "touch canary"}},
        {"srun_args": ["--task-prolog=/tmp/harm"]},
    ],
)
def test_what_a_file_of_results_says_is_never_run(name: str, harm: dict, tmp_path: Path) -> None:
    record = json.loads(json.dumps({**asdict(clusters.load("local")), "name": name, **harm}))
    with pytest.raises(UsageError, match=r"which are never taken from files of results; name a cluster with --cluster"):
        clusters.from_record(record)


@pytest.mark.parametrize("partition", ["main\ntouch canary", "main; touch canary", ["main"], "$(touch canary)"])
def test_a_line_that_would_become_part_of_a_job_s_script_is_refused(partition: object) -> None:
    record = {**asdict(clusters.load("local")), "partition": partition}
    with pytest.raises(UsageError, match=r"partition is .*name without spaces"):
        clusters.from_record(record)
