"""The machine: its cores, its processes, its hardware, and the state of the checkout that runs on it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any


def available_cores(root: Path = Path("/")) -> int:
    """Cores this process may use: those of its affinity, its SLURM job and the quotas of its cgroups; at least 1.

    root: the folder that holds proc and sys.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    job = os.environ.get("SLURM_CPUS_ON_NODE", "")
    limits = [affinity, *_quotas(root), *([int(job)] if re.fullmatch("[0-9]{1,6}", job) else [])]
    return max(1, int(min(limits)))


def _quotas(root: Path) -> Iterator[float]:
    """Quotas, in cores, of the cgroups (version 1 and 2) that hold this process: its own and all around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path)
        for group in (own, *own.parents):  # a container may see its own group as the outermost one
            if not controllers:
                yield from _quota(root / "sys/fs/cgroup" / group.relative_to("/"), "cpu.max")
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / group.relative_to("/")
                yield from _quota(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quota(folder: Path, *names: str) -> Iterator[float]:
    """The quota in these files, which hold microseconds of CPU time and of the period; nothing without a limit."""
    with contextlib.suppress(OSError, ValueError):  # no such file; "max" in place of a number
        used, period = map(int, " ".join((folder / name).read_text() for name in names).split())
        if used > 0 and period > 0:
            yield used / period


def environment_threads() -> int | None:
    """OMP_NUM_THREADS, its outermost level; None where it is unset or no such number."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(number) if re.fullmatch("[1-9][0-9]{0,2}", number) else None


def skip_final_gc() -> None:
    """Let this process end without a final garbage collection, which takes a second once torch is imported."""
    atexit.register(gc.freeze)


@functools.cache
def machine() -> str:
    """Names the set of processes that can see each other: host name, boot and, of containers, process namespace.

    Two machines of one name, and two containers on one machine, differ: the numbers of their processes mean nothing to
    each other.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """When a process started, in the kernel's clock ticks; it tells a process from a later one with the same number.

    "" for one that has ended, zombies included; None where it is unknown: another user's process that is hidden, or
    an operating system without /proc.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        with contextlib.suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return ""
        return None
    fields = stat.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return "" if fields[0] in "ZX" else fields[19]


def hardware() -> dict[str, Any]:
    """CPU, cores, GPU and operating system of this machine."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_state() -> dict[str, Any]:
    """Commit and dirtiness of the checkout that this package runs from; None where it is installed otherwise."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        except OSError:  # no git, or one that cannot be run
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
