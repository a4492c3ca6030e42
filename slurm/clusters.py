"""Clusters: what jobs request from a site, read from a yaml file. `--cluster` takes a shipped name or a path.

A cell runs as one process per GPU, or as one process where a cluster has no GPUs. Cores and memory are given per
process, so that a cell on one of eight GPUs takes an eighth of the node.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..benchmarks.common.errors import UsageError, unknown
from ..benchmarks.common.files import read_yaml
from ..benchmarks.common.units import DURATION, MEMORY, megabytes, minutes
from ..methods.parts.messages import quoted

FOLDER = Path(__file__).parent / "clusters"


@dataclass(frozen=True)
class Requeue:
    """What happens to an unfinished cell when its job ends.

    Attributes:
        enabled: Whether a job that was preempted, lost its node or reached its time limit is requeued and resumes.
        without_progress: The number of jobs in a row that may end without saving anything before the cell has failed.
        notice_seconds: The time before the time limit at which the cell is signalled to save. SLURM is up to a minute
            early, and a preemption gives the site's grace time.
    """

    enabled: bool = True
    without_progress: int = 3
    notice_seconds: int = 120


@dataclass(frozen=True)
class Cluster:
    """A site, or a part of it. None leaves the choice to the site.

    Attributes:
        name: For messages.
        gpu_type: TYPE in `--gpus-per-node=TYPE:1`, where a site has several.
        gpu_request: The option that requests GPUs, one of GPU_REQUESTS; none where the partition implies them.
        memory_per_gpu: Host memory in MB, requested by `--mem`.
        memory_per_cpu: The same per core, requested by `--mem-per-cpu`. At most one of both is set.
        time_limit: Minutes of one job; a cell may take many.
        array_parallelism: The number of jobs of one array that run at once.
        job_name_prefix: What the names of jobs begin with.
        setup: Lines of shell that run before a cell, as in a job script.
        environment: Variables of the job.
        srun_args: Further long options of srun, which starts the processes of a job.
        sbatch: Further options by their long names, without dashes; true for one that takes no value.
    """

    name: str
    gpus_per_node: int
    cpus_per_gpu: int
    time_limit: int
    array_parallelism: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    comment: str | None = None
    job_name_prefix: str | None = None
    gpu_type: str | None = None
    gpu_request: str = "gpus-per-node"
    memory_per_gpu: int | None = None
    memory_per_cpu: int | None = None
    tflops: float | None = None
    setup: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    requeue: Requeue = Requeue()
    srun_args: tuple[str, ...] = ()
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)


GPU_REQUESTS = ("gpus-per-node", "gres", "gpus-per-task", "none")

#: slurmctld looks for jobs to signal every 30 s, and signals those that would be due before it looks again.
SIGNAL_EARLY_SECONDS = 30

#: Options of sbatch that cannot be set under `sbatch`, with the keys that they follow from; None where the suite sets
#: the option itself, or cannot work with it.
GOVERNED: dict[str, str | None] = {
    "job-name": "job_name_prefix",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "time_limit",
    "array": "array_parallelism",
    "requeue": "requeue.enabled",
    "no-requeue": "requeue.enabled",
    "signal": "requeue.notice_seconds",
    **dict.fromkeys(("export", "export-file"), "environment"),
    **dict.fromkeys(("mem", "mem-per-gpu"), "memory_per_gpu"),
    "mem-per-cpu": "memory_per_cpu",
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "cpus_per_gpu"),
    **{option: f"gpu_request: {option}" for option in ("gres", "gpus-per-node", "gpus-per-task")},
    **dict.fromkeys(("gpus", "gpus-per-socket", "tres-per-task"), "gpu_request"),
    "nodes": "train.resources.nodes",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "tasks-per-node", "ntasks-per-gpu"), "train.resources.devices"),
    **dict.fromkeys(("ntasks-per-core", "ntasks-per-socket", "output", "error", "open-mode", "chdir"), None),
    **dict.fromkeys(("parsable", "quiet", "test-only", "wait", "wrap", "uid", "gid", "clusters"), None),
    **dict.fromkeys(("help", "usage", "version"), None),
}

#: One-letter forms of governed options, in sbatch.
SHORT = (
    {"J": "job-name", "p": "partition", "A": "account", "q": "qos", "C": "constraint", "t": "time", "a": "array"}
    | {"c": "cpus-per-task", "G": "gpus", "N": "nodes", "n": "ntasks", "o": "output", "e": "error", "D": "chdir"}
    | {"Q": "quiet", "W": "wait", "M": "clusters"}
)

#: The same as GOVERNED, of srun within a job.
SRUN_GOVERNED: dict[str, str | None] = {
    "nodes": "train.resources.nodes",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "tasks-per-node"), "train.resources.devices"),
    "cpus-per-task": "cpus_per_gpu",
    **dict.fromkeys(("output", "error", "unbuffered", "kill-on-bad-exit", "jobid", "multi-prog", "pty"), None),
    **dict.fromkeys(("test-only", "help", "usage", "version"), None),
}


def choices() -> list[str]:
    """The names of the shipped clusters."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Cluster:
    """The cluster of that name, or in that file.

    Raises UsageError for an unknown name, a missing or damaged file, an unknown key or an invalid value.
    """
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_path and name not in choices():
        raise UsageError(f"{unknown('cluster', name, choices())}, or the path of a file such as ./{name or 'my'}.yaml")
    path = Path(os.path.expanduser(name)) if is_path else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"there is no cluster file {path}; copy one from {FOLDER} or name one: {', '.join(choices())}")
    return read(path)


def read(path: Path) -> Cluster:
    """The cluster in a yaml file, named like the file. Raises UsageError as `load` does."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no keys, must hold at least: {', '.join(REQUIRED)}")
    try:
        cluster = Cluster(name=path.stem, **_values("", content, KEYS))
        _check_together(cluster)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return cluster


def _check_together(cluster: Cluster) -> None:
    """Raise UsageError for values that do not go together."""
    check_time_limit("time_limit", cluster.time_limit, cluster.requeue)
    if cluster.gpu_type and not cluster.gpus_per_node:
        raise UsageError(f"gpu_type is {cluster.gpu_type!r}, must be left out where gpus_per_node is 0")
    if cluster.gpu_type and cluster.gpu_request == "none":
        raise UsageError(f"gpu_type is {cluster.gpu_type!r}, must be left out where gpu_request is none")
    if cluster.memory_per_gpu and cluster.memory_per_cpu:
        raise UsageError("memory_per_gpu and memory_per_cpu are both given, must be one of them")


def check_time_limit(key: str, minutes: int, requeue: Requeue) -> None:
    """Raise UsageError where a job would be signalled to save as soon as it starts. key: that set the limit."""
    if 60 * minutes <= requeue.notice_seconds + SIGNAL_EARLY_SECONDS:
        raise UsageError(
            f"{key} is {60 * minutes} s, must be more than {requeue.notice_seconds + SIGNAL_EARLY_SECONDS} s: a cell "
            f"is signalled {requeue.notice_seconds} s before (requeue.notice_seconds), and SLURM may be "
            f"{SIGNAL_EARLY_SECONDS} s early"
        )


def from_record(record: Mapping[str, Any]) -> Cluster:
    """The cluster in the record of a sweep, for jobs that are to run as those of the sweep did.

    Results are shared, and a file among them must not run anything: lines of shell, variables and options of sbatch
    are accepted only where they equal those of the shipped cluster of that name. Raises UsageError for others, and for
    unknown fields.
    """
    name = record.get("name")
    choose = f"name a cluster with --cluster: the path of its file, or {', '.join(choices())}"
    try:
        fields = {key: value for key, value in record.items() if key != "name"}
        cluster = Cluster(name=str(name), **_values("", fields, RECORDED))
    except UsageError as error:
        raise UsageError(
            f"the cluster {name!r} in the record of the sweep cannot be used ({error}); {choose}"
        ) from None
    shipped = read(FOLDER / f"{name}.yaml") if name in choices() else None
    if any(getattr(cluster, key) and getattr(cluster, key) != getattr(shipped, key, None) for key in RUNNING):
        raise UsageError(
            f"the cluster {name!r} in the record of the sweep has {', '.join(RUNNING[:-1])} or {RUNNING[-1]} of its "
            f"own, which are never taken from files of results; {choose}"
        )
    return cluster


@dataclass(frozen=True)
class Key:
    """How the value of a key is read, and what it must be, in words. `read` raises ValueError for everything else."""

    read: Callable[[Any], Any]
    wanted: str


def _values(prefix: str, content: Mapping[Any, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """The values that a mapping sets, null and missing ones left out. prefix: of the keys in messages (`requeue.`)."""
    for key in content:
        if key not in keys:
            raise unknown(
                f"key of {prefix.rstrip('.')}" if prefix else "key", key if isinstance(key, str) else quoted(key), keys
            )
    for key in keys:
        if not prefix and key in REQUIRED and content.get(key) is None:
            raise UsageError(f"{key} is missing, must be {keys[key].wanted}")
    values = {}
    for key, value in content.items():
        try:
            if value is not None:
                values[key] = keys[key].read(value)
        except ValueError:
            raise UsageError(f"{prefix}{key} is {quoted(value)}, must be {keys[key].wanted}") from None
    return values


def _must(holds: bool) -> None:
    if not holds:
        raise ValueError


def _name(value: Any) -> str:
    _must(isinstance(value, str) and re.fullmatch(r"[^\s\"'\\$`]+", value) is not None and value.isprintable())
    return value


def _count(least: int) -> Callable[[Any], int]:
    def read_count(value: Any) -> int:
        _must(isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31)
        return value

    return read_count


def _rate(value: Any) -> float:
    _must(not isinstance(value, bool) and isinstance(value, int | float) and 0 < value <= sys.float_info.max)
    return float(value)


def _flag(value: Any) -> bool:
    _must(isinstance(value, bool))
    return value


def _is_line(text: str) -> bool:
    return text.replace("\t", " ").isprintable()


def _lines(value: Any) -> tuple[str, ...]:
    _must(isinstance(value, list | tuple))
    _must(all(isinstance(line, str) and line.strip() and _is_line(line) for line in value))
    return tuple(value)


def _environment(value: Any) -> dict[str, str]:
    _must(isinstance(value, dict))
    for name, text in value.items():
        _must(re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII) is not None)
        # YAML reads yes, on and off as truth values, unless they are in quotes.
        _must(isinstance(text, str | int | float) and not isinstance(text, bool) and _is_line(str(text)))
    return {str(name): str(text) for name, text in value.items()}


def _text(value: Any) -> str:
    _must(isinstance(value, str) and value.isprintable())
    return value


def _prefix(value: Any) -> str:
    _must(isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w.:@+=/-]{0,63}", value, re.ASCII) is not None)
    return value


def _gpu_request(value: Any) -> str:
    _must(value in GPU_REQUESTS)
    return value


def _refuse_governed(key: str, name: str, governed: Mapping[str, str | None]) -> None:
    """Raise UsageError for an option that the suite decides on, also where it is abbreviated."""
    option = name.lstrip("-").replace("_", "-")
    meant = option if option in governed else SHORT.get(option)
    meant = meant or next((known for known in governed if option and known.startswith(option)), None)
    if meant is None:
        return
    instead = f"use {governed[meant]}" if governed[meant] else "bench decides on it"
    raise UsageError(f"{key}.{name}{'' if option == meant else f', short for {meant},'} is not set this way: {instead}")


def _options(value: Any) -> dict[str, str | int | bool]:
    _must(isinstance(value, dict))
    for name, given in value.items():
        if name != "gres" or re.search(r"(^|[,/])gpu($|[,:])", str(given), re.IGNORECASE):  # not others, as in lustre:1
            _refuse_governed("sbatch", str(name), GOVERNED)
        _must(re.fullmatch(r"[a-z][a-z-]+", str(name)) is not None)
        if given is False or not isinstance(given, str | int) or not _is_line(str(given)):
            wanted = "one line of text, a whole number, or true for an option without a value"
            raise UsageError(f"sbatch.{name} is {quoted(given)}, must be {wanted}")
    return value


def _srun_args(value: Any) -> tuple[str, ...]:
    _must(isinstance(value, list | tuple))
    for argument in value:
        _must(isinstance(argument, str) and argument.isprintable())
        _must(re.fullmatch(r"--[a-z][a-z-]+(=.+)?", argument) is not None)
        _refuse_governed("srun_args", argument.partition("=")[0], SRUN_GOVERNED)
    return tuple(value)


def _requeue(value: Any) -> Requeue:
    _must(isinstance(value, dict))
    return Requeue(**_values("requeue.", value, REQUEUE_KEYS))


NAME = "a name without spaces or quotes, or null for the site's default"

REQUEUE_KEYS = {
    "enabled": Key(_flag, "true or false"),
    "without_progress": Key(_count(1), "a whole number of at least 1"),
    "notice_seconds": Key(_count(1), "a whole number of at least 1"),
}

KEYS = {
    "partition": Key(_name, NAME),
    "account": Key(_name, NAME),
    "qos": Key(_name, NAME),
    "constraint": Key(_name, NAME),
    "reservation": Key(_name, NAME),
    "comment": Key(_text, "one line of text"),
    "job_name_prefix": Key(_prefix, "at most 64 letters, digits and -_.:@+=/, beginning with a letter or digit"),
    "gpus_per_node": Key(_count(0), "a whole number, 0 for nodes without GPUs"),
    "gpu_type": Key(_name, NAME),
    "gpu_request": Key(_gpu_request, f"one of {', '.join(GPU_REQUESTS)}"),
    "cpus_per_gpu": Key(_count(1), "a whole number of at least 1"),
    "memory_per_gpu": Key(megabytes, f"{MEMORY}, or null for the site's default"),
    "memory_per_cpu": Key(megabytes, f"{MEMORY}, or null for the site's default"),
    "tflops": Key(_rate, "a number above 0, or null where it is not known"),
    "time_limit": Key(minutes, DURATION),
    "array_parallelism": Key(_count(1), "a whole number of at least 1"),
    "setup": Key(_lines, "a list of lines of shell, such as [module load cuda]"),
    "environment": Key(_environment, "a mapping of names to text or numbers, yes and no in quotes"),
    "requeue": Key(_requeue, f"a mapping with: {', '.join(REQUEUE_KEYS)}"),
    "srun_args": Key(_srun_args, "a list of long options of srun, such as [--mpi=none, --cpu-bind=cores]"),
    "sbatch": Key(_options, "a mapping of long options without dashes, such as {licenses: matlab, exclusive: true}"),
}

REQUIRED = ("gpus_per_node", "cpus_per_gpu", "time_limit", "array_parallelism")

#: In a record: minutes and megabytes are numbers.
RECORDED = KEYS | {
    "memory_per_gpu": Key(_count(1), "megabytes"),
    "memory_per_cpu": Key(_count(1), "megabytes"),
    "time_limit": Key(_count(1), "minutes"),
}

#: What a job runs or passes on unchanged.
RUNNING = ("setup", "environment", "srun_args", "sbatch")
