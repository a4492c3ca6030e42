"""Processes of a local cluster's nodes: suspended, resumed, and traced."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from consistency_bench.benchmarks.common.system import process_start
from consistency_bench.slurm.local.cluster import LocalCluster


def freeze(cluster: LocalCluster, node: str) -> None:
    """Stop all processes of a node, as on a machine that swaps or has lost its network."""
    stopped: set[int] = set()
    while new := set(cluster.processes(node)) - stopped:  # those that were started meanwhile, too
        signal_all(new, signal.SIGSTOP)
        stopped |= new


def thaw(cluster: LocalCluster, node: str) -> None:
    signal_all(cluster.processes(node), signal.SIGCONT)


def signal_all(pids: list[int] | set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if process_start(pid)]


def traces(folder: Path) -> list[str]:
    """Commands of living processes that know a folder by their arguments or environment: daemons, and jobs."""
    found = []
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        if pid != os.getpid() and process_start(pid):
            with contextlib.suppress(OSError):
                known = command(pid) + Path(f"/proc/{pid}/environ").read_text(errors="replace")
                if str(folder) in known:
                    found.append(command(pid))
    return found
