"""What a sweep asks of SLURM: resources, arrays, the text of a job, and what it says where SLURM refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from consistency_bench.benchmarks.cli.run import Launch
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.schema import ResourcesConfig, RunConfig
from consistency_bench.slurm.clusters import Cluster, Requeue
from consistency_bench.slurm.executor import parameters
from consistency_bench.slurm.resources import Resources, resources
from consistency_bench.slurm.submit import make_plan, script

from ..benchmarks.conftest import tiny_cell
from .sweeping import Place

SITE = Cluster(name="site", gpus_per_node=4, cpus_per_gpu=8, time_limit=60, array_parallelism=3, memory_per_gpu=2048)
PLAIN = Resources(devices=1, nodes=1, cpus=8, memory=2048, time_limit=60)


def config(**asked: Any) -> RunConfig:
    usual = tiny_cell("ect").config
    return dataclasses.replace(usual, train=dataclasses.replace(usual.train, resources=ResourcesConfig(**asked)))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, PLAIN),
        ({"devices": 4}, dataclasses.replace(PLAIN, devices=4)),
        ({"devices": 8}, dataclasses.replace(PLAIN, devices=8, nodes=2)),
        ({"devices": 6}, dataclasses.replace(PLAIN, devices=6, nodes=2)),
        ({"devices": 5}, dataclasses.replace(PLAIN, devices=5, nodes=5)),
        ({"devices": 4, "nodes": 4}, dataclasses.replace(PLAIN, devices=4, nodes=4)),
        ({"memory": "3G", "cpus": 2}, dataclasses.replace(PLAIN, memory=3072, cpus=2)),
        ({"time_limit": "1d"}, dataclasses.replace(PLAIN, time_limit=1440)),
    ],
)
def test_a_cell_asks_for_what_the_cluster_says_and_more(asked: dict[str, Any], found: Resources) -> None:
    assert resources(config(**asked), SITE) == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"devices": 5, "nodes": 1}, "site has 4 GPUs a node"),
        ({"time_limit": "2m"}, "train.resources.time_limit is 120 s, must be more than 150 s"),
    ],
)
def test_what_the_cluster_cannot_give_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resources(config(**asked), SITE)


def test_one_array_for_each_set_of_resources() -> None:
    cells = [(Path(f"{n}"), config(**({"devices": 2} if n % 3 == 0 else {}))) for n in range(9)]
    plan = make_plan(cells, SITE, pack=1, share=1, most=1000)
    assert [(wanted.devices, len(elements)) for wanted, elements in plan.arrays] == [(1, 6), (2, 3)]
    assert [folder.name for element in plan.arrays[1][1] for folder in element] == ["0", "3", "6"]


def test_cells_are_packed_and_large_arrays_are_cut() -> None:
    cells = [(Path(f"{n}"), config()) for n in range(10)]
    plan = make_plan(cells, SITE, pack=3, share=1, most=2)
    assert [[len(element) for element in elements] for _, elements in plan.arrays] == [[3, 3], [3, 1]]
    assert [folder.name for _, elements in plan.arrays for e in elements for folder in e] == [str(n) for n in range(10)]
    with pytest.raises(UsageError, match="--share 2 is for cells on one device"):
        make_plan([(Path("a"), config(devices=2))], SITE, pack=2, share=2, most=10)


def test_the_text_of_a_job(tmp_path: Path) -> None:
    site = dataclasses.replace(
        SITE,
        partition="gpu",
        gpu_type="a100",
        setup=("module load cuda",),
        environment={"WORDS": "two words"},
        requeue=Requeue(enabled=False, notice_seconds=77),
        sbatch={"reservation": "spring", "exclusive": True},
    )
    out = tmp_path / "my runs"
    plan = make_plan([(out / "a", config(devices=8)), (out / "b", config(devices=8))], site, pack=1, share=1, most=9)
    text = script(plan, 0, out)
    lines = text.splitlines()
    for option in (
        "array=0-1%2",
        "partition=gpu",
        "nodes=2",
        "ntasks-per-node=4",
        "cpus-per-task=8",
        "gpus-per-node=a100:4",
        "mem=8192M",
        "time=60",
        "signal=USR2@77",
        "no-requeue",
        "reservation=spring",
        "exclusive",
    ):
        assert f"#SBATCH --{option}" in lines
    assert "export WORDS='two words'" in lines
    assert lines.index("module load cuda") < lines.index("export OMP_NUM_THREADS=8")
    (take,) = [line for line in lines if line.startswith("cp -n ")]
    assert f"'{out}/sweeps/SWEEP/array-0'/element-$SLURM_ARRAY_TASK_ID.pkl" in take
    (run,) = [line for line in lines if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=8" in run


PER_CPU = {"memory_per_gpu": None, "memory_per_cpu": 512}
GPUS = ("gpus", "gpus-per-node", "gres", "gpus-per-task")


@pytest.mark.parametrize(
    ("site", "asked", "options", "left_out"),
    [
        (PER_CPU, {}, ["mem-per-cpu=512M"], ["mem"]),
        (PER_CPU, {"memory": "3G", "cpus": 7}, ["mem-per-cpu=439M"], ["mem"]),
        ({"gpu_request": "gres"}, {"devices": 2}, ["gres=gpu:2"], ["gpus-per-node"]),
        ({"gpu_request": "gres", "gpu_type": "a100"}, {}, ["gres=gpu:a100:1"], ["gpus-per-node"]),
        ({"gpu_request": "gres", "sbatch": {"gres": "lustre:1"}}, {}, ["gres=gpu:1,lustre:1"], []),
        ({"sbatch": {"gres": "lustre:1"}}, {}, ["gres=lustre:1", "gpus-per-node=1"], []),
        ({"gpu_request": "gpus-per-task"}, {"devices": 2}, ["gpus-per-task=1", "ntasks-per-node=2"], ["gres"]),
        ({"gpu_request": "none"}, {}, ["ntasks-per-node=1"], GPUS),
        ({"gpus_per_node": 0, "gpu_request": "gres"}, {}, ["ntasks-per-node=1"], GPUS),
        ({"job_name_prefix": "site-42:"}, {}, ["job-name=site-42:bench-SWEEP-0"], []),
        ({"comment": "for me", "reservation": "spring"}, {}, ["comment='for me'", "reservation=spring"], []),
        ({"comment": "a", "sbatch": {"comment": "b"}}, {}, ["comment=b"], []),
        ({"sbatch": {"mail-type": "END", "nodelist": "n[1-2]"}}, {}, ["mail-type=END", "nodelist='n[1-2]'"], []),
    ],
)
def test_sites_differ_in_how_they_are_asked(
    site: dict[str, Any], asked: dict[str, Any], options: list[str], left_out: list[str], tmp_path: Path
) -> None:
    plan = make_plan([(tmp_path / "a", config(**asked))], dataclasses.replace(SITE, **site), pack=1, share=1, most=9)
    lines = [line for line in script(plan, 0, tmp_path).splitlines() if line.startswith("#SBATCH ")]
    names = [line.removeprefix("#SBATCH --").partition("=")[0] for line in lines]
    assert {f"#SBATCH --{option}" for option in options} <= set(lines)
    assert not set(left_out) & set(names)
    assert len(set(names)) == len(names)


def test_options_of_the_site_reach_srun(tmp_path: Path) -> None:
    site = dataclasses.replace(SITE, srun_args=("--mpi=none", "--container-mounts=/a b:/c"))
    text = script(make_plan([(tmp_path / "a", config())], site, pack=1, share=1, most=9), 0, tmp_path)
    (run,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=8 --mpi=none '--container-mounts=/a b:/c' " in run


@pytest.mark.parametrize(
    ("site", "cpus"),
    [
        (dataclasses.replace(SITE, partition="main\ntouch canary"), 8),
        (dataclasses.replace(SITE, sbatch={"comment": "x\ntouch canary"}), 8),
        (SITE, "1\ntouch canary #"),
    ],
)
def test_no_value_ends_its_line_of_the_script(site: Cluster, cpus: object, tmp_path: Path) -> None:
    asked = config()
    object.__setattr__(asked.train.resources, "cpus", cpus)
    with pytest.raises(UsageError, match="must be one line"):
        script(make_plan([(tmp_path / "a", asked)], site, pack=1, share=1, most=9), 0, tmp_path)


def test_a_site_that_says_nothing_is_asked_for_nothing() -> None:
    site = dataclasses.replace(SITE, gpus_per_node=0, memory_per_gpu=None)
    wanted = parameters(Path("/x"), "name", resources(config(), site), site)
    assert wanted["additional_parameters"] == {"requeue": True}
    assert not {"partition", "account", "qos", "constraint", "mem"} & set(wanted)


# The command

SMALL = ("benchmark=toy2d", "train.images=2560", "run.snapshots=1", "eval.nfe=[1]", "network.width=8")


def test_without_slurm_it_says_so_and_names_the_other_way(tmp_path: Path) -> None:
    place = Place(tmp_path / "runs", wrap=("env", "PATH=/nowhere"))
    said = place.bench("sweep", "--cluster", "local", *SMALL, status=2)
    assert "there is no SLURM on this machine (sbatch, srun, squeue, scontrol not found)" in said
    assert "--launcher local" in said
    assert said.count("\n") == 1
    assert not place.out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--cluster is missing: name one (a100_preempt, h100x8, local, workstation) or the file"),
        (("--cluster", "locl"), "unknown cluster 'locl'. Did you mean: local?"),
        (("--cluster", "local", "--share", "2"), "--share is 2, must be at most --pack (1)"),
        (("--launcher", "cloud"), "'cloud' is not one of 'local', 'slurm', 'debug'"),
        (("--launcher", "local", "--cluster", "local"), "--cluster needs --launcher slurm"),
        (("--cluster", "workstation", "train.resources={devices: 3, nodes: 1}"), "workstation has 2 GPUs a node"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    place = Place(tmp_path / "runs")
    complaint = place.bench("sweep", *SMALL, "--dry-run", *arguments, status=2)
    assert said in complaint
    assert complaint.rstrip().splitlines()[-1].startswith(("bench: ", "Error: "))
    assert not place.out.exists()


def test_a_dry_run_shows_jobs_and_costs_and_writes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "runs", wrap=("env", "PATH=/nowhere"))
    said = place.bench("sweep", "--methods", "ect,vct", "--seeds", "0-2", "--cluster", "h100x8", "--dry-run", *SMALL)
    assert "cells: 6, 0 done, 6 to run" in said
    assert "#SBATCH --array=0-5%6" in said
    assert "FLOPs for 6 cells" in said
    assert "device-hours: unknown" in said
    assert "memory per device in training: about" in said
    assert not place.out.exists()


def test_threads_are_for_this_machine() -> None:
    with pytest.raises(UsageError, match="--threads is for this machine: a job has the cores of cpus_per_gpu"):
        Launch("slurm", cluster="local", threads=2)


def test_variables_that_sbatch_does_not_get_are_named_once(tmp_path: Path) -> None:
    place = Place(tmp_path / "runs", wrap=("env", "SBATCH_ACCOUNT=mine", "SBATCH_QOS=long"))
    said = place.bench("sweep", "--methods", "ect", "--seeds", "0", "--cluster", "h100x8", "--dry-run", *SMALL)
    assert said.count("SBATCH_ACCOUNT and SBATCH_QOS are set and ignored: the cluster file decides") == 1
    assert said.count("SBATCH_") == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "debug"])
def test_the_same_cells_run_here(tmp_path: Path, launcher: str) -> None:
    place = Place(tmp_path / "runs")
    said = place.bench("run", "--methods", "ect", "--seeds", "0", "--no-mlflow", "--launcher", launcher, *SMALL)
    assert place.the("state") == "done"
    assert ("attempt ended: done" in said) == (launcher == "debug")
