"""`bench cluster`: a real SLURM on this one machine, for trying sweeps out."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import NoReturn

from ...slurm.local import cluster as local_cluster
from ...slurm.local.cluster import LocalCluster
from ...slurm.local.config import Options


def start(folder: Path, options: Options) -> int:
    """Start it, say how it is used, and leave it running. Exit status 0."""

    def terminate(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)  # as Ctrl-C: what has been started is ended again
    begun = time.monotonic()
    cluster = local_cluster.start(folder, options)
    where = shlex.quote(str(folder))
    print(f"nodes {', '.join(cluster.options.names)} take jobs, after {time.monotonic() - begun:.1f} s")
    print(f'eval "$(bench cluster env {where})"    # for sbatch, sinfo and bench in this shell')
    print(f"bench cluster stop {where}")
    return 0


def stop(folder: Path, keep: bool) -> int:
    """End every process of it, jobs included, and remove its files. Exit status 0."""
    LocalCluster(folder).stop(keep=keep)
    return 0


def env(folder: Path) -> int:
    """Print what a shell needs. Exit status 0."""
    print(LocalCluster(folder).shell())
    return 0


def kill_node(folder: Path, node: str) -> int:
    """Cut a node's power. Exit status 0."""
    LocalCluster(folder).kill_node(node)
    return 0


def start_node(folder: Path, node: str) -> int:
    """Bring a killed node back. Exit status 0."""
    LocalCluster(folder).start_node(node)
    return 0
