"""Small disks, and cells that run in worker processes as with the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import read_jsonl
from consistency_bench.benchmarks.config.compose import Cell
from consistency_bench.benchmarks.execution.worker import Work
from consistency_bench.benchmarks.runs.folder import RECORDS, TRAIN_LOG

from ..benchmarks.conftest import environment, put, tiny_cell
from ..conftest import require

#: A cell long enough to be interrupted during training, with one checkpoint per step.
LONG = ("train.images=30720", "run.checkpoint_seconds=0")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of the given size in bytes, in memory; it is unmounted at the end."""
    require(os.geteuid() == 0 and shutil.which("mount") is not None, "root, to mount a small disk", "run as root")
    mounted = []

    def mount(size: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False, capture_output=True
        )
        require(done.returncode == 0, "the right to mount", "run as root, in a container that may mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


def start_worker(folder: Path, listing: Path) -> subprocess.Popen[str]:
    """Start a worker process on one cell."""
    Work((str(folder),)).write(listing)
    command = [sys.executable, "-m", "consistency_bench.benchmarks.execution.worker", str(listing)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Wait until `there()` is true; fail with the output of the process if it ends before."""
    while not there():
        if process.poll() is not None:
            pytest.fail(f"the process ended early: {process.communicate()[0]}")
        time.sleep(0.01)


def finish(folder: Path, listing: Path) -> str:
    """Run a worker on one cell to its end, and return its output."""
    process = start_worker(folder, listing)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def results(folder: Path) -> dict[str, object]:
    """The results of a cell: bytes of records and snapshots, and its log without speeds."""
    files = [folder / RECORDS, *sorted((folder / "snapshots").glob("*.safetensors"))]
    rows = read_jsonl(folder / TRAIN_LOG)
    log = [json.dumps({key: value for key, value in row.items() if key != "images_per_s"}) for row in rows]
    return {**{path.name: path.read_bytes() for path in files}, TRAIN_LOG: log}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, dict[str, object]]:
    """A cell, and its results without any fault."""
    cell = tiny_cell("ect", *LONG)
    out = tmp_path_factory.mktemp("undisturbed")
    folder = put(cell, out)
    finish(folder, out / "list")
    return cell, results(folder)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
