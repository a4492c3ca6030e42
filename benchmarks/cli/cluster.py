"""`bench cluster`: a real SLURM on this machine, to try sweeps."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(name="cluster", help="Run a real SLURM on this machine, to try sweeps.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the cluster.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="n1, n2, …")]


@app.command()
def start(
    folder: Folder,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes: n1, n2, …")] = 2,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="Cores per node. They need not exist.")] = 2,
    memory: Annotated[int, typer.Option("--memory", min=1, help="MB per node. They need not exist.")] = 4000,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="Simulated GPUs per node.")] = 2,
    node_timeout: Annotated[
        int, typer.Option("--node-timeout", min=1, help="Seconds after which a silent node is down.")
    ] = 20,
    requeue_delay: Annotated[
        int, typer.Option("--requeue-delay", min=1, help="Seconds before a requeued job may start.")
    ] = 5,
    kill_wait: Annotated[int, typer.Option("--kill-wait", min=1, help="Seconds from SIGTERM to SIGKILL.")] = 5,
    grace: Annotated[int, typer.Option("--grace", min=0, help="Seconds that a preempted job keeps running.")] = 20,
    accounting: Annotated[
        bool, typer.Option("--accounting/--no-accounting", help="Run a database of jobs, for sacct.")
    ] = True,
) -> int:
    """Start a cluster in a new folder. Jobs in its partition urgent preempt those in main."""
    from ...slurm.local import cluster as local_cluster
    from ...slurm.local.config import Options

    def terminate(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # as Ctrl-C: end what has been started
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup
            signal.signal(number, terminate)
    begun = time.monotonic()
    options = Options(nodes, cpus, memory, gpus, node_timeout, requeue_delay, kill_wait, grace, accounting)
    cluster = local_cluster.start(folder, options)
    where = shlex.quote(str(folder))
    print(f"nodes {', '.join(cluster.options.names)} are ready after {time.monotonic() - begun:.1f} s")
    print(f'eval "$(bench cluster env {where})"    # for sbatch, sinfo and bench in this shell')
    print(f"bench cluster stop {where}")
    return 0


@app.command()
def stop(folder: Folder, keep: Annotated[bool, typer.Option("--keep", help="Keep its files and logs.")] = False) -> int:
    """Stop a cluster and all its jobs, and remove its files."""
    from ...slurm.local.cluster import LocalCluster

    LocalCluster(folder).stop(keep=keep)
    return 0


@app.command()
def env(folder: Folder) -> int:
    """Print the environment of a shell that uses the cluster: eval "$(bench cluster env DIR)"."""
    from ...slurm.local.cluster import LocalCluster

    print(LocalCluster(folder).shell())
    return 0


@app.command()
def kill_node(folder: Folder, node: Node) -> int:
    """Kill a node and all its processes at once, as a power failure does."""
    from ...slurm.local.cluster import LocalCluster

    LocalCluster(folder).kill_node(node)
    return 0


@app.command()
def start_node(folder: Folder, node: Node) -> int:
    """Start a killed node again."""
    from ...slurm.local.cluster import LocalCluster

    LocalCluster(folder).start_node(node)
    return 0
