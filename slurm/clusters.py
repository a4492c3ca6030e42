"""Clusters: what jobs ask a site for, read from a yaml file. `--cluster NAME` is a shipped one or the path of a file.

A cell runs as one process a GPU, or as one process where a cluster has no GPUs; cores and memory are said for a
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
    """What becomes of a cell that is not finished when its job ends.

    enabled: a job that was preempted, has lost its node or is out of time goes back into the queue and continues.
    without_progress: jobs in a row that may end without having saved anything new; then the cell stops as failed.
    notice_seconds: before the time limit, when the cell is told to save. SLURM is up to a minute early, and a
        preemption gives what the site's grace time gives.
    """

    enabled: bool = True
    without_progress: int = 3
    notice_seconds: int = 120


@dataclass(frozen=True)
class Cluster:
    """A site, or a part of it. None leaves the choice to the site.

    name: how messages call it. gpu_type: as in `--gpus=TYPE:1`, where a site has several. memory_per_gpu: MB of host
    memory. time_limit: minutes of one job; a cell may take many. array_parallelism: jobs of one array at once.
    setup: lines of shell that run before a cell, as in a job script. environment: variables of the job.
    sbatch: further options by their long names, without dashes; true for one that takes no value.
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


#: Options of sbatch that follow from the keys of a file, and the key.
GOVERNED = {
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
}


def choices() -> list[str]:
    """The names of the shipped clusters."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Cluster:
    """The cluster of that name, or in that file.

    Raises UsageError: no such cluster or file, a file that cannot be read, an unknown key, a value that cannot be.
    """
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_path and name not in choices():
        raise UsageError(f"{unknown('cluster', name, choices())}, or the path of a file such as ./{name or 'my'}.yaml")
    path = Path(name).expanduser() if is_path else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"there is no cluster file {path}; copy one from {FOLDER} or name one: {', '.join(choices())}")
    return read(path)


def read(path: Path) -> Cluster:
    """The cluster in a yaml file, its name that of the file. Raises UsageError as `load` does."""
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
    """The cluster whose fields a file of a sweep holds, for jobs that are to run as those of the sweep did.

    Results travel, and a file among them shall run nothing: lines of shell, variables and options of sbatch are taken
    where they are those of the shipped cluster of that name, and from nowhere else. Raises UsageError for others, and
    for fields that no cluster of this version has.
    """
    name = record.get("name")
    choose = f"name a cluster with --cluster: the path of its file, or {', '.join(choices())}"
    try:
        fields = {key: value for key, value in record.items() if key != "name" and value is not None}
        cluster = Cluster(name=str(name), **_values("", fields, RECORDED))
    except UsageError as error:
        raise UsageError(f"the cluster {name!r} that the sweep remembers cannot be used ({error}); {choose}") from None
    shipped = read(FOLDER / f"{name}.yaml") if name in choices() else None
    if any(getattr(cluster, key) and getattr(cluster, key) != getattr(shipped, key, None) for key in RUNNING):
        raise UsageError(
            f"the cluster {name!r} that the sweep remembers has {' or '.join(RUNNING)} of its own, and what files of "
            f"results say is not run; {choose}"
        )
    return cluster


@dataclass(frozen=True)
class Key:
    """How the value of a key is read, and what it must be, in words. The reader raises ValueError for all else."""

    read: Callable[[Any], Any]
    wanted: str


def _values(prefix: str, content: Mapping[Any, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """What a mapping sets, each value read by its key. `prefix`: of the keys in messages, such as `requeue.`."""
    for key in content:
        if key not in keys:
            raise unknown(f"key of {prefix.rstrip('.')}" if prefix else "key", str(key), keys)
    for key in keys:
        if not prefix and key in REQUIRED and content.get(key) is None:
            raise UsageError(f"{key} is missing, must be {keys[key].wanted}")
    values = {}
    for key, value in content.items():
        try:
            values[key] = keys[key].read(value)
        except ValueError:
            raise UsageError(f"{prefix}{key} is {_shown(value)}, must be {keys[key].wanted}") from None
    return values


def _shown(value: Any) -> str:
    """A value as a yaml file has it: text in quotes, null, true."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _refuse(when: bool) -> None:
    if when:
        raise ValueError


def _name(value: Any) -> str | None:
    if value is None:
        return None
    _refuse(not isinstance(value, str) or not re.fullmatch(r"[^\s\"'\\$`]+", value))
    return value


def _count(least: int) -> Callable[[Any], int]:
    def read_count(value: Any) -> int:
        _refuse(not isinstance(value, int) or isinstance(value, bool) or value < least)
        return value

    return read_count


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    _refuse(isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf)
    return float(value)


def _truth(value: Any) -> bool:
    _refuse(not isinstance(value, bool))
    return value


def _megabytes(value: Any) -> int | None:
    return None if value is None else megabytes(value)


def _lines(value: Any) -> tuple[str, ...]:
    value = [] if value is None else value
    _refuse(not isinstance(value, list | tuple))
    _refuse(not all(isinstance(line, str) and line.strip() and "\n" not in line for line in value))
    return tuple(value)


def _environment(value: Any) -> dict[str, str]:
    value = {} if value is None else value
    _refuse(not isinstance(value, dict))
    for name, text in value.items():
        _refuse(not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII))
        # YAML reads yes, on and off as truth values: quotes say what is meant.
        _refuse(isinstance(text, bool) or not isinstance(text, str | int | float) or "\n" in str(text))
    return {str(name): str(text) for name, text in value.items()}


def _options(value: Any) -> dict[str, str | int | bool]:
    value = {} if value is None else value
    _refuse(not isinstance(value, dict))
    for name, given in value.items():
        if name in GOVERNED:
            raise UsageError(f"sbatch.{name} is not set this way: use the key {GOVERNED[name]}")
        _refuse(not re.fullmatch(r"[a-z][a-z-]+", str(name)))
        _refuse(given is False or not isinstance(given, str | int) or "\n" in str(given))
    return value


def _requeue(value: Any) -> Requeue:
    value = {} if value is None else value
    _refuse(not isinstance(value, dict))
    return Requeue(**_values("requeue.", value, REQUEUE_KEYS))


NAME = "a name without spaces or quotes, or null for the site's default"

REQUEUE_KEYS = {
    "enabled": Key(_truth, "true or false"),
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
    "memory_per_gpu": Key(_megabytes, f"{MEMORY}, or null for the site's default"),
    "tflops": Key(_rate, "a number above 0, or null where it is not known"),
    "time_limit": Key(minutes, DURATION),
    "array_parallelism": Key(_count(1), "a whole number of at least 1"),
    "setup": Key(_lines, "a list of lines of shell, such as [module load cuda]"),
    "environment": Key(_environment, "a mapping of names to text or numbers, yes and no in quotes"),
    "requeue": Key(_requeue, f"a mapping with: {', '.join(REQUEUE_KEYS)}"),
    "sbatch": Key(_options, "a mapping of long options without dashes, such as {reservation: spring, exclusive: true}"),
}

REQUIRED = ("gpus_per_node", "cpus_per_gpu", "time_limit", "array_parallelism")

#: As a record holds them: minutes and megabytes as numbers, and tuples as lists.
RECORDED = KEYS | {
    "memory_per_gpu": Key(_count(1), "megabytes"),
    "time_limit": Key(_count(1), "minutes"),
}

#: What a job runs or hands on as it is.
RUNNING = ("setup", "environment", "sbatch")
