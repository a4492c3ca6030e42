"""The resources of a cell's job: those of the cluster's file, changed by the cell's `train.resources`."""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmarks.common.errors import UsageError
from ..benchmarks.common.units import megabytes, minutes
from ..benchmarks.config.schema import RunConfig
from .clusters import Cluster, check_time_limit


@dataclass(frozen=True)
class Resources:
    """The resources of one job. Cells with equal resources can share an array.

    devices: processes, each with a GPU where the cluster has them, spread evenly over `nodes` nodes. cpus, memory: per
    device; host memory in MB, or None for the site's default. time_limit: in minutes.
    """

    devices: int
    nodes: int
    cpus: int
    memory: int | None
    time_limit: int

    @property
    def per_node(self) -> int:
        """Processes on each node."""
        return self.devices // self.nodes


def resources(config: RunConfig, cluster: Cluster) -> Resources:
    """The resources of a cell's job on this cluster. Raises UsageError where the cluster's nodes cannot hold it."""
    asked = config.train.resources
    memory, limit = asked.memory, asked.time_limit
    cpus = asked.cpus or cluster.cpus_per_gpu
    per_core = cluster.memory_per_cpu
    found = Resources(
        devices=asked.devices,
        nodes=asked.nodes or _nodes(asked.devices, cluster),
        cpus=cpus,
        memory=megabytes(memory) if memory else cpus * per_core if per_core else cluster.memory_per_gpu,
        time_limit=minutes(limit) if limit else cluster.time_limit,
    )
    if cluster.gpus_per_node and found.per_node > cluster.gpus_per_node:
        raise UsageError(
            f"train.resources asks for {found.per_node} devices a node, and {cluster.name} has "
            f"{cluster.gpus_per_node} GPUs a node: ask for more nodes with train.resources.nodes"
        )
    check_time_limit("train.resources.time_limit" if limit else "time_limit", found.time_limit, cluster.requeue)
    return found


def _nodes(devices: int, cluster: Cluster) -> int:
    """The fewest nodes that hold the devices evenly."""
    most = cluster.gpus_per_node or devices
    return next(nodes for nodes in range(1, devices + 1) if devices % nodes == 0 and devices // nodes <= most)
