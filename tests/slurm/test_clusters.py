"""What a cluster's file may say, what is refused with which sentence, and the shipped ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.slurm.clusters import Cluster, Requeue, load, read
from consistency_bench.slurm.local.cluster import LocalCluster
from consistency_bench.slurm.local.config import Options

SMALLEST = "gpus_per_node: 0\ncpus_per_gpu: 2\ntime_limit: 90m\narray_parallelism: 4\n"


def put(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


# What is read


def test_what_a_file_leaves_out_is_the_site_s_choice(tmp_path: Path) -> None:
    cluster = read(put(tmp_path, SMALLEST))
    assert cluster == Cluster("mine", gpus_per_node=0, cpus_per_gpu=2, time_limit=90, array_parallelism=4)
    assert cluster.partition is cluster.account is cluster.memory_per_gpu is None
    assert cluster.requeue == Requeue(enabled=True, without_progress=3, notice_seconds=120)


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
partition: gpu
account: project-7
qos: long
constraint: a100&ib
gpus_per_node: 4
gpu_type: a100
cpus_per_gpu: 16
memory_per_gpu: 2G
time_limit: 1d12h
array_parallelism: 8
setup: [module load cuda, "source /opt/env.sh"]
environment: {NCCL_DEBUG: WARN, THREADS: 4}
reservation: autumn
comment: two words
job_name_prefix: "site-42:"
gpu_request: gres
srun_args: [--mpi=none]
requeue: {enabled: false, without_progress: 5, notice_seconds: 30}
sbatch: {reservation: spring, exclusive: true, nice: 100}
"""
    assert read(put(tmp_path, text)) == Cluster(
        name="mine",
        partition="gpu",
        account="project-7",
        qos="long",
        constraint="a100&ib",
        gpus_per_node=4,
        gpu_type="a100",
        cpus_per_gpu=16,
        memory_per_gpu=2048,
        time_limit=36 * 60,
        array_parallelism=8,
        setup=("module load cuda", "source /opt/env.sh"),
        environment={"NCCL_DEBUG": "WARN", "THREADS": "4"},
        reservation="autumn",
        comment="two words",
        job_name_prefix="site-42:",
        gpu_request="gres",
        srun_args=("--mpi=none",),
        requeue=Requeue(enabled=False, without_progress=5, notice_seconds=30),
        sbatch={"reservation": "spring", "exclusive": True, "nice": 100},
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90m", 90), ("24h", 1440), ("7d", 10080), ("1h30m", 90), ("'01:30:00'", 90), ("'2-00:00:01'", 2881)],
)
def test_time_limits(text: str, minutes: int, tmp_path: Path) -> None:
    assert read(put(tmp_path, SMALLEST.replace("90m", text))).time_limit == minutes


@pytest.mark.parametrize(("text", "megabytes"), [("512M", 512), ("32G", 32768), ("1TB", 1024**2), ("null", None)])
def test_memory_is_counted_as_slurm_does(text: str, megabytes: int | None, tmp_path: Path) -> None:
    assert read(put(tmp_path, f"{SMALLEST}memory_per_gpu: {text}\n")).memory_per_gpu == megabytes


# What is refused

MISTAKES = {
    "key": ("partitoin: gpu", "unknown key 'partitoin'. Did you mean: partition? Available: partition, account"),
    "shell": ("qos: $(reboot)", "qos is '$(reboot)', must be a name without spaces"),
    "gpus": ("gpus_per_node: -1", "gpus_per_node is -1, must be a whole number, 0 for nodes without GPUs"),
    "null": ("cpus_per_gpu: null", "cpus_per_gpu is missing, must be a whole number of at least 1"),
    "share": ("array_parallelism: 1.5", "array_parallelism is 1.5, must be a whole number of at least 1"),
    "memory": ("memory_per_gpu: 32", "memory_per_gpu is 32, must be text such as 512M, 32G or 1T, or null"),
    "a time that YAML reads as a number": (
        "time_limit: 24:00:00",
        "time_limit is 86400, must be text such as 90m, 24h or 1d12h, or '1-12:00:00' in quotes",
    ),
    "setup": ("setup: module load cuda", "setup is 'module load cuda', must be a list of lines of shell"),
    "lines in a line": ('setup: ["a\\nb"]', "must be a list of lines of shell"),
    "a NUL in a line": ('setup: ["a\\0b"]', "must be a list of lines of shell"),
    "a NUL in a variable": ('environment: {A: "a\\0b"}', "must be a mapping of names to text or numbers"),
    "a NUL in an option": ('sbatch: {licenses: "a\\0b"}', "must be one line of text, a whole number, or true"),
    "variable": ("environment: {A-B: c}", "environment is {'A-B': 'c'}, must be a mapping of names"),
    "requeue": ("requeue: true", "requeue is true, must be a mapping with: enabled, without_progress, notice_seconds"),
    "enabled": ("requeue: {enabled: maybe}", "requeue.enabled is 'maybe', must be true or false"),
    "notice": (
        "requeue: {notice_seconds: 5400}",
        "time_limit is 5400 s, must be more than 5430 s: a cell is signalled 5400 s before (requeue.notice_seconds)",
    ),
    "type without GPUs": ("gpu_type: a100", "gpu_type is 'a100', must be left out where gpus_per_node is 0"),
    "governed": ("sbatch: {mem: 3G}", "sbatch.mem is not set this way: use memory_per_gpu"),
    "the suite's own": ("sbatch: {wrap: ls}", "sbatch.wrap is not set this way: bench decides on it"),
    "abbreviated": ("sbatch: {job-n: x}", "sbatch.job-n, short for job-name, is not set this way: use job_name_prefix"),
    "short": ("sbatch: {J: x}", "sbatch.J, short for job-name, is not set this way: use job_name_prefix"),
    "underscores": ("sbatch: {job_name: x}", "sbatch.job_name is not set this way: use job_name_prefix"),
    "nodes": ("sbatch: {nodes: 3}", "sbatch.nodes is not set this way: use train.resources.nodes"),
    "tasks": ("sbatch: {ntasks: 3}", "sbatch.ntasks is not set this way: use train.resources.devices"),
    "log": ("sbatch: {output: here.log}", "sbatch.output is not set this way: bench decides on it"),
    "memory per CPU": ("sbatch: {mem-per-cpu: 4G}", "sbatch.mem-per-cpu is not set this way: use memory_per_cpu"),
    "GPUs": ('sbatch: {gres: "lustre,gpu:a100:1"}', "sbatch.gres is not set this way: use gpu_request: gres"),
    "GPU request": (
        "gpu_request: gpus",
        "gpu_request is 'gpus', must be one of gpus-per-node, gres, gpus-per-task, none",
    ),
    "two amounts": ("memory_per_gpu: 8G\nmemory_per_cpu: 1G", "memory_per_gpu and memory_per_cpu are both given"),
    "type without a request": (
        "gpus_per_node: 1\ngpu_request: none\ngpu_type: a100",
        "left out where gpu_request is none",
    ),
    "prefix": ('job_name_prefix: "a,b"', "job_name_prefix is 'a,b', must be at most 64 letters, digits and"),
    "lines in a comment": ('comment: "a\\nb"', "must be one line of text"),
    "program for srun": ("srun_args: [ls]", "srun_args is ['ls'], must be a list of long options of srun"),
    "tasks for srun": (
        "srun_args: [--ntas=3]",
        "srun_args.--ntas, short for ntasks, is not set this way: use train.res",
    ),
    "option": ("sbatch: {--nice: 3}", "sbatch is {'--nice': 3}, must be a mapping of long options without dashes"),
    "no value": (
        "sbatch: {exclusive: false}",
        "sbatch.exclusive is false, must be one line of text, a whole",
    ),
    "yaml": ("setup: [a", "is not YAML (while parsing a flow sequence"),
}


@pytest.mark.parametrize(
    "option",
    ["parsable", "pars", "test-only", "test", "uid", "ui", "wrap", "no-req", "mem-per-c", "ntasks", "out", "arr"],
)
def test_options_that_the_suite_needs_are_refused_by_name(option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"sbatch\.{option}[, ].*is not set this way"):
        load(str(put(tmp_path, f"{SMALLEST}sbatch: {{{option}: x}}\n")))


def test_other_options_pass_through(tmp_path: Path) -> None:
    given = {"wait-all-nodes": 1, "mem-bind": "local", "time-min": 5, "nodelist": "n1"}
    text = ", ".join(f"{name}: {str(value).lower()}" for name, value in given.items())
    assert load(str(put(tmp_path, f"{SMALLEST}sbatch: {{{text}}}\n"))).sbatch == given


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(case: str, tmp_path: Path) -> None:
    line, message = MISTAKES[case]
    key = line.partition(":")[0]
    kept = "".join(f"{other}\n" for other in SMALLEST.splitlines() if not other.startswith(f"{key}:"))
    path = put(tmp_path, f"{kept}{line}\n")
    with pytest.raises(UsageError) as refused:
        load(str(path))
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_what_is_needed_is_named(tmp_path: Path) -> None:
    needed = "gpus_per_node, cpus_per_gpu, time_limit, array_parallelism"
    with pytest.raises(UsageError, match=f"holds no keys, must hold at least: {needed}"):
        read(put(tmp_path, "# nothing\n"))
    with pytest.raises(UsageError, match="time_limit is missing, must be text such as 90m"):
        read(put(tmp_path, SMALLEST.replace("time_limit: 90m\n", "")))


# Where they are


def test_a_name_is_a_shipped_one_and_anything_else_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, SMALLEST)
    assert load("mine.yaml") == load("./mine.yaml") == load(str(tmp_path / "mine.yaml"))
    assert load("local").name == "local"
    with pytest.raises(UsageError, match=r"unknown cluster 'locl'. Did you mean: local\? .*or the path of a file"):
        load("locl")
    with pytest.raises(UsageError, match=r"there is no cluster file other\.yaml; copy one from .*clusters or name one"):
        load("other.yaml")
    with pytest.raises(UsageError, match="there is no cluster file"):
        load("./")


# The shipped ones


def test_the_local_one_fits_the_local_cluster() -> None:
    cluster, size = load("local"), Options()
    assert cluster.gpus_per_node == size.gpus
    assert cluster.gpus_per_node * cluster.cpus_per_gpu <= size.cpus
    assert cluster.memory_per_gpu is not None
    assert cluster.gpus_per_node * cluster.memory_per_gpu <= size.memory


@pytest.mark.slow
def test_the_local_cluster_accepts_what_the_local_one_asks_for(slurm: LocalCluster) -> None:
    cluster = load("local")
    assert cluster.memory_per_gpu is not None
    asked = [
        f"--partition={cluster.partition}",
        "--nodes=2",
        f"--ntasks-per-node={cluster.gpus_per_node}",
        f"--gpus-per-node={cluster.gpus_per_node}",
        f"--cpus-per-task={cluster.cpus_per_gpu}",
        f"--mem={cluster.gpus_per_node * cluster.memory_per_gpu}",
        f"--time={cluster.time_limit}",
        f"--signal=USR2@{cluster.requeue.notice_seconds}",
    ]
    done = subprocess.run(["sbatch", "--test-only", *asked, "--wrap=true"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
