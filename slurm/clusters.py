"""Clusters: what jobs request from a site, read from a yaml file. `--cluster` takes a shipped name or a path.

A cell runs as one process per GPU, or as one process where a cluster has no GPUs. Cores and memory are given per
process, so that a cell on one of eight GPUs takes an eighth of the node.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..benchmarks.common.errors import UsageError, unknown
from ..benchmarks.common.files import read_yaml
from ..benchmarks.common.units import DURATION, MEMORY, megabytes, minutes

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
        gpu_type: TYPE in `--gpus=TYPE:1`, where a site has several.
        memory_per_gpu: Host memory in MB.
        time_limit: Minutes of one job; a cell may take many.
        array_parallelism: The number of jobs of one array that run at once.
        setup: Lines of shell that run before a cell, as in a job script.
        environment: Variables of the job.
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
    gpu_type: str | None = None
    memory_per_gpu: int | None = None
    tflops: float | None = None
    setup: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    requeue: Requeue = Requeue()
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)


#: Options of sbatch that cannot be set under `sbatch`, with the key of the file that they follow from; None where the
#: suite sets the option itself, or cannot work with it.
GOVERNED: dict[str, str | None] = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "time_limit",
    "array": "array_parallelism",
    "requeue": "requeue.enabled",
    "no-requeue": "requeue.enabled",
    "signal": "requeue.notice_seconds",
    "export": "environment",
    **dict.fromkeys(("mem", "mem-per-gpu", "mem-per-cpu"), "memory_per_gpu"),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "cpus_per_gpu"),
    **dict.fromkeys(("gres", "gpus", "gpus-per-node", "gpus-per-task"), "gpus_per_node"),
    **dict.fromkeys(("job-name", "nodes", "ntasks", "ntasks-per-node", "output", "error", "open-mode"), None),
    **dict.fromkeys(("parsable", "quiet", "test-only", "wait", "wrap", "uid", "gid", "clusters", "export-file"), None),
    **dict.fromkeys(("help", "usage", "version"), None),
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
    path = Path(name).expanduser() if is_path else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"there is no cluster file {path}; copy one from {FOLDER} or name one: {', '.join(choices())}")
    return read(path)


def read(path: Path) -> Cluster:
    """The cluster in a yaml file, named like the file. Raises UsageError as `load` does."""
    import yaml

    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(f"{path} is not YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no keys, must hold at least: {', '.join(REQUIRED)}")
    try:
        cluster = Cluster(name=path.stem, **_values("", content, KEYS))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if cluster.requeue.notice_seconds >= 60 * cluster.time_limit:
        raise UsageError(
            f"{path}: requeue.notice_seconds is {cluster.requeue.notice_seconds}, must be less than time_limit, "
            f"which is {60 * cluster.time_limit} s"
        )
    if cluster.gpu_type and not cluster.gpus_per_node:
        raise UsageError(f"{path}: gpu_type is {cluster.gpu_type!r}, must be left out where gpus_per_node is 0")
    return cluster


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
            f"the cluster {name!r} in the record of the sweep has {' or '.join(RUNNING)} of its own, which are never "
            f"taken from files of results; {choose}"
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
            raise unknown(f"key of {prefix.rstrip('.')}" if prefix else "key", str(key), keys)
    for key in keys:
        if not prefix and key in REQUIRED and content.get(key) is None:
            raise UsageError(f"{key} is missing, must be {keys[key].wanted}")
    values = {}
    for key, value in content.items():
        try:
            if value is not None:
                values[key] = keys[key].read(value)
        except ValueError:
            raise UsageError(f"{prefix}{key} is {_quoted(value)}, must be {keys[key].wanted}") from None
    return values


def _quoted(value: Any) -> str:
    """A value as in a yaml file: text in quotes, true, [a, b]."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _must(holds: bool) -> None:
    if not holds:
        raise ValueError


def _name(value: Any) -> str:
    _must(isinstance(value, str) and re.fullmatch(r"[^\s\"'\\$`]+", value) is not None)
    return value


def _count(least: int) -> Callable[[Any], int]:
    def read_count(value: Any) -> int:
        _must(isinstance(value, int) and not isinstance(value, bool) and value >= least)
        return value

    return read_count


def _rate(value: Any) -> float:
    _must(not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf)
    return float(value)


def _flag(value: Any) -> bool:
    _must(isinstance(value, bool))
    return value


def _lines(value: Any) -> tuple[str, ...]:
    _must(isinstance(value, list | tuple))
    _must(all(isinstance(line, str) and line.strip() and "\n" not in line for line in value))
    return tuple(value)


def _environment(value: Any) -> dict[str, str]:
    _must(isinstance(value, dict))
    for name, text in value.items():
        _must(re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII) is not None)
        # YAML reads yes, on and off as truth values, unless they are in quotes.
        _must(isinstance(text, str | int | float) and not isinstance(text, bool) and "\n" not in str(text))
    return {str(name): str(text) for name, text in value.items()}


def _governed(name: str) -> str | None:
    """The governed option that sbatch takes a name for, which may be abbreviated; None for other options."""
    return name if name in GOVERNED else next((option for option in GOVERNED if name and option.startswith(name)), None)


def _options(value: Any) -> dict[str, str | int | bool]:
    _must(isinstance(value, dict))
    for name, given in value.items():
        if meant := _governed(str(name)):
            key = GOVERNED[meant]
            why = f"use the key {key}" if key else "bench decides on it"
            raise UsageError(
                f"sbatch.{name}{'' if name == meant else f', short for {meant},'} is not set this way: {why}"
            )
        _must(re.fullmatch(r"[a-z][a-z-]+", str(name)) is not None)
        _must(given is not False and isinstance(given, str | int) and "\n" not in str(given))
    return value


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
    "gpus_per_node": Key(_count(0), "a whole number, 0 for nodes without GPUs"),
    "gpu_type": Key(_name, NAME),
    "cpus_per_gpu": Key(_count(1), "a whole number of at least 1"),
    "memory_per_gpu": Key(megabytes, f"{MEMORY}, or null for the site's default"),
    "tflops": Key(_rate, "a number above 0, or null where it is not known"),
    "time_limit": Key(minutes, DURATION),
    "array_parallelism": Key(_count(1), "a whole number of at least 1"),
    "setup": Key(_lines, "a list of lines of shell, such as [module load cuda]"),
    "environment": Key(_environment, "a mapping of names to text or numbers, yes and no in quotes"),
    "requeue": Key(_requeue, f"a mapping with: {', '.join(REQUEUE_KEYS)}"),
    "sbatch": Key(_options, "a mapping of long options without dashes, such as {reservation: spring, exclusive: true}"),
}

REQUIRED = ("gpus_per_node", "cpus_per_gpu", "time_limit", "array_parallelism")

#: In a record: minutes and megabytes are numbers.
RECORDED = KEYS | {
    "memory_per_gpu": Key(_count(1), "megabytes"),
    "time_limit": Key(_count(1), "minutes"),
}

#: What a job runs or passes on unchanged.
RUNNING = ("setup", "environment", "sbatch")
