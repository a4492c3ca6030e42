"""A real SLURM for tests: two nodes and accounting on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from consistency_bench.slurm.local_cluster import LocalCluster, install, missing_packages, start
from consistency_bench.slurm.local_config import Options

from ..conftest import require


def needs_slurm(accounting: bool = True) -> None:
    absent = missing_packages(accounting)
    require(not absent, "SLURM", install(absent))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name: sockets have no room for pytest's."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalCluster]:
    """A cluster of two nodes with accounting, which sbatch, sacct and `bench` use from then on."""
    needs_slurm()
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)  # jobs of other users have to get at what is below it
        cluster = start(Path(folder) / "cluster", Options())
        try:
            patch.setenv("SLURM_CONF", str(cluster.conf))
            yield cluster
        finally:
            cluster.stop()
