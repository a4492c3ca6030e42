"""A real SLURM for tests: two nodes and accounting on this machine."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consistency_bench.slurm.local.cluster import LocalCluster, install, missing_packages, start
from consistency_bench.slurm.local.config import Options

from ..conftest import require
from .sweeping import TRAINING, Place, Undisturbed, jobs, until


def needs_slurm(accounting: bool = True) -> None:
    absent = missing_packages(accounting)
    require(not absent, "SLURM", install(absent))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, as paths of sockets are limited in length."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalCluster]:
    """A cluster of two nodes with accounting, which sbatch, sacct and `bench` then use."""
    needs_slurm()
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)  # jobs of other users have to get at what is below it
        cluster = start(Path(folder) / "cluster", Options())
        try:
            patch.setenv("SLURM_CONF", str(cluster.conf))
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def shared(slurm: LocalCluster) -> Iterator[Place]:
    """A folder visible to all nodes of the shared cluster; its jobs end with the test."""
    folder = slurm.folder.parent / f"out-{time.monotonic_ns()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield Place(folder / "my runs")
    for line in jobs():
        subprocess.run(["scancel", line.split()[0]], check=False)
    until(lambda: not jobs(), "the end of the jobs")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def unhindered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, float]:
    """A folder with finished cells of TRAINING, run on this machine without faults, and images per second of one core.

    With as many workers as cores, each has one thread, as in a job. CPU time, overhead included, measures the speed of
    this machine independently of its load.
    """
    place = Place(tmp_path_factory.mktemp("unhindered") / "runs")
    workers = str(len(os.sched_getaffinity(0)))
    before = core_seconds()
    place.bench("run", "--no-mlflow", "--jobs", workers, "--methods", "ect", "--seeds", "0-3", *TRAINING)
    images = sum(status["images"] for status in place.statuses().values())
    return place, images / (core_seconds() - before)


def core_seconds() -> float:
    """CPU seconds of all finished child processes of this process, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="session")
def pace(unhindered: tuple[Place, float]) -> float:
    """Images per second that one core trains, overhead included."""
    return unhindered[1]


@pytest.fixture(scope="session")
def undisturbed(unhindered: tuple[Place, float]) -> Undisturbed:
    """The results of the cells of a folder without any fault."""
    everything = unhindered[0].results()

    def of(place: Place) -> dict[str, bytes]:
        names = place.statuses()
        return {path: held for path, held in everything.items() if path.count("/") == 1 or path.split("/")[2] in names}

    return of
